"""How work is split, and that splitting changes nothing but rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.engine.jobs import Job
from agents.engine.local import LocalEngine
from agents.learning.learners import LearnerConfig, LearnerStats, PolicyGradient
from agents.population import LoraPopulation
from agents.workers.shards import ShardError, split_agents, split_jobs
from tests.agents.helpers import randomise
from tests.agents.learning.test_joint_step import samples_of
from tests.conftest import make_tiny_base


@given(st.lists(st.integers(0, 500), max_size=40), st.integers(1, 12))
def test_agents_that_have_something_to_do_are_split_evenly(loads, shards):
    parts = split_agents(loads, shards)
    busy = [agent for agent, load in enumerate(loads) if load]
    assert sorted(agent for part in parts for agent in part) == busy
    assert len(parts) == min(len(busy), shards)
    assert all(part == tuple(sorted(part)) and part for part in parts)
    held = [sum(loads[agent] for agent in part) for part in parts]
    assert max(held, default=0) - min(held, default=0) <= max(loads, default=0)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), min_size=1, max_size=40),
    st.integers(1, 8),
)
def test_jobs_are_split_whole_and_prompts_stay_together(jobs, shards):
    prompts, limits = [(7, prompt) for prompt, _ in jobs], [limit for _, limit in jobs]
    parts = split_jobs(prompts, limits, shards)
    assert sorted(place for part in parts for place in part) == list(range(len(jobs)))
    assert all(part == tuple(sorted(part)) and part for part in parts)
    different = len(set(prompts))
    assert len(parts) == min(shards, different if different >= shards else len(jobs))
    if different >= shards:
        homes = {prompts[place]: set() for place in range(len(jobs))}
        for number, part in enumerate(parts):
            for place in part:
                homes[prompts[place]].add(number)
        assert all(len(home) == 1 for home in homes.values())


def test_shards_hold_about_as_much():
    rng = np.random.default_rng(0)
    limits = rng.integers(1, 50, size=200).tolist()
    parts = split_jobs([(place,) for place in range(200)], limits, 4)
    loads = [sum(limits[place] for place in part) for part in parts]
    assert max(loads) - min(loads) <= 50


@pytest.mark.parametrize(
    "split", [lambda: split_agents([3], 0), lambda: split_jobs([(1,)], [1], 0)]
)
def test_no_shards_are_refused(split):
    with pytest.raises(ShardError, match="shards: got 0, expected at least 1"):
        split()


def jobs_of(base, count=14):
    return [
        Job(i % 3, base.chat_ids(f"what is {i // 2}"), 6, seed=i, id=f"job {i}")
        for i in range(count)
    ]


def test_an_engine_with_shards_decodes_each_by_itself(tiny_base):
    lora = randomise(LoraPopulation(tiny_base, 3).lora)
    jobs = jobs_of(tiny_base)
    engine = LocalEngine(tiny_base, lora, shards=3)
    how = {"temperature": 1.0, "top_p": 1.0}
    told = []
    replies = engine.generate({}, jobs, **how, done=lambda reply: told.append(reply.id))
    assert [reply.id for reply in replies] == [job.id for job in jobs]
    assert sorted(told) == sorted(job.id for job in jobs)
    plain = LocalEngine(tiny_base, lora)
    for places in split_jobs([j.prompt_ids for j in jobs], [6] * len(jobs), 3):
        alone = plain.generate({}, [jobs[place] for place in places], **how)
        for place, reply in zip(places, alone, strict=True):
            assert replies[place].ids == reply.ids


def test_a_step_in_shards_is_the_step_of_all():
    stats, states = [], []
    for shards in (1, 2, 3):
        base = make_tiny_base()
        population = LoraPopulation(base, 3)
        randomise(population.lora)
        config = LearnerConfig(kl=0.1, epochs=2, sample_fraction=0.8, shards=shards)
        learner = PolicyGradient(base, population.lora, config)
        told = []
        stats.append(learner.step(samples_of(base), lambda _, done, told=told: told.append(done)))
        states.append({name: value.clone() for name, value in learner.state().items()})
        assert told == sorted(told)
        assert told[-1] == pytest.approx(1.0)
    for stat, state in zip(stats[1:], states[1:], strict=True):
        assert (stat.samples, stat.tokens) == (stats[0].samples, stats[0].tokens)
        assert stat.grad_norms == pytest.approx(stats[0].grad_norms, rel=1e-3)
        assert stat.kl == pytest.approx(stats[0].kl, rel=1e-3, nan_ok=True)
        assert stat.clipped == pytest.approx(stats[0].clipped, abs=1e-6)
        for name, value in state.items():
            np.testing.assert_allclose(value, states[0][name], rtol=0.02, atol=1e-5)


def test_an_agent_without_samples_has_no_divergence_in_any_shard():
    nan = float("nan")
    parts = [
        LearnerStats(2, 10, (1.0, 0.0, 0.0), (0.5, nan, nan), 0.1),
        LearnerStats(1, 30, (0.0, 2.0, 0.0), (nan, 0.25, nan), 0.5),
    ]
    found = LearnerStats.together(parts)
    assert (found.samples, found.tokens, found.grad_norms) == (3, 40, (1.0, 2.0, 0.0))
    assert found.kl == pytest.approx((0.5, 0.25, nan), nan_ok=True)
    assert found.clipped == pytest.approx(0.4)
