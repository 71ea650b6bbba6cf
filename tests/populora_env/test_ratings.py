"""Strengths and ratings from games with planted outcomes."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.keys import generator
from populora_env.ratings import (
    CHILD_SPREAD,
    DEFAULT_MU,
    DEFAULT_SIGMA,
    Rating,
    Ratings,
    _Davidson,
    bradley_terry,
)
from populora_env.records import Evaluation, Preference, Verdict

A, B, TIE = Preference.A, Preference.B, Preference.TIE
AGENTS = tuple("uvwxyz")


def game(first, second, preference, judge="judge"):
    if preference is None:
        return Evaluation.from_verdicts(judge, first, second, Verdict(None), Verdict(A))
    back = Verdict(preference.mirrored)
    return Evaluation.from_verdicts(judge, first, second, Verdict(preference), back)


def exchanged(evaluation):
    preference = evaluation.preference and evaluation.preference.mirrored
    return game(evaluation.second_author, evaluation.first_author, preference)


def simulated(strengths, tie, rounds, *key):
    """Play every pair ``rounds`` times by Davidson's model, written down anew."""
    rng = generator("simulated games", *key)
    played = []
    for first, second in combinations(strengths, 2):
        win = math.exp(strengths[first])
        loss = math.exp(strengths[second])
        drawn = tie * math.sqrt(win * loss)
        chances = np.array([win, loss, drawn]) / (win + loss + drawn)
        played += [
            game(first, second, (A, B, TIE)[int(rng.choice(3, p=chances))]) for _ in range(rounds)
        ]
    return played


def log_posterior(point, names, evaluations, prior):
    """The objective, game by game; the last entry of the point is the logarithm of nu."""
    total = -sum(entry**2 for entry in point) / (2 * prior**2)
    for entry in evaluations:
        first = math.exp(point[names.index(entry.first_author)])
        second = math.exp(point[names.index(entry.second_author)])
        drawn = math.exp(point[-1]) * math.sqrt(first * second)
        share = {A: first, B: second, TIE: drawn}[entry.preference]
        total += math.log(share / (first + second + drawn))
    return total


def compass_search(objective, dimensions):
    """Maximise without derivatives: step along each axis, halve the step where none helps."""
    point, step = [0.0] * dimensions, 1.0
    best = objective(point)
    while step > 1e-7:
        moved = False
        for axis in range(dimensions):
            for sign in (step, -step):
                trial = [*point]
                trial[axis] += sign
                reached = objective(trial)
                if reached > best:
                    point, best, moved = trial, reached, True
        step = step if moved else step / 2
    return point


