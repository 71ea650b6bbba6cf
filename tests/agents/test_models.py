from __future__ import annotations

import pytest
import torch

from agents.linear import FrozenLinear, Products, onednn, pack_linears
from agents.models import ModelError, load_base


@pytest.mark.skipif(onednn() is None, reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("products", "tolerance"), [(Products.FLOAT32, 1e-5), (Products.BFLOAT16, 2e-2)]
)
def test_packed_layer_equals_the_plain_one(bias, products, tolerance):
    plain = torch.nn.Linear(96, 40, bias=bias).requires_grad_(False)
    packed = torch.nn.Linear(96, 40, bias=bias).requires_grad_(False)
    packed.load_state_dict(plain.state_dict())
    assert pack_linears(torch.nn.Sequential(packed), products) == 1
    assert isinstance(packed, FrozenLinear)
    assert set(packed.state_dict()) == set(plain.state_dict())
    x, up = torch.randn(3, 7, 96), torch.randn(3, 7, 40)
    results = []
    for layer in (plain, packed):
        given = x.clone().requires_grad_()
        out = layer(given)
        out.backward(up)
        results.append((out.detach(), given.grad, layer(x)))
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert ((ours - theirs).norm() / theirs.norm()).item() < tolerance


def test_only_float32_layers_on_a_cpu_are_packed():
    assert pack_linears(torch.nn.Sequential(torch.nn.Linear(4, 4).to(torch.bfloat16))) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "/no/such/folder"}, "neither an existing folder"),
        ({"name": "gone.gguf"}, "no file 'gone.gguf'"),
        ({"name": "just-a-word"}, "neither an existing folder"),
        ({"name": "nobody/no-such-model"}, "could not be loaded"),
        ({"dtype": "int3"}, "dtype: got 'int3'"),
        ({"products": "int3"}, "products: got 'int3'"),
    ],
)
def test_what_cannot_be_loaded_is_said(arguments, said):
    with pytest.raises(ModelError, match=said):
        load_base(**arguments)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_base(str(tmp_path))


def test_saved_folder_loads_and_speaks_its_chat_template(tiny_base, tmp_path):
    tiny_base.model.save_pretrained(tmp_path)
    tiny_base.tokenizer.save_pretrained(tmp_path)
    again = load_base(str(tmp_path))
    ids = torch.tensor([tiny_base.chat_ids("hello \ud800")])
    assert again.chat_ids("hello \ud800") == ids[0].tolist()
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, tiny_base.model(ids).logits)
    assert not any(p.requires_grad for p in again.model.parameters())
    assert again.stop_ids() == {tiny_base.tokenizer.eos_token_id}


def test_the_embedded_model_is_a_language_model(smollm):
    ids = torch.tensor([smollm.tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        likeliest = smollm.model(ids).logits[0, -1].argmax()
    assert smollm.tokenizer.decode([int(likeliest)]).strip() == "Paris"
