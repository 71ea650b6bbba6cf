"""The root of all errors, and checks of single arguments.

Each message is one line in one grammar: the argument, what came, what was expected, and what to do.
Errors are ValueErrors where what was given cannot be used, else RuntimeErrors; those that never
leave the package they are raised in do not descend from the root.
"""

import math
from enum import StrEnum
from typing import Any, TypeVar

Member = TypeVar("Member", bound=StrEnum)


class PopuloraError(Exception):
    """What `populora_env`, `agents` and `evolution` raise of their own; the message is one line."""


def check_is_a(name: str, value: Any, kind: type, expected: str) -> None:
    """Raise a TypeError unless the value is of the kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def check_member(name: str, value: Any, kind: type[Member]) -> Member:
    """Return the member of an enumeration that a value is or names."""
    try:
        return kind(value)
    except ValueError:
        expected = ", ".join(kind)
        raise ValueError(f"{name} must be one of {expected}, got {value!r}") from None


def at_least_one(name: str, value: Any) -> int:
    """Return an integer of any type, NumPy's included, as an int."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value.__index__())


def check_seconds(name: str, value: Any, *, or_none: bool = False) -> None:
    """Raise a ValueError unless the value is a length of time above 0, or None where it may be."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf) and not (value is None and or_none):
        expected = "a finite number of seconds > 0" + ", or None" * or_none
        raise ValueError(f"{name} must be {expected}, got {value!r}")


# What the extra `evolve` brings and is imported first somewhere.
_EVOLVE = ("torch", "transformers", "safetensors", "xxhash", "tomli_w", "cmaes", "tensorboard")


def naming_extra(what: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that says which extra a name needs; another module's error as it is."""
    if error.name not in _EVOLVE:
        return error
    return ModuleNotFoundError(
        f'{what} needs {error.name}, which is not installed: pip install "populora-env[evolve]"',
        name=error.name,
    )
