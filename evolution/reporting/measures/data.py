"""What a report needs of a run folder, read and never written.

Files are read by `evolution.runs.saved_run`. Whatever an older run did not record is None or empty,
and never made up.

Held-out results and benchmarks are read in `reporting.measured`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.errors import UsageError
from evolution.individuals.lineage import Individual
from evolution.runs.files import HISTORY_FILE, TRANSCRIPTS_FILE
from evolution.runs.integrity import check_run, refusing
from evolution.runs.saved_run import SavedRun
from populora_env.records import Transcript

Series = NDArray[np.float64]

IN_HISTORY = ("generation", "agent")
"""What each row of it has."""
_NO_SERIES = frozenset({"generation", "best"})
_MOST = 1e60  # no recorded quantity is near: the largest float32 is 3.4e38


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode of a run; its transcript is without turns, which nobody here needs."""

    generation: int
    transcript: Transcript


@dataclass(frozen=True, slots=True, eq=False)
class RunData:
    """A run on disk.

    Attributes:
        saved: Reads it.
        config: Its settings as they are now; empty if they were not saved.
        versions: Package to version when the run began.
        generations: Numbers of the finished generations, ascending; G of them.
        agents: Names of the N agents.
        proposers: Those of them that write problems and solve none.
        series: Name of a recorded quantity to its values, [G, N]; NaN where there is none.
        individuals: Who lived in each agent's slot, [G][N]; empty texts where not recorded.
        best: Agent of highest standing in each generation, [G]; None where not recorded.
        lineage: Births up to the last finished generation, in order.
        episodes: All episodes that are kept, in order.
        unknown: Names of what was recorded, but as not known in all rows.
    """

    saved: SavedRun
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    generations: tuple[int, ...]
    agents: tuple[str, ...]
    proposers: tuple[str, ...]
    series: Mapping[str, Series]
    individuals: tuple[tuple[str, ...], ...]
    best: tuple[str | None, ...]
    lineage: tuple[Individual, ...]
    episodes: tuple[Episode, ...]
    unknown: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.saved.path

    @property
    def name(self) -> str:
        """Name of the run: its folder's."""
        return self.path.resolve().name

    def recorded(self, name: str) -> Series | None:
        """Return a quantity, [G, N], or None if it was never recorded."""
        values = self.series.get(name)
        return values if values is not None and bool(np.isfinite(values).any()) else None

    @property
    def solvers(self) -> tuple[str, ...]:
        """Those that solve problems."""
        return tuple(agent for agent in self.agents if agent not in self.proposers)

    def columns(self, agents: Sequence[str]) -> list[int]:
        """Return the places of agents in quantities."""
        return [self.agents.index(agent) for agent in agents]

    def mean(self, name: str) -> Series | None:
        """Return a quantity's mean over those who solve, [G], or None if it was never recorded."""
        values = self.recorded(name)
        means = None if values is None else row_means(values[:, self.columns(self.solvers)])
        return means if means is not None and bool(np.isfinite(means).any()) else None

    def mean_as_recorded(self, name: str) -> Series | None:
        """Return `mean`, but NaN where a quantity was recorded and is never known."""
        if name in self.series or name in self.unknown:
            means = self.mean(name)
            return np.full(len(self.generations), np.nan) if means is None else means
        return None

    @property
    def transcripts(self) -> list[Transcript]:
        """All episodes that are kept, without their generations."""
        return [episode.transcript for episode in self.episodes]


