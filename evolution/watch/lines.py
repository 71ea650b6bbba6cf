"""Reading what is appended to a file, line by line, while somebody else writes it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TAIL = 512  # bytes before the place reached, by which it is seen that the file is another one


@dataclass(frozen=True, slots=True)
class Line:
    """A whole line of a file.

    Attributes:
        number: From 1.
        offset: Where it begins, in bytes.
        text: Its bytes, with the line break.
    """

    number: int
    offset: int
    text: bytes


class GrowingLines:
    """Follows a file of lines.

    A last line without its line break is being written and is waited for. Where the file was cut
    back, replaced or deleted, as resuming a run does, reading begins anew.

    Args:
        file: It need not exist yet.

    Attributes:
        times_begun_anew: How often that happened; whoever keeps lines drops them when it grows.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._number, self._offset, self._tail, self._inode = 0, 0, b"", -1
        self.times_begun_anew = 0

    def new(self) -> Iterator[Line]:
        """Yield the whole lines that came since the last one that was taken.

        Raises:
            OSError: If the file is there and cannot be read.
        """
        try:
            file = self._file.open("rb")
        except FileNotFoundError:
            self._begin_anew(-1)
            return
        with file:
            found = os.fstat(file.fileno())
            file.seek(self._offset - len(self._tail))
            if self._inode != found.st_ino or file.read(len(self._tail)) != self._tail:
                self._begin_anew(found.st_ino)
                file.seek(0)
            for text in file:
                if not text.endswith(b"\n"):
                    return
                line = Line(self._number + 1, self._offset, text)
                self._number, self._offset = line.number, self._offset + len(text)
                self._tail = (self._tail + text)[-_TAIL:]
                yield line

    @property
    def share_read(self) -> float:
        """Which part of the file was read, from 0 to 1; 1 where there is none."""
        try:
            size = self._file.stat().st_size
        except OSError:
            return 1.0
        return min(self._offset / size, 1.0) if size else 1.0

    def again(self, offset: int) -> bytes:
        """Read the line that begins at an offset once more.

        Raises:
            OSError: If the file cannot be read.
        """
        with self._file.open("rb") as file:
            file.seek(offset)
            return file.readline()

    def _begin_anew(self, inode: int) -> None:
        self.times_begun_anew += self._offset > 0
        self._number, self._offset, self._tail, self._inode = 0, 0, b"", inode
