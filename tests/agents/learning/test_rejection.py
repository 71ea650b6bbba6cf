from __future__ import annotations

import pytest

from agents.learning.rejection import RejectionSource, RightReply, rejection_samples


def reply(agent, text, problem="p"):
    return RightReply(agent, problem, text, [1, 2], list(text.encode()))


def learned(samples, agent):
    return [bytes(sample.reply_ids).decode() for sample in samples if sample.agent == agent]


REPLIES = [
    reply(0, "a"), reply(0, " a "), reply(0, "b"), reply(0, "c"), reply(0, "c", "q"),
    reply(2, "d"), reply(2, "b"),
]  # fmt: skip


def test_own_replies_are_distinct_and_at_most_so_many_per_problem():
    samples = rejection_samples(REPLIES, 3, limit=2)
    assert learned(samples, 0) == ["a", "b", "c"]  # c answers another problem
    assert learned(samples, 1) == []
    assert learned(samples, 2) == ["d", "b"]
    assert {sample.advantage for sample in samples} == {1.0}


def test_from_the_population_own_ones_come_first_and_agents_differ():
    samples = rejection_samples(REPLIES, 3, RejectionSource.POPULATION, limit=3)
    assert learned(samples, 0) == ["a", "b", "c", "c"]
    assert learned(samples, 1) == ["d", "b", "a", "c"]  # from those after it: 2, then 0
    assert learned(samples, 2) == ["d", "b", "a", "c"]
    everything = rejection_samples(REPLIES, 3, RejectionSource.POPULATION, limit=9)
    assert sorted(learned(everything, 1)) == ["a", "b", "c", "c", "d"]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="limit: got 0"):
        rejection_samples(REPLIES, 3, limit=0)
    with pytest.raises(ValueError, match=r"replies: agent 2 is not in 0\.\.1"):
        rejection_samples(REPLIES, 2)