def row_means(values: Series) -> Series:
    """Return each row's mean over its known values, [G]; NaN where none is known."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def read_run_data(path: str | Path) -> RunData:
    """Read a run folder.

    Raises:
        UsageError: If it is no run, holds no finished generation, or a line or file is damaged.
    """
    saved = SavedRun(path)
    path = saved.path
    with refusing("run"):
        check_run(path)
    if not path.is_dir():
        raise UsageError(f"run: {path} is no folder; expected one that populora evolve made")
    if not saved.tables and not (path / HISTORY_FILE).exists():
        raise UsageError(
            f"run: {path} is no run folder (it holds neither run.toml nor history.jsonl); "
            "expected one that populora evolve made"
        )
    rows = list(saved.rows(HISTORY_FILE, IN_HISTORY))
    if not rows:
        raise UsageError(f"run: {path} holds no finished generation; wait for its first")
    agents = frozenset(row["agent"] for _, row in rows)
    return run_data(saved, rows, tuple(_episodes(saved, agents)))


def run_data(
    saved: SavedRun, rows: Sequence[tuple[int, Mapping[str, Any]]], episodes: tuple[Episode, ...]
) -> RunData:
    """Put together what was read of a run.

    Args:
        saved: Reads what else is asked for.
        rows: Line numbers and rows of `HISTORY_FILE`, at least one, each with `IN_HISTORY`.
        episodes: Those that are kept, each checked by `check_episode`.

    Raises:
        UsageError: If a quantity is out of range, or a file is damaged.
    """
    generations = tuple(sorted({row["generation"] for _, row in rows}))
    agents = tuple(dict.fromkeys(row["agent"] for _, row in rows))
    places = {number: place for place, number in enumerate(generations)}
    columns = {agent: column for column, agent in enumerate(agents)}
    series: dict[str, Series] = {}
    named = set[str]()
    individuals = [[""] * len(agents) for _ in generations]
    best: list[str | None] = [None] * len(generations)
    for number, row in rows:
        g, n = places[row["generation"]], columns[row["agent"]]
        individuals[g][n] = str(row.get("individual", ""))
        if row.get("best") is True:
            best[g] = agents[n]
        named.update(name for name, value in row.items() if value is None)
        for name, value in row.items():
            if name in _NO_SERIES or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                if abs(value) > _MOST and not (isinstance(value, float) and math.isinf(value)):
                    with saved.reading(saved.path / HISTORY_FILE, number):
                        raise ValueError(f"{name!r} is out of range")
                empty = np.full((len(generations), len(agents)), np.nan)
                series.setdefault(name, empty)[g, n] = float(value)
    config = saved.settings_now
    return RunData(
        saved=saved,
        config=config,
        versions={str(k): str(v) for k, v in saved.tables.get("versions", {}).items()},
        generations=generations,
        agents=agents,
        proposers=_proposers(config, agents, episodes),
        series=series,
        individuals=tuple(map(tuple, individuals)),
        best=tuple(best),
        lineage=saved.lineage(generations[-1], len(agents)),
        episodes=episodes,
        unknown=frozenset(named - series.keys()),
    )


def _proposers(
    config: Mapping[str, Any], agents: tuple[str, ...], episodes: Sequence[Episode]
) -> tuple[str, ...]:
    """Return who only proposes, by the settings or else by who did what."""
    first = config.get("proposers", 0)
    if isinstance(first, int) and 0 < first < len(agents):
        return agents[:first]
    if "proposers" in config:
        return ()
    wrote = {e.transcript.proposal.agent for e in episodes if e.transcript.proposal is not None}
    solved = {attempt.agent for e in episodes for attempt in e.transcript.attempts}
    return tuple(agent for agent in agents if solved and agent in wrote - solved)


def _episodes(saved: SavedRun, agents: frozenset[str]) -> Iterator[Episode]:
    for number, generation, transcript in saved.episodes(turns=False):
        with saved.reading(saved.path / TRANSCRIPTS_FILE, number):
            check_episode(transcript, agents)
        yield Episode(generation, transcript)


def check_episode(transcript: Transcript, agents: Set[str]) -> None:
    """Check that an episode is about the run's agents, and judgements about what they wrote.

    Raises:
        ValueError: If it is not, or a figure in it is out of range.
    """
    authors = {attempt.agent for attempt in transcript.attempts}
    asked = {entry.judge for entry in transcript.assessments}
    asked |= {entry.judge for entry in transcript.evaluations if entry.judge is not None}
    asked |= authors | set(transcript.agents) | {a.agent for a in transcript.revisions}
    if (proposal := transcript.proposal) is not None:
        asked.add(proposal.agent)
        for name, value in (("novelty", proposal.novelty), ("solve_rate", proposal.solve_rate)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
    if strange := sorted(asked - agents):
        raise ValueError(f"agent {strange[0][:60]!r} is not in the history")
    judged = {entry.author for entry in transcript.assessments}
    for entry in transcript.evaluations:
        judged |= {entry.first_author, entry.second_author}
    if strange := sorted(judged - authors):
        raise ValueError(f"a judgement about {strange[0][:60]}, who has no attempt")
    for entry in transcript.assessments:
        if entry.value is not None and not 0 <= entry.value <= 1:
            raise ValueError(f"value: expected a number from 0 to 1, got {entry.value}")
