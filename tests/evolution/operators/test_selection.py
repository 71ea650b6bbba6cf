from __future__ import annotations

import numpy as np
import pytest

from evolution.errors import OperatorError
from evolution.operators.selection import (
    SELECTIONS,
    Candidates,
    draw,
    ranking,
    replacement,
    roulette,
    selection_scores,
    tournament,
    truncation,
)

NAN = float("nan")
ALL = np.arange(5)


def drawn(setting, score, parents=2, count=300, members=None):
    use, score = SELECTIONS.read(setting), np.asarray(score, dtype=float)
    members = np.arange(len(score)) if members is None else np.asarray(members)
    return [
        draw(use, score, score, members, parents, np.random.default_rng(i)) for i in range(count)
    ]


def test_ranking_puts_what_is_not_finite_last():
    assert ranking(np.array([0.1, NAN, 0.5, np.inf, -2.0])).tolist()[:3] == [2, 0, 4]


def test_ranking_breaks_ties_by_fitness_then_by_slot():
    assert ranking(np.array([1.0, 2.0, 1.0, 2.0])).tolist() == [1, 3, 0, 2]
    assert ranking(np.ones(3), np.array([0.0, 2.0, 1.0])).tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", [name for name in SELECTIONS if name != "lower_bound"])
@pytest.mark.parametrize("score", [[3.0, 2.0, 1.0], [-1.0, -5.0, -5.5], [0.0, 0.0], [7.0]])
def test_chances_sum_to_one_and_fall_with_merit_whatever_its_sign(name, score):
    chances = SELECTIONS[name](np.array(score))
    assert chances.sum() == pytest.approx(1)
    assert (np.diff(chances) <= 1e-12).all()
    assert (chances >= 0).all()


def test_tournament_has_the_chances_of_a_real_tournament():
    rng = np.random.default_rng(0)
    winners = [min(rng.choice(6, 3, replace=False)) for _ in range(20_000)]
    counted = np.bincount(winners, minlength=6) / 20_000
    assert tournament(np.zeros(6), size=3) == pytest.approx(counted, abs=0.015)


def test_chances_by_hand():
    assert truncation(np.zeros(5), share=0.5) == pytest.approx([1 / 3] * 3 + [0] * 2)
    assert roulette(np.array([3.0, 2.0, 1.0]), floor=0) == pytest.approx([2 / 3, 1 / 3, 0])
    assert SELECTIONS["rank"](np.zeros(3), pressure=2) == pytest.approx([2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("setting", ["tournament(size=2)", "truncation", "roulette", "rank"])
def test_parents_are_different_fit_and_never_nan(setting):
    pairs = drawn(setting, [0.0, 1.0, 2.0, 3.0, NAN])
    counts = np.bincount(np.concatenate(pairs), minlength=5)
    assert counts[4] == 0
    assert counts[3] > counts[1] >= counts[0]
    assert all(a > b for a, b in pairs)  # from best to worst


def test_chances_of_zero_are_taken_only_when_nothing_else_is_left():
    pairs = drawn("truncation(share=0.2)", [0.0, 1.0, 2.0, 3.0, 4.0], parents=3, count=5)
    assert [pair.tolist() for pair in pairs] == [[4, 3, 2]] * 5


def test_where_nothing_or_one_is_known_parents_are_still_drawn():
    assert all(len(set(pair.tolist())) == 2 for pair in drawn("rank", [NAN] * 3, count=9))
    assert drawn("rank", [NAN, 1.0, NAN], count=1)[0].tolist() == [1, 1]


def test_parents_come_from_the_members_alone():
    pairs = drawn("tournament", [9.0, 1.0, 2.0, 3.0], members=[1, 2, 3], count=50)
    assert set(np.concatenate(pairs).tolist()) <= {1, 2, 3}


def test_lower_bound_ranks_by_ratings_and_the_others_by_fitness():
    known = Candidates(np.array([5.0, 0.0]), np.array([25.0, 30.0]), np.array([1.0, 8.0]))
    assert selection_scores(SELECTIONS.read("lower_bound"), known).tolist() == [22.0, 6.0]
    assert selection_scores(SELECTIONS.read("lower_bound(c=0)"), known).tolist() == [25.0, 30.0]
    assert selection_scores(SELECTIONS.read("tournament"), known).tolist() == [5.0, 0.0]


def test_a_selection_of_ones_own_takes_one_line_and_is_checked():
    @SELECTIONS.add("the_worst")
    def the_worst(score: np.ndarray) -> np.ndarray:
        return (np.arange(len(score)) == len(score) - 1).astype(float)

    @SELECTIONS.add("broken")
    def broken(score: np.ndarray) -> np.ndarray:
        return -np.ones(len(score))

    assert drawn("the_worst", [3.0, 1.0, 2.0], parents=1, count=1)[0].tolist() == [1]
    with pytest.raises(OperatorError, match=r"broken returned .* expected a chance >= 0"):
        drawn("broken", [1.0, 2.0])


def test_the_worst_of_each_island_make_room():
    order = np.array([3, 0, 5, 1, 4, 2])  # islands 0 1 2 and 3 4 5; the best 0, 1, 2 and 3, 5, 4
    alone = replacement(order, np.array_split(np.arange(len(order)), 1), 2, 0)
    assert list(alone.children) == [2, 4]
    assert alone.children[2].tolist() == [0, 1, 2, 3, 4, 5]
    assert not alone.migrants
    both = replacement(order, np.array_split(np.arange(len(order)), 2), 1, 1)
    assert both.migrants == {2: 3, 4: 0}  # copies of the best of the other island
    assert {slot: home.tolist() for slot, home in both.children.items()} == {
        1: [0, 1, 2],
        5: [3, 4, 5],
    }
    assert not replacement(order, np.array_split(np.arange(len(order)), 2), 1, 0).migrants
