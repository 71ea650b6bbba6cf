"""Rows out of files: JSON Lines, JSON, CSV and Parquet.

A row is a mapping from columns to values that knows where it stands, so that whoever finds fault
with it can say so. What the columns mean is for `columns` and `benchmarks`. Compressed files and
folders of files are not covered.
"""

import csv
import importlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from populora_env.problems.files.bounds import (
    TEXT_LIMIT,
    check_depth,
    check_file,
    check_values,
    listed,
    parquet_batches,
    read_bytes,
)
from populora_env.problems.files.escapes import check_text
from populora_env.problems.sources.base import ProblemSpecError
from populora_env.storage import storable

_JSON_MARKS = ",[{\n"
_CSV_MARKS = ",\n\r"
_INT_DIGITS = 4_000
FIELD_LIMIT = 1 << 30  # characters; Python's own limit for a CSV field is 131,072
HUB = "hub:"  # how the name of a table from the hub begins
_STEP = re.compile(r"[.\[\]]")
HUB_EXTRA = 'pip install "populora-env[hub]"'


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        file: The file's path as it was given, or the data set's name.
        number: Line in the file, or number of the row, from 1.
        values: Column to value.
        is_line: Whether ``number`` is a line.
    """

    file: str
    number: int
    values: Mapping[str, Any]
    is_line: bool = True

    @property
    def place(self) -> str:
        """Where the row stands, as in ``data/x.jsonl:731`` or ``x.parquet row 3``."""
        return f"{self.file}{':' if self.is_line else ' row '}{self.number}"

    @property
    def read_from(self) -> str:
        """The same without the folder, which differs between machines."""
        if self.file.startswith(HUB):
            return self.place
        return replace(self, file=os.path.basename(self.file)).place

    def get(self, column: str) -> Any:
        """Return a value, which may be None.

        Args:
            column: A column, or a value inside one, such as ``reward_model.ground_truth`` or
                ``messages[0].content``. A column of that very name comes first.

        Raises:
            ProblemSpecError: If there is no such column.
        """
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for part in (part for part in _STEP.split(column) if part):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part[:9]) < len(value):
                value = value[int(part)]
            else:
                inside = "" if value is self.values else f" (there is no {part[:60]!r} inside it)"
                raise ProblemSpecError(
                    f"{self.place}: column {described(column)} is missing{inside}, found "
                    f"{listed(self.values)}: add it, or map another column"
                )
        return value

    def text(self, column: str) -> str:
        """Return a text that is not blank.

        Raises:
            ProblemSpecError: If the column is missing or holds something else.
        """
        value = self.get(column)
        if not isinstance(value, str) or not value.strip():
            raise ProblemSpecError(
                f"{self.place}: column {column!r} must hold a text, got {described(value)}"
            )
        self.check_text(column, value)
        return storable(value)

    def check_text(self, column: str, text: str, *, answer: bool = False) -> None:
        """Refuse a text that is too long or holds what no text holds; see `escapes`.

        What the hub has at a pinned revision is known, and let through.
        """
        if len(text) > TEXT_LIMIT:
            raise ProblemSpecError(
                f"{self.place}: column {described(column)} holds {len(text)} characters, expected "
                f"at most {TEXT_LIMIT}: shorten it"
            )
        if not self.file.startswith(HUB):
            check_text(self.place, column, text, answer=answer)


def described(value: Any) -> str:
    """Return a value for an error message, cut and on one line; nothing at all is ``nothing``."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "nothing"
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def read_rows(path: str | Path) -> list[Row]:
    """Return all rows of a file, which is read as what its name ends in.

    Args:
        path: ``.jsonl`` (or ``.ndjson``): an object a line; ``.json``: a list of objects, or an
            object with such a list as ``data``; ``.csv``: a header first, an empty cell is None;
            ``.parquet`` needs pyarrow. How large it may be is in `bounds`.

    Raises:
        ProblemSpecError: If the file cannot be read or holds no row; the message names the file
            and the line.
    """
    name = str(path)
    read = _READERS.get(Path(name).suffix.lower())
    if read is None:
        raise ProblemSpecError(f"{name}: must end in one of {', '.join(SUFFIXES)}")
    location = os.path.expanduser(name)
    try:
        rows = read(name, location)
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise ProblemSpecError(f"{name}: cannot be read ({said}): check the path") from error
    if not rows:
        raise ProblemSpecError(f"{name}: holds no row, expected one for each problem")
    return rows


def _text(name: str, location: str) -> str:
    """Return the text of a file, without a byte order mark."""
    data = read_bytes(name, location)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProblemSpecError(
            f"{name}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}): convert the file to UTF-8"
        ) from error


def _jsonl(name: str, location: str) -> list[Row]:
    rows: list[Row] = []
    whole = _text(name, location)
    check_values(name, whole, _JSON_MARKS)
    # Only a line feed ends a line here: JSON texts may hold U+2028 and its like as they are.
    for number, line in enumerate(whole.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, **_EXACT)
        except _TwiceError as error:
            raise ProblemSpecError(f"{name}:{number}: {error}: remove one") from None
        except (ValueError, RecursionError) as error:
            raise ProblemSpecError(
                f"{name}:{number}: not JSON ({error}): expected one object a line"
            ) from error
        rows.append(_row(name, number, value, is_line=True))
    return rows


