"""What settings are made of: names that can be added to, and values stated at their fields.

    from populora_env import REWARD_PRESETS, RewardWeights

    REWARD_PRESETS.add("judges")(RewardWeights(correctness=0, judging=1))

What is a function takes its name by decoration, as in ``@ADVANTAGES.add("mine")``.

    @dataclass(frozen=True)
    class Options:
        size: Annotated[int, Range(1)] = 8
        dtype: Annotated[str, OneOf(DTYPES)] = "float32"

        def __post_init__(self) -> None:
            check_fields(self, ValueError)

Only the standard library is imported: a command's ``--help`` runs this file by itself.
"""

import difflib
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Things of one kind by name, in the order they came; a dictionary.

    Args:
        kind: What they are, as messages call them.
        known: Those it begins with.
    """

    error: type[Exception] = ValueError
    """What a name that cannot be added raises."""

    def __init__(self, kind: str, known: Mapping[str, T] | None = None) -> None:
        super().__init__(known or {})
        self.kind = kind

    def add(self, name: str) -> Callable[[T], T]:
        """Return what gives this name to what it is called with, such as a decorated function.

        Args:
            name: One that nothing else of the kind has.

        Raises:
            ValueError: If the name is taken or cannot be one; at once.
        """
        self.check_name(name)

        def keep(entry: T) -> T:
            self[name] = entry
            return entry

        return keep

    def check_name(self, name: str) -> None:
        """Raise `error` if a new entry cannot have this name."""
        if name in self:
            raise self.error(f"{self.kind}: {name!r} exists already; choose another name")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``; did you mean X?``, or nothing if no known name is near.

    Case, and whether words are joined by ``-`` or ``_``, make no difference.

    Args:
        name: What was written.
        known: Names that exist.
    """
    names = {_plain(entry): entry for entry in known}
    near = difflib.get_close_matches(_plain(str(name)[:100]), names, n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be.

    Attributes:
        least: The least one.
        most: The greatest one.
        above: Whether it must be more than ``least``.
        below: Whether it must be less than ``most``.
        finite: Whether infinity is out of it.
    """

    least: float = -math.inf
    most: float = math.inf
    _: KW_ONLY
    above: bool = False
    below: bool = False
    finite: bool = True

    def __contains__(self, value: float) -> bool:
        over = value > self.least if self.above else value >= self.least
        under = value < self.most if self.below else value <= self.most
        return over and under and not (self.finite and math.isinf(value))

    def __str__(self) -> str:
        least, most = _short(self.least), _short(self.most)
        if math.isinf(self.most):
            return f"{'>' if self.above else '>='} {least}"
        if self.above or self.below:
            return f"{'above' if self.above else 'from'} {least}, " + (
                f"below {most}" if self.below else f"up to {most}"
            )
        return f"{least} to {most}"

    def __repr__(self) -> str:
        return f"Range({self})"

    def expected(self, value: float) -> str:
        """What an error says was expected in place of a number that is out of range."""
        if math.isinf(self.most):
            return f"a{' finite' * self.finite} number {self}"
        if self.above or self.below:
            return f"a number {self}"
        return str(self) if math.isfinite(value) else "a finite number"


@dataclass(frozen=True, slots=True, eq=False)
class OneOf:
    """What a text may be: one of names, which are asked for when a text is checked."""

    names: Collection[str]

    def __repr__(self) -> str:
        return f"OneOf({', '.join(self.names)})"


@dataclass(frozen=True, slots=True)
class Rule:
    """What the value of a field may be.

    Attributes:
        kind: ``int``, ``float``, ``bool``, ``str`` or an enumeration; None for any other type,
            which is not checked.
        optional: Whether it may be None.
        limit: The numbers it may be.
        choices: The texts it may be.
    """

    kind: type | None
    optional: bool = False
    limit: Range | None = None
    choices: OneOf | None = None

    def read(self, value: Any) -> Any:
        """Return a value, made a member of the field's enumeration.

        Raises:
            ValueError: If it is not allowed; the message says what came and what was expected.
        """
        if self.kind is None or (value is None and self.optional):
            return value
        expected = self._expected(value)
        if expected is not None:
            raise ValueError(f"got {value!r}, expected {expected}")
        return self.kind(value) if issubclass(self.kind, StrEnum) else value

    def _expected(self, value: Any) -> str | None:
        """What was expected, where a value is not it."""
        kind = self.kind or object
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is bool:
            return None if isinstance(value, bool) else "true or false"
        if issubclass(kind, str):
            if not isinstance(value, str):
                return "text"
            names = kind if issubclass(kind, StrEnum) else self.choices and self.choices.names
            return None if names is None or value in set(names) else f"one of {', '.join(names)}"
        limit = self.limit
        if kind is int:
            whole = number and isinstance(value, int) and (limit is None or value in limit)
            return None if whole else "an integer" if limit is None else f"an integer {limit}"
        if not number:
            return "a number"
        return None if limit is None or value in limit else limit.expected(value)


@cache
def field_rules(kind: type) -> Mapping[str, Rule]:
    """What the fields of a dataclass may be, by name, from their annotations."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: _rule(hints[field.name]) for field in fields(kind)}


def check_fields(options: Any, error: type[Exception]) -> None:
    """Check each field of a dataclass, and make texts members of its enumerations.

    Raises:
        Exception: Of the given type, on the first value that is not allowed; one line.
    """
    for name, rule in field_rules(type(options)).items():
        value = getattr(options, name)
        try:
            read = rule.read(value)
        except ValueError as wrong:
            raise error(f"{name}: {wrong}") from None
        if read is not value:
            object.__setattr__(options, name, read)


def _rule(hint: Any) -> Rule:
    extras: tuple[Any, ...] = ()
    while typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        extras += tuple(more)
    kinds = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = list(typing.get_args(hint))
    plain = [kind for kind in kinds if kind is not types.NoneType]
    known = plain[0] if len(plain) == 1 and isinstance(plain[0], type) else None
    if known not in (int, float, bool, str) and not (known and issubclass(known, StrEnum)):
        known = None
    return Rule(
        known,
        optional=len(plain) < len(kinds),
        limit=next((extra for extra in extras if isinstance(extra, Range)), None),
        choices=next((extra for extra in extras if isinstance(extra, OneOf)), None),
    )


def _short(number: float) -> str:
    return f"{number:g}".replace("e+0", "e")
