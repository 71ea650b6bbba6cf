"""A process that checks mathematical equivalence and can be killed.

`MathWorker` starts the program `math_process`, sends it one check at a time, and has the checking
process killed when a check takes too long; the program has forked the next one milliseconds
later. Processes may die at any moment, killed by the system for one: requests carry a number that
replies echo, so no reply is taken for another request's, and what died unanswered is asked again.
Which checks need a worker is decided in `grader`.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from populora_env.errors import PopuloraError
from populora_env.program import Program

START_LIMIT = 60.0  # seconds that importing the mathematics may take
MEMORY_LIMIT = 1 << 30  # bytes a check may use beyond what the program uses when idle
START_GRACE = 0.3  # seconds by which a check that had to wait for the start may exceed its limit
_POLL = 0.2  # seconds after which a silent start is looked at
_TRIES = 3  # times a check is asked when processes die under it
_END_LIMIT = 2.0  # seconds the program has to end its child and itself
_PROGRAM = Path(__file__).with_name("math_process.py")
_FORKS = hasattr(os, "fork")


class WorkerError(PopuloraError, RuntimeError):
    """The program that checks mathematics does not start."""


class Outcome(StrEnum):
    """What a check found out."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"  # the answer is no mathematics that can be read
    EXHAUSTED = "exhausted"  # time or memory ran out


class MathWorker:
    """One process that checks whether two expressions are equal. For one thread at a time.

    In a forked child it starts a program of its own and leaves the parent's alone.

    Args:
        timeout: Longest time a check may take, in seconds. If the check had to wait for the
            program to start, the wait counts too, but half of this time always remains.
        memory: Memory a check may use, in bytes.
    """

    def __init__(self, timeout: float, memory: int = MEMORY_LIMIT) -> None:
        self._timeout = timeout
        self._memory = memory
        self._program: Program | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready = False
        self._number = 0

    def start(self) -> None:
        """Start the program if it is not running, without waiting for it."""
        self._leave_to_parent()
        if self._program is not None and self._program.status is None:
            return
        self.close()
        self._lines = queue.SimpleQueue()
        self._program = Program(_PROGRAM, [str(self._memory)])
        given = (self._program.stdout, self._lines)
        threading.Thread(target=_forward, args=given, daemon=True).start()

    def check(self, gold: str, answer: str) -> Outcome:
        """Return whether the expressions are equal.

        Raises:
            WorkerError: If the program does not start.
        """
        begin = time.monotonic()
        deadline = begin + self._timeout
        for _ in range(_TRIES):
            self._leave_to_parent()
            if self._program is None or self._program.status is not None:
                self._ready = False
            waited = not self._ready
            self._wait_until_ready()
            if waited:
                now = time.monotonic()
                in_time = begin + self._timeout + START_GRACE
                deadline = min(now + self._timeout, max(in_time, now + self._timeout / 2))
            outcome = self._ask(gold, answer, deadline)
            if outcome is not None:
                return outcome
        return Outcome.EXHAUSTED  # it dies of this check, of its memory limit for one

    def close(self) -> None:
        """Kill the process, if there is one, and wait for its end."""
        self._leave_to_parent()
        program, self._program = self._program, None
        self._ready = False
        if program is None:
            return
        if _FORKS and program.status is None:
            program.signal(signal.SIGTERM)  # it ends its child itself, which nobody else may do
            program.wait(_END_LIMIT)
        program.end()

    def _ask(self, gold: str, answer: str, deadline: float) -> Outcome | None:
        """Send one request and wait for its reply; None if it died with a process."""
        self._number += 1
        request = {"number": self._number, "gold": gold, "answer": answer}
        request |= {"seconds": self._timeout, "until": deadline}
        try:
            self._send(request)
            while True:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
                if not line:
                    raise BrokenPipeError
                if not line.startswith("ready"):
                    reply = json.loads(line)
                    if reply["number"] == self._number:
                        break
                elif int(line.split()[1]) >= self._number:
                    return None  # the process died of this request, or while it had it
                else:
                    self._send(request)  # it died before, and may have swallowed the request
        except queue.Empty:
            self._interrupt()
            return Outcome.EXHAUSTED
        except OSError:
            self.close()
            return None
        outcome = Outcome(reply["outcome"])
        if outcome is Outcome.EXHAUSTED:
            self._interrupt()  # what a failed allocation left behind is not worth finding out
        return outcome

    def _send(self, request: dict[str, Any]) -> None:
        assert self._program is not None
        self._program.send(json.dumps(request).encode("ascii"))

    def _interrupt(self) -> None:
        """Kill the checking process; the next check waits until there is another."""
        if not _FORKS or self._program is None:
            self.close()
            return
        self._ready = False
        self._program.signal(signal.SIGUSR1)

    def _wait_until_ready(self) -> None:
        """Start the program if need be and wait for the line that says it is ready."""
        limit = time.monotonic() + START_LIMIT
        while not self._ready:
            self.start()
            program = self._program
            assert program is not None
            try:
                line = self._lines.get(timeout=_POLL)
            except queue.Empty:
                line = "" if program.status is not None else None
            if line:
                self._ready = line.startswith("ready")  # an answer that came too late is dropped
                continue
            if line is None and time.monotonic() < limit:
                continue
            status = program.wait(_POLL)
            # 0 where a library of the caller's took the status of a child that was not its own.
            killed = _FORKS and status in (-signal.SIGKILL, 0)
            self.close()
            if killed and time.monotonic() < limit:
                continue  # by the system, say, and not by a fault of its own
            raise WorkerError(
                f"the math worker ({_PROGRAM.name}) did not start (status {status}): check that "
                f"`{sys.executable} -c 'import math_verify'` works"
            )

    def _leave_to_parent(self) -> None:
        """In a forked child: let go of the parent's program without ending it."""
        if self._program is None or self._program.is_ours:
            return
        self._program.leave()
        self._program, self._ready = None, False


def _forward(stream: IO[bytes], lines: "queue.SimpleQueue[str]") -> None:
    """Pass on the lines of a stream, then an empty one for its end."""
    rest = b""
    with contextlib.suppress(OSError, ValueError):
        while read := stream.read(65536):
            *whole, rest = (rest + read).split(b"\n")
            for line in whole:
                lines.put(line.decode("ascii"))
    lines.put("")
