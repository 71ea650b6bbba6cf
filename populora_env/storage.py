"""Records to and from plain JSON types.

Turns dataclasses into dictionaries that any JSON writer can store as UTF-8, and back. A field says
in its metadata where it is left out: `NEVER` is stored, or `UNLESS_EMPTY`. Writing files, and
keeping old formats readable, is the caller's business.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from numbers import Integral
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

NEVER: Mapping[str, bool] = {"stored": False}
UNLESS_EMPTY: Mapping[str, bool] = {"stored_empty": False}
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with every lone surrogate replaced by U+FFFD.

    Lone surrogates cannot be written as UTF-8, and tokenizers refuse them; everything else,
    control characters included, is kept.
    """
    return LONE_SURROGATE.sub("\ufffd", text)


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
    if isinstance(value, Integral):  # NumPy's integers
        return int(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else repr(float(value))
    if is_dataclass(value) and not isinstance(value, type):
        held = {entry: getattr(value, entry.name) for entry in fields(value)}
        return {
            entry.name: plain(content)
            for entry, content in held.items()
            if entry.metadata.get("stored", True)
            and (content or entry.metadata.get("stored_empty", True))
        }
    if isinstance(value, Mapping):
        return {storable(str(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return [plain(entry) for entry in sorted(value, key=repr)]
    return storable(str(value))


def read_record(kind: type[T], data: object) -> T:
    """Return the record that `plain` wrote as ``data``, every entry checked against its type.

    Args:
        kind: A dataclass whose fields are JSON types, enums, tuples, mappings and such records.
        data: Its entries by name; those with a default may be missing.

    Raises:
        ValueError: If an entry is missing, unknown or not of its type; the message names it.
    """
    return _read(kind, data, kind.__name__.lower())


def _read(kind: Any, value: object, where: str) -> Any:
    """Return a value as the type that a field is annotated with."""
    if kind is Any:
        return value
    if isinstance(kind, UnionType):
        options = [option for option in get_args(kind) if option is not NoneType]
        if value is None and len(options) < len(get_args(kind)):
            return None
        return _read(options[0], value, where)  # a record's unions are a type or None
    if is_dataclass(kind):
        return _record(kind, value, where)
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        entries: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        kinds = [inner[0]] * len(entries) if inner[-1] is Ellipsis else list(inner)
        if len(entries) != len(kinds):
            raise ValueError(f"{where}: expected {len(kinds)} entries, got {len(entries)}")
        return tuple(_read(k, entry, where) for k, entry in zip(kinds, entries, strict=True))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        items: Mapping[Any, Any] = value
        return {_read(str, name, where): _read(inner[1], v, where) for name, v in items.items()}
    if origin is float and (number := _number(value)) is not None:
        return number
    if isinstance(origin, type) and issubclass(origin, Enum) and isinstance(value, str):
        return origin(value)
    if origin in (str, bool) and isinstance(value, origin):
        return value
    if origin is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    name = getattr(origin, "__name__", str(origin)).lower()
    raise ValueError(f"{where}: expected {name}, got {repr(value)[:60]}")


def _record(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object, got {repr(value)[:60]}")
    data: Mapping[str, Any] = value
    types, needed = _entries(kind)
    for name in data:
        if name not in types:
            raise ValueError(f"{where}: unknown entry {repr(name)[:60]}")
    for name in needed:
        if name not in data:
            raise ValueError(f"{where}: no {name!r}")
    return kind(**{name: _read(types[name], entry, name) for name, entry in data.items()})


@cache
def _entries(kind: type) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the types of a record's fields, and the names of those without a default."""
    hints = get_type_hints(kind)
    own: Any = fields(kind)  # pyright: ignore[reportArgumentType]
    needed = (f.name for f in own if f.default is MISSING and f.default_factory is MISSING)
    return {entry.name: hints[entry.name] for entry in own}, tuple(needed)


def _number(value: object) -> float | None:
    """Return a stored float; numbers that are not finite were stored by their names."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max or value != value else None
