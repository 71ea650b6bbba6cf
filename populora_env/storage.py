"""Records to and from plain JSON types.

Turns dataclasses into dictionaries that any JSON writer can store as UTF-8, and back. A field says
in its metadata where it is left out: `NEVER` is stored, or `UNLESS_EMPTY`. Writing files, and
keeping old formats readable, is the caller's business.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from numbers import Integral
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[object, str], Any]

NEVER: Mapping[str, bool] = {"stored": False}
UNLESS_EMPTY: Mapping[str, bool] = {"stored_empty": False}
_MOST = sys.float_info.max  # above are integers that no float holds, and infinity itself
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with every lone surrogate replaced by U+FFFD.

    Lone surrogates cannot be written as UTF-8, and tokenizers refuse them; everything else,
    control characters included, is kept.
    """
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)


def plain(value: Any) -> Any:
    """Turn records, enums, mappings and sequences into JSON types.

    Lone surrogates become U+FFFD, floats that are not finite become their names, sets become
    sorted lists, and whatever JSON has no type for becomes its ``str``.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return storable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if value - value == 0 else repr(float(value))
    if is_dataclass(value) and not isinstance(value, type):
        held = [(name, getattr(value, name), empty) for name, empty in _stored(type(value))]
        return {name: plain(content) for name, content, empty in held if content or empty}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {storable(str(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(entry) for entry in sorted(value, key=repr)]
    if isinstance(value, Integral):  # NumPy's integers
        return int(value)
    return storable(str(value))


@cache
def _stored(kind: type) -> tuple[tuple[str, bool], ...]:
    """Return the fields of a record that are stored, each with whether it is when empty."""
    own: Any = fields(kind)  # pyright: ignore[reportArgumentType]
    return tuple(
        (entry.name, entry.metadata.get("stored_empty", True))
        for entry in own
        if entry.metadata.get("stored", True)
    )


def read_record(kind: type[T], data: object) -> T:
    """Return the record that `plain` wrote as ``data``, every entry checked against its type.

    Args:
        kind: A dataclass whose fields are JSON types, enums, tuples, mappings and such records.
        data: Its entries by name; those with a default may be missing.

    Raises:
        ValueError: If an entry is missing, unknown or not of its type; the message names it.
    """
    return _record(kind, data, kind.__name__.lower())


@cache
def _reader(kind: Any) -> Reader:
    """Return what reads a value, known by a name, as the type that a field is annotated with."""
    if kind is Any:
        return lambda value, _: value
    if is_dataclass(kind):
        return partial(_record, kind)
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        options = [option for option in inner if option is not NoneType]
        read = _reader(options[0])  # a record's unions are a type or None
        if len(options) == len(inner):
            return read
        return lambda value, where: None if value is None else read(value, where)
    if origin is tuple:
        several = inner[-1] is Ellipsis
        return partial(_tuple, tuple(map(_reader, inner[:1] if several else inner)), several)
    if origin in (dict, Mapping):
        return partial(_mapping, origin, _reader(inner[1]))
    if origin is float:
        return _number
    if issubclass(origin, Enum):
        return partial(_member, origin, {member.value: member for member in origin})
    return partial(_simple, origin)


def _record(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _refusal("an object", value, where)
    data: Mapping[str, Any] = value
    readers, needed = _entries(kind)
    for name in data:
        if name not in readers:
            raise ValueError(f"{where}: unknown entry {repr(name)[:60]}")
    for name in needed:
        if name not in data:
            raise ValueError(f"{where}: no {name!r}")
    return kind(**{name: readers[name](entry, name) for name, entry in data.items()})


@cache
def _entries(kind: type) -> tuple[Mapping[str, Reader], tuple[str, ...]]:
    """Return the readers of a record's fields, and the names of those without a default."""
    hints = get_type_hints(kind)
    own: Any = fields(kind)  # pyright: ignore[reportArgumentType]
    needed = (f.name for f in own if f.default is MISSING and f.default_factory is MISSING)
    return {entry.name: _reader(hints[entry.name]) for entry in own}, tuple(needed)


def _tuple(
    readers: tuple[Reader, ...], several: bool, value: object, where: str
) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _refusal("tuple", value, where)
    entries: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
    if several:
        readers *= len(entries)
    elif len(entries) != len(readers):
        raise ValueError(f"{where}: expected {len(readers)} entries, got {len(entries)}")
    return tuple([read(entry, where) for read, entry in zip(readers, entries, strict=True)])


def _mapping(kind: type, read: Reader, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _refusal(kind.__name__.lower(), value, where)
    items: Mapping[Any, Any] = value
    return {_simple(str, name, where): read(entry, where) for name, entry in items.items()}


def _member(kind: type[Enum], members: Mapping[str, Enum], value: object, where: str) -> Enum:
    if not isinstance(value, str):
        raise _refusal(kind.__name__.lower(), value, where)
    return members[value] if value in members else kind(value)


def _number(value: object, where: str) -> float:
    """Return a stored float; numbers that are not finite were stored by their names."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST:
        raise _refusal("float", value, where)
    return float(value)


def _simple(kind: type, value: object, where: str) -> Any:
    """Return a text, an integer or whether."""
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise _refusal(kind.__name__, value, where)


def _refusal(expected: str, value: object, where: str) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {repr(value)[:60]}")
