from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.learning.advantages import ADVANTAGES

REWARDS, GROUPS = [1.0, 0.0, 0.0, 1.0, 0.5], ["p", "p", "p", "q", "q"]


def test_names():
    assert list(ADVANTAGES) == ["rloo", "grpo", "dr_grpo", "reinforce++", "reinforce++-baseline"]


def test_by_hand():
    others = np.array([1.0, -0.5, -0.5, 0.5, -0.5])  # minus the mean of the others
    means = np.array([2 / 3, -1 / 3, -1 / 3, 0.25, -0.25])  # minus the group's mean
    wanted = {
        "rloo": others / math.sqrt(0.4),  # their mean is 0, their mean square 2 / 5
        "grpo": [2 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), 2**-0.5, -(2**-0.5)],
        "dr_grpo": means,
        "reinforce++": np.array([0.5, -0.5, -0.5, 0.5, 0.0]) / math.sqrt(0.2),
        "reinforce++-baseline": means / math.sqrt((6 / 9 + 0.125) / 5),
    }
    for name, function in ADVANTAGES.items():
        assert function(REWARDS, GROUPS) == pytest.approx(wanted[name]), name


@pytest.mark.parametrize("name", ADVANTAGES)
def test_equal_rewards_are_worth_exactly_nothing(name):
    assert ADVANTAGES[name]([0.1] * 5, GROUPS).tolist() == [0] * 5
    # 0.1 * 3 / 3 is not 0.1 in floating point: the first group must not get a crumb.
    mixed = ADVANTAGES[name]([0.1, 0.1, 0.1, 1.0, 0.0], GROUPS)
    assert name == "reinforce++" or mixed[:3].tolist() == [0] * 3
    assert mixed[3] > mixed[4]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_reply_alone_in_its_group_has_no_baseline(name):
    got = ADVANTAGES[name]([3.0, 1.0, 0.0], ["alone", "p", "p"])
    assert (got[0] > 0) if name == "reinforce++" else (got[0] == 0)
    assert ADVANTAGES[name]([3.0], ["alone"]).tolist() == [0]
    assert ADVANTAGES[name]([], []).tolist() == []


rewards = st.lists(st.sampled_from([0.0, 0.25, 1.0, math.nan]), max_size=12)


@pytest.mark.parametrize("name", ADVANTAGES)
@given(rewards, st.integers(0, 2**12))
def test_a_reply_without_a_reward_is_left_out(name, values, seed):
    groups = np.random.default_rng(seed).choice(["a", "b", "c"], size=len(values)).tolist()
    got = ADVANTAGES[name](values, groups)
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    assert np.isnan(got).tolist() == np.isnan(values).tolist()
    alone = ADVANTAGES[name]([values[i] for i in known], [groups[i] for i in known])
    assert got[known] == pytest.approx(alone)
    assert np.isfinite(alone).all()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_gain_for_all_changes_nothing(name):
    got = ADVANTAGES[name]([value + 100 for value in REWARDS], GROUPS)
    assert got == pytest.approx(ADVANTAGES[name](REWARDS, GROUPS))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="groups: got 1, expected one for each of the 2 rewards"):
        ADVANTAGES["grpo"]([1, 2], ["p"])
    with pytest.raises(ValueError, match="rewards: got inf, expected finite numbers"):
        ADVANTAGES["rloo"]([1, math.inf], ["p", "p"])
