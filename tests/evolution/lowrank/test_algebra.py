from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.compiled import native
from agents.engine.adapters import StackedLora
from evolution.lowrank.algebra import compress
from evolution.lowrank.layers import recombine
from tests.evolution.genetics import distance, random_lora, updates

SCALE = torch.tensor([2.0, 0.5, 1.0])


@pytest.fixture
def factors():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(2, 3, 4, 20, generator=generator)
    B = torch.randn(2, 3, 15, 4, generator=generator)
    return A, B


def delta(A, B, scale):
    return scale[None, :, None, None] * (B @ A)


def weighted_sum(A, B, sizes):
    """Canonical factors of each layer's sum of updates times sizes ``[K]``, at their rank."""
    rank = A.shape[2]
    each = sizes.double().repeat_interleave(rank).expand(len(A), -1)
    made = compress(A.flatten(1, 2), B.transpose(1, 2).flatten(2), rank, each)
    return made.A, made.B


def test_child_of_one_parent_twice_is_that_parent(factors):
    A, B = factors
    twice = A[:, [1, 1]], B[:, [1, 1]]
    new_A, new_B = weighted_sum(*twice, torch.tensor([0.3, 0.7]) * SCALE[1])
    assert torch.allclose(new_B @ new_A, delta(A, B, SCALE)[:, 1], atol=1e-4)


def test_recompression_is_the_best_of_its_rank(factors):
    A, B = factors
    child_scale = 3.0
    weights = torch.tensor([0.2, 0.3, 0.5])
    new_A, new_B = weighted_sum(A, B, weights * SCALE / child_scale)
    wanted = (delta(A, B, SCALE) * weights[None, :, None, None]).sum(1)
    got = child_scale * new_B @ new_A
    best = torch.linalg.svdvals(wanted)[:, 4:].square().sum(-1).sqrt()
    assert torch.allclose((got - wanted).flatten(1).norm(dim=1), best, rtol=1e-3)
    assert best.min() > 0.1  # something is lost, so the comparison means something


def test_result_is_canonical(factors):
    A, B = factors
    sizes = torch.tensor([0.5, 0.5]) * SCALE[[0, 2]] / SCALE[0]
    new_A, _ = weighted_sum(A[:, [0, 2]], B[:, [0, 2]], sizes)
    assert torch.allclose(new_A @ new_A.transpose(-1, -2), torch.eye(4), atol=1e-4)


def test_a_rank_above_the_layers_own_is_padded():
    A, B = (
        torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(0)),
        torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(1)),
    )
    new_A, new_B = weighted_sum(A, B, torch.tensor([0.5, 0.5]))
    assert new_A.shape == (1, 4, 3)
    wanted = delta(A, B, torch.ones(2)).mean(1)
    assert torch.allclose(new_B @ new_A, wanted, atol=1e-4)


def test_recombine_reads_all_parents_before_it_writes(tiny_base):
    lora = StackedLora(tiny_base.model, 3, 2)
    draws = torch.Generator().manual_seed(3)
    for layer in lora.layers():
        layer.A.normal_(generator=draws)
        layer.B.normal_(generator=draws)
    layer = next(lora.layers())
    before = layer.B @ layer.A
    swap = torch.tensor([[1], [0]])
    recombine(lora, torch.tensor([0, 1]), swap, torch.ones(2, 1))
    after = layer.B @ layer.A
    assert torch.allclose(after[[0, 1]], before[[1, 0]], atol=1e-4)
    assert torch.equal(after[2], before[2])


def recombined(monkeypatch, compiled, slots, parents, weights, edit=None):
    """A population after a step, its errors, and how often the compiled kernel wrote factors."""
    lora, calls = random_lora(), []
    if edit is not None:
        edit(lora)
    with monkeypatch.context() as patch:
        if compiled:
            mix = native.Kernel.mix
            patch.setattr(native.Kernel, "mix", lambda *a: (calls.append(1), mix(*a)))
        else:
            patch.setattr(native, "kernel", lambda: None)
        errors = recombine(lora, slots, parents, weights)
    return lora, errors, len(calls)


@pytest.mark.skipif(native.kernel() is None, reason="no GCC on this machine")
@pytest.mark.parametrize("per_layer", [False, True])
def test_the_kernel_recombines_in_place_as_pytorch_does(monkeypatch, per_layer):
    slots, parents, weights = [1, 3, 2], [[0, 1], [1, 2], [3, 0]], [[0.6, 0.4]] * 3
    if per_layer:
        count = sum(1 for _ in random_lora().layers())
        rng = np.random.default_rng(0)
        parents = np.array([[rng.permutation(4)[:2] for _ in slots] for _ in range(count)])
        weights = rng.random((count, 3, 2))
    arguments = (slots, parents, weights)
    ours, errors, calls = recombined(monkeypatch, True, *arguments)
    plain, plain_errors, _ = recombined(monkeypatch, False, *arguments)
    assert calls > 0
    assert np.allclose(errors, plain_errors, rtol=1e-4)
    assert errors.min() > 0.05
    for agent in range(4):
        assert distance(updates(ours, agent), updates(plain, agent)) < 1e-5
    for layer in ours.layers():
        assert not layer.A[2, 2:].any()
        assert not layer.B[2, :, 2:].any()
        own = layer.A[1]
        assert torch.allclose(own @ own.T, torch.eye(len(own)), atol=1e-5)


@pytest.mark.skipif(native.kernel() is None, reason="no GCC on this machine")
def test_what_the_kernel_cannot_finish_pytorch_does(monkeypatch):
    def silence(lora):
        for layer in lora.layers():
            layer.B[0] = 0.0

    lora, _, calls = recombined(monkeypatch, True, [1], [[0]], [[1.0]], silence)
    assert calls == 0
    for layer in lora.layers():  # the rows of an update of zero are filled up, to learn from
        assert torch.allclose(layer.A[1] @ layer.A[1].T, torch.eye(4), atol=1e-5)
        assert not layer.B[1].any()


@pytest.mark.parametrize("compiled", [True, False])
def test_a_parent_that_is_not_finite_makes_a_child_that_is_not(monkeypatch, compiled):
    def spoil(lora):
        next(lora.layers()).B[0, 3, 1] = torch.inf

    lora, _, _ = recombined(
        monkeypatch, compiled, [1, 2], [[0, 3], [3, 3]], [[0.5, 0.5]] * 2, spoil
    )
    assert lora.finite().tolist() == [False, False, True, True]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bad", [4, -1])
def test_a_parent_outside_the_population_is_refused(monkeypatch, compiled, bad):
    with pytest.raises(IndexError):
        recombined(monkeypatch, compiled, [1], [[0, bad]], [[0.5, 0.5]])
