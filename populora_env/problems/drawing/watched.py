"""Draws procedural items whose parameters a stranger chose: in a process that can be killed.

Parameters can make a generator run for ever or fill the memory: a billion terms, or bounds that no
item meets. What cannot grow is drawn in `procedural` itself, which is faster.
"""

import contextlib
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it

    def ask(self, request: tuple[str, dict[str, Any], int]) -> tuple[str, str, Any]:
        if self._owner != os.getpid():  # a fork has its parent's lock, maybe held, and program
            self._lock, self._process, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                process = self._process
                assert process is not None
                assert process.stdin is not None
                try:
                    process.stdin.write(pickle.dumps(request))
                    process.stdin.flush()
                except OSError:
                    reply: Any = None
                else:
                    reply = self._reply(TIME_LIMIT)
                if reply is None:
                    raise DrawError(
                        f"an item takes longer than {TIME_LIMIT:g} s or more than 1 GiB: make its "
                        "parameters smaller, or the ranges that they give wider"
                    )
            except BaseException:  # a reply that still comes would be taken for the next one
                self._end()
                raise
        if isinstance(reply, str):
            raise DrawError(reply)
        return reply

    def _start(self) -> None:
        self._process = subprocess.Popen(
            # -P: the folder of the script, whose files are named like anything, is no import path.
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONHASHSEED": "0",
            },
            start_new_session=True,  # Ctrl-C is the caller's
        )
        self._reply(_START_LIMIT)

    def _reply(self, seconds: float) -> Any:
        """Return the next reply, or None if the program is gone; it is killed after a time."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        watch = threading.Timer(seconds, process.kill)
        watch.start()
        try:
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        finally:
            watch.cancel()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


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
