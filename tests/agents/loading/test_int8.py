"""Products in 8-bit integers, against sums of integers that NumPy makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.compiled.products import library
from agents.engine.adapters import StackedLora
from agents.engine.generation import Job, generate
from agents.learning.learners import LearnerConfig, PolicyGradient, Sample
from agents.loading.int8 import (
    WIDEST,
    Int8Linear,
    can_multiply_int8,
    multiply_int8,
    quantise_rows,
    quantise_weight,
)
from agents.loading.linear import FrozenLinear, MatmulPrecision, pack_linears, precision, resolve
from agents.loading.models import ModelError, freeze, load_base
from agents.machine.processor import has_bfloat16, onednn
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")

int8 = pytest.mark.skipif(not can_multiply_int8(), reason="this processor has no products in int8")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turned(x):
    """Times the Hadamard matrix of 64, block by block: sums and differences, near ones first."""
    if x.shape[1] % 64:
        return x
    made = x.copy()
    for apart in (1, 2, 4, 8, 16, 32):
        one, other = np.moveaxis(made.reshape(len(x), -1, 2, apart), 2, 0)
        made = np.stack((one + other, one - other), 2).reshape(x.shape)
    return made


def reference(x, weight, bias=None):
    """The product as it is defined, in NumPy, from float32 arrays; one step after another."""
    limit = np.float32(127)
    weight, x = turned(weight) / np.float32(64 if weight.shape[1] % 64 == 0 else 1), turned(x)
    s_w = np.abs(weight).max(1) / limit
    s_w[s_w == 0] = 1
    q_w = np.clip(np.rint(weight / s_w[:, None]), -127, 127)
    m = np.abs(x).max(1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        factor = np.where(m > np.float32(2.0**-100), limit / m, np.float32(0))
    q_x = np.rint(x * factor)
    total = q_x.astype(np.int64) @ q_w.astype(np.int64).T
    y = total.astype(np.float32) * (m / limit) * s_w
    assert y.dtype == np.float32
    return y if bias is None else y + bias


@int8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 1, 1), (1, 48, 7), (5, 96, 40), (33, 1536, 65), (64, 64, 1)]
)
def test_the_product_is_that_of_the_integers_to_the_last_bit(rows, inputs, outputs, bias):
    x, weight = drawn(rows, inputs) * 3, drawn(outputs, inputs, seed=1) * 0.1
    added = drawn(outputs, seed=2) if bias else None
    x[0] *= 1e4
    weight[-1] *= 1e-3
    made = multiply_int8(x, quantise_weight(weight, added))
    expected = reference(x.numpy(), weight.numpy(), None if added is None else added.numpy())
    np.testing.assert_array_equal(made.numpy(), expected)


@int8
def test_the_largest_sums_are_exact():
    x = torch.ones(3, 4099) * torch.tensor([[1.0], [-1.0], [1.0]])
    weight = torch.ones(2, 4099) * torch.tensor([[1.0], [-1.0]])
    weight[:, 5] = 0.5
    made = multiply_int8(x, quantise_weight(weight))
    np.testing.assert_array_equal(made.numpy(), reference(x.numpy(), weight.numpy()))
    assert made[0, 0].item() == pytest.approx(4098.5, rel=1e-5)


def test_halves_are_rounded_to_even_and_the_largest_is_kept():
    values, scales = quantise_rows(torch.tensor([[0.5, 1.5, -2.5, 127.0], [0.0, -254.0, 3.0, 1.0]]))
    assert values.tolist() == [[0, 2, -2, 127], [0, -127, 2, 0]]
    assert scales.tolist() == [[1.0], [2.0]]
    packed = quantise_weight(torch.tensor([[0.5, 1.5, -2.5, 127.0], [0.0, -254.0, 3.0, 1.0]]))
    assert packed.integers().tolist() == values.tolist()
    assert packed.scales.tolist() == [1.0, 2.0]


@int8
def test_rows_and_outputs_of_zeros_give_the_bias():
    weight, bias = drawn(6, 32), drawn(6, seed=1)
    weight[2] = 0
    x = drawn(4, 32, seed=2)
    x[1], x[2], x[3] = 0, 1e-38, torch.finfo(torch.float32).smallest_normal
    made = multiply_int8(x, quantise_weight(weight, bias))
    assert torch.equal(made[1:], bias.expand(3, -1))
    assert torch.equal(made[:, 2], bias[2].expand(4))


@int8
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_row_that_is_not_finite_spoils_itself_alone(bad):
    packed = quantise_weight(drawn(9, 32), drawn(9, seed=1))
    x = drawn(2, 3, 32, seed=2)
    clean = multiply_int8(x, packed)
    x[1, 0, 5] = bad
    made = multiply_int8(x, packed)
    assert made[1, 0].isnan().all()
    made[1, 0] = clean[1, 0]
    assert torch.equal(made, clean)


@int8
def test_a_row_is_the_same_in_any_company():
    packed = quantise_weight(drawn(40, 96))
    x = drawn(70, 96, seed=1)
    together = multiply_int8(x, packed)
    assert torch.equal(torch.cat([multiply_int8(row[None], packed) for row in x]), together)
    assert torch.equal(multiply_int8(x.view(7, 10, 96), packed), together.view(7, 10, 40))
    assert multiply_int8(x[:0].view(0, 1, 96), packed).shape == (0, 1, 40)
    assert torch.equal(multiply_int8(x.t().contiguous().t(), packed), together)


@int8
def test_the_error_is_within_what_rounding_allows():
    x, weight = drawn(50, 256), drawn(60, 256, seed=1)
    made = multiply_int8(x, quantise_weight(weight)).double()
    a, b = x.abs().double(), weight.abs().double()
    s_x, s_w = a.amax(1, keepdim=True) / 127, b.amax(1) / 127
    # Each factor is off by half a step at most.
    bound = a.sum(1, keepdim=True) * s_w / 2 + s_x * b.sum(1) / 2 + 256 * s_x * s_w / 4
    error = (made - x.double() @ weight.double().t()).abs()
    assert (error <= bound * (1 + 1e-5)).all()
    # And they are off at random: the root mean square of a uniform error is step / sqrt(12).
    s_x, s_w = s_x.expand(-1, 60), s_w.expand(50, -1)
    usual = (256 * (s_x**2 + s_w**2) / 12).sqrt()
    assert (error.pow(2).mean().sqrt() / usual.pow(2).mean().sqrt()).item() == pytest.approx(
        1, abs=0.1
    )


@int8
@pytest.mark.parametrize("outputs", [40, 4500])
def test_the_gradient_is_that_of_the_dequantised_weight(outputs):
    layer = torch.nn.Linear(96, outputs).requires_grad_(False)
    assert pack_linears(torch.nn.Sequential(layer), "int8") == 1
    assert isinstance(layer, Int8Linear)
    x, up = drawn(3, 7, 96).requires_grad_(), drawn(3, 7, outputs, seed=1)
    y = layer(x)
    assert torch.equal(y.detach(), layer(x.detach()))  # learning sees what decoding saw
    y.backward(up)
    meant = layer.packed.integers().double() * layer.packed.scales[:, None]
    expected = up.double() @ meant
    tolerance = 4e-3 if has_bfloat16() else 1e-5
    assert ((x.grad - expected).norm() / expected.norm()).item() < tolerance
    # The integers are exact in the type of the product: one nonzero gives a weight's very row.
    x.grad = None
    one = torch.zeros_like(up)
    one[0, 0, outputs - 1] = 1 / layer.packed.scales[-1]
    layer(x).backward(one)
    last = layer.packed.integers()[-1].float()
    torch.testing.assert_close(x.grad[0, 0], last, rtol=tolerance, atol=0)
    assert not x.grad[0, 1:].any()


@int8
def test_names_and_tied_weights_stay():
    plain, base = make_tiny_base(), make_tiny_base("int8", tie_word_embeddings=True)
    assert set(base.model.state_dict()) == set(plain.model.state_dict())
    head = base.model.get_output_embeddings()
    assert isinstance(head, Int8Linear)
    assert head.weight is base.model.get_input_embeddings().weight
    assert head.weight.dtype == torch.float32
    kept = sum(p.numel() for p in base.model.parameters())
    packed = [m.packed for m in base.model.modules() if isinstance(m, Int8Linear)]
    assert all(w.integers().dtype == torch.int8 for w in packed)
    assert sum(w.integers().numel() for w in packed) <= kept  # no other copy of the weights
    made = library()
    once = made is not None and made.differentiates  # panels are all that is read
    assert all((w.values is None) == (w.panels is not None and once) for w in packed)
    assert not any(isinstance(m, FrozenLinear) for m in base.model.modules())


@int8
def test_layers_with_biases_and_replies_of_any_batch():
    base = make_tiny_base("int8", attention_bias=True)
    biased = base.model.model.layers[0].self_attn.q_proj
    assert biased.bias is not None
    with torch.no_grad():
        biased.bias[:] = drawn(len(biased.bias))
        biased.packed = quantise_weight(biased.weight, biased.bias)
        x = drawn(2, 48, seed=1)
        expected = reference(x.numpy(), biased.weight.numpy(), biased.bias.numpy())
        np.testing.assert_array_equal(biased(x).numpy(), expected)
    lora = randomise(StackedLora(base.model, 2, 2))
    jobs = [Job(i % 3 - 1 if i % 3 else None, base.chat_ids("a" * i), 6, i) for i in range(1, 6)]
    assert [r.ids for r in generate(base, lora, jobs, max_rows=5)] == [
        generate(base, lora, [job], max_rows=1)[0].ids for job in jobs
    ]


def replies(base):
    return [
        Sample(agent, base.chat_ids(word), base.chat_ids(word[::-1])[1:], advantage)
        for agent, word, advantage in [(0, "one", 1.0), (0, "three", -0.5), (1, "seven", 0.7)]
    ]


@int8
def test_learning_goes_where_that_of_float32_goes():
    moves = []
    for products in ("float32", "int8"):
        base = make_tiny_base(products)
        lora = randomise(StackedLora(base.model, 2, 2), 0.1)
        before = [p.detach().clone() for p in lora.parameters()]
        samples = replies(base)
        assert min(PolicyGradient(base, lora, LearnerConfig()).step(samples).grad_norms) > 0
        moves.append([(p - b).detach() for p, b in zip(lora.parameters(), before, strict=True)])
        assert all(p.dtype == torch.float32 for p in lora.parameters())
    for agent in (0, 1):
        ours, theirs = (torch.cat([m[agent].flatten() for m in made]) for made in moves)
        # AdamW's first step is the gradient's sign, in which even small components count.
        assert torch.cosine_similarity(ours, theirs, 0).item() > 0.8


@int8
def test_learning_sees_the_logits_of_decoding_to_the_last_bit():
    base = make_tiny_base("int8")
    embedded = base.model.get_input_embeddings()(torch.tensor([base.chat_ids("three")])).detach()
    with torch.no_grad():
        decoding = base.model(inputs_embeds=embedded).logits
    learning = base.model(inputs_embeds=embedded.requires_grad_()).logits
    assert torch.equal(learning, decoding)
    learning.sum().backward()
    assert embedded.grad.abs().sum() > 0


def test_int8_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr("agents.loading.linear.can_multiply_int8", lambda: False)
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8))
    with pytest.raises(ValueError, match=r"products: got 'int8'.*; use 'bfloat16' or 'float32'"):
        pack_linears(layers, "int8")
    assert type(layers[0]) is torch.nn.Linear
    with pytest.raises(ModelError, match="products: got 'int8', which cannot be multiplied here"):
        make_tiny_base("int8")


@pytest.mark.skipif(onednn() is None, reason="this build of PyTorch has no oneDNN")
def test_auto_is_what_the_processor_has(monkeypatch):
    for int8, bfloat16, expected in (
        (True, True, "int8"),
        (True, False, "int8"),
        (False, True, "bfloat16"),
        (False, False, "float32"),
    ):
        # Without our code int8 can be had all the same, but is the slower way.
        monkeypatch.setattr("agents.loading.linear.multiplies", lambda _, has=int8: has)
        monkeypatch.setattr("agents.loading.linear.has_bfloat16", lambda has=bfloat16: has)
        assert resolve("auto") == resolve(MatmulPrecision.AUTO) == expected
    assert [resolve(p) for p in ("int8", "float32")] == ["int8", "float32"]
    monkeypatch.setattr("agents.loading.linear.onednn", lambda: None)
    assert resolve("auto") == "float32"


@int8
def test_a_layer_too_wide_for_32_bits_is_multiplied_in_float32():
    wide, narrow = torch.nn.Linear(WIDEST + 1, 1), torch.nn.Linear(8, 1)
    layers = torch.nn.Sequential(wide, narrow).requires_grad_(False)
    assert pack_linears(layers, "int8") == 2
    assert [type(layer) for layer in layers] == [FrozenLinear, Int8Linear]
    assert WIDEST * 127**2 < 2**31 <= (WIDEST + 1) * 127**2


def test_a_base_says_what_it_multiplies_in():
    assert make_tiny_base().precision == "float32"
    if can_multiply_int8():
        assert make_tiny_base("int8").precision == "int8"
    assert make_tiny_base("auto").precision == resolve("auto").value
    plain = torch.nn.Sequential(torch.nn.Linear(4, 4).to(torch.float16))
    assert precision(plain) == "float16"
    assert precision(torch.nn.Sequential()) == "float32"


@int8
def test_weights_in_other_types_are_not_packed(tmp_path):
    base = make_tiny_base()
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    assert load_base(str(tmp_path), products="int8").precision == "int8"
    assert load_base(str(tmp_path), products="int8", dtype="bfloat16").precision == "bfloat16"
    assert freeze(base.model, base.tokenizer, products="int8").precision == "float32"  # packed
