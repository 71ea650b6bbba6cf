"""Plain values of Python and the one way to write each.

Plain are None, bool, int, finite float, str, and lists, tuples, dictionaries and sets of them.
Texts are bounded before they are parsed, so none can take long or raise anything else.
"""

import ast
import math
import re
from typing import Any, cast

LIMIT = 1000  # characters of a value as text
_NESTING = 20  # brackets within each other
_CLOSE = 1e-6  # relative difference up to which two floats are equal
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_UNPRINTABLE = re.compile("[\x00\ud800-\udfff]")


def read_literal(text: str) -> Any:
    """Return the plain value that a text writes.

    Raises:
        ValueError: If it writes none, or is longer or deeper than any value of a task.
    """
    return plain_value(parse_expression(text))


def parse_expression(text: str) -> ast.expr:
    """Return the tree of an expression of at most `LIMIT` characters.

    Raises:
        ValueError: If it is none.
    """
    text = text.strip()
    if len(text) > LIMIT or _UNPRINTABLE.search(text) or nesting(text) > _NESTING:
        raise ValueError("too long or too deep, or not text")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("no expression") from None


def plain_value(tree: ast.expr) -> Any:
    """Return the plain value that a tree writes.

    Raises:
        ValueError: If it writes none.
    """
    try:
        value = ast.literal_eval(tree)
        written(value)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise ValueError("no plain value") from None
    return value


def written(value: Any, depth: int = 0) -> str:
    """Return the one way to write a plain value; sets and dictionaries are sorted by their text.

    Raises:
        ValueError: If it is not plain.
    """
    if value is None or type(value) in (bool, int, str):
        return repr(value)
    if type(value) is float and math.isfinite(value):
        return repr(value)
    if depth > _NESTING:
        raise ValueError("too deep")
    if type(value) is dict:
        pairs = cast(dict[Any, Any], value).items()
        parts = sorted((written(k, depth + 1), written(v, depth + 1)) for k, v in pairs)
        return "{" + ", ".join(f"{key}: {entry}" for key, entry in parts) + "}"
    if type(value) in (list, tuple, set):
        parts = [written(entry, depth + 1) for entry in cast(list[Any], value)]
        if type(value) is list:
            return f"[{', '.join(parts)}]"
        if type(value) is set:
            return f"{{{', '.join(sorted(parts))}}}" if parts else "set()"
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"
    raise ValueError(f"{type(value).__name__} is no plain value")


def same(one: Any, other: Any) -> bool:
    """Return whether two plain values are equal.

    As in Python, but True is not 1, and floats may differ by a millionth part.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        try:
            return numbers and math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-12)
        except OverflowError:  # an integer beyond all floats
            return False
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        mine, theirs = cast(list[Any], one), cast(list[Any], other)
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    if isinstance(one, dict):
        table = cast(dict[Any, Any], one)
        return table.keys() == other.keys() and all(same(table[k], other[k]) for k in table)
    return bool(one == other)


def same_texts(one: str, other: str) -> bool:
    """Return whether two texts write equal values."""
    try:
        return same(read_literal(one), read_literal(other))
    except ValueError:
        return False


def arguments_text(values: tuple[Any, ...]) -> str:
    """Return the arguments of a call as text: ``3, 'ab'``."""
    return ", ".join(map(written, values))


def read_arguments(text: str) -> tuple[Any, ...]:
    """Return the values of the arguments that a text such as ``3, 'ab'`` holds.

    Raises:
        ValueError: If it holds none, or something else.
    """
    call = parse_expression(f"f({text}\n)")
    if not isinstance(call, ast.Call) or call.keywords or not isinstance(call.func, ast.Name):
        raise ValueError("no arguments")
    return tuple(map(plain_value, call.args))


def nesting(text: str) -> int:
    """Return how many brackets are open within each other at most, outside quotes."""
    depth = most = 0
    for sign in _QUOTED.sub("", text):
        if sign in "([{":
            depth += 1
            most = max(most, depth)
        elif sign in ")]}":
            depth -= 1
    return most
