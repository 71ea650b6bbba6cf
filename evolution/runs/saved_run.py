"""SavedRun: the only reader of a run on disk; nothing here writes, and no model is needed.

Settings are as they are now: those of ``run.toml`` and what changed since. Of files that grow, only
what belongs to saved generations is read, so a run that is going on, or was killed while it wrote,
can be read. What an older run did not record is empty, and never made up.

Not covered here: whether a run is whole (`evolution.runs.integrity`), and what only going on with
it needs (`evolution.runs.checkpoint`).
"""

import json
import math
import tomllib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evolution.errors import CheckpointError, RunError
from evolution.individuals.lineage import Individual
from evolution.runs.changes import Change, read_changes
from evolution.runs.files import (
    GROWING,
    HISTORY_FILE,
    SUMMARY_FILE,
    TRANSCRIPTS_FILE,
    check_regular,
    folder_of,
    saved_generations,
)
from evolution.runs.integrity import check_run, refusing
from populora_env.records import Transcript
from populora_env.storage import read_record

if TYPE_CHECKING:  # which needs torch
    from evolution.config import RunConfig

LATEST = 10**9  # no run has as many generations
# What is raised when JSON or TOML is read that is not what it should be; nesting may be too deep.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class SavedBirths:
    """Sketches of individuals' updates at birth; see `evolution.individuals.births`.

    Attributes:
        individuals: Whose they are, by slot, ``[N]``.
        seed: Of the sketches' signs.
        sketches: ``[N, layers by name, products]`` float32.
    """

    individuals: tuple[str, ...]
    seed: int
    sketches: NDArray[np.float32]


