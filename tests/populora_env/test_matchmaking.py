"""Who judges whom."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from populora_env.matchmaking import assign_comparisons


def assign(count, per_agent, seed=0):
    agents = [f"agent_{number}" for number in range(count)]
    return assign_comparisons(agents, per_agent, np.random.default_rng(seed))


@given(st.integers(3, 16), st.integers(0, 8), st.integers(0, 1000))
def test_every_attempt_is_judged_equally_often_and_never_by_its_author(count, per_agent, seed):
    pairs = assign(count, per_agent, seed)
    judged = Counter(author for listed in pairs.values() for pair in listed for author in pair)
    assert all(judged[agent] == 2 * per_agent for agent in pairs)
    for judge, listed in pairs.items():
        assert len(listed) == per_agent
        assert all(judge not in pair and pair[0] != pair[1] for pair in listed)


@given(st.integers(3, 8), st.integers(0, 1000))
def test_no_pair_comes_back_to_a_judge_while_others_remain(count, seed):
    possible = (count - 1) * (count - 2) // 2
    for listed in assign(count, 2 * possible, seed).values():
        pairs = [frozenset(pair) for pair in listed]
        assert len(set(pairs[:possible])) == possible
        assert set(pairs[possible:]) == set(pairs[:possible])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_agents_judge_nothing(count):
    assert list(assign(count, 2).values()) == [[]] * count


def test_the_design_is_random_and_so_is_the_order_within_a_pair():
    assert assign(6, 2, seed=1) == assign(6, 2, seed=1)
    assert assign(6, 2, seed=1) != assign(6, 2, seed=2)
    designs = [assign(3, 1, seed)["agent_0"][0] for seed in range(40)]
    assert set(designs) == {("agent_1", "agent_2"), ("agent_2", "agent_1")}


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="per_agent must be at least 0, got -1"):
        assign(3, -1)
    with pytest.raises(ValueError, match="different names"):
        assign_comparisons(["a", "a", "b"], 1, np.random.default_rng(0))
