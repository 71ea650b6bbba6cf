"""Texts as points, what is taken from transcripts, and the family tree."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from evolution.reporting.examples import contrast, fooled
from evolution.reporting.measures.data import read_run_data
from evolution.reporting.measures.family import family, weights_of
from evolution.reporting.measures.games import games, judging_over_time
from evolution.reporting.measures.series import accuracy_error, identical_share
from evolution.reporting.text import BUCKETS, TextSpace, principal_components, text_map
from populora_env.records import Preference
from tests.evolution.synthetic_run import write_run

TEXTS = ["3 + 4 = 7", "9 + 2 = 11", "The answer is seven.", "", "   "]


def test_vectors_have_length_one_and_ignore_digits():
    rows = TextSpace(TEXTS).vectors(TEXTS)
    assert rows.shape == (5, BUCKETS)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 1, 0, 0])
    assert rows[0] @ rows[2] < 0.2
    same = TextSpace(TEXTS).vectors(["3 + 4 = 7", "8 + 5 = 3", "8 - 5 = 3"])
    assert same[0] @ same[1] == pytest.approx(1)
    assert same[0] @ same[2] < 0.99


@pytest.mark.slow
def test_vectors_do_not_depend_on_the_process(tmp_path):
    code = (
        "from evolution.reporting.text import TextSpace;"
        "print(TextSpace(['a b c', 'b d']).vectors(['a b d']).tobytes().hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_rare_features_weigh_more():
    space = TextSpace(["abcd"] * 9 + ["efgh"])
    common, rare, both = space.vectors(["abcd", "efgh", "abcd efgh"])
    assert both @ rare > both @ common


def test_principal_components_are_those_of_the_covariance():
    rows = np.random.default_rng(0).normal(size=(40, 5)) @ np.diag([5, 3, 1, 1, 1])
    coordinates, shares = principal_components(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    assert shares == pytest.approx(values[::-1][:2] / values.sum())
    wanted = (rows - rows.mean(0)) @ vectors[:, ::-1][:, :2]
    assert np.abs(coordinates) == pytest.approx(np.abs(wanted))
    assert (coordinates.max(axis=0) >= -coordinates.min(axis=0)).all()


def test_principal_components_of_points_that_are_the_same():
    coordinates, shares = principal_components(np.ones((3, 4)))
    assert not coordinates.any()
    assert not shares.any()
    coordinates, _ = principal_components(np.ones((1, 4)))
    assert coordinates.shape == (1, 2)


def test_a_component_of_rounding_alone_parts_nothing():
    replies = TextSpace(["one and two", "three"]).vectors(["one and two"] * 5 + ["three"] * 3)
    coordinates, shares = principal_components(replies)
    assert shares == pytest.approx([1, 0])
    assert not coordinates[:, 1].any()
    assert coordinates[0, 0] != coordinates[-1, 0]


def test_the_map_shows_drift(tmp_path):
    def talk(generation, number, right):
        word = "apples" if generation < 5 else "pears and plums"
        return f"{word} {'of course' * (number % 2)} make {7 if right else 8}"

    changed = read_run_data(write_run(tmp_path / "a", generations=10, reply=talk))
    steady = read_run_data(write_run(tmp_path / "b", generations=10))
    found = text_map(changed)
    assert (found.early, found.late) == ((0, 1), (8, 9))
    assert found.drift > 1.5 > 0.5 > text_map(steady).drift
    early = [point.x for point in found.points if not point.late]
    late = [point.x for point in found.points if point.late]
    assert max(early) < min(late) or max(late) < min(early)
    assert {point.generation for point in found.points} == {0, 1, 8, 9}
    assert text_map(changed) == found


def test_the_map_is_sampled_and_small_runs_have_one(tmp_path):
    run = read_run_data(write_run(tmp_path / "a", generations=10, agents=8, problems=6))
    assert len(text_map(run, size=20).points) == 20
    one = text_map(read_run_data(write_run(tmp_path / "b", generations=1)))
    assert one.late is None
    assert one.drift is None
    assert not any(point.late for point in one.points)
    empty = dataclasses.replace(run, episodes=())
    assert text_map(empty) is None
    assert contrast(empty) is None
    assert fooled(empty) is None


def test_identical_replies_are_counted_by_pairs(tmp_path):
    def talk(generation, number, right):
        return "same\n  text" if number < generation else f"number {number} in {generation}"

    run = read_run_data(write_run(tmp_path / "a", generations=5, agents=4, reply=talk))
    assert identical_share(run) == pytest.approx([0, 0, 1 / 6, 3 / 6, 1])
    assert identical_share(dataclasses.replace(run, episodes=())) is None


def test_the_error_of_accuracy_is_over_problems(tmp_path):
    run = read_run_data(write_run(tmp_path / "a", generations=3, agents=4, problems=5))
    means = np.array(
        [
            [np.mean([a.grade.correct for a in e.transcript.attempts])
             for e in run.episodes if e.generation == g]
            for g in range(3)
        ]
    )  # fmt: skip
    assert accuracy_error(run) == pytest.approx(means.std(axis=1, ddof=1) / np.sqrt(5))
    unknown = read_run_data(write_run(tmp_path / "b", known=False))
    assert accuracy_error(unknown) is None
    assert unknown.recorded("accuracy") is None


def test_contrast_is_the_farthest_right_attempt_at_the_same_problem(tmp_path):
    def talk(generation, number, right):
        odd = generation == 7 and number == 2
        return "an entirely different way of saying it" if odd else f"sum so {number} far we add"

    run = read_run_data(write_run(tmp_path / "a", generations=8, problems=12, reply=talk))
    found = contrast(run)
    assert found.graded
    assert found.best.attempt.agent == run.best[-1] != "agent_2"
    assert found.best.problem == found.other.problem
    assert found.other.attempt.agent == "agent_2"
    assert found.other.generation == 7
    assert found.best.attempt.grade.correct
    assert found.other.attempt.grade.correct
    assert found.distance > 0.5


def test_contrast_without_known_answers_and_without_a_choice(tmp_path):
    unknown = contrast(read_run_data(write_run(tmp_path / "a", known=False)))
    assert not unknown.graded
    same = write_run(tmp_path / "b", reply=lambda *_: "the same")
    assert contrast(read_run_data(same)) is None


def test_contrast_looks_only_at_the_living_individual(tmp_path):
    run = read_run_data(write_run(tmp_path / "a", generations=8, problems=12))
    column = run.agents.index(run.best[-1])
    names = [list(row) for row in run.individuals]
    for row in names[:-1]:
        row[column] = "somebody else"
    newborn = dataclasses.replace(run, individuals=tuple(map(tuple, names)))
    assert contrast(newborn).best.generation == 7


def test_fooled_is_a_wrong_attempt_that_beat_right_ones(tmp_path):
    run = read_run_data(write_run(tmp_path / "a", generations=8, problems=8))
    found = fooled(run)
    assert found.attempt.grade.correct is False
    wins = [line for line in found.opinions if "better than the right attempt" in line]
    (episode,) = [e for e in run.episodes if e.transcript.problem == found.problem]
    marks = {a.agent: a.grade.correct for a in episode.transcript.attempts}
    counted = sum(
        (e.preference is Preference.A and e.first_author == found.attempt.agent
         and marks[e.second_author])
        or (e.preference is Preference.B and e.second_author == found.attempt.agent
            and marks[e.first_author])
        for e in episode.transcript.evaluations
    )  # fmt: skip
    assert len(wins) == counted >= 1


def test_games_are_counted_in_both_directions(tmp_path):
    run = read_run_data(write_run(tmp_path / "a", agents=5))
    found = games(run.agents, run.transcripts)
    evaluations = [e for t in run.transcripts for e in t.evaluations]
    decided = [e for e in evaluations if e.preference not in (None, Preference.TIE)]
    assert found.wins.sum() == len(decided)
    assert found.ties.sum() == 2 * sum(e.preference is Preference.TIE for e in evaluations)
    assert found.abstained.sum() == 2 * sum(e.preference is None for e in evaluations) > 0
    entry = decided[0]
    winner, loser = entry.first_author, entry.second_author
    if entry.preference is Preference.B:
        winner, loser = loser, winner
    assert found.wins[run.agents.index(winner), run.agents.index(loser)] > 0
    shares = found.shares
    met = np.isfinite(shares)
    assert shares[met] + shares.T[met] == pytest.approx(1)
    assert np.isnan(np.diag(shares)).all()
    assert found.strengths.strengths.sum() == pytest.approx(0)
    assert games(run.agents, []) is None


def test_judging_over_time_is_in_few_bins_that_cover_the_run(tmp_path):
    run = read_run_data(write_run(tmp_path / "a", generations=30))
    bins = judging_over_time(run.episodes)
    assert len(bins) == 12
    assert (bins[0].first, bins[-1].last) == (0, 29)
    assert all(a.last + 1 == b.first for a, b in pairwise(bins))
    asked = sum(part.statistics.comparisons for part in bins)
    assert asked == 2 * sum(len(t.evaluations) for t in run.transcripts)


def test_family_follows_parents_and_their_weights(tmp_path):
    folder = write_run(tmp_path / "a", generations=4, agents=3, born_every=9)
    births = json.loads((folder / "lineage.json").read_text())
    births += [
        {"name": "g1-2", "slot": 2, "generation": 1, "operator": "crossover",
         "parents": ["g0-0", "g0-1"], "parameters": {"weights": [0.75, 0.25]}},
        {"name": "g3-1", "slot": 1, "generation": 3, "operator": "crossover",
         "parents": ["g1-2", "g0-0"], "parameters": {}},
        {"name": "g9-0", "slot": 0, "generation": 9, "operator": "crossover", "parents": []},
    ]  # fmt: skip
    (folder / "lineage.json").write_text(json.dumps(births))
    run = read_run_data(folder)
    individuals = (*run.individuals[:-1], ("g0-0", "g3-1", "g1-2"))
    found = family(
        dataclasses.replace(run, individuals=individuals, best=(None, None, None, "agent_1"))
    )
    lives = {life.birth.name: life for life in found.lives}
    assert "g9-0" not in lives  # of a generation that was not finished
    assert (lives["g0-2"].last, lives["g0-2"].living) == (0, False)
    assert (lives["g0-1"].last, lives["g0-1"].living) == (2, False)
    assert (lives["g1-2"].last, lives["g1-2"].living) == (3, True)
    assert found.best == "g3-1"
    assert found.ancestors == {"g3-1", "g1-2", "g0-0", "g0-1"}
    # The living: g0-0 itself; g3-1, half g1-2 and half g0-0; g1-2, three quarters g0-0.
    assert found.founders == pytest.approx(
        {"g0-0": (1 + 0.875 + 0.75) / 3, "g0-1": (0.125 + 0.25) / 3, "g0-2": 0}
    )
    (folder / "lineage.json").unlink()
    assert family(read_run_data(folder)) is None


def test_weights_that_do_not_fit_are_equal_ones():
    from evolution.individuals.lineage import Individual

    for given in ([1.0], "x", [0.0, 0.0], ["a", "b"], [float("nan"), 1.0], None):
        child = Individual("c", 0, 1, "crossover", ("a", "b"), {"weights": given})
        assert weights_of(child) == (0.5, 0.5)
    assert weights_of(Individual("c", 0, 1, "x", ("a", "b"), {"weights": [3, 1]})) == (0.75, 0.25)
    parts = {"weights": [[1.0, 0.0], [0.5, 0.5]]}  # of attention, and of the rest
    assert weights_of(Individual("c", 0, 1, "cma_es", ("a", "b"), parts)) == (0.75, 0.25)
    assert weights_of(Individual("c", 0, 0, "spread")) == ()


def test_weights_follow_copies_layers_and_failures():
    from evolution.individuals.lineage import Individual

    def weights(operator, **parameters):
        return weights_of(Individual("c", 0, 1, operator, ("a", "b"), parameters))

    assert weights("clone", parent_hash="00") == (1, 0)
    assert weights("base", failed="not finite") == (0, 0)
    assert weights("layer_wise", taken={"0": "parent 1", "1": "parent 1", "2": "parent 0"}) == (
        pytest.approx((1 / 3, 2 / 3))
    )


def test_what_failed_to_the_base_and_clones_descend_from_nobody_else(tmp_path):
    folder = write_run(tmp_path / "a", generations=3, agents=3, born_every=9)
    births = json.loads((folder / "lineage.json").read_text())
    births += [
        {"name": "g1-1", "slot": 1, "generation": 1, "operator": "clone",
         "parents": ["g0-0", "g0-1"], "parameters": {"parent_hash": "00"}},
        {"name": "g2-0", "slot": 0, "generation": 2, "operator": "base",
         "parents": ["g0-0", "g1-1"], "parameters": {"failed": "not finite"}},
    ]  # fmt: skip
    (folder / "lineage.json").write_text(json.dumps(births))
    run = read_run_data(folder)
    individuals = (*run.individuals[:-1], ("g2-0", "g1-1", "g0-2"))
    found = family(dataclasses.replace(run, individuals=individuals, best=(None, None, "agent_1")))
    assert found.ancestors == {"g1-1", "g0-0"}
    assert found.founders == pytest.approx({"g0-0": 1 / 3, "g0-1": 0, "g0-2": 1 / 3, "g2-0": 1 / 3})
