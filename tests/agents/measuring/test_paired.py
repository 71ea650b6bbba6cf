from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.measuring import paired
from agents.measuring.paired import (
    Interval,
    holm,
    problem_error,
    sign_flip,
    t_cdf,
    t_quantile,
)


# From the tables of Student's t, such as Abramowitz and Stegun's 26.10.
@pytest.mark.parametrize(
    ("freedom", "share", "value"),
    [
        (1, 0.975, 12.7062), (2, 0.975, 4.3027), (3, 0.975, 3.1824), (4, 0.95, 2.1318),
        (9, 0.975, 2.2622), (10, 0.995, 3.1693), (29, 0.975, 2.0452), (120, 0.975, 1.9799),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_tables(freedom, share, value):
    assert t_quantile(share, freedom) == pytest.approx(value, abs=6e-5)
    assert t_cdf(value, freedom) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("freedom", range(1, 12))
def test_the_distribution_is_the_integral_of_its_density(freedom):
    from math import gamma, pi

    x = np.linspace(0, 2.5, 20_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    density *= gamma((freedom + 1) / 2) / gamma(freedom / 2) / (freedom * pi) ** 0.5
    area = float(((density[1:] + density[:-1]) / 2 * np.diff(x)).sum())
    assert t_cdf(2.5, freedom) == pytest.approx(0.5 + area, abs=1e-8)
    assert t_cdf(-2.5, freedom) == pytest.approx(0.5 - area, abs=1e-8)
    assert t_cdf(0.0, freedom) == 0.5


def test_an_interval_by_hand():
    # Mean 3, deviation sqrt(2.5), 5 seeds: 2.7764 * sqrt(0.5) on either side.
    found = Interval.of([1, 2, 3, 4, 5])
    assert (found.mean, found.seeds) == (3, 5)
    assert [3 - found.low, found.high - 3] == pytest.approx([1.9632] * 2, abs=1e-4)
    alone = Interval.of([0.7])
    assert (alone.mean, alone.low, alone.high) == (0.7, None, None)
    same = Interval.of([0.1, 0.1, 0.1])
    assert same.low == same.high == same.mean


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_sign_flips_are_all_ways_to_choose_the_signs(values):
    every = [sum(s * v for s, v in zip(signs, values, strict=True))
             for signs in itertools.product((1, -1), repeat=len(values))]  # fmt: skip
    wanted = np.mean([abs(one) >= abs(sum(values)) for one in every])
    assert sign_flip([value / 7 for value in values]) == wanted


def test_many_seeds_are_drawn_and_come_near_all_ways(monkeypatch):
    values = np.linspace(-0.4, 1.0, 10)
    exact = sign_flip(values)
    assert 0.01 < exact < 0.2
    monkeypatch.setattr(paired, "EXACT", 5)
    assert sign_flip(values) == pytest.approx(exact, abs=0.005)
    assert sign_flip(values) == sign_flip(values)
    assert sign_flip(np.ones(30)) == pytest.approx(1e-5, abs=1e-6)


def test_the_least_p_that_seeds_can_have():
    assert [sign_flip([1.0] * n) for n in (1, 2, 5)] == [1.0, 0.5, 2 / 32]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], []),
        ([0.04], [0.04]),
        # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never below the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(values, wanted):
    assert holm(values) == pytest.approx(wanted)


def test_the_error_that_problems_make_by_hand():
    # Variances 1/3 and 0 (divisor n - 1), over 4 problems each; the mean of two seeds.
    found = problem_error([np.array([1.0, 0.0, 0.0, 1.0]), np.zeros(4)])
    assert found == pytest.approx((1 / 3 / 4) ** 0.5 / 2)


def test_the_error_of_problems_that_all_seeds_share():
    # Means over seeds 1, 0, 0.5, 0.5: variance 1/6 (divisor n - 1), over 4 problems.
    seeds = [np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])]
    assert problem_error(seeds, shared=True) == pytest.approx((1 / 6 / 4) ** 0.5)
    alike = [np.array([1.0, 0.0, 0.0, 1.0])] * 9  # nine seeds are no more problems
    assert problem_error(alike, shared=True) == pytest.approx(problem_error(alike[:1]))


def test_it_is_how_means_over_other_problems_would_differ():
    rng = np.random.default_rng(0)
    said, means = [], []
    for _ in range(400):
        ours, theirs = rng.beta(0.5, 0.5, (2, 64))
        drawn = [(rng.random(64) < ours) * 1.0 - (rng.random(64) < theirs) for _ in range(8)]
        said.append(problem_error(drawn, shared=True))
        means.append(np.mean(drawn))
    assert np.mean(said) == pytest.approx(np.std(means), rel=0.1)
