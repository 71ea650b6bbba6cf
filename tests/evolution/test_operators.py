from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.adapters import StackedLora
from evolution import mutation
from evolution.crossover import CROSSOVERS
from evolution.diversity import cosine_distance
from evolution.lineage import content_hash
from evolution.selection import ranking, tournament

NAN = float("nan")


def test_ranking_puts_what_is_not_finite_last():
    assert ranking(np.array([0.1, NAN, 0.5, np.inf, -2.0])).tolist()[:3] == [2, 0, 4]


def test_ranking_breaks_ties_by_slot():
    assert ranking(np.array([1.0, 2.0, 1.0, 2.0])).tolist() == [1, 3, 0, 2]


def test_tournament_of_all_takes_the_fittest_in_order():
    rng = np.random.default_rng(0)
    assert tournament(np.array([0.0, 3.0, 1.0, 2.0]), 3, 4, rng).tolist() == [1, 3, 2]


def test_tournament_prefers_the_fit_and_never_takes_nan():
    fitness = np.array([0.0, 1.0, 2.0, 3.0, NAN])
    drawn = [tournament(fitness, 2, 2, np.random.default_rng(i)) for i in range(300)]
    counts = np.bincount(np.concatenate(drawn), minlength=5)
    assert counts[4] == 0
    assert counts[3] > counts[1] > counts[0]
    assert all(len(set(pair.tolist())) == 2 for pair in drawn)


def test_tournament_with_nothing_measured_still_draws():
    assert len(tournament(np.full(3, NAN), 2, 2, np.random.default_rng(0))) == 2


@pytest.mark.parametrize("name", sorted(CROSSOVERS))
@pytest.mark.parametrize("fitness", [[-5.0, 1.0], [0.0, 0.0, 0.0], [2.0]])
def test_weights_sum_to_one_and_favour_the_fit(name, fitness):
    for seed in range(20):
        weights = CROSSOVERS[name](np.array(fitness), np.random.default_rng(seed))
        assert weights.shape == (len(fitness),)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)
    if name == "weighted_average" and fitness[0] < fitness[-1]:
        assert weights[-1] > weights[0]


def test_spread_is_recorded_by_its_seed_and_differs_by_agent(tiny_base):
    lora = StackedLora(tiny_base.model, 3, 2)
    mutation.spread(lora, 0.1, seed=5)
    first = [content_hash(lora, i) for i in range(3)]
    mutation.spread(lora, 0.1, seed=5)
    assert [content_hash(lora, i) for i in range(3)] == first
    assert len(set(first)) == 3
    mutation.spread(lora, 0.1, seed=6)
    assert content_hash(lora, 0) != first[0]


def test_gaussian_has_the_strength_asked_for_and_spares_the_others(tiny_base):
    lora = StackedLora(tiny_base.model, 3, 4)
    mutation.gaussian(lora, np.array([1]), 0.5, 0, 1)
    values = torch.cat([layer.B[1].flatten() for layer in lora.layers()])
    assert values.std().item() == pytest.approx(0.5 / 4**0.5, rel=0.05)
    assert not any(layer.B[[0, 2]].any() for layer in lora.layers())


def test_cosine_distance_by_hand():
    features = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert cosine_distance(features) == pytest.approx([(1 - 0.5**0.5) / 2] * 2)


def test_unknown_features_are_left_out():
    features = np.array([[[1.0, 0.0], [1.0, 0.0], [NAN, NAN]]])
    assert cosine_distance(features) == pytest.approx([0, 0, 0])
    assert cosine_distance(np.full((2, 3, 4), NAN)).tolist() == [0, 0, 0]
