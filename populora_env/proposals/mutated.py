"""Inputs derived from one that was given: near it, and at the ends of what it may be."""

import math
from typing import Any, cast

import numpy as np

from populora_env.code.literals import arguments_text

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SIZE = 60  # elements or characters of a derived value


def derived(given: tuple[Any, ...], rng: np.random.Generator, count: int) -> list[tuple[Any, ...]]:
    """Return up to ``count`` inputs that differ from each other and from the given one."""
    known = {arguments_text(given)}
    found: list[tuple[Any, ...]] = []
    for _ in range(4 * count):
        if len(found) == count or not given:
            break
        changed = rng.random(len(given)) < 0.7
        changed[int(rng.integers(len(given)))] = True
        values = tuple(
            _changed(value, rng) if change else value
            for value, change in zip(given, changed, strict=True)
        )
        text = arguments_text(values)
        if text not in known and len(text) <= 300:
            known.add(text)
            found.append(values)
    return found


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """Return a value of the same type that may be another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = int(rng.integers(-9, 10))
        options = (value + near, value + near, near, 2 * value + 1, value // 2, value - 1)
        return abs(_one(options, rng)) if value >= 0 else _one(options, rng)
    if isinstance(value, float):
        other = round(_one((value + 1.5, value / 2, value * 2, value - 0.25), rng), 6)
        return other if math.isfinite(other) else value
    if isinstance(value, str):
        return _changed_text(value, rng)[:_SIZE]
    if isinstance(value, list):
        return _changed_list(cast(list[Any], value), rng)[:_SIZE]
    if isinstance(value, tuple):
        pair = cast(tuple[Any, ...], value)  # its length may be what the function counts on
        return tuple(_changed(entry, rng) for entry in pair)
    if isinstance(value, dict):
        table = cast(dict[Any, Any], value)
        return {key: _changed(entry, rng) for key, entry in table.items()}
    if isinstance(value, set):
        members = cast(set[Any], value)
        return {_changed(entry, rng) for entry in sorted(members, key=repr)}
    return value


def _changed_text(text: str, rng: np.random.Generator) -> str:
    letter = _ALPHABET[int(rng.integers(len(_ALPHABET)))]
    at = int(rng.integers(len(text) + 1))
    return _one(
        (
            text[:at] + letter + text[at:],
            text[:at] + letter + text[at + 1 :],
            text[:at] + text[at + 1 :],
            text[::-1],
            text + text[:3],
        ),
        rng,
    )


def _changed_list(entries: list[Any], rng: np.random.Generator) -> list[Any]:
    if not entries:
        return [int(rng.integers(10))]
    at = int(rng.integers(len(entries)))
    other = _changed(entries[at], rng)
    return _one(
        (
            [*entries, other],
            [other, *entries],
            [*entries[:at], other, *entries[at + 1 :]],
            [*entries[:at], *entries[at + 1 :]] or [other],
            entries[::-1],
        ),
        rng,
    )


def _one(options: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]
