"""Follower: what is known of a run folder that somebody else may be writing to.

History, transcripts and the guard's rows are read once and then as they grow; the small files that
are replaced whole are read again when they change. Nothing here writes. What cannot be read is left
out and said on the page: a page that follows a run must not end because a line is damaged.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from evolution.errors import RunError
from evolution.reporting.guard import IN_GUARD
from evolution.reporting.measures.data import (
    IN_HISTORY,
    Episode,
    RunData,
    check_episode,
    run_data,
)
from evolution.runs.files import (
    CURVE_FILE,
    GUARD_FILE,
    HISTORY_FILE,
    SUMMARY_FILE,
    TRANSCRIPTS_FILE,
)
from evolution.runs.saved_run import UNREADABLE, SavedRun, read_row
from evolution.watch.lines import GrowingLines, Line
from populora_env.records import Transcript

_AT_ONCE = 500  # lines of each file that are read before something else may be done
IN_TRANSCRIPTS = ("generation", "turns")
_REPLACED = (
    "run.toml", "lineage.json", "changes.jsonl", SUMMARY_FILE, "held_out.jsonl", CURVE_FILE,
)  # fmt: skip


@dataclass(slots=True)
class _Followed:
    """A growing file, what was read of it, what could not be, and whether more is known to come."""

    lines: GrowingLines
    rows: list[Any] = field(default_factory=list[Any])
    begun_anew: int = 0
    damage: str = ""
    behind: bool = False


class Follower:
    """Follows one run.

    Args:
        path: Its folder, which may be empty still.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = {
            name: _Followed(GrowingLines(path / name))
            for name in (HISTORY_FILE, TRANSCRIPTS_FILE, GUARD_FILE)
        }
        self._agents = frozenset[str]()
        self._replaced: dict[str, tuple[int, int, int]] = {}
        self._said: dict[str, str] = {}

    @property
    def notices(self) -> list[str]:
        """What could not be read, a line each."""
        return [*(own.damage for own in self._files.values() if own.damage), *self._said.values()]

    def poll(self) -> bool:
        """Read what is new, at most so much that it is soon done; returns whether anything is."""
        changed = self._follow_history()
        # Until agents are known no episode can be checked, so they wait; what was read may go.
        if self._agents or self._files[TRANSCRIPTS_FILE].rows:
            changed |= self._follow(TRANSCRIPTS_FILE, self._episode)
        changed |= self._follow(GUARD_FILE, lambda line: read_row(line.text, IN_GUARD))
        found = {name: _signature(self.path / name) for name in _REPLACED}
        changed |= found != self._replaced
        self._replaced = found
        return changed

    def share_read(self) -> float | None:
        """Which part of the run was read, from 0 to 1; None as soon as all was."""
        shares = [own.lines.share_read for own in self._files.values() if own.behind]
        return min(shares, default=None)

    def run(self) -> RunData | None:
        """What is known of the run; None before its first whole generation, or if it is damaged."""
        saved = SavedRun(self.path)
        rows = self._whole_generations(self._config(saved).get("size"))
        if not rows:
            return None
        episodes = tuple(episode for _, episode in self._files[TRANSCRIPTS_FILE].rows)
        return self.reading("run", lambda: run_data(saved, rows, episodes))

    def reading(self, what: str, read: Callable[[], Any]) -> Any:
        """Return what ``read`` returns; None, and a notice, if it finds damage."""
        self._said.pop(what, None)
        try:
            return read()
        except RunError as error:
            self._said[what] = str(error)
            return None

    def asked_for(self) -> int | None:
        """How many generations the run is to have, as far as known."""
        count = self._config(SavedRun(self.path)).get("generations")
        return count if isinstance(count, int) else None

    def guard_rows(self) -> list[Mapping[str, Any]]:
        """What the guard wrote."""
        return self._files[GUARD_FILE].rows

    def episodes(self) -> dict[int, list[tuple[int, Transcript]]]:
        """Each generation's episodes, without turns, and where they begin in their file."""
        found: dict[int, list[tuple[int, Transcript]]] = {}
        for offset, episode in self._files[TRANSCRIPTS_FILE].rows:
            found.setdefault(episode.generation, []).append((offset, episode.transcript))
        return found

    def transcript(self, offset: int) -> Transcript | None:
        """Read an episode again, with its turns; None if it is not there any more."""
        try:
            text = self._files[TRANSCRIPTS_FILE].lines.again(offset)
            return Transcript.from_dict(read_row(text, IN_TRANSCRIPTS))
        except (OSError, *UNREADABLE):
            return None

    def written(self) -> float | None:
        """When the history was last written, in seconds since 1970; None before that."""
        try:
            return (self.path / HISTORY_FILE).stat().st_mtime
        except OSError:
            return None

    def _config(self, saved: SavedRun) -> dict[str, Any]:
        """Settings as they are now; empty where they cannot be read."""
        return self.reading("settings", lambda: dict(saved.settings_now)) or {}

    def _whole_generations(self, size: object) -> list[tuple[int, dict[str, Any]]]:
        """Rows of the history, without those of a generation of which some are to come."""
        rows = self._files[HISTORY_FILE].rows
        if not rows:
            return []
        last = rows[-1][1]["generation"]
        found = sum(row["generation"] == last for _, row in rows)
        wanted = size if isinstance(size, int) else len(self._agents)
        return rows if found >= wanted else [row for row in rows if row[1]["generation"] != last]

    def _follow_history(self) -> bool:
        """Read what came to the history, and who plays; returns whether anything came."""
        changed = self._follow(HISTORY_FILE, _history_row)
        if changed:
            self._agents = frozenset(row["agent"] for _, row in self._files[HISTORY_FILE].rows)
        return changed

    def _follow(self, name: str, read: Callable[[Line], Any]) -> bool:
        """Read what came to a growing file; returns whether anything did."""
        own = self._files[name]
        try:
            lines = list(islice(own.lines.new(), _AT_ONCE))
        except OSError as error:
            said, before = f"{name} cannot be read ({error.strerror})", own.damage
            own.damage, own.behind = said, False
            return said != before
        own.behind = len(lines) == _AT_ONCE
        changed = bool(lines)
        if own.begun_anew != own.lines.times_begun_anew:  # what was read before is no more
            own.rows.clear()
            own.damage, own.begun_anew, changed = "", own.lines.times_begun_anew, True
        for line in lines:
            try:
                own.rows.append(read(line))
            except UNREADABLE as error:
                said = f"{name}, line {line.number}, is damaged and left out: {error}"
                own.damage = own.damage or said[:300]
        return changed

    def _episode(self, line: Line) -> tuple[int, Episode]:
        row = read_row(line.text, IN_TRANSCRIPTS)
        transcript = Transcript.from_dict({**row, "turns": []})
        while True:
            try:
                check_episode(transcript, self._agents)
            except ValueError:
                # Both files may have grown since the history was read: look there once more.
                if not self._follow_history():
                    raise
            else:
                return line.offset, Episode(row["generation"], transcript)


def _history_row(line: Line) -> tuple[int, dict[str, Any]]:
    return line.number, read_row(line.text, IN_HISTORY)


def _signature(file: Path) -> tuple[int, int, int]:
    """By what it is seen that a file was replaced."""
    try:
        found = os.stat(file)
    except OSError:
        return -1, -1, -1
    return found.st_ino, found.st_size, found.st_mtime_ns
