"""What is compiled for processors that can less than this one, on this one."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.compiled import compiling, products
from agents.engine import compiled_pass
from agents.loading import int8
from agents.loading.models import freeze
from tests.conftest import make_tiny_tokenizer

pytestmark = [
    pytest.mark.skipif(products.library() is None, reason="no compiled code here"),
    pytest.mark.usefixtures("shared_generators"),
]


@pytest.fixture(params=["avx512bf16", "avx512f", "avx"])
def lesser(request, monkeypatch, tmp_path):
    """The library without some instructions, in place of this processor's own."""
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path))
    monkeypatch.setattr(compiling, "_FLAGS", (*compiling._FLAGS, f"-mno-{request.param}"))
    made = products._build()  # which holds its products against PyTorch
    assert "bfloat16" not in made.precisions
    for module in (products, int8, compiled_pass):
        monkeypatch.setattr(module, "library", lambda: made)
    return made


@pytest.mark.slow
def test_integers_are_those_of_any_processor(lesser):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(9, 192, generator=source)
    weight = int8.quantise_weight(torch.randn(70, 192, generator=source))
    rows, scales = int8.quantise_rows(x)
    sums = rows.long() @ weight.integers().long().T
    assert torch.equal(int8.multiply_int8(x, weight), sums.float() * scales * weight.scales)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_pass_is_the_models(lesser, precision):
    if not products.multiplies(precision):
        pytest.skip(f"no products in {precision}")
    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    base = freeze(LlamaForCausalLM(config), tokenizer, products=precision)
    ids = list(range(5, 40))
    count = len(ids)
    forward = compiled_pass.compiled_forward(base, None, 64)
    _, logits = forward(
        forward.cache(1, 64), ids, [0] * count, range(count), [0] * count, range(count), logits=True
    )
    with torch.no_grad():
        expected = base.model(torch.tensor([ids])).logits[0]
    assert ((logits - expected).norm() / expected.norm()).item() < 2e-2
