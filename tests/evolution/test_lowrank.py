from __future__ import annotations

import pytest
import torch

from agents.adapters import StackedLora
from evolution.genomes import recombine
from evolution.lowrank import combine

SCALE = torch.tensor([2.0, 0.5, 1.0])


@pytest.fixture
def factors():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(2, 3, 4, 20, generator=generator)
    B = torch.randn(2, 3, 15, 4, generator=generator)
    return A, B


def delta(A, B, scale):
    return scale[None, :, None, None] * (B @ A)


def test_child_of_one_parent_twice_is_that_parent(factors):
    A, B = factors
    one = torch.tensor([1.0])
    new = combine(A, B, SCALE, torch.tensor([[1, 1]]), torch.tensor([[0.3, 0.7]]), one)
    assert torch.allclose(delta(*new, one)[:, 0], delta(A, B, SCALE)[:, 1], atol=1e-4)


def test_recompression_is_the_best_of_its_rank(factors):
    A, B = factors
    child_scale = torch.tensor([3.0])
    weights = torch.tensor([[0.2, 0.3, 0.5]])
    new = combine(A, B, SCALE, torch.tensor([[0, 1, 2]]), weights, child_scale)
    wanted = (delta(A, B, SCALE) * weights[0][None, :, None, None]).sum(1)
    got = delta(*new, child_scale)[:, 0]
    best = torch.linalg.svdvals(wanted)[:, 4:].square().sum(-1).sqrt()
    assert torch.allclose((got - wanted).flatten(1).norm(dim=1), best, rtol=1e-3)
    assert best.min() > 0.1  # something is lost, so the comparison means something


def test_result_is_canonical(factors):
    A, B = factors
    new_A, _ = combine(A, B, SCALE, torch.tensor([[0, 2]]), torch.tensor([[0.5, 0.5]]), SCALE[:1])
    assert torch.allclose(new_A @ new_A.transpose(-1, -2), torch.eye(4), atol=1e-4)


def test_a_rank_above_the_layers_own_is_padded():
    A, B = torch.randn(1, 2, 4, 3), torch.randn(1, 2, 5, 4)
    scale = torch.ones(2)
    new = combine(A, B, scale, torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]), scale[:1])
    assert new[0].shape == (1, 1, 4, 3)
    wanted = delta(A, B, scale).mean(1)
    assert torch.allclose(delta(*new, scale[:1])[:, 0], wanted, atol=1e-4)


def test_recombine_reads_all_parents_before_it_writes(tiny_base):
    lora = StackedLora(tiny_base.model, 3, 2)
    for layer in lora.layers():
        layer.A.normal_()
        layer.B.normal_()
    layer = next(lora.layers())
    before = layer.B @ layer.A
    swap = torch.tensor([[1], [0]])
    recombine(lora, torch.tensor([0, 1]), swap, torch.ones(2, 1))
    after = layer.B @ layer.A
    assert torch.allclose(after[[0, 1]], before[[1, 0]], atol=1e-4)
    assert torch.equal(after[2], before[2])
