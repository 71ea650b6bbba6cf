"""What a study has found: a line of ``results.jsonl`` for each finished cell.

A line is written whole when its cell is finished, so a study that was killed goes on with the next
one. A cell is known by its arm's settings, its seed and its budgets: what changes none of these,
such as a label, another arm or more seeds, leaves it as it is. The cell of the base model is known
by what has a part in its answers, whatever the defaults of training become.

Lines hold the settings that are not the defaults. The defaults themselves stand in a line before
those that were written with them, so that a default that changes makes no two runs alike.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.plain_files import appending, write_whole
from evolution.config import RunConfig
from evolution.errors import UsageError
from evolution.runs.changes import plain_settings
from evolution.runs.lock import RunInUse, RunLock
from evolution.studies.design import UNSETTABLE, Arm, Study
from evolution.studies.measured import BASE, Cell
from populora_env.storage import plain, read_record

RESULTS_FILE = "results.jsonl"
BASE_SETTINGS = ("model", "dtype", "device", "products", "load_in_4bit")
"""Settings that say which base a run has."""

BASE_ANSWERS = (*BASE_SETTINGS, "solve_tokens", "max_rows", "problems")
"""Settings that have a part in the base model's answers; its problems are the held-out ones."""

_DEFAULTS = "defaults"
_BEFORE = {"last_trial": 0}


def settings_of(config: RunConfig) -> dict[str, Any]:
    """The settings that a cell is known by, as JSON types."""
    return {k: v for k, v in plain_settings(config).items() if k not in UNSETTABLE}


class Results:
    """The finished cells of a study.

    Args:
        folder: Where its file is, or is to be.

    Raises:
        UsageError: If the file cannot be read, or a line of it is no cell.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.file = self.folder / RESULTS_FILE
        self._found: list[tuple[Cell, dict[str, Any]]] = []  # with all its settings
        self._defaults: dict[str, Any] = {}
        self._lock: RunLock | None = None
        self._cut = False
        self._lines = self._read()

    def open(self) -> None:
        """Begin to write: nobody else may until `close`.

        Raises:
            UsageError: If somebody else does, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.folder)
            self._lines = self._read()  # whoever had it may have added some
            if self._cut:  # the last line is what a killed process left
                write_whole(self.file, "".join(f"{line}\n" for line in self._lines))
        except RunInUse as error:
            raise UsageError(
                f"out: {self.folder} is being written by {error}; wait for it, or choose another "
                "folder"
            ) from error
        except OSError as error:
            raise UsageError(
                f"out: cannot write to {self.folder} ({error.strerror}); choose another folder"
            ) from error

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def add(self, cell: Cell) -> None:
        """Keep a finished cell; it is on disk when this returns.

        Raises:
            UsageError: If it cannot be written.
        """
        defaults = settings_of(RunConfig())
        rows: list[dict[str, Any]] = []
        if defaults != self._defaults:
            rows.append({_DEFAULTS: defaults})
        try:
            with appending(self.file) as file:
                file.write("".join(json.dumps(row) + "\n" for row in [*rows, plain(cell)]))
        except OSError as error:
            raise UsageError(
                f"out: cannot write to {self.file} ({error.strerror}); cells before are kept: make "
                "room, then call the same again"
            ) from error
        self._defaults = defaults
        self._found.append((cell, {**defaults, **cell.settings}))

    def cell(self, study: Study, arm: Arm, seed: int) -> Cell | None:
        """What an arm came to with a seed, the last that fits; None if it was not played yet."""
        wanted = settings_of(arm.config(seed))
        now = settings_of(RunConfig())
        names = BASE_ANSWERS if arm.name == BASE else now
        for cell, settings in reversed(self._found):
            if cell.seed != seed or cell.budgets != arm.replies:
                continue
            # A setting that came later had no effect until then: it counts as today's default, or
            # as what left things as they were.
            was = {**now, **_BEFORE, **settings}
            if any(was[name] != wanted[name] for name in names):
                continue
            if len(cell.measured[0].champion) == study.held_out and _in_time(cell, study.seconds):
                return cell
        return None

    def check_base(self, config: RunConfig, digest: str) -> None:
        """Check that cells before had the base that this name stands for now.

        Raises:
            UsageError: If one had another.
        """
        wanted = {name: getattr(config, name) for name in BASE_SETTINGS}
        for cell, settings in self._found:
            same = all(settings.get(name, value) == value for name, value in wanted.items())
            if same and cell.base not in ("", digest):
                raise UsageError(
                    f"model: {config.model!r} is another base now than in {self.file}, whose runs "
                    "would not compare with new ones; put that base back, or choose another --out"
                )

    def _read(self) -> list[str]:
        """Read the file; return its whole lines."""
        self._found, self._defaults, self._cut = [], {}, False
        if not self.file.exists():
            return []
        try:
            text = self.file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise UsageError(f"out: {self.file} cannot be read ({said})") from error
        *lines, rest = text.split("\n")
        self._cut = bool(rest)
        for number, line in enumerate(lines, 1):
            try:
                row: Any = json.loads(line)
                if _DEFAULTS in row:
                    self._defaults = dict(row[_DEFAULTS])
                    continue
                cell = read_record(Cell, row)
            except (ValueError, TypeError, RecursionError) as error:
                raise UsageError(
                    f"out: {self.file}:{number} is damaged ({str(error)[:200]}); delete the line "
                    "to have its cell played again"
                ) from error
            self._found.append((cell, {**self._defaults, **cell.settings}))
        return lines


def _in_time(cell: Cell, limit: float | None) -> bool:
    """Whether a cell is what it would be with this limit."""
    if cell.seconds_limit == limit:
        return True
    return not cell.cut_off and (limit is None or cell.seconds <= limit)


def changed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are not the defaults."""
    defaults = settings_of(RunConfig())
    return {name: value for name, value in settings.items() if value != defaults[name]}


def cells_left(
    study: Study, results: Results, arms: Sequence[str], seeds: Sequence[int]
) -> list[tuple[Arm, int]]:
    """What is still to be played, seed by seed, so that a study that is cut off is balanced."""
    return [
        (study.arms[arm], seed)
        for seed in seeds
        for arm in arms
        if results.cell(study, study.arms[arm], seed) is None
    ]
