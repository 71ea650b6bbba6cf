"""Checks of the arena's arguments; each raises an error that names the argument and the fix."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from populora_env.errors import at_least_one
from populora_env.reading.forms import FORMS
from populora_env.records import Phase, Problem


def read_forms(evaluation: str | Sequence[str]) -> tuple[Phase, ...]:
    """Return the forms that ``score+compare`` or ``["score", "compare"]`` names, as played.

    Raises:
        ValueError: If one does not exist.
    """
    words: list[Any] = []
    if isinstance(evaluation, str):
        words = evaluation.split("+")
    elif isinstance(evaluation, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        words = list(evaluation)
    if words == ["none"]:
        return ()
    if not words or not all(word in set(FORMS) for word in words):
        names = ", ".join(repr(form.value) for form in FORMS)
        raise ValueError(
            f"evaluation must be 'none', or some of {names} joined by '+', got {evaluation!r}"
        )
    return tuple(form for form in FORMS if form in words)


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


def read_actions(actions: Mapping[str, Any], agents: Sequence[str]) -> dict[str, str]:
    """Return the actions of the agents, in their order.

    Raises:
        ValueError: If an agent is missing or unknown.
        TypeError: If an action is not a string.
    """
    live = set(agents)
    missing = [agent for agent in agents if agent not in actions]
    unknown = [agent for agent in actions if agent not in live]
    if missing or unknown:
        said = [f"missing {', '.join(missing)}"] if missing else []
        said += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
        raise ValueError(
            f"actions must hold one text for each of {len(live)} agents "
            f"({agents[0]} to {agents[-1]}): {'; '.join(said)}"
        )
    for agent, action in actions.items():
        if not isinstance(action, str):
            raise TypeError(
                f"the action of {agent} must be a string, got {type(action).__name__}: "
                "an agent with nothing to say answers with an empty string"
            )
    return {agent: actions[agent] for agent in agents}


def read_seed(value: Any) -> int:
    """Return a seed of any integer type, NumPy's included, as an int."""
    try:
        return int(value.__index__())
    except AttributeError:
        raise TypeError(f"seed must be an integer, got {value!r}") from None
