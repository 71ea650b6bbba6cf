"""Kill runs at random moments and resume them: what they leave must be as if nothing had happened.

    python -m tests.evolution.kill_runs 100
    python -m tests.evolution.kill_runs 100 self-play

Each run is a child process on the tiny random model, resumed after every SIGKILL until it has
played its generations; then it is compared, byte for byte, with one that was never killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from agents.population import LoraPopulation
from evolution import EvolutionConfig, EvolutionManager
from evolution.runs.files import saved_generations, size_of
from populora_env import TASKS, NotATask, Problem, ProposalStatus, TextTask
from populora_env.keys import generator
from tests.conftest import make_tiny_base

FILES = ("history.jsonl", "transcripts.jsonl", "lineage.json")
GENERATIONS = 6
CONFIG = EvolutionConfig(
    problems_per_generation=2, judged_problems=1, solve_tokens=4, judge_tokens=2, offspring=1,
    evolve_every=2, confirm_problems=2, spread=0.5, keep_every=3,
)  # fmt: skip


SELF_PLAY = replace(
    CONFIG, problems_per_generation=4, judged_problems=2, proposers=1, tries=2, propose_tokens=4,
    elites=1, offspring=0, parents=1, rewards="progress",
)  # fmt: skip
RUNS = {
    "ordinary": ("procedural:chain_sum(max_terms=2,max_digits=1)", CONFIG),
    "self-play": ("self-play:lengths", SELF_PLAY),
}


def length_of(text):
    """How long a text is; some texts are no task."""
    if len(text) % 5 < 2:
        raise NotATask(ProposalStatus.UNREADABLE, "of a length that is not wanted")
    return Problem.create(f"How long is {text[:20]!r}?", str(len(text)))


TASKS.setdefault("lengths", lambda: TextTask("lengths", "Write.", length_of, ["abc", "abcd"]))


def play(folder, tell=lambda done: None, kind="ordinary"):
    """Begin or go on with a run, and play it to its end."""
    population = LoraPopulation(make_tiny_base(), 3, 2)
    problems, config = RUNS[kind]
    manager = EvolutionManager(population, problems, config, folder=folder)
    try:
        if saved_generations(folder):
            manager.resume(folder)
        left = GENERATIONS - manager.generation
        manager.run(left, on_generation=lambda result: tell(result.generation))
    finally:
        manager.close()


def start(folder, kind):
    """Play in a child process; returns its id and a pipe that tells each generation it saved."""
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.close(reads)
            play(folder, lambda done: os.write(writes, bytes([done])), kind)
            status = 0
        finally:
            os._exit(status)
    os.close(writes)
    return child, reads


def leftovers(folder):
    """What a killed process left behind."""
    numbers = saved_generations(folder)
    lengths = {}
    if numbers:
        state = folder / f"generation_{numbers[-1]:04d}" / "state.json"
        lengths = json.loads(state.read_text())["lengths"]
    if list(folder.glob(".generation_*")):
        yield "a generation half written or half deleted"
    if any((size_of(folder / name) or 0) > lengths.get(name, 0) for name in FILES[:2]):
        yield "rows of a generation that was not saved"


def kill_runs(kills, where, kind="ordinary", seed=0):
    """Kill runs this often.

    Returns:
        Figures: counts by name.
    """
    where = Path(where)
    began = time.monotonic()
    # In a child, too: a process that has played must not be forked, as it has threads.
    child, pipe = start(where / "whole", kind)
    _, status = os.waitpid(child, 0)
    os.close(pipe)
    assert status == 0
    span = 0.9 * (time.monotonic() - began)
    expected = {name: (where / "whole" / name).read_bytes() for name in FILES}
    kept = saved_generations(where / "whole")
    rng, figures, run = generator("kills", seed), Counter(), 0
    while figures["kills"] < kills:
        folder = where / f"run_{run}"
        folder.mkdir()
        finished = False
        while not finished:
            before = saved_generations(folder)
            child, pipe = start(folder, kind)
            if figures["kills"] < kills:
                time.sleep(span * float(rng.random()))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            told = os.read(pipe, 1000)
            os.close(pipe)
            finished = os.WIFEXITED(status)
            assert not finished or os.WEXITSTATUS(status) == 0, "a resumed run failed"
            after = saved_generations(folder)
            # All that the process had reported as done is on disk.
            assert max(after, default=-1) >= max([*told, *before], default=-1)
            if not finished:
                figures["kills"] += 1
                figures["kills before the first generation was saved"] += not after
                for left in leftovers(folder):
                    figures[f"kills that left {left}"] += 1
        for name in FILES:
            assert (folder / name).read_bytes() == expected[name], f"{folder / name} differs"
        assert saved_generations(folder) == kept
        assert not [entry.name for entry in folder.iterdir() if entry.name.endswith(".tmp")]
        run += 1
    figures["runs"] = run
    return dict(figures)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in kill_runs(int(sys.argv[1]), scratch, *sys.argv[2:3]).items():
            print(f"{count:5d}  {name}")
