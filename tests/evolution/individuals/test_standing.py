from __future__ import annotations

import numpy as np
import pytest

from evolution.fitness.task import lead_errors
from evolution.individuals.standing import Standing


def told(*generations, memory=0.8):
    standing = Standing(len(generations[0]), memory)
    for fitness in generations:
        standing.update(np.array(fitness), np.full(len(fitness), 0.1))
    return standing


def test_standing_is_the_shrunk_mean_lead_of_a_life():
    assert told([1.0, 3.0]).values == pytest.approx([-0.5, 0.5])
    assert told([1.0, 3.0], [2.0, 2.0]).values == pytest.approx([-0.8 / 2.8, 0.8 / 2.8])


def test_hard_generations_do_not_count_against_those_who_played_them():
    assert told([1.0, 3.0], [-9.0, -7.0]).values == pytest.approx(
        told([1.0, 3.0], [1.0, 3.0]).values
    )


def test_errors_fall_with_evidence_and_are_unknown_before_any():
    assert np.isinf(Standing(2, 0.8).errors).all()
    once, twice = told([1.0, 3.0]), told([1.0, 3.0], [1.0, 3.0], memory=0.99)
    assert once.errors == pytest.approx([0.05, 0.05])
    assert (twice.errors < once.errors).all()


def test_errors_cover_the_truth_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), []
    skill = np.array([0.2, 0.5, 0.8])
    for _ in range(400):
        difficulty = rng.normal(size=(24, 1))
        rewards = skill + difficulty + rng.normal(size=(24, 3))
        lead = rewards.mean(0) - rewards.mean()
        inside.append(np.abs(lead - (skill - skill.mean())) < 1.96 * lead_errors(rewards))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_one_problem_tells_no_error():
    assert np.isinf(lead_errors(np.array([[1.0, 0.0]]))).all()


def test_a_generation_without_an_error_counts_as_noisy_as_the_next():
    standing = Standing(1, 0.5)
    for error in (0.1, np.inf):
        standing.update(np.array([1.0]), np.array([error]))
    assert np.isinf(standing.errors).all()
    standing.update(np.array([1.0]), np.array([0.25]))
    assert standing.evidence == 1.75
    assert standing.errors == pytest.approx([0.25 * (0.25 * 1.5 + 1) ** 0.5 / 2.75])
    standing.update(np.array([1.0]), np.array([np.inf]))
    standing.correct([0], np.array([[1.0, 0.0]]))
    assert np.isfinite(standing.errors).all()


def test_without_memory_one_generation_alone_counts():
    standing = Standing(2, 0.0)
    for error in (np.inf, 0.25):
        standing.update(np.array([1.0, 0.0]), np.array([error, error]))
    assert standing.errors.tolist() == [0.125, 0.125]  # of a lead that is shrunk by half


def test_newborns_begin_anew_and_copies_keep_what_was_measured():
    standing = told([1.0, 2.0, 6.0])
    before = standing.values.copy()
    standing.inherit({0: 2, 1: None})
    assert standing.values == pytest.approx([before[2], 0.0, before[2]])
    assert standing.evidence.tolist() == [1, 0, 1]


def test_what_is_broken_has_no_standing_and_harms_nobody():
    standing = told([1.0, np.nan, 3.0])
    assert standing.values[[0, 2]] == pytest.approx([-0.5, 0.5])
    assert np.isnan(standing.values[1])
    standing.inherit({1: None})
    assert standing.values[1] == 0


def test_a_trial_moves_only_those_who_took_part_and_not_their_mean():
    standing = told([0.0, 1.0, 2.0])
    before = standing.values
    standing.correct([1, 2], np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]]))
    after = standing.values
    assert after[0] == before[0]
    assert after[1] > before[1]
    assert after[2] < before[2]
    assert after[1:].mean() == pytest.approx(before[1:].mean())
    assert standing.evidence.tolist() == [1, 2, 2]
    standing.inherit({2: None})  # a newcomer against a proven one
    before = standing.values
    standing.correct([1, 2], np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    assert standing.values[1:].mean() == pytest.approx(before[1:].mean())


def test_saved_and_loaded_it_is_the_same():
    standing = told([1.0, 3.0])
    standing.update(np.array([0.0, 1.0]), np.full(2, np.inf))
    other = Standing(2, 0.8)
    other.load(standing.state())
    for one in (standing, other):
        one.update(np.array([2.0, 1.0]), np.full(2, 0.1))
    assert other.state() == standing.state()
    with pytest.raises(ValueError, match="the run has 2 agents, the population 3"):
        Standing(3, 0.8).load(standing.state())
