"""How large a stranger's file of problems may be.

A file is read whole, so what it takes is bounded before it is parsed: about a gigabyte of memory
and a few seconds. A small file can stand for a large table (Parquet, or ``[{},{},...]``), so what
counts is an estimate of the table, not the size on disk alone.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from populora_env.problems.sources.base import ProblemSpecError

FILE_LIMIT = 1 << 26  # bytes of a file, and of a table out of one
VALUE_LIMIT = 1 << 22  # values of a table
DEPTH_LIMIT = 64  # lists and objects inside each other
TEXT_LIMIT = 1_000_000  # characters of a prompt or an answer
BATCH_BYTES = 1 << 25  # of a Parquet table that are decoded at once
_SHOWN = 12  # columns that an error message lists
_DIVIDE = "divide it into several files, joined by + in a spec"


def read_bytes(name: str, location: str) -> bytes:
    """Return the content of a regular file that is not too large.

    Raises:
        ProblemSpecError: If it is too large, or no file with an end, such as a pipe.
        OSError: If it cannot be read.
    """
    check_file(name, location)
    with open(location, "rb") as file:
        data = file.read(FILE_LIMIT + 1)  # it may have grown since
    _check_bytes(name, len(data))
    return data


def check_file(name: str, location: str) -> None:
    """Refuse what is no regular file, or is too large; see `read_bytes`."""
    state = os.stat(location)
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):  # a folder fails to open
        raise ProblemSpecError(f"{name}: must be a regular file, which has an end: copy it to one")
    _check_bytes(name, state.st_size)


def check_values(name: str, text: str, marks: str) -> None:
    """Refuse a text with too many values, which are counted by what stands between them."""
    count = sum(map(text.count, marks))
    if count > VALUE_LIMIT:
        raise ProblemSpecError(
            f"{name}: has about {count} values, expected at most {VALUE_LIMIT}: {_DIVIDE}"
        )


def check_depth(place: str, value: Any) -> None:
    """Refuse lists and objects nested deeper than whoever stores them can follow."""
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ProblemSpecError(
        f"{place}: lists or objects are nested deeper than {DEPTH_LIMIT}: flatten them"
    )


def parquet_batches(name: str, file: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of an open ``pyarrow.parquet.ParquetFile``, some at a time.

    Dictionary encoding makes a column of one long text repeated a million times a few bytes, so
    no more is decoded at once than `BATCH_BYTES` if each row were as long as a whole column.

    Raises:
        ProblemSpecError: If the table is too large.
    """
    about = file.metadata
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    chunks = [chunk for group in groups for chunk in _chunks(group)]
    longest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
    _check_bytes(name, sum(chunk.total_uncompressed_size for chunk in chunks))
    values = max(sum(chunk.num_values for chunk in chunks), about.num_rows)
    if values > VALUE_LIMIT:
        raise ProblemSpecError(
            f"{name}: has {values} values, expected at most {VALUE_LIMIT}: {_DIVIDE}"
        )
    # A row of lists holds several values, each perhaps as long as the column.
    repeats = max(
        (
            -(-chunk.num_values // max(1, group.num_rows))
            for group in groups
            for chunk in _chunks(group)
        ),
        default=1,
    )
    largest = max(1, longest * repeats)
    _check_bytes(name, largest // 8)
    rows = max(1, min(1000, BATCH_BYTES // largest))
    taken = 0
    for batch in file.iter_batches(batch_size=rows, use_threads=False):
        found = batch.to_pylist()
        texts = (v for row in found for v in row.values() if isinstance(v, str | bytes))
        # An Arrow dictionary is small; the texts made of it are one for each row.
        taken += max(batch.nbytes, sum(map(len, texts)))
        _check_bytes(name, taken)
        yield found


def listed(columns: Mapping[str, Any]) -> str:
    """Return the names of some columns for an error message."""
    shown = [repr(name if len(name) <= 60 else f"{name[:57]}...") for name in columns][:_SHOWN]
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return (", ".join(shown) or "none") + more


def _chunks(group: Any) -> list[Any]:
    return [group.column(i) for i in range(group.num_columns)]


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        entries: dict[Any, Any] = value
        return [inner for inner in entries.values() if isinstance(inner, dict | list)]
    if isinstance(value, list):
        items: list[Any] = value
        return [inner for inner in items if isinstance(inner, dict | list)]
    return []


def _check_bytes(name: str, size: int) -> None:
    if size > FILE_LIMIT:
        raise ProblemSpecError(
            f"{name}: takes {size} bytes, expected at most {FILE_LIMIT}: {_DIVIDE}"
        )