class TestBradleyTerry:
    @pytest.mark.slow
    def test_recovers_planted_strengths_within_its_standard_errors(self):
        planted = dict(zip(AGENTS, (-1.5, -0.7, -0.1, 0.2, 0.8, 1.3), strict=True))
        deviations, ties = [], []
        for seed in range(20):
            fit = bradley_terry(AGENTS, simulated(planted, 0.8, 60, seed), prior=50.0)
            truth = np.array([planted[name] for name in fit.agents])
            deviations.append((fit.strengths - truth) / fit.standard_errors)
            ties.append(fit.tie)
        assert np.abs(deviations).max() < 4.5
        assert (
            0.8 < np.sqrt(np.mean(np.square(deviations))) < 1.2
        )  # neither too wide nor too narrow
        assert np.mean(ties) == pytest.approx(0.8, abs=0.03)

    @pytest.mark.parametrize("prior", [0.5, 2.0])
    def test_equals_a_search_without_derivatives(self, prior):
        names = ("x", "y", "z")
        played = [game("x", "y", A)] * 4 + [game("y", "x", A), game("x", "y", TIE)]
        played += [game("z", "y", B)] * 2 + [game("x", "z", TIE), game("z", "x", A)]
        fit = bradley_terry(names, played, prior=prior)
        found = compass_search(lambda point: log_posterior(point, names, played, prior), 4)
        assert fit.strengths == pytest.approx(found[:3], abs=1e-5)
        assert math.log(fit.tie) == pytest.approx(found[3], abs=1e-5)
        assert fit.comparisons.tolist() == [8, 8, 4]

    def test_its_derivatives_are_those_of_its_objective(self):
        rng = generator("derivatives")
        wins, ties = rng.integers(0, 5, (2, 4, 4))
        objective = _Davidson(np.triu(wins, 1) + np.tril(wins, -1), np.triu(ties, 1), 2.0)
        point, h = rng.normal(size=5), 1e-5
        steps = h * np.eye(5)
        slopes = [objective.value(point + step) - objective.value(point - step) for step in steps]
        assert objective.gradient(point) == pytest.approx(np.array(slopes) / (2 * h), abs=1e-6)
        bends = [
            objective.gradient(point + step) - objective.gradient(point - step) for step in steps
        ]
        assert objective.curvature(point) == pytest.approx(np.array(bends) / (2 * h), abs=1e-6)

    def test_its_errors_are_those_of_the_curvature_of_the_posterior(self):
        names, prior, h = ("x", "y", "z"), 2.0, 1e-4
        played = [game("x", "y", A)] * 5 + [game("y", "z", TIE)] * 3 + [game("z", "x", B)] * 2
        fit = bradley_terry(names, played, prior=prior)
        point = np.array([*fit.strengths, math.log(fit.tie)])

        def at(*moves):
            return log_posterior(list(point + h * np.sum(moves, axis=0)), names, played, prior)

        axes = np.eye(4)
        curvature = np.array([
            [(at(a, -b) + at(-a, b) - at(a, b) - at(-a, -b)) / (4 * h * h) for b in axes]
            for a in axes
        ])  # fmt: skip
        centring = np.eye(4)[:3] - np.array([1, 1, 1, 0]) / 3
        expected = np.sqrt(np.diag(centring @ np.linalg.inv(curvature) @ centring.T))
        assert fit.standard_errors == pytest.approx(expected, rel=1e-3)

    @given(
        st.lists(
            st.tuples(st.permutations(AGENTS), st.sampled_from([A, B, TIE, None])), max_size=30
        ),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=50, deadline=None)
    def test_order_and_sides_make_no_difference(self, drawn, random):
        played = [game(names[0], names[1], preference) for names, preference in drawn]
        other = [exchanged(entry) if random.random() < 0.5 else entry for entry in played]
        random.shuffle(other)
        one, two = bradley_terry(AGENTS, played), bradley_terry(AGENTS, other)
        assert np.array_equal(one.strengths, two.strengths)
        assert np.array_equal(one.standard_errors, two.standard_errors)
        assert (one.tie, *one.comparisons) == (two.tie, *two.comparisons)
        assert abs(one.strengths.mean()) < 1e-9
        renamed = bradley_terry(AGENTS[::-1], played)
        assert renamed.strengths[::-1] == pytest.approx(one.strengths, abs=1e-8)

    def test_without_games_all_are_equal_and_as_uncertain_as_the_prior(self):
        fit = bradley_terry("abcd", [game("a", "b", None)], prior=3.0)
        assert fit.strengths.tolist() == [0.0] * 4
        assert fit.comparisons.tolist() == [0] * 4
        assert fit.standard_errors == pytest.approx([3 * math.sqrt(3 / 4)] * 4)
        assert bradley_terry(["alone"], []).strengths.tolist() == [0.0]

    @pytest.mark.parametrize("rounds", [1, 10_000])
    def test_an_agent_that_wins_everything_stays_finite(self, rounds):
        names = [f"agent_{i}" for i in range(64)]
        played = [game(*pair, A) for pair in combinations(names[:8], 2)] * rounds
        played += [game(names[0], names[63], A)] * rounds
        fit = bradley_terry(names, played)
        assert np.isfinite(fit.strengths).all()
        assert np.isfinite(fit.standard_errors).all()
        assert (np.diff(fit.strengths[:8]) < 0).all()
        assert 0 < fit.tie < 1
        assert fit.comparisons[0] == 8 * rounds

    def test_a_win_probability_counts_ties_half_and_its_mirror_is_the_rest(self):
        played = simulated({"a": 0.9, "b": -0.9, "c": 0.0}, 1.0, 200)
        fit = bradley_terry("abc", played)
        between = [
            entry for entry in played if {entry.first_author, entry.second_author} == set("ab")
        ]
        points = sum({A: 1.0, TIE: 0.5, B: 0.0}[entry.preference] for entry in between)
        assert fit.win_probability("a", "b") == pytest.approx(points / len(between), abs=0.05)
        assert fit.win_probability("a", "b") + fit.win_probability("b", "a") == pytest.approx(1)
        assert fit.win_probability("c", "c") == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("agents", "evaluations", "prior", "said"),
        [
            ([], [], 1.0, "agents must be at least one name"),
            (["a", "a"], [], 1.0, "all different"),
            (["a", "b"], [], 0.0, "prior must be a finite number > 0, got 0.0"),
            (["a", "b"], [], math.nan, "prior must be a finite number > 0"),
            (["a", "b"], [game("a", "a", A)], 1.0, "got 'a' against itself"),
            (["a", "b"], [game("a", "a", None)], 1.0, "got 'a' against itself"),
            (["a", "b"], [game("a", "c", A)], 1.0, "about 'c', expected one of agents: a, b"),
        ],
    )
    def test_says_what_is_wrong(self, agents, evaluations, prior, said):
        with pytest.raises(ValueError, match=said):
            bradley_terry(agents, evaluations, prior=prior)

    def test_an_unknown_name_has_no_probability(self):
        with pytest.raises(ValueError, match="no strength of 'q': expected one of a, b"):
            bradley_terry("ab", []).win_probability("a", "q")


