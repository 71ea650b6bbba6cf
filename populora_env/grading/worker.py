"""A process that checks mathematical equivalence and can be killed.

`MathWorker` starts the program `math_process`, sends it one check at a time, and has the checking
process killed when a check takes too long; the program has forked the next one milliseconds
later. The program is started as a script of its own, not through `multiprocessing` or a pool that
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
from enum import StrEnum
from pathlib import Path
from typing import IO

START_LIMIT = 60.0  # seconds that importing the mathematics may take
MEMORY_LIMIT = 1 << 30  # bytes a check may use beyond what the program uses when idle
START_GRACE = 0.3  # seconds by which a check that had to wait for the start may exceed its limit
_END_LIMIT = 2.0  # seconds the program has to end its child and itself
_PROGRAM = Path(__file__).with_name("math_process.py")
_FORKS = hasattr(os, "fork")


class WorkerError(RuntimeError):
    """The program that checks mathematics does not start."""


class Outcome(StrEnum):
    """What a check found out."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"  # the answer is no mathematics that can be read
    EXHAUSTED = "exhausted"  # time or memory ran out


class MathWorker:
    """One process that checks whether two expressions are equal. For one thread at a time.

    Args:
        timeout: Longest time a check may take, in seconds. If the check had to wait for the
            program to start, the wait counts too, but half of this time always remains.
        memory: Memory a check may use, in bytes.
    """

    def __init__(self, timeout: float, memory: int = MEMORY_LIMIT) -> None:
        self._timeout = timeout
        self._memory = memory
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready = False

    def start(self) -> None:
        """Start the program if it is not running, without waiting for it."""
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
            text=True,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is the caller's; and one signal reaches both
        )
        assert process.stdout is not None
        self._process = process
        threading.Thread(target=_forward, args=(process.stdout, self._lines), daemon=True).start()

    def check(self, gold: str, answer: str) -> Outcome:
        """Return whether the expressions are equal.

        Raises:
            WorkerError: If the program does not start.
        """
        begin = time.monotonic()
        waited = not self._ready
        self.start()
        self._wait_until_ready()
        now = time.monotonic()
        deadline = now + self._timeout
        if waited:
            in_time = begin + self._timeout + START_GRACE
            deadline = min(deadline, max(in_time, now + self._timeout / 2))
        request = {"gold": gold, "answer": answer, "seconds": self._timeout}
        try:
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except (queue.Empty, OSError):
            self._interrupt()
            return Outcome.EXHAUSTED
        if line.startswith("ready"):  # it died, of its memory limit for one, and is replaced
            return Outcome.EXHAUSTED
        if not line:
            self.close()
            return Outcome.EXHAUSTED
        outcome = Outcome(json.loads(line)["outcome"])
        if outcome is Outcome.EXHAUSTED:
            self._interrupt()  # what a failed allocation left behind is not worth finding out
        return outcome

    def close(self) -> None:
        """Kill the process, if there is one, and wait for its end."""
        process, self._process = self._process, None
        self._ready = False
        if process is None:
            return
        if _FORKS:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_LIMIT)
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _interrupt(self) -> None:
        """Kill the checking process; the next check waits until there is another."""
        if not _FORKS or self._process is None:
            self.close()
            return
        self._ready = False
        self._process.send_signal(signal.SIGUSR1)

    def _wait_until_ready(self) -> None:
        """Wait for the line that says so; an answer that came too late is dropped."""
        limit = time.monotonic() + START_LIMIT
        while not self._ready:
            try:
                line = self._lines.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                line = ""
            if not line:
                self.close()
                raise WorkerError(
                    f"the math worker ({_PROGRAM.name}) did not start: check that "
                    f"`{sys.executable} -c 'import math_verify'` works"
                )
            self._ready = line.strip() == "ready"


def _forward(stream: IO[str], lines: "queue.SimpleQueue[str]") -> None:
    """Pass on the lines of a stream, then an empty one for its end."""
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put("")
