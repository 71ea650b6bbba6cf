from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolution.guard.ladder import GOOD, PATIENCE, Ladder, Rung


def climb(ladder, verdicts, slot=0, unable=()):
    """Rungs after each verdict, a generation apart."""
    rungs = []
    for generation, bad in enumerate(verdicts):
        ladder.take(slot, bad, generation, unable)
        rungs.append(ladder.rung(slot))
    return rungs


def test_each_bad_verdict_climbs_one_rung_to_the_last():
    ladder = Ladder(2)
    assert climb(ladder, [True] * 5) == list(Rung)[1:]
    assert ladder.rung(1) is Rung.CLEAR
    assert ladder.take(0, True, 9) is Rung.STOP  # again


def test_it_takes_good_verdicts_in_a_row_to_come_down_by_one():
    ladder = Ladder(1)
    climb(ladder, [True] * 3)
    assert climb(ladder, [False] * (GOOD - 1)) == [Rung.ROLL_BACK] * (GOOD - 1)
    assert climb(ladder, [True]) == [Rung.REPLACE]  # and they are forgotten
    assert climb(ladder, [False] * GOOD)[-1] is Rung.ROLL_BACK
    assert climb(ladder, [False] * (3 * GOOD))[-1] is Rung.CLEAR
    assert climb(ladder, [False] * 9)[-1] is Rung.CLEAR


def test_what_cannot_be_done_is_passed_over_on_both_ways():
    ladder = Ladder(1)
    unable = (Rung.RAISE_KL, Rung.ROLL_BACK)
    assert climb(ladder, [True] * 3, unable=unable) == [Rung.NOTE, Rung.REPLACE, Rung.STOP]
    down = climb(ladder, [False] * (3 * GOOD), unable=unable)
    assert down[GOOD - 1 :: GOOD] == [Rung.REPLACE, Rung.NOTE, Rung.CLEAR]


def test_a_guard_that_only_notes_climbs_no_further():
    ladder = Ladder(1, Rung.NOTE)
    assert [ladder.take(0, True, g) for g in range(3)] == [Rung.NOTE, None, None]
    assert ladder.rung(0) is Rung.NOTE


def test_whoever_is_on_a_rung_is_measured_again_soon():
    ladder = Ladder(3)
    assert ladder.due(0) == set()
    ladder.take(1, True, 4)
    assert ladder.due(4) == set()
    assert ladder.due(5) == {1}
    ladder.take(1, True, 5)  # the KL weight is given time
    assert ladder.due(5 + PATIENCE - 1) == set()
    assert ladder.due(5 + PATIENCE) == {1}


@given(st.lists(st.booleans(), max_size=60))
def test_nobody_ever_moves_by_more_than_one_rung(verdicts):
    ladder, before = Ladder(1), Rung.CLEAR
    for generation, bad in enumerate(verdicts):
        reached = ladder.take(0, bad, generation)
        now = ladder.rung(0)
        assert now - before in ((0, 1) if bad else (0, -1))
        assert (reached is not None) == (now is not before or (bad and now is Rung.STOP))
        before = now


@given(st.lists(st.booleans(), max_size=30), st.lists(st.booleans(), max_size=30))
def test_it_goes_on_as_it_was(first, then):
    one = Ladder(2)
    climb(one, first, slot=1)
    other = Ladder(2)
    other.load(json.loads(json.dumps(one.state())))
    assert climb(other, then, slot=1) == climb(one, then, slot=1)
    assert other.state() == one.state()


def test_another_size_is_refused_and_a_lower_ceiling_holds():
    one = Ladder(2)
    climb(one, [True] * 4)
    with pytest.raises(ValueError, match="watched 2 agents, the population has 3"):
        Ladder(3).load(one.state())
    noting = Ladder(2, Rung.NOTE)
    noting.load(one.state())
    assert noting.rung(0) is Rung.NOTE
