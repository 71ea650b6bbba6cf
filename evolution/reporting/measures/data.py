"""What a report needs of a run folder, read and never written.

Only what belongs to finished generations is read: where a generation is on disk, it says how long
the growing files were when it was saved, so a run that is going on, or was killed while it wrote,
can be reported. Whatever an older run did not record is None or empty, and never made up.

Held-out results and benchmarks are read in `reporting.measured`.
"""

import json
import math
import tomllib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.errors import UsageError
from evolution.individuals.lineage import Individual
from evolution.runs.files import folder_of, saved_generations
from evolution.runs.integrity import check_run, refusing
from populora_env.records import Transcript
from populora_env.storage import read_record

Series = NDArray[np.float64]

_NO_SERIES = frozenset({"generation", "best"})
_MOST = 1e60  # no recorded quantity is near: the largest float32 is 3.4e38
_LAST = 10**9  # no run has as many generations
# What is raised when JSON or TOML is read that is not what it should be; nesting may be too deep.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode of a run; its transcript is without turns, which nobody here needs."""

    generation: int
    transcript: Transcript


@dataclass(frozen=True, slots=True, eq=False)
class RunData:
    """A run on disk.

    Attributes:
        path: Its folder.
        config: Its settings as saved; empty if they were not.
        versions: Package to version when the run began.
        generations: Numbers of the finished generations, ascending; G of them.
        agents: Names of the N agents.
        series: Name of a recorded quantity to its values, [G, N]; NaN where there is none.
        individuals: Who lived in each agent's slot, [G][N]; empty texts where not recorded.
        best: Agent of highest standing in each generation, [G]; None where not recorded.
        lineage: Births up to the last finished generation, in order.
        episodes: All episodes that are kept, in order.
    """

    path: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    generations: tuple[int, ...]
    agents: tuple[str, ...]
    series: Mapping[str, Series]
    individuals: tuple[tuple[str, ...], ...]
    best: tuple[str | None, ...]
    lineage: tuple[Individual, ...]
    episodes: tuple[Episode, ...]

    @property
    def name(self) -> str:
        """Name of the run: its folder's."""
        return self.path.resolve().name

    def recorded(self, name: str) -> Series | None:
        """Return a quantity, [G, N], or None if it was never recorded."""
        values = self.series.get(name)
        return values if values is not None and bool(np.isfinite(values).any()) else None

    def mean(self, name: str) -> Series | None:
        """Return a quantity's mean over the agents, [G], or None if it was never recorded."""
        values = self.recorded(name)
        return None if values is None else row_means(values)

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
    path = Path(path).expanduser()
    with refusing("run"):
        check_run(path)
    settings = _settings(path)
    lengths = _lengths(path)
    rows = list(_rows(path / "history.jsonl", lengths, required=("generation", "agent")))
    if not rows:
        raise UsageError(f"run: {path} holds no finished generation; wait for its first")
    generations = tuple(sorted({row["generation"] for _, row in rows}))
    agents = tuple(dict.fromkeys(row["agent"] for _, row in rows))
    places = {number: place for place, number in enumerate(generations)}
    columns = {agent: column for column, agent in enumerate(agents)}
    series: dict[str, Series] = {}
    individuals = [[""] * len(agents) for _ in generations]
    best: list[str | None] = [None] * len(generations)
    for number, row in rows:
        g, n = places[row["generation"]], columns[row["agent"]]
        individuals[g][n] = str(row.get("individual", ""))
        if row.get("best") is True:
            best[g] = agents[n]
        for name, value in row.items():
            if name in _NO_SERIES or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                if abs(value) > _MOST and not (isinstance(value, float) and math.isinf(value)):
                    with reading(path / "history.jsonl", number):
                        raise ValueError(f"{name!r} is out of range")
                empty = np.full((len(generations), len(agents)), np.nan)
                series.setdefault(name, empty)[g, n] = float(value)
    return RunData(
        path=path,
        config=settings["config"],
        versions={str(k): str(v) for k, v in settings["versions"].items()},
        generations=generations,
        agents=agents,
        series=series,
        individuals=tuple(map(tuple, individuals)),
        best=tuple(best),
        lineage=_lineage(path / "lineage.json", generations[-1], len(agents)),
        episodes=tuple(_episodes(path / "transcripts.jsonl", lengths, frozenset(agents))),
    )


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UsageError(f"run: {path} is no folder; expected one that populora evolve made")
    file = path / "run.toml"
    tables: dict[str, Any] = {"config": {}, "versions": {}}
    if not file.exists():
        if (path / "history.jsonl").exists():  # a run of the manager, without the command
            return tables
        raise UsageError(
            f"run: {path} is no run folder (it holds neither run.toml nor history.jsonl); "
            "expected one that populora evolve made"
        )
    with reading(file):
        tables |= tomllib.loads(file.read_text(encoding="utf-8"))
        for name in ("config", "versions"):
            if not isinstance(tables[name], dict):
                raise TypeError(f"{name} is no table")
    return tables


