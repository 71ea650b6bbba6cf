"""Runs Python that agents wrote, in a process that can be killed.

`pydantic-monty` (extra ``code``) is an interpreter of its own for a part of Python: no files, no
network, no environment, no subprocesses, and limits on time, memory and recursion. It lives in a
process of its own below the program `running`, which is started when it is first needed, outlives
no caller, and is replaced when it dies. What comes back is the text of a plain value, or why there
is none.
"""

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from populora_env.code.literals import LIMIT, read_literal, written
from populora_env.errors import PopuloraError, at_least_one, check_seconds
from populora_env.program import Program

MEMORY = 64 << 20  # bytes of values that a run may hold
DEPTH = 200  # calls within each other
INSTALL = "pip install 'populora-env[code]'"
_START_LIMIT = 60.0  # seconds that starting may take
_GRACE = 4.0  # seconds by which Monty's own limits may be late
_END_LIMIT = 2.0  # seconds that an idle program has to end itself
_TRIES = 3  # times a run is tried when processes die under it
_PROGRAM = Path(__file__).with_name("running.py")
# All that starting an interpreter may take; nothing of it reaches what is run.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "MONTY_BIN")


class SandboxError(PopuloraError, RuntimeError):
    """Model-written code cannot be run here: the sandbox is not installed, or does not start."""


class RunStatus(StrEnum):
    """How a run ended."""

    DONE = "done"  # with a plain value
    RAISED = "raised"  # with an exception
    UNSUPPORTED = "unsupported"  # not at all: the sandbox does not know this part of Python
    EXHAUSTED = "exhausted"  # it was stopped for its time, memory, depth or output
    NOT_PLAIN = "not_plain"  # with a value that is not plain, or too long
    UNSTABLE = "unstable"  # with another value each time


@dataclass(frozen=True, slots=True)
class Run:
    """What came of running a call.

    Attributes:
        status: How it ended.
        value: The result as `literals.written` writes it; None if there is none.
        reason: Why there is none, in one line.
    """

    status: RunStatus
    value: str | None = None
    reason: str = ""


def check_installed() -> None:
    """Raise a SandboxError, one line, if the extra ``code`` is not installed."""
    if importlib.util.find_spec("pydantic_monty") is None:
        raise SandboxError(
            f"running model-written code needs pydantic-monty, which is not installed: {INSTALL}"
        )


class Sandbox:
    """Runs calls one at a time; for any thread, and in forked children, which start their own.

    Args:
        seconds: Longest time of one run, above 0.
        memory: Bytes of values that a run may hold, at least 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, seconds: float = 1.0, memory: int = MEMORY) -> None:
        check_seconds("seconds", seconds)
        self._seconds, self._memory = seconds, at_least_one("memory", memory)
        self._program: Program | None = None
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"seconds": self._seconds, "memory": self._memory}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the arguments; the copy starts a program of its own."""
        Sandbox.__init__(self, state["seconds"], state["memory"])

    @property
    def process_id(self) -> int | None:
        """Id of the program that runs; None if none does."""
        program = self._program
        return None if program is None or program.status is not None else program.pid

    def run(self, source: str, arguments: str, *, twice: bool = False) -> Run:
        """Run a program and call its function ``f``.

        Args:
            source: The program, any text.
            arguments: Plain values as `literals.arguments_text` writes them.
            twice: Run again in another state of the world, and compare.

        Raises:
            SandboxError: If the sandbox is not installed or does not start; what the program does
                raises nothing.
        """
        request = {
            "source": source,
            "call": f"f({arguments})",
            "runs": 1 + twice,
            "length": LIMIT,
        }
        results = self._ask(request)
        if results is None:
            return Run(RunStatus.EXHAUSTED, None, "it was stopped")
        runs = [_read(status, text) for status, text in results]
        if any(entry.status is RunStatus.EXHAUSTED for entry in runs):
            return next(entry for entry in runs if entry.status is RunStatus.EXHAUSTED)
        if len({entry.value for entry in runs}) > 1:
            return Run(RunStatus.UNSTABLE, None, "two runs of it gave two results")
        return runs[0]

    def close(self) -> None:
        """End the program. May be called twice; it starts again when it is needed."""
        if self._owner != os.getpid():
            self._forget()
        with self._lock:
            self._end(gently=True)

    def _ask(self, request: dict[str, Any]) -> list[list[str]] | None:
        """Return what each run came to; None if they had to be stopped from outside."""
        if self._owner != os.getpid():  # a fork has its parent's lock, maybe held, and program
            self._forget()
        limit = request["runs"] * (self._seconds + _GRACE)
        with self._lock:
            for _ in range(_TRIES):
                try:
                    self._start()
                    reply, stopped = self._exchange(json.dumps(request).encode("ascii"), limit)
                except BaseException:  # a late reply would be taken for the next one's
                    self._end()
                    raise
                crashed = reply is not None and reply["results"][-1][0] == "crashed"
                if reply is not None and not crashed:
                    return reply["results"]
                self._end()
                if stopped:
                    return None
            return None

    def _start(self) -> None:
        if self._program is not None and self._program.status is None:
            return
        self._end()
        check_installed()
        self._program = Program(
            _PROGRAM,
            [str(self._memory), str(self._seconds), str(DEPTH)],
            environment={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        if self._exchange(None, _START_LIMIT)[0] is None:
            self._end()
            raise SandboxError(
                "the sandbox does not start: check that "
                f"`{sys.executable} -c 'import pydantic_monty'` works, or {INSTALL}"
            )

    def _exchange(self, line: bytes | None, seconds: float) -> tuple[dict[str, Any] | None, bool]:
        """Send a line, if there is one; return the reply, and whether it took too long.

        The reply is None if the program is gone, which it is killed for after a time.
        """
        assert self._program is not None
        reply, late = self._program.ask(line, seconds)
        try:
            return (None if reply is None else json.loads(reply)), late
        except ValueError:
            return None, late

    def _end(self, *, gently: bool = False) -> None:
        """End the program, at once or by the end of its input, at which it ends what it started."""
        program, self._program = self._program, None
        if program is None:
            return
        if gently:
            program.close_input()
            program.wait(_END_LIMIT)
        program.end()

    def _forget(self) -> None:
        """Begin without a program; a parent's goes on."""
        if self._program is not None:
            self._program.leave()
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._program = None


def _read(status: str, text: str) -> Run:
    """Return what a run came to, from its status and the text of its result."""
    if status != RunStatus.DONE:
        return Run(RunStatus(status), None, _REASONS.get(text, f"it raises {text:.60}"))
    if len(text) > LIMIT:
        return Run(RunStatus.NOT_PLAIN, None, "its result is too long")
    try:
        return Run(RunStatus.DONE, written(read_literal(text)))
    except ValueError:
        return Run(RunStatus.NOT_PLAIN, None, "its result is no plain value")


_REASONS = {
    "TimeoutError": "it takes too long",
    "MemoryError": "it takes too much memory, or prints too much",
    "RecursionError": "it calls itself too often",
    "NotImplementedError": "it has a part of Python that the sandbox does not know",
    "the sandbox cannot read it": "the sandbox cannot read it",
    "its interpreter died": "it ended its interpreter",
}
