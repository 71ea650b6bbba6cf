"""Draws procedural items whose parameters a stranger chose: in a process that can be killed.

Parameters can make a generator run for ever or fill the memory: a billion terms, or bounds that no
item meets. What cannot grow is drawn in `procedural` itself, which is faster.
"""

import base64
import os
import pickle
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from populora_env.program import Program

TIME_LIMIT = 3.0  # seconds for one item
MOST = 10_000  # of anything that an item is made of
_START_LIMIT = 60.0  # seconds that importing the generators may take
_PROGRAM = Path(__file__).with_name("generating.py")
# Sizes of numbers, not of the work; where they are, the watch has to do.
_VALUES = re.compile("value|target|coord|real|imag|bound|factor|range|seconds|days|year")
# What these make depends on the order of a set of texts, which each process has its own of, but
# for the program's, which all share.
_UNORDERED = {
    "isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"
}  # fmt: skip
_CHEAP = {"chain_sum", "products", "gcd", "lcm"}  # no slower for any parameters up to this:
_SMALL = 100


class DrawError(ValueError):
    """An item that was not drawn; the message is one line that says why."""


def check_sizes(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse sizes far beyond any problem.

    Raises:
        DrawError: If one is.
    """
    for name, value in parameters.items():
        if _VALUES.search(name):
            continue
        default = max(map(abs, _numbers(defaults.get(name))), default=0)
        most = max(MOST, 10 * default)
        for number in _numbers(value):
            if not abs(number) <= most:
                raise DrawError(f"{name} must be at most {most:g}, got {number:.3g}")


def is_cheap(name: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether an item cannot take long, and is the same in every process."""
    if name in _UNORDERED:
        return False
    if not parameters:
        return True
    numbers = [number for value in parameters.values() for number in _numbers(value)]
    return name in _CHEAP and all(0 <= number <= _SMALL for number in numbers)


def draw_watched(name: str, parameters: Mapping[str, Any], seed: int) -> tuple[str, str, Any]:
    """Return question, answer and metadata of an item.

    Raises:
        DrawError: If it takes longer than `TIME_LIMIT` or more than 1 GiB, or its generator
            refuses the parameters.
    """
    return _PROCESS.ask((name, dict(parameters), seed))


class _Process:
    """The program, started when it is first asked; for any thread and any forked process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._program: Program | None = None
        self._owner = os.getpid()

    def ask(self, request: tuple[str, dict[str, Any], int]) -> tuple[str, str, Any]:
        if self._owner != os.getpid():  # a fork has its parent's lock, maybe held, and program
            if self._program is not None:
                self._program.leave()
            self._lock, self._program, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            try:
                if self._program is None or self._program.status is not None:
                    self._start()
                assert self._program is not None
                reply, _ = self._program.ask(base64.b64encode(pickle.dumps(request)), TIME_LIMIT)
                if reply is None:
                    raise DrawError(
                        f"an item takes longer than {TIME_LIMIT:g} s or more than 1 GiB: make its "
                        "parameters smaller, or the ranges that they give wider"
                    )
            except BaseException:  # a reply that still comes would be taken for the next one
                self._end()
                raise
        drawn: Any = pickle.loads(base64.b64decode(reply))
        if isinstance(drawn, str):
            raise DrawError(drawn)
        return drawn

    def _start(self) -> None:
        self._end()
        self._program = Program(
            _PROGRAM,
            environment={
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONHASHSEED": "0",
            },
        )
        self._program.ask(None, _START_LIMIT)

    def _end(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.end()


_PROCESS = _Process()


def _numbers(value: Any) -> list[float]:
    """Return the numbers in a parameter's value, which may be a list."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        return [value if isinstance(value, float) or abs(value) < 10**300 else float("inf")]
    if isinstance(value, list | tuple):
        entries: Any = value
        return [number for entry in entries for number in _numbers(entry)]
    return []
