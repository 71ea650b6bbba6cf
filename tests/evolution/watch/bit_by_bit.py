"""A run that is written while it is watched: a whole one, copied generation by generation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

GROWING = ("history.jsonl", "transcripts.jsonl", "guard.jsonl")


class Writer:
    """Writes a copy of a run as the run itself was written.

    Args:
        whole: The run's folder.
        copy: The folder to write to, made here and left empty.
    """

    def __init__(self, whole: Path, copy: Path) -> None:
        self.copy, self._whole, self._next = copy, whole, 0
        copy.mkdir()
        self._lines = {
            name: (whole / name).read_bytes().splitlines(keepends=True)
            for name in GROWING
            if (whole / name).exists()
        }
        self._births = json.loads((whole / "lineage.json").read_text())

    @property
    def generation(self) -> int:
        """Number of the last generation that was written; -1 before the first."""
        return self._next - 1

    def begin(self) -> None:
        """Write what a run has before its first generation."""
        shutil.copy(self._whole / "run.toml", self.copy)

    def data(self, name: str, generation: int) -> bytes:
        """What a generation appends to a growing file."""
        own = (line for line in self._lines[name] if json.loads(line)["generation"] == generation)
        return b"".join(own)

    def append(self, name: str, data: bytes) -> None:
        """Append bytes to a file."""
        with (self.copy / name).open("ab") as file:
            file.write(data)

    def go_on(self) -> None:
        """Write the next generation."""
        for name in self._lines:
            self.append(name, self.data(name, self._next))
        births = [birth for birth in self._births if birth["generation"] <= self._next]
        (self.copy / "lineage.json").write_text(json.dumps(births))
        self._next += 1

    def cut_back(self) -> None:
        """Take the last generation back, as resuming a run does that was killed while it wrote."""
        self._next -= 1
        for name in self._lines:
            (self.copy / name).write_bytes(b"")
            for generation in range(self._next):
                self.append(name, self.data(name, generation))