@contextmanager
def reading(file: Path, line: int | None = None) -> Generator[None, None, None]:
    """Say of a file that the block cannot read which, where and why, whatever it holds.

    Raises:
        UsageError: If the block raises what damage or the disk makes it raise.
    """
    try:
        yield
    except UsageError:  # said already
        raise
    except OSError as error:
        raise UsageError(f"run: {file} cannot be read ({error.strerror})") from error
    except _UNREADABLE as error:
        kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
        reason = f"{kind}{error}"
        reason = reason if len(reason) <= 200 else reason[:200] + "…"
        where = "" if line is None else f", line {line}"
        raise UsageError(f"run: {file}{where} is damaged ({reason})") from error


def _lengths(path: Path) -> Mapping[str, int]:
    """Return how long the growing files were when the last generation was saved."""
    files = [folder_of(path, number) / "state.json" for number in saved_generations(path)]
    for file in reversed(files):
        if file.is_file():
            with reading(file):
                lengths = json.loads(file.read_text(encoding="utf-8"))["lengths"]
                return {str(name): int(length) for name, length in lengths.items()}
    return {}


def read_rows(file: Path, required: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file; none if it does not exist.

    Raises:
        UsageError: If it cannot be read, or a line is no JSON object with the required entries.
    """
    return [row for _, row in _rows(file, {}, required=required)]


def _rows(
    file: Path, lengths: Mapping[str, int], *, required: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and rows, as far as the last saved generation goes."""
    end = lengths.get(file.name, math.inf)
    offset = 0
    if file.exists():
        with reading(file), file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                offset += len(line)
                if offset > end:
                    break
                with reading(file, number):
                    row = _row(line, required)
                yield number, row
    if end is not math.inf and offset < end:
        raise UsageError(
            f"run: {file} is damaged ({offset} bytes long, its last generation recorded {end})"
        )


def _row(line: bytes, required: Sequence[str]) -> dict[str, Any]:
    row: Any = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError("expected a JSON object")
    for name in required:
        if name not in row:
            raise ValueError(f"no {name!r}")
    generation = row.get("generation", 0)
    if not isinstance(generation, int) or isinstance(generation, bool):
        raise TypeError("generation is no integer")
    if not 0 <= generation < _LAST:
        raise ValueError(f"generation is not from 0 to {_LAST}")
    if not isinstance(row.get("agent", ""), str):
        raise TypeError("agent is no name")
    return row


def _episodes(file: Path, lengths: Mapping[str, int], agents: frozenset[str]) -> Iterator[Episode]:
    for number, row in _rows(file, lengths, required=("generation", "turns")):
        row["turns"] = []
        with reading(file, number):
            transcript = Transcript.from_dict(row)
            _check(transcript, agents)
        yield Episode(row["generation"], transcript)


def _check(transcript: Transcript, agents: frozenset[str]) -> None:
    """Check that an episode is about the run's agents, and judgements about what they wrote."""
    authors = {attempt.agent for attempt in transcript.attempts}
    asked = {entry.judge for entry in transcript.assessments}
    asked |= {entry.judge for entry in transcript.evaluations if entry.judge is not None}
    asked |= authors | set(transcript.agents) | {a.agent for a in transcript.revisions}
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


def _lineage(file: Path, last: int, size: int) -> tuple[Individual, ...]:
    """Return the births up to a generation; none if they were not recorded."""
    if not file.exists():
        return ()
    with reading(file):
        entries: Any = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise TypeError("expected a list of individuals")
        births = [read_record(Individual, entry) for entry in entries]
        if len({birth.name for birth in births}) < len(births):
            raise ValueError("two individuals have one name")
        for birth in births:
            if not (0 <= birth.slot < size and 0 <= birth.generation < _LAST):
                raise ValueError(f"{birth.name}: slot or generation is out of range")
    return tuple(birth for birth in births if birth.generation <= last)
