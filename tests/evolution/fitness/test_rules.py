from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.errors import OperatorError
from evolution.fitness.attempts import Attempts
from evolution.fitness.descriptors import DESCRIPTORS, describe, read
from evolution.fitness.diversity import distances, same
from evolution.fitness.rules import FITNESSES, Measured
from evolution.fitness.strategies import Strategy, surface

NAN = float("nan")


def measured(labels, returns, counted=None, texts=None, features=None, weight=1.0, births=None):
    """One problem, whose attempts are the same where their labels are."""
    size = len(labels)
    counted = np.array([counted or [True] * size])
    known = counted[:, :, None] & counted[:, None, :]
    similarity = np.where(known, same([labels]), NAN)
    attempts = Attempts(
        [texts or [str(label) for label in labels]], [[None] * size], counted,
        np.full((1, size, 2), NAN) if features is None else np.array([features], dtype=float),
        [[None] * size],
    )  # fmt: skip
    returns = np.array(returns, dtype=float)
    births = births or [(0, slot) for slot in range(size)]
    return Measured(attempts, similarity, distances(similarity), returns, returns,
                    np.array(births), weight)  # fmt: skip


def rule(setting):
    return FITNESSES.read(setting)()


labelled = st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 0), st.booleans()), min_size=2,
                    max_size=7)  # fmt: skip


@settings(deadline=None)
@given(labelled)
def test_a_bonus_never_lifts_what_is_below_the_bar(agents):
    labels, returns, counted = map(list, zip(*agents, strict=True))
    features = [[label + 1.0, 1.0] for label in labels]
    seen = measured(labels, returns, counted, features=features)
    for setting in ("bonus", "novelty", "novelty(behaviour=length)", "map_elites", "sharing"):
        bonus = rule(setting).bonus(seen)
        assert (bonus[~np.array(counted)] <= 0).all(), setting


def test_bonus_by_hand():
    seen = measured("aab", [0, 0, 0], weight=2.0)
    assert rule("bonus").bonus(seen) == pytest.approx([1, 1, 2])


@settings(deadline=None)
@given(labelled, st.integers(-20, 20))
def test_sharing_does_no_harm_to_negative_returns(agents, shift):
    labels, returns, counted = map(list, zip(*agents, strict=True))
    seen = measured(labels, returns, counted)
    shared = seen.scaled + rule("sharing").bonus(seen)
    moved = measured(labels, [r + shift for r in returns], counted)
    assert rule("sharing").bonus(moved) == pytest.approx(rule("sharing").bonus(seen))
    assert (shared <= seen.scaled + 1e-9).all()
    assert shared.min() == pytest.approx(seen.scaled.min())
    crowd = rule("sharing").niches(seen.similarity)
    for i in range(len(labels)):
        for j in range(len(labels)):
            if returns[i] >= returns[j] and crowd[i] <= crowd[j]:
                assert shared[i] >= shared[j] - 1e-9


def test_sharing_by_hand():
    seen = measured("aab?", [-1, -1, -1, -2], [True, True, True, False])
    assert rule("sharing").niches(seen.similarity) == pytest.approx([2, 2, 1, 4])
    assert rule("sharing").bonus(seen) == pytest.approx([-0.5, -0.5, 0, 0])


def test_novelty_is_the_distance_to_the_nearest_of_archive_and_population():
    one = measured("abc", [0, 0, 0], features=[[1, 0], [2, 0], [-1, 0]])
    novelty = rule("novelty(k=1,archive=2)")
    assert novelty.bonus(one) == pytest.approx([0, 0, 1])
    assert novelty.state()["archive"] == pytest.approx(np.array([[-0.5, 0]]))
    assert novelty.bonus(one) == pytest.approx([0, 0, 0])  # the odd one is known by now
    novelty.bonus(measured("abc", [0, 0, 0], features=[[0, 1], [1, 0], [1, 0]]))
    kept = novelty.state()["archive"]
    assert kept.shape == (2, 2)  # bounded: the oldest made room
    assert kept[-1] == pytest.approx([0, 0.5])
    other = rule("novelty(k=1,archive=2)")
    other.load(novelty.state())
    assert np.array_equal(other.bonus(one), novelty.bonus(one))


def test_map_elites_by_hand():
    elites = rule("map_elites(descriptors='length(cells=2,most=100)',floor=-1)")
    texts = ["a", "b", "c" * 90]
    first = elites.bonus(measured("abc", [-0.5, 0.5, 0.0], texts=texts, weight=3.0))
    assert first == pytest.approx([0, 3, 3])  # best of its cell, beaten in it, alone in another
    assert elites.figures() == pytest.approx({"coverage": 1.0, "qd_score": 2.5})
    # agent_1 holds its cell although this generation is worse; agent_2 is beaten by a newborn.
    births = [(1, 0), (0, 1), (0, 2)]
    texts = ["d" * 90, "b", "c" * 90]
    seen = measured("abc", [0.4, 0.1, 0.3], texts=texts, births=births)
    saved = rule("map_elites(descriptors='length(cells=2,most=100)',floor=-1)")
    saved.load(elites.state())
    for archive in (elites, saved):
        assert archive.bonus(seen) == pytest.approx([1, 1, 0])
    assert saved.figures() == elites.figures()
    # A dead record still has to be beaten.
    births = [(1, 0), (2, 1), (0, 2)]
    assert elites.bonus(measured("abc", [0.1, 0.2, 0.3], texts=texts, births=births))[1] == 0


def test_an_archive_of_another_rule_is_refused():
    with pytest.raises(ValueError, match="other descriptors"):
        rule("map_elites").load({"archive": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="which nothing reads"):
        rule("bonus").load({"archive": np.zeros((1, 2))})


def test_descriptors_look_only_at_what_counts():
    attempts = measured("ab", [0, 0], [True, False], texts=["1 2 1 2", "x"]).attempts
    values, cells = describe(read("length(most=1023)+numbers+repetition+strategy"), attempts)
    prose = (tuple(Strategy).index(Strategy.ANSWER) + 0.5) / len(Strategy)
    assert values[0] == pytest.approx([0.3, np.log(5) / np.log(33), 0.5, prose])
    assert np.isnan(values[1]).all()
    assert cells == [8, 6, 5, len(Strategy)]


def test_a_descriptor_of_ones_own_is_checked():
    from evolution.fitness.descriptors import Axis

    DESCRIPTORS.add("own")(lambda attempts: Axis(np.array([2.0, 0.0]), 2))
    with pytest.raises(OperatorError, match="own returned"):
        describe(read("own"), measured("ab", [0, 0]).attempts)


@pytest.mark.parametrize(
    ("reply", "strategy"),
    [
        (" \n", "empty"), ("The answer is 42.", "answer"), ("3 + 4 = 7", "equations"),
        ("First add 3. Then add 4.", "steps"), ("1. add\n2. stop", "steps"),
        ("It is 7. Let me check: 7 - 4 = 3", "verification"), ("print(3 + 4)", "code"),
        ("I believe that it must be about seven", "prose"),
    ],
)  # fmt: skip
def test_strategies_by_their_marks(reply, strategy):
    assert surface(reply) == strategy
