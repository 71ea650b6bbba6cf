"""What a report needs of a run folder, read and never written.

Only what belongs to finished generations is read: where a generation is on disk, it says how long
the growing files were when it was saved, so a run that is going on, or was killed while it wrote,
can be reported. Whatever an older run did not record is None or empty, and never made up.

Held-out results and benchmarks are read in `reporting.measured`.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.integrity import check_run, refusing
from evolution.lineage import Individual
from evolution.usage import UsageError
from populora_env.records import Transcript

Series = NDArray[np.float64]

_GENERATION = re.compile(r"generation_(\d+)")
_NO_SERIES = frozenset({"generation", "best"})


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
    generations = tuple(sorted({int(row["generation"]) for _, row in rows}))
    agents = tuple(dict.fromkeys(str(row["agent"]) for _, row in rows))
    places = {number: place for place, number in enumerate(generations)}
    columns = {agent: column for column, agent in enumerate(agents)}
    series: dict[str, Series] = {}
    individuals = [[""] * len(agents) for _ in generations]
    best: list[str | None] = [None] * len(generations)
    for _, row in rows:
        g, n = places[int(row["generation"])], columns[str(row["agent"])]
        individuals[g][n] = str(row.get("individual", ""))
        if row.get("best") is True:
            best[g] = agents[n]
        for name, value in row.items():
            if name in _NO_SERIES or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                empty = np.full((len(generations), len(agents)), np.nan)
                series.setdefault(name, empty)[g, n] = float(value)
    return RunData(
        path=path,
        config=settings.get("config", {}),
        versions={str(k): str(v) for k, v in settings.get("versions", {}).items()},
        generations=generations,
        agents=agents,
        series=series,
        individuals=tuple(map(tuple, individuals)),
        best=tuple(best),
        lineage=_lineage(path / "lineage.json", generations[-1]),
        episodes=tuple(_episodes(path / "transcripts.jsonl", lengths)),
    )


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UsageError(f"run: {path} is no folder; expected one that populora evolve made")
    file = path / "run.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (path / "history.jsonl").exists():  # a run of the manager, without the command
            return {}
        raise UsageError(
            f"run: {path} is no run folder (it holds neither run.toml nor history.jsonl); "
            "expected one that populora evolve made"
        ) from None
    except OSError as error:
        raise UsageError(f"run: {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"run: {file} is damaged ({error})") from error


def _lengths(path: Path) -> Mapping[str, int]:
    """Return how long the growing files were when the last generation was saved."""
    numbers = [
        (int(match[1]), entry)
        for entry in path.iterdir()
        if (match := _GENERATION.fullmatch(entry.name)) and (entry / "state.json").is_file()
    ]
    if not numbers:
        return {}
    file = max(numbers)[1] / "state.json"
    data = read_json(file)
    try:
        return {str(name): int(length) for name, length in data["lengths"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"run: {file} is damaged ({type(error).__name__}: {error})") from error


def read_json(file: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        UsageError: If it cannot be read or is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"run: {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"run: {file} is damaged ({error})") from error


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
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                offset += len(line)
                if offset > end:
                    break
                yield number, _row(file, number, line, required)
    except FileNotFoundError:
        offset = 0
    except OSError as error:
        raise UsageError(f"run: {file} cannot be read ({error.strerror})") from error
    if end is not math.inf and offset < end:
        raise UsageError(
            f"run: {file} is damaged ({offset} bytes long, its last generation recorded {end})"
        )


def _row(file: Path, number: int, line: bytes, required: Sequence[str]) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"run: {file}, line {number} is damaged ({error})") from error
    if not isinstance(row, dict):
        raise UsageError(f"run: {file}, line {number} is damaged (expected a JSON object)")
    for name in required:
        if name not in row:
            raise UsageError(f"run: {file}, line {number} is damaged (no {name!r})")
    if not isinstance(row.get("generation", 0), int):
        raise UsageError(f"run: {file}, line {number} is damaged (generation is no integer)")
    return row


def _episodes(file: Path, lengths: Mapping[str, int]) -> Iterator[Episode]:
    for number, row in _rows(file, lengths, required=("generation", "turns")):
        row["turns"] = []
        try:
            transcript = Transcript.from_dict(row)
        except ValueError as error:
            raise UsageError(f"run: {file}, line {number} is damaged ({error})") from error
        authors = {attempt.agent for attempt in transcript.attempts}
        judged = {entry.author for entry in transcript.assessments}
        for entry in transcript.evaluations:
            judged |= {entry.first_author, entry.second_author}
        if strange := sorted(judged - authors):
            raise UsageError(
                f"run: {file}, line {number} is damaged (a judgement about {strange[0]}, who has "
                "no attempt)"
            )
        yield Episode(row["generation"], transcript)


def _lineage(file: Path, last: int) -> tuple[Individual, ...]:
    """Return the births up to a generation; none if they were not recorded."""
    if not file.exists():
        return ()
    data = read_json(file)
    known = {field.name for field in fields(Individual)}
    try:
        births: list[Individual] = []
        for entry in data:
            values: dict[str, Any] = {name: entry[name] for name in known & set(entry)}
            values["parents"] = tuple(map(str, entry["parents"]))
            births.append(Individual(**values))
        return tuple(birth for birth in births if birth.generation <= last)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"run: {file} is damaged ({type(error).__name__}: {error})") from error
