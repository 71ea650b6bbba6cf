"""Kill workers at random while runs of the tiny model go on, until so many are killed, by hand:

    python -m tests.agents.workers.kill_workers 200

Each run is compared with the same run in one process: history, transcripts, adapters and the
optimiser's state, byte for byte. Now and then all workers are killed at once. A run that kills
nobody in time is played all the same.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray

from agents.loading.models import load_base
from agents.population import LoraPopulation
from agents.workers.launcher import Workers
from agents.workers.starting import start_workers
from tests.agents.workers.test_ray import bytes_of, play
from tests.conftest import make_tiny_base, save_base


def main(kills: int, count: int = 2) -> int:
    """Kill so many; returns how many runs differed."""
    home = Path(tempfile.mkdtemp())
    base = save_base(make_tiny_base(), home / "base")
    alone = play(base, home / "alone"), bytes_of(home / "alone")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    population = LoraPopulation(load_base(base, device="cpu"), 4, 4)
    said: list[str] = []
    pool = start_workers(population, Workers(count, cpus=1), said.append).pool
    rng, killed, over = random.Random(0), set[int](), threading.Event()

    def kill() -> None:
        while not over.is_set() and len(killed) < kills:
            time.sleep(rng.uniform(0.0, 0.6))
            found = {int(p.hello.process.split()[0]) for p in pool._places if p.hello} - killed
            some = sorted(found) if rng.random() < 0.2 else sorted(found)[:1]
            for pid in some:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    threading.Thread(target=kill, daemon=True).start()
    runs = differing = 0
    while len(killed) < kills:
        folder = home / f"run{runs}"
        same = (play(base, folder, pool), bytes_of(folder)) == alone
        runs, differing = runs + 1, differing + (not same)
        print(f"run {runs}: {'same' if same else 'OTHER'} bytes; {len(killed)} killed, {pool.lost} "
              f"noticed, {pool.redone} shards done again", flush=True)  # fmt: skip
    over.set()
    pool.close()
    ray.shutdown()
    print(f"{len(killed)} workers killed in {runs} runs; {differing} runs differed")
    return differing


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
