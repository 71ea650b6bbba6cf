"""A pool whose workers are lost, late, and answer nonsense: nothing is lost, and it says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.learning.learners import LearnerConfig, PolicyGradient
from agents.loading.models import load_base
from agents.policy import Request
from agents.population import LoraPopulation
from agents.workers import pool as pool_module
from agents.workers.engine import WorkersEngine
from agents.workers.launcher import WorkerError, Workers
from agents.workers.pool import WorkerPool
from agents.workers.starting import worker_spec
from populora_env.records import Phase
from tests.agents.helpers import randomise
from tests.agents.learning.test_joint_step import samples_of
from tests.agents.workers.fake import FakeLauncher, failed, lost, worker_of
from tests.conftest import make_tiny_base, save_base

AGENTS = ("agent_0", "agent_1", "agent_2", "base")
REQUESTS = [Request(AGENTS[i % 4], Phase.SOLVE, f"what is {i // 2}?", 6, i) for i in range(12)]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(pool_module, "_now", pool_module._now)  # and back after


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_base(make_tiny_base(), tmp_path_factory.mktemp("base"))


def population_of(folder):
    population = LoraPopulation(load_base(folder, device="cpu"), 3)
    randomise(population.lora)
    return population


class Bench:
    """A population with fake workers, and what the pool said."""

    def __init__(self, folder, count=2, faults=(), starts=(), shards=3, **settings):
        self.population = population_of(folder)
        workers = Workers(count, cpus=0, **settings)
        make = worker_of(replace(worker_spec(self.population, workers), threads=0))
        self.launcher = FakeLauncher(make, faults, starts)
        self.said = []
        pool_module._now = lambda: self.launcher.clock
        self.pool = WorkerPool(self.launcher, workers, self.said.append)
        self.engine = WorkersEngine(self.pool, self.population.lora, shards=shards)

    def replies(self):
        self.population.engine = self.engine
        return [r.reply_ids for r in self.population.generate(REQUESTS)]


def expected_replies(folder, shards=3):
    population = population_of(folder)
    population.engine.shards = shards
    return [r.reply_ids for r in population.generate(REQUESTS)]


def other_adapter(answer):
    first = replace(answer.replies[0], adapter="0" * 16)
    return replace(answer, replies=[first, *answer.replies[1:]])


NONSENSE = {
    "nothing": lambda _: None,
    "text": lambda _: "done",
    "a reply too few": lambda answer: replace(answer, replies=answer.replies[1:]),
    "a reply twice": lambda answer: replace(answer, replies=[*answer.replies, answer.replies[0]]),
    "another adapter": other_adapter,
    "no features": lambda answer: replace(
        answer, replies=[replace(r, features={}) for r in answer.replies]
    ),
    "no replies at all": lambda answer: replace(answer, replies=None),
    "something else": lambda answer: replace(answer, replies=[1, 2]),
}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_workers_gives_the_bytes_of_none(folder, count):
    bench = Bench(folder, count)
    assert bench.replies() == expected_replies(folder)
    assert (bench.pool.lost, bench.pool.redone, bench.said) == (0, 0, [])
    assert bench.population.stats.tokens == sum(map(len, expected_replies(folder)))
    assert sum(count.tasks for count in bench.pool.counts) == 3
    assert bench.population.stats.words.startswith("workers: ")


@pytest.mark.parametrize("fault", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_done_again_and_said(folder, fault):
    bench = Bench(folder, faults=[None, fault])
    assert bench.replies() == expected_replies(folder)
    assert (bench.pool.lost, bench.pool.redone, len(bench.launcher.killed)) == (1, 1, 1)
    (line,) = bench.said
    assert "is replaced, and shard 2 of 3 of 12 replies done again, because " in line


@pytest.mark.parametrize("fault", [lost(), failed(), "hang"], ids=["lost", "failed", "hang"])
def test_whoever_is_lost_late_or_fails_is_replaced(folder, fault):
    bench = Bench(folder, faults=[fault])
    assert bench.replies() == expected_replies(folder)
    assert (bench.pool.lost, bench.pool.redone, bench.launcher.killed) == (1, 1, ["w1"])
    assert len(bench.said) == 1


def test_all_workers_lost_at_once(folder):
    bench = Bench(folder, 3, faults=[lost(), lost(), lost()])
    assert bench.replies() == expected_replies(folder)
    assert (bench.pool.lost, bench.launcher.started) == (3, 6)


def test_a_machine_that_is_gone_is_seen_before_the_deadline(folder, monkeypatch):
    monkeypatch.setattr(pool_module, "_LOOK_AT_NODES", 0.0)
    bench = Bench(folder, faults=["hang"])
    for place in bench.pool._places:
        place.hello = replace(place.hello, node="n") if place.number == 0 else place.hello
    bench.launcher.lost_nodes = {"n"}
    assert bench.replies() == expected_replies(folder)
    assert "its machine is gone" in bench.said[0]


@pytest.mark.parametrize(
    ("fault", "times", "words"),
    [
        (lost, 20, "went wrong 20 times, the last time because its process is gone"),
        (failed, 2, "went wrong 2 times, the last time because out of memory"),
        (lambda: NONSENSE["text"], 3, "got str, expected replies"),
    ],
)
def test_what_goes_on_failing_is_an_error(folder, fault, times, words):
    bench = Bench(folder, 1, faults=[fault() for _ in range(30)], shards=1)
    with pytest.raises(WorkerError, match=words):
        bench.replies()
    assert bench.pool.lost == times


def test_after_an_error_the_pool_goes_on(folder):
    bench = Bench(folder, 2, faults=[failed(), failed()], shards=2)
    bench.launcher.faults = iter([failed(), "hang", failed()])
    with pytest.raises(WorkerError):
        bench.replies()
    bench.launcher.faults = iter(())
    assert bench.replies() == expected_replies(folder, 2)


def test_a_worker_that_cannot_load_the_base(folder):
    with pytest.raises(WorkerError, match="the base could not be loaded: no such file"):
        Bench(folder, starts=[failed("no such file")] * 9)
    bench = Bench(folder, starts=[None, failed("no such file"), failed("x"), failed("x")])
    assert bench.replies() == expected_replies(folder)
    assert bench.said == ["worker 1 could not be started: x; going on without it"]


def test_no_worker_can_be_started_again(folder):
    bench = Bench(folder, 1, faults=[lost()], starts=[None, *([lost()] * 9)])
    with pytest.raises(WorkerError, match="none of 1 is left, and none could be started again"):
        bench.replies()


def test_a_worker_with_another_base_is_refused(folder):
    bench = Bench(folder, 1, faults=[lost()])
    bench.pool.digest = "f" * 32
    with pytest.raises(WorkerError, match="has another base: got digest"):
        bench.replies()


def test_only_adapters_that_changed_are_sent(folder):
    bench = Bench(folder, 1, shards=1)
    sent = lambda: sorted(bench.launcher.calls[-1][2][1])  # noqa: E731
    bench.replies()
    assert sent() == [0, 1, 2]
    bench.replies()
    assert sent() == []
    next(bench.population.lora.layers()).A[1] += 1
    bench.replies()
    assert sent() == [1]


def learn(folder, elsewhere, kind=PolicyGradient):
    population = population_of(folder)
    population.lora.set_rank(1, 4)
    config = LearnerConfig(
        kl=[0.1, 0.0, 0.3], temperature=[1.0, 0.7, 1.3], shards=2, learning_rate=[1e-3, 2e-3, 3e-3]
    )
    learner = kind(population.base, population.lora, config)
    learner.elsewhere = None if elsewhere is None else elsewhere(population)
    told = []
    for step in range(2):
        stats = learner.step(
            samples_of(population.base), lambda *told_: told.append(told_), key=("k", step)
        )
    return population.lora.hashes(range(3)), learner.state(), stats, told


def through(folder, faults=(), count=2):
    benches = []

    def elsewhere(population):
        bench = Bench(folder, count, faults)
        bench.engine._lora = population.lora
        benches.append(bench)
        return bench.engine.learn

    return elsewhere, benches


def changed_factors(answer):
    row = min(answer.adapters)
    packed = answer.adapters[row]
    factors = np.array(packed.factors)
    factors[3] ^= 1
    return replace(answer, adapters={**answer.adapters, row: replace(packed, factors=factors)})


NO_LEARNING = {
    "nothing": lambda _: None,
    "another adapter learned": lambda answer: replace(
        answer, before=dict.fromkeys(answer.before, "x")
    ),
    "another adapter came back": changed_factors,
    "cut off": lambda answer: replace(
        answer,
        adapters={r: replace(a, factors=a.factors[:-4]) for r, a in answer.adapters.items()},
    ),
    "none came back": lambda answer: replace(answer, adapters={}),
    "no hashes": lambda answer: replace(answer, after={}),
    "a state cut off": lambda answer: replace(
        answer, optimizer={name: array[:0] for name, array in answer.optimizer.items()}
    ),
    "another weight of KL": lambda answer: replace(
        answer, optimizer={**answer.optimizer, "kl_weights": answer.optimizer["kl_weights"] + 1}
    ),
    "another learning rate": lambda answer: replace(
        answer,
        optimizer={**answer.optimizer, "learning_rates": answer.optimizer["learning_rates"] * 2},
    ),
}


@pytest.mark.parametrize("fault", [None, *NO_LEARNING.values()], ids=["right", *NO_LEARNING])
def test_learning_elsewhere_is_learning_here(folder, fault):
    hashes, state, stats, _ = learn(folder, None)
    elsewhere, benches = through(folder, [fault])
    there = learn(folder, elsewhere)
    assert there[0] == hashes
    assert all(torch.equal(value, state[name]) for name, value in there[1].items())
    assert there[2] == stats
    assert there[3][-1] == ("learning", 1.0)
    assert benches[0].pool.redone == (fault is not None)


def test_nothing_has_learned_when_a_part_could_not(folder):
    elsewhere, _ = through(folder, [None, failed(), failed()])
    population = population_of(folder)
    before = population.lora.hashes(range(3))
    learner = PolicyGradient(population.base, population.lora, LearnerConfig(shards=2))
    learner.elsewhere = elsewhere(population)
    with pytest.raises(WorkerError, match="shard 2 of 2 of a learning step went wrong 2 times"):
        learner.step(samples_of(population.base))
    assert population.lora.hashes(range(3)) == before
    assert not any(value.any() for n, value in learner.state().items() if n != "learning_rates")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": -1}, "workers: count: got -1, expected at least 0"),
        ({"cpus": -2}, "workers: cpus: got -2"),
        ({"gpus": float("nan")}, "workers: gpus: got nan"),
        ({"deadline": 0}, "workers: deadline: got 0, expected more than 0 seconds"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(WorkerError, match=words):
        Workers(**settings)


def test_a_base_made_in_memory_cannot_be_loaded_elsewhere():
    population = LoraPopulation(make_tiny_base(), 2)
    with pytest.raises(WorkerError, match="'tiny' was made in memory; save it to a folder"):
        worker_spec(population, Workers(2))
