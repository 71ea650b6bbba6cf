"""What was measured beside the evolution: held-out problems, and tasks outside the training.

Read from what ``populora evolve`` (`summary.json`, `held_out.jsonl`, `held_out_curve.jsonl`) and
``populora bench --run`` (`bench/generation_0007/results.json`) write.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.measuring.statistics import Estimate
from evolution.individuals.lineage import AVERAGE, CHAMPION
from evolution.reporting.measures.data import RunData, Series
from evolution.runs.files import CURVE_FILE, SUMMARY_FILE, folder_of, saved_generations
from evolution.runs.saved_run import SavedRun

BASE = "base"  # as `agents.population.BASE`, which needs torch


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Accuracy on held-out problems at the end of a run, greedy.

    Attributes:
        after: Number of generations after which it was measured; None if not recorded.
        problems: How many problems.
        who: What the run came to, in words: its champion, or the agent of highest standing where a
            champion is not recorded.
        agent: Agent that this is; None if it is none of them as they are, or is not recorded.
        base: Of the bare base.
        best: Of what the run came to.
        gain: Best less base; paired by problem where the replies are kept.
        paired: Whether it is.
        agents: Agent to its accuracy; empty if the replies were not kept.
        vote: Accuracy of the majority; None if not recorded.
        average: Of the mean of the agents' updates; None if not recorded.
    """

    after: int | None
    problems: int
    who: str
    agent: str | None
    base: Estimate
    best: Estimate
    gain: Estimate
    paired: bool
    agents: Mapping[str, Estimate]
    vote: float | None
    average: Estimate | None


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutCurve:
    """Held-out accuracy while a run went on, greedy.

    Attributes:
        base: Of the bare base.
        values: Of each agent, [G, N], at the run's generations; NaN where not measured.
    """

    base: float | None
    values: Series


@dataclass(frozen=True, slots=True)
class TaskChange:
    """What a run changed on a task: mean of the population less the base, paired by problem."""

    task: str
    outside: bool
    problems: int
    base: float
    mean: float
    change: Estimate


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark of a run: after which generation, and what changed on each task."""

    generation: int
    changes: tuple[TaskChange, ...]


def read_held_out(run: RunData) -> HeldOut | None:
    """Return the held-out accuracy at the end; None if it was not measured.

    Raises:
        UsageError: If a file is damaged.
    """
    summary = run.saved.summary()
    found = summary.get("held_out")
    if not found:
        return None
    with run.saved.reading(run.path / SUMMARY_FILE):
        problems = _count(found["problems"])
        base = _binomial(_number(found["base"]), problems)
        best = _binomial(_number(found["best"]), problems)
        after = summary.get("generations")
        after = None if after is None else _count(after, least=0)
        vote = None if found.get("vote") is None else _number(found["vote"])
    place = run.generations.index(after - 1) if after and after - 1 in run.generations else None
    agent = None if place is None else run.best[place]
    who = f"the best agent by standing{f' ({agent})' if agent else ''}"
    agents: dict[str, Estimate] = {}
    apart = math.hypot(base.standard_error, best.standard_error)
    gain, paired = Estimate(best.value - base.value, apart), False
    marks = held_out_marks(run.saved, problems)
    average = Estimate.of(marks[AVERAGE].tolist()) if AVERAGE in marks else None
    if marks:
        # Beside the agents there are the base, the champion, a snapshot of one, and their average.
        agents = {name: Estimate.of(marks[name].tolist()) for name in run.agents if name in marks}
        if CHAMPION in marks:
            own = str(found.get("champion_is", ""))
            agent = own if own in agents and (marks[own] == marks[CHAMPION]).all() else None
            whose = "average of the agents" if own == AVERAGE else own
            who = f"the champion{f' ({whose})' if whose else ''}"
        right = marks.get(CHAMPION if CHAMPION in marks else agent or "")
        if BASE in marks and right is not None:
            best, gain = Estimate.of(right.tolist()), Estimate.of((right - marks[BASE]).tolist())
            paired = True
    return HeldOut(after, problems, who, agent, base, best, gain, paired, agents, vote, average)


def _binomial(accuracy: float, problems: int) -> Estimate:
    return Estimate(accuracy, math.sqrt(max(accuracy * (1 - accuracy), 0.0) / max(problems - 1, 1)))


def held_out_marks(saved: SavedRun, problems: int) -> dict[str, Series]:
    """Return who is right where, [problems] for each; empty if replies are not all there.

    Raises:
        UsageError: If the file is damaged.
    """
    found: dict[str, list[float]] = {}
    name = "held_out.jsonl"
    for line, row in saved.rows(name, ("agent", "correct")):
        with saved.reading(saved.path / name, line):
            if not isinstance(row["correct"], bool | None):
                raise TypeError(f"correct: expected true or false, got {repr(row['correct'])[:60]}")
        found.setdefault(row["agent"], []).append(float(row["correct"] is True))
    if any(len(own) != problems for own in found.values()):
        return {}
    return {name: np.array(own) for name, own in found.items()}


def read_curve(run: RunData) -> HeldOutCurve | None:
    """Return the held-out accuracy while the run went on; None if it was not recorded.

    Raises:
        UsageError: If the file is damaged.
    """
    values = np.full((len(run.generations), len(run.agents)), np.nan)
    base = None
    for line, row in run.saved.rows(CURVE_FILE, ("generation", "agent", "accuracy", "problems")):
        with run.saved.reading(run.path / CURVE_FILE, line):
            _count(row["problems"])
            accuracy = _number(row["accuracy"])
        if row["agent"] == BASE:
            base = accuracy
        elif row["generation"] in run.generations and row["agent"] in run.agents:
            place = run.generations.index(row["generation"])
            values[place, run.agents.index(row["agent"])] = accuracy
    return HeldOutCurve(base, values) if np.isfinite(values).any() else None


def read_bench(run: RunData) -> Bench | None:
    """Return the run's latest benchmark against the base; None if there is none.

    One with tasks outside the training is preferred to a later one without.

    Raises:
        UsageError: If a file is damaged.
    """
    folder = run.path / "bench"
    files = {n: folder_of(folder, n) / "results.json" for n in saved_generations(folder)}
    found = (Bench(n, _changes(run.saved, file)) for n, file in files.items() if file.exists())
    return max(
        (bench for bench in found if bench.changes),
        key=lambda bench: (any(c.outside for c in bench.changes), bench.generation),
        default=None,
    )


def _changes(saved: SavedRun, file: Path) -> tuple[TaskChange, ...]:
    with saved.reading(file):
        data = json.loads(file.read_text(encoding="utf-8"))
        return tuple(
            TaskChange(
                task=str(result["task"]),
                outside=bool(result["outside"]),
                problems=_count(result["problems"]),
                base=_number(change["base"]),
                mean=_number(change["mean"]),
                change=Estimate(
                    _number(change["change"], least=-1.0), _number(change["standard_error"])
                ),
            )
            for result in data["results"]
            if (change := result.get("change")) is not None
        )


def _number(value: object, least: float = 0.0) -> float:
    """Return a stored accuracy, difference or error.

    Raises:
        ValueError: If it is none, or outside of ``least`` to 1.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= 1:
        return float(value)
    raise ValueError(f"expected a number from {least:g} to 1, got {repr(value)[:60]}")


def _count(value: object, least: int = 1) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value < 10**9:
        return value
    raise ValueError(f"expected a count of at least {least}, got {repr(value)[:60]}")
