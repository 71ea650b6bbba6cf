"""Workers on Ray: the bytes of a run without them, and nothing lost when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="ray is not installed")
import ray

from agents.loading.models import load_base
from agents.population import LoraPopulation
from agents.workers import ray_launcher
from agents.workers.engine import WorkersEngine
from agents.workers.launcher import WorkerError, Workers
from agents.workers.starting import start_workers
from evolution import EvolutionConfig, EvolutionManager
from evolution.cli import main
from tests.conftest import make_tiny_base, save_base

GENERATIONS = 3
PROBLEMS = "procedural:chain_sum(max_terms=2,max_digits=1)"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(make_tiny_base(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests here, with more processors than there may be."""
    before, ends = random.getstate(), signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=1 << 27,
    )  # fmt: skip
    random.setstate(before)
    signal.signal(signal.SIGTERM, ends)  # Ray's ends the process, and it would stay
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pool(cluster, base):
    """Two workers for all tests: what takes long is to start them."""
    population = LoraPopulation(load_base(base, device="cpu"), 4, 4)
    pool = start_workers(population, Workers(2, cpus=1)).pool
    yield pool
    pool.close()


def play(base, folder, pool=None, generations=GENERATIONS, resume=False):
    """A run, or what is left of one; returns its population's hashes."""
    population = LoraPopulation(load_base(base, device="cpu"), 4, 4)
    config = EvolutionConfig(
        seed=3, shards=3, problems_per_generation=6, judged_problems=2, solve_tokens=12,
        judge_tokens=4, evolve_every=2, confirm_problems=4, keep_generations=1,
    )  # fmt: skip
    if pool is not None:
        population.engine = WorkersEngine(pool, population.lora)
    manager = EvolutionManager(population, PROBLEMS, config, folder=None if resume else folder)
    if resume:
        manager.resume(folder)
    manager.run(generations - manager.generation)
    manager.close()
    return population.lora.hashes(range(4))


def bytes_of(folder):
    files = [*Path(folder).glob("*.jsonl"), *Path(folder).rglob("*.safetensors")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """The run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    return play(base, folder), bytes_of(folder)


@pytest.mark.slow
def test_workers_give_the_bytes_of_none(pool, base, alone, tmp_path):
    lost = pool.lost
    assert (play(base, tmp_path, pool), bytes_of(tmp_path)) == alone
    assert len(set(alone[0].values())) == 4
    assert pool.lost == lost


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(pool, base, alone, tmp_path):
    play(base, tmp_path, pool, generations=1)
    play(base, tmp_path, generations=2, resume=True)
    hashes = play(base, tmp_path, pool, resume=True)
    assert (hashes, bytes_of(tmp_path)) == alone


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing(pool, base, alone, tmp_path, monkeypatch):
    said, killed, over = [], set(), threading.Event()
    monkeypatch.setattr(pool, "_say", said.append)
    lost = pool.lost

    def kill():
        rng = random.Random(5)
        while len(killed) < 3 and not over.is_set():
            time.sleep(rng.uniform(0.02, 0.1))
            found = {int(p.hello.process.split()[0]) for p in pool._places if p.hello}
            for pid in sorted(found - killed)[: 2 - len(killed) % 2]:  # both, then one
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    threading.Thread(target=kill, daemon=True).start()
    hashes = play(base, tmp_path, pool)
    over.set()
    assert (hashes, bytes_of(tmp_path)) == alone
    assert len(killed) >= 2
    assert pool.lost - lost == len(said) > 0
    assert all("is replaced, and shard" in line for line in said)


@pytest.mark.slow
def test_the_command_with_workers_writes_what_it_does_without(cluster, base, tmp_path, capsys):
    words = [
        "evolve", "--model", base, "--device", "cpu", "--size", "2", "--problems-per-generation",
        "4", "--generations", "1", "--held-out", "4", "--shards", "2", "--solve-tokens", "8",
        "--judge-tokens", "4", "--offspring", "0", "--elites", "1", "--problems", PROBLEMS,
        "--last-trial", "4",
    ]  # fmt: skip
    for count in ("0", "1"):
        assert main([*words, "--workers", count, "--out", str(tmp_path / count)]) == 0
    assert "by 1 workers" in (said := capsys.readouterr().out)
    assert "; 2 shards; lost 0, done again 0" in said
    assert bytes_of(tmp_path / "0") == bytes_of(tmp_path / "1")
    summary = json.loads((tmp_path / "1" / "summary.json").read_text())
    assert summary["workers"]["shards"] == 2
    assert summary["workers"]["each"][0]["tokens"] > 0


def test_what_a_cluster_lacks_is_said(cluster, base):
    population = LoraPopulation(load_base(base, device="cpu"), 2, 4)
    words = "workers: 5 with 2 CPU each need 10, but the cluster has 8; ask for 4 workers"
    with pytest.raises(WorkerError, match=words):
        start_workers(population, Workers(5, cpus=2))
    with pytest.raises(WorkerError, match=r"1 with 1 GPU each need 1, but the cluster has 0; ask"):
        start_workers(population, Workers(1, cpus=1, gpus=1))


@pytest.mark.slow
def test_a_worker_that_cannot_load_the_base_says_why(cluster, base, tmp_path):
    loaded = load_base(base, device="cpu")
    loaded = replace(loaded, loaded={**loaded.loaded, "name": str(tmp_path / "gone")})
    population = LoraPopulation(loaded, 2, 4)
    with pytest.raises(WorkerError, match=r"the base could not be loaded: model: .*gone"):
        start_workers(population, Workers(1, cpus=1))


def test_without_ray_it_is_named(base, monkeypatch):
    population = LoraPopulation(load_base(base, device="cpu"), 2, 4)
    monkeypatch.setattr(ray_launcher.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WorkerError, match="needs the package ray; pip install"):
        start_workers(population, Workers(1))


def test_sigterm_stays_whose_it_was(base, monkeypatch):
    def init(**_):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        raise RuntimeError("no more processes")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    population = LoraPopulation(load_base(base, device="cpu"), 2, 4)
    with pytest.raises(WorkerError, match="could not be started on this machine"):
        start_workers(population, Workers(1, cpus=1))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_cluster_that_is_not_there(base):
    """In a process of its own: this one has a Ray."""
    code = f"""
from agents.loading.models import load_base
from agents.population import LoraPopulation
from agents.workers.launcher import WorkerError, Workers
from agents.workers.starting import start_workers
try:
    start_workers(LoraPopulation(load_base({base!r}, device="cpu"), 2, 4),
                  Workers(1, cpus=1, address="127.0.0.1:1"))
except WorkerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "workers: Ray could not be started on 127.0.0.1:1 (" in done.stdout
