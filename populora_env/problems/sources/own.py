"""Kinds of problems of your own, called by name in a spec.

    from populora_env import SOURCES, Problem

    @SOURCES.add("squares")
    def squares(*, upto: int = 100):
        return [Problem.create(f"What is {n} times {n}?", str(n * n)) for n in range(upto)]

    load_problems("squares(upto=20)+gsm8k", split="train")

They are finite; of each, half of all problems, by content hash, are test.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from populora_env.problems.sources.base import ProblemSpecError, SequenceSource
from populora_env.records import Problem
from populora_env.settings import Registry

Make = Callable[..., Sequence[Problem]]


class Sources(Registry[Make]):
    """Functions that return problems, the same ones each time; keyword arguments are options."""

    error = ProblemSpecError

    def check_name(self, name: str) -> None:
        """Raise a ProblemSpecError if a new kind cannot have this name."""
        if not (name.isidentifier() and name == name.lower()):
            raise self.error(f"problems: name {name!r} must be lower-case, such as my_own")
        super().check_name(name)


SOURCES = Sources("problems")


def own_problems(name: str, options: dict[str, Any]) -> list[Problem]:
    """Return all problems of one of `SOURCES`.

    Raises:
        ProblemSpecError: If it has no such options, or makes no problems of them.
    """
    signature = inspect.signature(SOURCES[name])
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ProblemSpecError(f"{name}: {error}; expected {name}{signature}") from None
    try:
        return list(SequenceSource(SOURCES[name](**options)).given())
    except (TypeError, ValueError) as error:
        raise ProblemSpecError(f"{name}: {error}") from error
