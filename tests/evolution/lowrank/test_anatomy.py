"""The inside of adapters, against whole matrices, planted cases, and what must change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.peft_io import AdapterError, PeftAdapter
from agents.population import LoraPopulation
from evolution.lowrank.anatomy import block_of, in_order, inner_products, measure, weight_norms
from tests.conftest import make_tiny_base
from tests.evolution.genetics import random_lora

IN, OUT = 12, 9


def adapter(*pairs, alpha=2.0):
    """An adapter of layers ``model.layers.0.q_proj``, 1, … with these factors."""
    factors = {f"model.layers.{i}.q_proj": pair for i, pair in enumerate(pairs)}
    rank = max(A.shape[0] for A, _ in pairs)
    return PeftAdapter(rank=rank, alpha=alpha * rank, base="", factors=factors)


def drawn(seed, rank=4, layers=1):
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rank, IN, generator=rng), torch.randn(OUT, rank, generator=rng))
        for _ in range(layers)
    ]


def dense(given, layer=0):
    A, B = list(given.factors.values())[layer]
    return given.scale * (B.double() @ A.double())


def from_singular(values, left, right):
    """An adapter of one layer with these singular values and unit directions by number."""
    A, B = torch.zeros(len(values), IN), torch.zeros(OUT, len(values))
    for i, (value, out, into) in enumerate(zip(values, left, right, strict=True)):
        A[i, into], B[out, i] = 1.0, value
    return adapter((A, B), alpha=1.0)


def population(lora):
    """Adapters of a stack, by name."""
    return {
        f"agent_{i}": PeftAdapter(
            rank=int(lora.ranks[i]),
            alpha=float(lora.alpha[i]),
            base="",
            factors={
                y.name: (y.A[i, : lora.ranks[i]], y.B[i, :, : lora.ranks[i]]) for y in lora.layers()
            },
        )
        for i in range(lora.size)
    }


def root(matrix):
    """Square root of ``M M^T``."""
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left @ torch.diag(values) @ left.T


def test_everything_is_what_whole_matrices_say():
    lora = random_lora()
    adapters = population(lora)
    found = measure(adapters)
    assert found.agents == ("agent_0", "agent_1", "agent_2", "agent_3")
    assert len(found.layers) == 14
    wholes = []
    for place, name in enumerate(found.layers):
        each = []
        for own in adapters.values():
            A, B = own.factors[name]
            each.append(own.scale * B.double() @ A.double())
        values = torch.stack([torch.linalg.svdvals(m)[:4] for m in each]).numpy()
        np.testing.assert_allclose(found.spectrum[place], values, atol=1e-6)
        flat = torch.stack([m.flatten() for m in each])
        wholes.append(flat)
        np.testing.assert_allclose(found.inner[place], flat @ flat.T, atol=1e-5)
        np.testing.assert_allclose(inner_products(adapters, name), flat @ flat.T, atol=1e-5)
        np.testing.assert_allclose(found.norms[place], flat.norm(dim=1), rtol=1e-6)
        for turned, overlaps in ((lambda m: m.T, found.reads), (lambda m: m, found.writes)):
            roots = torch.stack([root(turned(m)).flatten() for m in each])
            roots = roots / roots.norm(dim=1, keepdim=True)
            np.testing.assert_allclose(overlaps[place], roots @ roots.T, atol=1e-6)
        shares = values / values.sum(1, keepdims=True)
        entropy = -np.where(shares > 1e-9, shares * np.log(np.maximum(shares, 1e-9)), 0).sum(1)
        np.testing.assert_allclose(found.effective_ranks[place], np.exp(entropy), rtol=1e-5)
        stable = (values**2).sum(1) / values[:, 0] ** 2
        np.testing.assert_allclose(found.stable_ranks[place], stable, rtol=1e-5)
        off = (flat - flat.mean(0)).square().sum(1)
        np.testing.assert_allclose(found.own[place], off, rtol=1e-5)
        assert found.widths[place].tolist() == [each[0].shape[1], each[0].shape[0]]
    whole = torch.cat(wholes, 1)
    unit = whole / whole.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(found.total_norms, whole.norm(dim=1), rtol=1e-6)
    np.testing.assert_allclose(found.cosines, unit @ unit.T, atol=1e-6)
    common = 1 - (whole - whole.mean(0)).square().sum() / whole.square().sum()
    assert found.common == pytest.approx(float(common))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)))
def test_factors_may_be_turned_and_agents_be_in_any_order(seed, order):
    pairs = [drawn(seed + i) for i in range(3)]
    found = measure({str(i): adapter(*own) for i, own in enumerate(pairs)})
    rng = torch.Generator().manual_seed(seed)
    turned = {}
    for i in order:
        ((A, B),) = pairs[i]
        T = torch.eye(4, dtype=torch.float64)
        T = T + 0.3 * torch.randn(4, 4, generator=rng, dtype=torch.float64)
        one = (torch.linalg.inv(T) @ A.double(), B.double() @ T)
        turned[str(i)] = adapter(one)
    other = measure(turned)
    for name in ("spectrum", "effective_ranks", "stable_ranks", "norms", "own"):
        np.testing.assert_allclose(
            getattr(other, name), getattr(found, name)[:, order], rtol=1e-5, atol=1e-5
        )
    for name in ("inner", "reads", "writes"):
        expected = getattr(found, name)[:, order][:, :, order]
        np.testing.assert_allclose(getattr(other, name), expected, rtol=1e-5, atol=1e-5)
    assert other.common == pytest.approx(found.common)
    assert other.chance == pytest.approx(found.chance)


def test_equal_agents_and_those_with_nothing_in_common():
    one = from_singular([3.0, 3.0], [0, 1], [0, 1])
    twice = adapter(*one.factors.values(), alpha=2.0)
    other = from_singular([1.0, 2.0], [4, 5], [6, 7])
    found = measure({"one": one, "twice": twice, "other": other})
    np.testing.assert_allclose(found.cosines, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-12)
    for overlap in (found.read_overlaps, found.write_overlaps):
        np.testing.assert_allclose(overlap, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-12)
    assert measure({"a": one, "b": one}).common == pytest.approx(1.0)
    assert measure({"a": one, "b": from_singular([3.0, 3.0], [2, 3], [2, 3])}).common == 0.5


def test_reading_and_writing_are_told_apart_and_half_is_half():
    found = measure({
        "a": from_singular([1.0, 1.0], [0, 1], [0, 1]),
        "reads the same": from_singular([1.0, 1.0], [2, 3], [0, 1]),
        "writes half": from_singular([1.0, 1.0], [1, 2], [4, 5]),
    })  # fmt: skip
    np.testing.assert_allclose(found.reads[0, 0], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found.writes[0, 0], [1, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(found.cosines[0], [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("values", "effective", "stable"),
    [
        ([5.0], 1.0, 1.0),
        ([5.0, 0.0, 0.0], 1.0, 1.0),
        ([2.0, 2.0, 2.0], 3.0, 3.0),
        ([3.0, 1.0], np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))), 10 / 9),
    ],
)
def test_ranks_of_known_spectra(values, effective, stable):
    places = list(range(len(values)))
    found = measure({"a": from_singular(values, places, places)})
    assert found.effective_ranks.item() == pytest.approx(effective)
    assert found.stable_ranks.item() == pytest.approx(stable)


def test_chance_is_what_unrelated_agents_have():
    adapters = {str(i): adapter(*drawn(i, rank=2, layers=30)) for i in range(8)}
    found = measure(adapters)
    apart = ~np.eye(8, dtype=bool)
    for overlap, chance in zip(
        (found.read_overlaps, found.write_overlaps), found.chance, strict=True
    ):
        assert overlap[apart].mean() == pytest.approx(chance, rel=0.05)
    assert np.isnan(measure({"0": adapters["0"]}).chance).all()


def test_what_is_zero_has_no_direction():
    nothing = adapter((torch.zeros(2, IN), torch.zeros(OUT, 2)))
    found = measure({"a": nothing, "b": from_singular([1.0, 2.0], [0, 1], [0, 1])})
    assert found.norms[0].tolist() == [0.0, pytest.approx(5**0.5)]
    assert np.isnan(found.effective_ranks[0, 0])
    assert np.isnan(found.stable_ranks[0, 0])
    assert np.isnan(found.cosines[0]).all()
    assert np.isnan(found.read_overlaps[0, 1])
    assert found.cosines[1, 1] == pytest.approx(1.0)
    assert np.isnan(measure({"a": nothing}).common)


def test_layers_that_some_agents_do_not_adapt():
    some, all_of_them = adapter(*drawn(0, layers=1)), adapter(*drawn(1, layers=2))
    found = measure({"some": some, "all": all_of_them})
    assert found.norms[1, 0] == 0
    norms = [float(dense(all_of_them, layer).norm()) for layer in (0, 1)]
    np.testing.assert_allclose(found.norms[:, 1], norms, rtol=1e-6)
    weight = found.norms[0].prod()
    assert found.write_overlaps[0, 1] == pytest.approx(found.writes[0, 0, 1] * weight / weight)


def test_sums_by_module_and_depth():
    names = ["model.layers.0.mlp.up_proj", "model.layers.2.mlp.up_proj", "model.layers.0.q_proj",
             "model.layers.0.experts.1.q_proj", "head"]  # fmt: skip
    factors = dict(zip(names, drawn(0, layers=5), strict=True))
    found = measure({"a": PeftAdapter(rank=4, alpha=4, base="", factors=factors)})
    assert found.kinds == ("q_proj", "up_proj", "head")
    values = found.norms[:, 0] ** 2
    size = {name: float((B @ A).square().sum()) for name, (A, B) in factors.items()}
    both = size["model.layers.0.q_proj"] + size["model.layers.0.experts.1.q_proj"]
    expected = [
        [both, np.nan, np.nan],
        [size["model.layers.0.mlp.up_proj"], np.nan, size["model.layers.2.mlp.up_proj"]],
        [np.nan] * 3,
    ]
    np.testing.assert_allclose(found.by_place(values), expected, rtol=1e-5)


def test_layers_are_in_the_order_of_the_model():
    layers = {f"model.layers.{i}.self_attn.{m}" for i in (10, 2) for m in ("v_proj", "q_proj")}
    layers |= {"model.layers.2.mlp.down_proj", "lm_head"}
    assert in_order(layers) == (
        "lm_head", "model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.v_proj",
        "model.layers.2.mlp.down_proj", "model.layers.10.self_attn.q_proj",
        "model.layers.10.self_attn.v_proj",
    )  # fmt: skip
    assert [block_of(name) for name in ("h.7.mlp", "0.x", "mlp", "model.layers.3.e.5.w")] == [
        7, 0, -1, 3
    ]  # fmt: skip


def test_sizes_beside_the_base():
    base = make_tiny_base()
    held = LoraPopulation(base, 2, 3)
    names = [layer.name for layer in held.lora.layers()]
    known = weight_norms(base.model, names)
    assert list(known) == names
    for layer in held.lora.layers():
        layer.A[:], layer.B[:] = 1.0, 0.5
    found = measure({agent: held.adapter(agent) for agent in held.agents}, known)
    weight = base.model.get_submodule(names[0]).weight
    assert found.base_norms[found.layers.index(names[0])] == pytest.approx(float(weight.norm()))
    np.testing.assert_allclose(
        found.relative_norms * found.base_norms[:, None], found.norms, rtol=1e-9
    )
    assert np.isnan(measure({"a": held.adapter("agent_0")}).relative_norms).all()
    held.lora.detach()


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="adapters: got none, expected at least one"):
        measure({})
    wide = adapter((torch.ones(1, IN + 1), torch.ones(OUT, 1)))
    with pytest.raises(AdapterError, match=r"q_proj: got updates of 12 x 9 and 13 x 9, expected"):
        measure({"a": adapter(*drawn(0)), "b": wide})
    broken = adapter((torch.full((1, IN), torch.nan), torch.ones(OUT, 1)))
    with pytest.raises(AdapterError, match=r"b: its factors of model.layers.0.q_proj are not fin"):
        measure({"a": adapter(*drawn(0)), "b": broken})