class SavedRun:
    """A run on disk; what is asked for is read once.

    Args:
        path: Its folder.
        option: What the user called it with, for messages.
    """

    def __init__(self, path: str | Path, option: str = "run") -> None:
        self.path, self.option = Path(path).expanduser(), option

    @cached_property
    def generation(self) -> int:
        """Number of the last whole generation.

        Raises:
            RunError: If there is none yet.
        """
        numbers = saved_generations(self.path)
        if not numbers:
            raise self.error(f"{self.path} holds no complete generation; wait for its first")
        return numbers[-1]

    @cached_property
    def tables(self) -> Mapping[str, Any]:
        """What ``run.toml`` holds, as the run began; empty where a manager alone made the run.

        Raises:
            RunError: If it is damaged.
        """
        file = self.path / "run.toml"
        if not file.exists():
            return {}
        with self.reading(file):
            tables = {"versions": {}, **tomllib.loads(file.read_text(encoding="utf-8"))}
            for name in ("config", "versions"):
                if not isinstance(tables.get(name), dict):
                    raise TypeError(f"{name} is no table")
        return tables

    def changes(self, until: int | None = None) -> list[Change]:
        """Changes of the settings, up to those that a generation was played with.

        Raises:
            RunError: If their record is damaged.
        """
        try:
            found = read_changes(self.path)
        except CheckpointError as error:
            raise self.error(str(error).removeprefix("run: ")) from error
        return [change for change in found if until is None or change.generation <= until]

    def settings(self, until: int | None = None) -> "RunConfig":
        """The settings that a generation was played with, or those that the run goes on with.

        Raises:
            RunError: If this is no run folder, or it is damaged.
            ConfigError: If it holds settings that do not exist here.
        """
        from evolution.runs.settings_files import from_mapping

        own = {**self.first_settings, **self._changed(until)}
        return from_mapping(own, str(self.path / "run.toml"))

    def _changed(self, until: int | None = None) -> dict[str, Any]:
        """Settings that changed, as they are then; see `changes`."""
        return {change.option: change.after for change in self.changes(until)}

    @property
    def settings_now(self) -> Mapping[str, Any]:
        """What the run goes on with, by name, unchecked; empty where a manager alone made it.

        Raises:
            RunError: If ``run.toml`` or the record of changes is damaged.
        """
        if not (first := self.tables.get("config", {})):
            return first
        return {**first, **self._changed()}

    @property
    def first_settings(self) -> Mapping[str, Any]:
        """The settings that the run began with, by name.

        Raises:
            RunError: If this is no run folder, or ``run.toml`` is damaged.
        """
        if not self.tables:
            raise self.error(
                f"{self.path} is no run folder (run.toml is missing); expected one that populora "
                "evolve made"
            )
        return self.tables["config"]

    @cached_property
    def config(self) -> "RunConfig":
        """The settings of the last generation; as `settings`."""
        return self.settings(self.generation)

    @cached_property
    def adapters(self) -> Mapping[str, Path]:
        """Agent to the folder of its adapter in the last generation."""
        folder = folder_of(self.path, self.generation) / "adapters"
        return {f"agent_{i}": folder / f"agent_{i}" for i in range(self.config.size)}

    def adapters_in(self, generation: int) -> dict[str, Path]:
        """Agent to its adapter's folder in a generation, without settings; empty if not there."""
        found = folder_of(self.path, generation) / "adapters"
        names = [entry.name for entry in found.iterdir()] if found.is_dir() else []
        numbers = (name.removeprefix("agent_") for name in names)
        known = sorted(int(n) for n in numbers if n.isdecimal() and f"agent_{int(n)}" in names)
        return {f"agent_{n}": found / f"agent_{n}" for n in known}

    def births(self, generation: int) -> "SavedBirths | None":
        """Sketches of a generation's members at birth; None where none were kept.

        Raises:
            RunError: If they cannot be read.
        """
        folder = folder_of(self.path, generation)
        file = folder / "state.json"
        if not file.is_file():
            return None
        with self.reading(file):
            state = json.loads(file.read_text(encoding="utf-8"))
            if "births" not in state:
                return None
            names = tuple(str(name) for name in state["births"]["individuals"])
            seed = int(state["config"]["seed"])
        from safetensors import SafetensorError, safe_open

        with self.reading(folder / "state.safetensors"):
            try:
                with safe_open(folder / "state.safetensors", "numpy") as tensors:
                    return SavedBirths(names, seed, tensors.get_tensor("births.sketches"))
            except SafetensorError as error:
                raise ValueError(str(error)) from error

    @property
    def solvers(self) -> dict[str, Path]:
        """The same of those who solve problems; in self-play others may only write them."""
        return dict(list(self.adapters.items())[self.config.only_propose :])

    @cached_property
    def last_rows(self) -> Mapping[str, Mapping[str, Any]]:
        """What the history says of each agent in the last generation.

        Raises:
            RunError: If it cannot be read.
        """
        rows = [row for _, row in self.rows(HISTORY_FILE, ("generation", "agent"))]
        return {row["agent"]: row for row in rows if row["generation"] == self.generation}

    @property
    def ratings(self) -> dict[str, float]:
        """Agent to its rating in the last generation, where it has one."""
        known = {agent: row.get("rating") for agent, row in self.last_rows.items()}
        return {agent: float(rating) for agent, rating in known.items() if rating is not None}

    @property
    def best_agent(self) -> str:
        """The agent of highest standing in the last generation.

        Raises:
            RunError: If the history does not say.
        """
        for agent, row in self.last_rows.items():
            if row.get("best"):
                return agent
        raise self.error(f"the history of {self.path} names no best agent; name one yourself")

    @cached_property
    def lengths(self) -> Mapping[str, int]:
        """How long the growing files were when the last generation was saved, where recorded."""
        for number in reversed(saved_generations(self.path)):
            file = folder_of(self.path, number) / "state.json"
            if file.is_file():
                with self.reading(file):
                    lengths = json.loads(file.read_text(encoding="utf-8"))["lengths"]
                    return {str(name): int(length) for name, length in lengths.items()}
        return {}

    def rows(self, name: str, required: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield line numbers and rows of a JSONL file; none if it does not exist.

        Args:
            name: Of the file.
            required: Entries that each row has.

        Raises:
            RunError: If it cannot be read, or a line is no JSON object with these entries.
        """
        file = self.path / name
        end = self.lengths.get(name, math.inf) if name in GROWING else math.inf
        offset = 0
        if file.exists():
            with self.reading(file), file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    offset += len(line)
                    if offset > end:
                        break
                    with self.reading(file, number):
                        row = read_row(line, required)
                    yield number, row
        if end is not math.inf and offset < end:
            raise self.error(
                f"{file} is damaged ({offset} bytes long, its last generation recorded {end})"
            )

    def episodes(self, *, turns: bool = True) -> Iterator[tuple[int, int, Transcript]]:
        """Yield the line number, generation and transcript of each episode that is kept, in order.

        Args:
            turns: Whether transcripts have their turns.

        Raises:
            RunError: If one cannot be read.
        """
        for number, row in self.rows(TRANSCRIPTS_FILE, ("generation", "turns")):
            if not turns:
                row["turns"] = []
            with self.reading(self.path / TRANSCRIPTS_FILE, number):
                transcript = Transcript.from_dict(row)
            yield number, row["generation"], transcript

    def summary(self) -> dict[str, Any]:
        """What was written of the run when it ended; empty if nothing was.

        Raises:
            RunError: If it cannot be read.
        """
        file = self.path / SUMMARY_FILE
        if not file.exists():
            return {}
        with self.reading(file):
            found = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise TypeError("expected a JSON object")
            return found

    def lineage(self, until: int, size: int) -> tuple[Individual, ...]:
        """Births up to a generation, among so many slots; none if they were not recorded.

        Raises:
            RunError: If they cannot be read.
        """
        file = self.path / "lineage.json"
        if not file.exists():
            return ()
        with self.reading(file):
            entries: Any = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(entries, list):
                raise TypeError("expected a list of individuals")
            births = [read_record(Individual, entry) for entry in entries]
            if len({birth.name for birth in births}) < len(births):
                raise ValueError("two individuals have one name")
            for birth in births:
                if not (0 <= birth.slot < size and 0 <= birth.generation < LATEST):
                    raise ValueError(f"{birth.name}: slot or generation is out of range")
        return tuple(birth for birth in births if birth.generation <= until)

    @contextmanager
    def reading(self, file: Path, line: int | None = None) -> Generator[None, None, None]:
        """Say of a file that the block cannot read which, where and why, whatever it holds.

        Raises:
            RunError: If the block raises what damage or the disk makes it raise.
        """
        try:
            if line is None and file.exists():
                check_regular(file)  # a pipe would wait for its other end
            yield
        except RunError:  # said already
            raise
        except OSError as error:
            raise self.error(f"{file} cannot be read ({error.strerror})") from error
        except UNREADABLE as error:
            kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
            reason = f"{kind}{error}"
            reason = reason if len(reason) <= 200 else reason[:200] + "…"
            where = "" if line is None else f", line {line}"
            raise self.error(f"{file}{where} is damaged ({reason})") from error

    def error(self, message: str) -> RunError:
        """An error that names what the user called the run with."""
        return RunError(f"{self.option}: {message}")


def read_run(path: str | Path) -> SavedRun:
    """Check a run of ``populora evolve`` that has a whole generation, and read it.

    Raises:
        UsageError: If the folder is no run, is damaged, or holds no complete generation.
    """
    run = SavedRun(path)
    with refusing("run"):
        check_run(run.path)
    # Read here, so that whatever is wrong is said before a model is loaded.
    _ = run.first_settings, run.config, run.last_rows
    return run


def trained_on(adapter: Path) -> str | None:
    """The problems that an adapter in a run folder was trained on; None if not known."""
    for folder in list(adapter.resolve().parents)[:3]:  # of best/ or generation_0007/adapters/
        try:
            return str(SavedRun(folder).first_settings["problems"])
        except (KeyError, RunError):
            continue
    return None


def read_row(line: bytes, required: Sequence[str] = ()) -> dict[str, Any]:
    """Read a line of a JSONL file of a run; within `SavedRun.reading`, which says what is wrong.

    Raises:
        TypeError: If it is no JSON object, or a generation or agent in it is of the wrong type.
        ValueError: If it is no JSON, an entry is missing, or a generation is out of range.
    """
    row: Any = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError("expected a JSON object")
    for name in required:
        if name not in row:
            raise ValueError(f"no {name!r}")
    generation = row.get("generation", 0)
    if not isinstance(generation, int) or isinstance(generation, bool):
        raise TypeError("generation is no integer")
    if not 0 <= generation < LATEST:
        raise ValueError(f"generation is not from 0 to {LATEST}")
    if not isinstance(row.get("agent", ""), str):
        raise TypeError("agent is no name")
    return row
