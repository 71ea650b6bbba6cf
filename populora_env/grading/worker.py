"""A process that checks mathematical equivalence and can be killed.

`MathWorker` starts the program `math_process`, sends it one check at a time, and has the checking
process killed when a check takes too long; the program has forked the next one milliseconds
later. Processes may die at any moment, killed by the system for one: requests carry a number that
replies echo, so no reply is taken for another request's, and what died unanswered is asked again.
The program is started as a script of its own, not through `multiprocessing` or a pool that
uses it, so a caller's main module is never imported a second time and needs no
``if __name__ == "__main__"``. Which checks need a worker is decided in `grader`.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from populora_env.errors import PopuloraError

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
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started the program
        self._dropped: weakref.finalize[..., Any] | None = None  # ends it if nobody closes this
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready = False
        self._number = 0

    def start(self) -> None:
        """Start the program if it is not running, without waiting for it."""
        self._leave_to_parent()
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._lines = queue.SimpleQueue()
        process = subprocess.Popen(
            # -P: the folder of the script, whose files are named like anything, is no import path.
            [sys.executable, "-P", str(_PROGRAM), str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # no buffer or lock of ours that a fork could copy half-way
            start_new_session=True,  # Ctrl-C is the caller's; and one signal reaches both
        )
        assert process.stdout is not None
        self._process = process
        self._owner = os.getpid()
        self._dropped = weakref.finalize(self, _end_dropped, process, self._owner)
        threading.Thread(target=_forward, args=(process.stdout, self._lines), daemon=True).start()

    def check(self, gold: str, answer: str) -> Outcome:
        """Return whether the expressions are equal.

        Raises:
            WorkerError: If the program does not start.
        """
        begin = time.monotonic()
        deadline = begin + self._timeout
        for _ in range(_TRIES):
            self._leave_to_parent()
            if self._process is None or self._process.poll() is not None:
                self._ready = False  # a child that outlives the program has none to end it in time
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
        process, self._process = self._process, None
        self._ready = False
        if process is None:
            return
        if self._dropped is not None:
            self._dropped.detach()
        if _FORKS:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_LIMIT)
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        _close_pipes(process)

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
        assert self._process is not None
        assert self._process.stdin is not None
        left = (json.dumps(request) + "\n").encode("ascii")
        while left:
            left = left[self._process.stdin.write(left) or 0 :]

    def _interrupt(self) -> None:
        """Kill the checking process; the next check waits until there is another."""
        if not _FORKS or self._process is None:
            self.close()
            return
        self._ready = False
        self._process.send_signal(signal.SIGUSR1)

    def _wait_until_ready(self) -> None:
        """Start the program if need be and wait for the line that says it is ready."""
        limit = time.monotonic() + START_LIMIT
        while not self._ready:
            self.start()
            process = self._process
            assert process is not None
            try:
                line = self._lines.get(timeout=_POLL)
            except queue.Empty:
                # A child that outlives the program keeps the pipe open: no end of it comes.
                line = "" if process.poll() is not None else None
            if line:
                self._ready = line.startswith("ready")  # an answer that came too late is dropped
                continue
            if line is None and time.monotonic() < limit:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
            status = process.returncode
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
        if self._process is None or self._owner == os.getpid():
            return
        process, self._process = self._process, None
        self._ready = False
        if self._dropped is not None:
            self._dropped.detach()
        process.returncode = 0  # no child of ours: nothing to wait for
        _close_pipes(process)


def _end_dropped(process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End the program of a worker that is gone, in the process that started it.

    One that has ended is left alone: its number may be another program's by now.
    """
    if os.getpid() != owner:
        return
    if process.poll() is None:
        if _FORKS:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
    _close_pipes(process)


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _forward(stream: IO[bytes], lines: "queue.SimpleQueue[str]") -> None:
    """Pass on the lines of a stream, then an empty one for its end."""
    rest = b""
    with contextlib.suppress(OSError, ValueError):
        while read := stream.read(65536):
            *whole, rest = (rest + read).split(b"\n")
            for line in whole:
                lines.put(line.decode("ascii"))
    lines.put("")
