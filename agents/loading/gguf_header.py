"""The header of a GGUF file, walked before a reader trusts it.

The reader that Transformers uses believes every count and length in the file: one changed byte can
make it loop over 2^60 entries that are not there. Here each is compared with the bytes that the
file has. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_MOST_NAME = 1 << 16  # bytes
_MOST_ALIGNMENT = 1 << 20
_UINT32 = 4
_ALIGNMENT = "general.alignment"


def check_gguf(path: Path, blocks: Mapping[int, tuple[int, int]]) -> None:
    """Check that what a GGUF file says of its own layout is true.

    Args:
        path: The file.
        blocks: Number of a tensor's type to the weights of a block and its bytes.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a count, a length or a place lies outside the file, or means nothing.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise ValueError("it is cut short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data).check(blocks)


class _Walk:
    """A place in the header that moves on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._order = data, 4, "<"
        version = self._number("I")
        if not version & 0xFFFF:  # written on a machine of the other byte order
            self._at, self._order = 4, ">"
            version = self._number("I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version}, expected 2 or 3")

    def check(self, blocks: Mapping[int, tuple[int, int]]) -> None:
        """Walk the whole header."""
        tensors, fields = self._number("Q"), self._number("Q")
        alignment, names = 32, set[bytes]()
        for _ in range(self._count(fields, 13)):
            name = self._name(names)
            kind = self._number("I")
            if name == _ALIGNMENT.encode() and kind == _UINT32:
                alignment = self._number("I")
                if alignment > _MOST_ALIGNMENT or alignment.bit_count() != 1:
                    raise ValueError(f"alignment {alignment}, expected a power of two")
            else:
                self._skip(kind, nested=False)
        ends: list[int] = []
        names.clear()
        for _ in range(self._count(tensors, 28)):
            self._name(names)
            dimensions = self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            elements = 1
            for _ in range(dimensions):
                elements *= self._number("Q")
            kind = self._number("I")
            if kind not in blocks:
                raise ValueError(f"a tensor of the unknown type {kind}")
            block, size = blocks[kind]
            ends.append(self._number("Q") + elements // block * size)
        start = -(-self._at // alignment) * alignment
        if ends and start + max(ends) > len(self._data):
            raise ValueError("it is cut short: a tensor ends beyond the file")

    def _take(self, size: int) -> int:
        """Move on by so many bytes; where they began."""
        begin, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ValueError("it is cut short, or a length in it is wrong")
        return begin

    def _number(self, kind: str) -> int:
        layout = self._order + kind
        return int(struct.unpack_from(layout, self._data, self._take(struct.calcsize(layout)))[0])

    def _count(self, count: int, least: int) -> int:
        """A number of entries, if so many can be in the rest of the file."""
        if count * least > len(self._data) - self._at:
            raise ValueError(f"it announces {count} entries, which it has no room for")
        return count

    def _name(self, known: set[bytes]) -> bytes:
        length = self._number("Q")
        if length > _MOST_NAME:
            raise ValueError(f"a name of {length} bytes")
        begin = self._take(length)
        name = self._data[begin : begin + length]
        if name in known:
            raise ValueError(f"the name {name[:60].decode('utf-8', 'replace')!r} is there twice")
        known.add(name)
        return name

    def _skip(self, kind: int, *, nested: bool) -> None:
        if kind in _SCALARS:
            self._take(_SCALARS[kind])
        elif kind == _STRING:
            self._take(self._number("Q"))
        elif kind == _ARRAY and not nested:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SCALARS:
                self._take(self._count(count, _SCALARS[inner]) * _SCALARS[inner])
                return
            for _ in range(self._count(count, 8)):
                self._skip(inner, nested=True)
        else:
            raise ValueError(f"a field of the unknown type {kind}")