class TestRatings:
    def test_rank_planted_players(self):
        planted = dict(zip(AGENTS, (-2.0, -1.2, -0.4, 0.4, 1.2, 2.0), strict=True))
        ratings = Ratings()
        for generation in range(10):
            ratings.update(simulated(planted, 0.5, 3, generation))
        assert sorted(AGENTS, key=lambda name: ratings.rating(name).mu) == list(AGENTS)
        assert all(ratings.rating(name).sigma < DEFAULT_SIGMA / 3 for name in AGENTS)
        assert ratings.win_probability("z", "u") > 0.9
        bound = ratings.rating("z").mu - 2 * ratings.rating("z").sigma
        assert ratings.lower_bound("z", c=2.0) == pytest.approx(bound)

    def test_one_game_is_the_published_update(self):
        ratings = Ratings.from_dict(
            {"a": {"mu": 30.0, "sigma": 3.0}, "b": {"mu": 20.0, "sigma": 5.0}}
        )
        ratings.update([game("b", "a", A)])
        beta, tau = DEFAULT_SIGMA / 2, DEFAULT_SIGMA / 100
        of_a, of_b = 9 + tau**2, 25 + tau**2
        c = math.sqrt(of_a + of_b + 2 * beta**2)
        p = 1 / (1 + math.exp(-10 / c))
        assert ratings.rating("a").mu == pytest.approx(30 - of_a / c * p)
        assert ratings.rating("b").mu == pytest.approx(20 + of_b / c * p)
        shrunk = 1 - of_b / c**2 * p * (1 - p) * math.sqrt(of_b) / c
        assert ratings.rating("b").sigma == pytest.approx(math.sqrt(of_b * shrunk))

    def test_a_tie_draws_unequal_players_together_and_makes_them_more_certain(self):
        before = {"a": {"mu": 30.0, "sigma": 3.0}, "b": {"mu": 20.0, "sigma": 5.0}}
        ratings = Ratings.from_dict(before)
        ratings.update([game("a", "b", TIE)])
        assert 25 < ratings.rating("a").mu < 29.9
        assert 20.1 < ratings.rating("b").mu < 25
        assert ratings.rating("a").sigma < 3
        equals = Ratings()
        equals.update([game("a", "b", TIE)])
        assert equals.rating("a").mu == equals.rating("b").mu == DEFAULT_MU
        assert equals.rating("a").sigma < DEFAULT_SIGMA

    @given(
        st.lists(
            st.tuples(st.permutations(AGENTS), st.sampled_from([A, B, TIE, None])), max_size=25
        ),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=50, deadline=None)
    def test_a_batch_is_a_set(self, drawn, random):
        played = [game(names[0], names[1], preference) for names, preference in drawn]
        other = [exchanged(entry) if random.random() < 0.5 else entry for entry in played]
        random.shuffle(other)
        one, two = Ratings(), Ratings()
        one.update(played)
        two.update(other)
        assert one.to_dict() == two.to_dict()
        stored = json.loads(json.dumps(one.to_dict()))
        assert Ratings.from_dict(stored).to_dict() == one.to_dict()

    def test_the_first_name_of_the_alphabet_does_not_always_play_first(self):
        """With games in the order of names, whoever sorts first would gain most, each time."""
        mus = []
        for pad in range(40):  # an undecided pair of another name changes the batch, not the games
            ratings = Ratings()
            filler = game(f"p{pad}", f"q{pad}", TIE)
            ratings.update([game("a", "z", A), game("b", "z", A), filler])
            mus.append((ratings.rating("a").mu, ratings.rating("b").mu))
        assert {a > b for a, b in mus} == {True, False}

    def test_abstentions_change_nothing_and_a_bad_batch_neither(self):
        ratings = Ratings()
        ratings.update([game("a", "b", None)])
        assert ratings.to_dict() == {}
        with_one, without = Ratings(), Ratings()
        with_one.update([game("a", "b", None), game("a", "b", A)])
        without.update([game("a", "b", A)])
        assert with_one.to_dict() == without.to_dict() != {}
        with pytest.raises(ValueError, match="got 'c' against itself"):
            ratings.update([game("a", "b", A), game("c", "c", A)])
        assert ratings.to_dict() == {}
        assert ratings.rating("anyone") == Rating(DEFAULT_MU, DEFAULT_SIGMA)
        assert ratings.win_probability("anyone", "other") == pytest.approx(0.5)

    def test_a_child_starts_between_its_parents_and_less_certain(self):
        data = {"a": {"mu": 30.0, "sigma": 1.0}, "b": {"mu": 20.0, "sigma": 2.0}}
        ratings = Ratings.from_dict(data)
        ratings.reset("a", parents=("a", "b"))
        assert ratings.rating("a").mu == 25.0
        assert ratings.rating("a").sigma == pytest.approx(math.sqrt(2.5 + CHILD_SPREAD**2))
        assert ratings.rating("b") == Rating(20.0, 2.0)
        ratings.reset("child", parents=("unknown",))
        assert ratings.rating("child") == Rating(DEFAULT_MU, DEFAULT_SIGMA)
        ratings.reset("b")
        assert ratings.rating("b") == Rating()
        assert "b" not in ratings.to_dict()

    @pytest.mark.parametrize(
        "entry",
        [{}, {"mu": 1.0}, {"mu": "x", "sigma": 1}, {"mu": math.nan, "sigma": 1.0},
         {"mu": 1.0, "sigma": 0.0}, {"mu": 1.0, "sigma": math.inf}, 3],
    )  # fmt: skip
    def test_what_is_stored_wrongly_is_refused(self, entry):
        with pytest.raises(ValueError, match=r"data\['a'\] must hold a finite mu and a sigma > 0"):
            Ratings.from_dict({"a": entry})
