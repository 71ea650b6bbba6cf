"""Updates brought back to rows that all share, beside dense matrices."""

from __future__ import annotations

import pytest
import torch

from evolution.lowrank.genomes import clear
from evolution.lowrank.layers import recombine
from evolution.lowrank.shared_rows import are_shared, bring_back, rows_of
from tests.evolution.genetics import distance, random_lora, updates

RANKS = (3, 3, 3)


@pytest.fixture
def lora():
    made = random_lora(RANKS)
    for layer in made.layers():
        layer.A[:] = layer.A[0].clone()
    return made


def test_only_the_same_rows_and_ranks_are_shared(lora):
    assert are_shared(lora)
    assert not are_shared(random_lora(RANKS))
    next(lora.layers()).A[1, 0, 0] += 1e-6
    assert not are_shared(lora)
    other = random_lora((3, 2, 3))
    for layer in other.layers():
        layer.A.zero_()
    assert not are_shared(other)


def test_a_sum_comes_back_without_loss(lora):
    rows = rows_of(lora, 0)
    wanted = [0.3 * a + 0.7 * b for a, b in zip(updates(lora, 1), updates(lora, 2), strict=True)]
    recombine(lora, [0], [[1, 2]], [[0.3, 0.7]])
    factored = updates(lora, 0)
    assert not are_shared(lora)
    (lost,) = bring_back(lora, [0], rows)
    assert lost < 1e-6
    assert are_shared(lora)
    assert distance(updates(lora, 0), factored) < 1e-6
    assert distance(factored, wanted) < 1e-6


def test_what_has_the_rows_stays_bit_for_bit(lora):
    before = [layer.B.clone() for layer in lora.layers()]
    assert bring_back(lora, [0, 2], rows_of(lora, 1)).tolist() == [0, 0]
    assert all(torch.equal(layer.B, b) for layer, b in zip(lora.layers(), before, strict=True))


def test_what_the_rows_cannot_hold_is_told(lora):
    rows = rows_of(lora, 0)
    other = random_lora(RANKS, seed=5)
    for layer, strange in zip(lora.layers(), other.layers(), strict=True):
        layer.A[1], layer.B[1] = strange.A[1], strange.B[1]
    before = updates(lora, 1)
    lost = bring_back(lora, [0, 1], rows)
    after = updates(lora, 1)
    assert lost[0] == 0
    gone = sum(float((a - b).square().sum()) for a, b in zip(before, after, strict=True))
    whole = sum(float(b.square().sum()) for b in before)
    assert lost[1] == pytest.approx((gone / whole) ** 0.5, rel=1e-5)
    for layer, kept, had in zip(lora.layers(), after, before, strict=True):
        A = layer.A[0].double()
        within = A.T @ torch.linalg.inv(A @ A.T) @ A  # the nearest that the rows allow
        torch.testing.assert_close(kept, had @ within, atol=1e-4, rtol=1e-4)


def test_a_member_that_is_cleared_keeps_frozen_rows(lora):
    lora.freeze_rows()
    clear(lora, 1)
    assert are_shared(lora)
    assert not any(layer.B[1].any() for layer in lora.layers())
    next(lora.layers()).A[1, 0, 0] = torch.nan  # others are made then
    clear(lora, 1)
    assert lora.finite().all()
