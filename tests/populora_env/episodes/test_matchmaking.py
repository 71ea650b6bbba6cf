"""Who judges whom."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.episodes.matchmaking import assign_attempts, assign_pairs, most_tasks


def names(count):
    return [f"agent_{number}" for number in range(count)]


def pairs_of(count, load, seed=0, **options):
    return assign_pairs(names(count), load, np.random.default_rng(seed), **options)


def attempts_of(count, load, seed=0, **options):
    return assign_attempts(names(count), load, np.random.default_rng(seed), **options)


def near(a, b):
    """Chance to win of agents whose rating is their number."""
    return 1 / (1 + np.exp(int(b[6:]) - int(a[6:])))


@settings(max_examples=200)
@given(st.integers(3, 16), st.integers(0, 8), st.integers(0, 1000), st.booleans(), st.booleans())
def test_every_attempt_is_in_equally_many_pairs(count, load, seed, own, rated):
    chance = near if rated else None
    pairs = pairs_of(count, load, seed, self_judging=own, win_probability=chance)
    judged = Counter(author for listed in pairs.values() for pair in listed for author in pair)
    assert all(judged[agent] == 2 * load for agent in pairs)
    for judge, listed in pairs.items():
        assert len(listed) == load
        assert all(a != b for a, b in listed)
        assert own or all(judge not in pair for pair in listed)


@given(st.integers(2, 16), st.integers(0, 20), st.integers(0, 1000), st.booleans())
def test_every_attempt_is_judged_equally_often(count, load, seed, own):
    tasks = attempts_of(count, load, seed, self_judging=own)
    judged = Counter(author for listed in tasks.values() for author in listed)
    assert all(judged[agent] == load for agent in tasks)
    assert own or all(judge not in listed for judge, listed in tasks.items())


@given(st.integers(3, 8), st.integers(0, 1000), st.booleans())
def test_no_task_comes_back_to_a_judge_while_others_remain(count, seed, own):
    possible = most_tasks(count, 2, self_judging=own)
    for listed in pairs_of(count, 2 * possible, seed, self_judging=own).values():
        pairs = [frozenset(pair) for pair in listed]
        assert len(set(pairs[:possible])) == possible
        assert set(pairs[possible:]) == set(pairs[:possible])
    possible = most_tasks(count, 1, self_judging=own)
    for listed in attempts_of(count, 2 * possible, seed, self_judging=own).values():
        assert len(set(listed[:possible])) == possible
        assert set(listed[possible:]) == set(listed[:possible])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_agents_compare_nothing(count):
    assert list(pairs_of(count, 2).values()) == [[]] * count


def test_two_agents_compare_if_they_may_meet_their_own_attempts():
    pairs = pairs_of(2, 2, self_judging=True)
    assert all(set(pair) == {"agent_0", "agent_1"} for listed in pairs.values() for pair in listed)
    assert attempts_of(1, 2) == {"agent_0": []}
    assert attempts_of(1, 2, self_judging=True) == {"agent_0": ["agent_0", "agent_0"]}


def test_the_design_is_random_and_so_is_the_order_within_a_pair():
    assert pairs_of(6, 2, seed=1) == pairs_of(6, 2, seed=1)
    assert pairs_of(6, 2, seed=1) != pairs_of(6, 2, seed=2)
    designs = [pairs_of(3, 1, seed)["agent_0"][0] for seed in range(40)]
    assert set(designs) == {("agent_1", "agent_2"), ("agent_2", "agent_1")}


def test_rating_prefers_pairs_of_near_equal_rating():
    def mean_gap(chance):
        pairs = [
            pair
            for seed in range(60)
            for listed in pairs_of(8, 1, seed, win_probability=chance).values()
            for pair in listed
        ]
        return np.mean([abs(int(a[6:]) - int(b[6:])) for a, b in pairs])

    # Of two numbers in 0..7 the mean distance is 3; no cycle comes below 14/8 = 1.75.
    assert mean_gap(None) == pytest.approx(3.0, abs=0.15)
    assert mean_gap(near) < 2.2


def test_rating_draws_cycles_in_proportion_to_their_weight():
    # Four agents have three cycles; the weights of their edges say how often each comes.
    weight = {frozenset("01"): 0.25, frozenset("23"): 0.25, frozenset("02"): 0.16,
              frozenset("13"): 0.16, frozenset("03"): 0.09, frozenset("12"): 0.09}  # fmt: skip

    def chance(a, b):
        return 0.5 + np.sqrt(0.25 - weight[frozenset((a[-1], b[-1]))])

    counts = Counter()
    for seed in range(3000):
        pairs = pairs_of(4, 1, seed, win_probability=chance)
        edges = frozenset(frozenset(p[-1] for p in pair) for [pair] in pairs.values())
        counts[frozenset(weight) - edges] += 1  # named by the two edges it leaves out
    products = {
        missing: np.prod([w for edge, w in weight.items() if edge not in missing])
        for missing in counts
    }
    assert len(counts) == 3
    for missing, count in counts.items():
        expected = products[missing] / sum(products.values())
        assert count / 3000 == pytest.approx(expected, abs=0.03)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="load must be at least 0, got -1"):
        pairs_of(3, -1)
    with pytest.raises(ValueError, match="different names"):
        assign_attempts(["a", "a", "b"], 1, np.random.default_rng(0))
