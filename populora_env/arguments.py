"""Checks of the arena's arguments; each raises an error that names the argument and the fix."""

import difflib
from collections.abc import Mapping
from typing import Any

from populora_env.records import Phase, Problem

FORMS = (Phase.SCORE, Phase.COMPARE, Phase.CRITIQUE)  # of evaluation, in the order of play


def read_loads(load: Any) -> dict[Phase, int]:
    """Return the number of tasks in each form of evaluation."""
    if not isinstance(load, Mapping):
        return dict.fromkeys(FORMS, at_least_one("judge_load", load))
    given: Mapping[Any, Any] = load
    for form in given:
        if form not in set(FORMS):
            raise ValueError(f"judge_load must have keys among {', '.join(FORMS)}, got {form!r}")
    return {
        form: at_least_one(f"judge_load[{form.value!r}]", given.get(form.value, 1))
        for form in FORMS
    }


def read_options(options: Any) -> Mapping[Any, Any]:
    """Return the options; one that nobody knows is ignored, a misspelt one is not."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(
            f"options must be a mapping such as {{'problem': Problem}}, got {options!r:.80}"
        )
    given: Mapping[Any, Any] = options
    for name, value in given.items():
        near = isinstance(name, str) and difflib.get_close_matches(
            name.lower(), ["problem"], cutoff=0.8
        )
        if name != "problem" and (near or isinstance(value, Problem)):
            raise ValueError(f"options must hold the problem as 'problem', got {name!r}")
    return given


def check_timeout(timeout: Any) -> None:
    """Raise a ValueError unless a judge may take this long."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < timeout < float("inf")):
        raise ValueError(
            f"judge_timeout must be a finite number of seconds > 0, or None, got {timeout!r}"
        )


def check_is_a(name: str, value: Any, kind: type, expected: str) -> None:
    """Raise a TypeError unless the value is of the kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def at_least_one(name: str, value: Any) -> int:
    """Return an integer of any type, NumPy's included, as an int."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value.__index__())
