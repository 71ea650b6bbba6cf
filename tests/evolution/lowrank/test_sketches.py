"""Sketches: what they estimate, how well, and that they fit together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evolution.lowrank.sketches import PRODUCTS, Sketcher

WIDE, HIGH = 40, 24


def drawn(seed, rank=1, layers=1):
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(1, rank, WIDE, generator=rng), torch.randn(1, HIGH, rank, generator=rng))
        for _ in range(layers)
    ]


def estimate(sketch):
    return float(sketch.double().square().mean())


@pytest.mark.parametrize("rank", [1, 8])
def test_the_mean_square_estimates_the_squared_norm(rank):
    ((A, B),) = drawn(1, rank)
    true = float((B @ A).square().sum())
    ratios = np.array(
        [estimate(Sketcher(seed, ["a"], WIDE).take("a", A, B)) / true for seed in range(200)]
    )
    assert ratios.mean() == pytest.approx(1, abs=4 * ratios.std() / 200**0.5)
    assert ratios.std() < (8 / PRODUCTS) ** 0.5 * 1.15  # as the fourth moment of one product bounds


def test_the_error_falls_with_the_number_of_layers_even_where_all_are_alike():
    ((A, B),) = drawn(1)
    layers = [f"model.layers.{i}.q_proj" for i in range(60)]
    errors = []
    for seed in range(30):
        sketcher = Sketcher(seed, layers, WIDE)
        total = sum(estimate(sketcher.take(name, A, B)) for name in layers)
        errors.append(total / 60 / float((B @ A).square().sum()) - 1)
    assert np.std(errors) < 2 * (8 / PRODUCTS / 60) ** 0.5


def test_sketches_are_linear_and_fit_together_across_processes_and_orders():
    (A, B), (C, D) = drawn(1, 3, 2)
    one, other = Sketcher(5, ["b", "a"], WIDE), Sketcher(5, ["a", "b"], WIDE)
    assert one.layers == ("a", "b")
    sum_of_both = one.take("a", torch.cat([A, C], 1), torch.cat([B, D], 2))
    torch.testing.assert_close(sum_of_both, other.take("a", A, B) + other.take("a", C, D))
    assert not torch.equal(one.take("a", A, B), one.take("b", A, B))
    assert not torch.equal(one.take("a", A, B), Sketcher(6, ["a", "b"], WIDE).take("a", A, B))


def test_it_is_the_product_from_both_sides():
    ((A, B),) = drawn(1, 3)
    sketcher = Sketcher(0, ["a"], WIDE)
    found = sketcher.take("a", A.double(), B.double())
    assert found.shape == (1, PRODUCTS)
    into, out = (signs.double() for signs in sketcher._signs)
    assert set(into.unique().tolist()) == {-1.0, 1.0}
    whole = (B.double() @ A.double())[0]
    expected = ((out[:HIGH].T @ whole) * into[:WIDE].T).sum(1)
    torch.testing.assert_close(found[0], expected)