def _json(name: str, location: str) -> list[Row]:
    text = _text(name, location)
    if not text.strip():
        return []
    check_values(name, text, _JSON_MARKS)
    try:
        value: Any = json.loads(text, **_EXACT)
    except _TwiceError as error:
        raise ProblemSpecError(f"{name}: {error} in {described(error.found)}: remove one") from None
    except json.JSONDecodeError as error:
        hint = "an object a line belongs in a .jsonl file" if error.lineno > 1 else "mend it there"
        raise ProblemSpecError(f"{name}:{error.lineno}: not JSON ({error}): {hint}") from error
    except (ValueError, RecursionError) as error:
        raise ProblemSpecError(f"{name}: not JSON that can be read ({error})") from error
    if isinstance(value, dict):
        value = value.get("data")
    if not isinstance(value, list):
        raise ProblemSpecError(
            f"{name}: must hold a list of objects, or an object with such a list as 'data'"
        )
    return [_row(name, number, entry, is_line=False) for number, entry in enumerate(value, 1)]


def _row(name: str, number: int, value: Any, *, is_line: bool) -> Row:
    if not isinstance(value, dict):
        place = Row(name, number, {}, is_line).place
        raise ProblemSpecError(f"{place}: must be a JSON object, got {described(value)}")
    row = Row(name, number, value, is_line)
    check_depth(row.place, value)
    return row


class _TwiceError(ValueError):
    """A JSON object that says two things by one name."""

    def __init__(self, key: str, found: dict[str, Any]) -> None:
        super().__init__(f"key {described(key)} is there twice")
        self.found = found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; Python's own reader keeps the last of a repeated key's values."""
    found = dict(pairs)
    if len(found) < len(pairs) and (key := _first_twice(key for key, _ in pairs)) is not None:
        raise _TwiceError(key, found)
    return found


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _whole_number(digits: str) -> int | Decimal:
    """Return an integer; Python refuses to make one of more than 4,300 digits."""
    return int(digits) if len(digits) <= _INT_DIGITS else Decimal(digits)


class WrittenFloat(float):
    """A float that knows how it was written: it keeps some sixteen digits itself.

    Attributes:
        digits: As in the file.
    """

    digits: str

    def __new__(cls, digits: str) -> "WrittenFloat":
        """Read a number in JSON's notation."""
        made = super().__new__(cls, digits)
        made.digits = digits
        return made


_EXACT: dict[str, Any] = {
    "parse_int": _whole_number, "parse_float": WrittenFloat, "object_pairs_hook": _object
}  # fmt: skip


def _csv(name: str, location: str) -> list[Row]:
    whole = _text(name, location)
    check_values(name, whole, _CSV_MARKS)
    text = io.StringIO(whole, newline="")
    before = csv.field_size_limit(FIELD_LIMIT)
    try:
        return _csv_rows(name, text)
    finally:
        csv.field_size_limit(before)  # it belongs to the whole process


def _csv_rows(name: str, text: Iterable[str]) -> list[Row]:
    reader = csv.reader(text, strict=True)
    header: list[str] = []
    rows: list[Row] = []
    number = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if not header:
                    header = [cell.strip() for cell in cells]
                    if (twice := _first_twice(header)) is not None:
                        raise ProblemSpecError(
                            f"{name}:{number}: column {described(twice)} is there twice: rename "
                            "one of them"
                        )
                elif len(cells) != len(header):
                    raise ProblemSpecError(
                        f"{name}:{number}: {len(cells)} cells, expected {len(header)} as in the "
                        "header: put quotes around a cell that holds commas"
                    )
                else:
                    values = {key: cell or None for key, cell in zip(header, cells, strict=True)}
                    rows.append(Row(name, number, values))
            number = reader.line_num + 1
    except csv.Error as error:
        raise ProblemSpecError(f"{name}:{number}: not CSV ({error}): check its quotes") from error
    return rows


def _parquet(name: str, location: str) -> list[Row]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ProblemSpecError(f"{name}: reading Parquet needs pyarrow: {HUB_EXTRA}") from error
    check_file(name, location)
    table: list[dict[str, Any]] = []
    with open(location, "rb") as file:
        try:
            for rows in parquet_batches(name, parquet.ParquetFile(file)):
                table += rows
            narrow = _narrow_columns(parquet, location)
        except ProblemSpecError:
            raise
        except Exception as error:  # pyarrow's errors have several bases
            said = " ".join(str(error).split())[:160]
            raise ProblemSpecError(
                f"{name}: not a Parquet file that can be read ({said})"
            ) from error
    for values in table:
        for column, kind in narrow.items():
            if isinstance(value := values[column], float):
                values[column] = WrittenFloat(str(kind(value)))
    return [_row(name, number, values, is_line=False) for number, values in enumerate(table, 1)]


def _narrow_columns(parquet: Any, location: str) -> dict[str, Any]:
    """Columns of fewer than 64 bits: their numbers are not all the digits of a double."""
    kinds = {"float": np.float32, "halffloat": np.float16}
    schema = parquet.read_schema(location)
    return {f.name: kinds[str(f.type)] for f in schema if str(f.type) in kinds}


_READERS: dict[str, Callable[[str, str], list[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
SUFFIXES = tuple(_READERS)
