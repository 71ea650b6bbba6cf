"""A process that checks mathematical equivalence and can be killed.

`MathWorker` starts the program `math_process`, sends it one check at a time, and kills it when a
check takes too long; the next check starts a new process. The program is started as a script of
its own, not through `multiprocessing`, so a caller's main module is never imported a second time
and needs no ``if __name__ == "__main__"``. Which checks need a worker is decided in `grader`.
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

START_LIMIT = 60.0  # seconds that importing the mathematics may take
MEMORY_LIMIT = 1 << 30  # bytes a check may use beyond what the program uses when idle
_PROGRAM = Path(__file__).with_name("math_process.py")


class WorkerError(RuntimeError):
    """The program that checks mathematics does not start."""


class MathWorker:
    """One process that checks whether two expressions are equal. For one thread at a time.

    Args:
        timeout: Longest time a check may take, in seconds.
        memory: Memory a check may use, in bytes.
    """

    def __init__(self, timeout: float, memory: int = MEMORY_LIMIT) -> None:
        self._timeout = timeout
        self._memory = memory
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def check(self, gold: str, answer: str) -> bool | None:
        """Return whether the expressions are equal, or None if time or memory ran out.

        Raises:
            WorkerError: If the program does not start.
        """
        process = self._running()
        request = {"gold": gold, "answer": answer, "seconds": self._timeout}
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=self._timeout)
        except (queue.Empty, OSError):
            line = ""
        if not line:
            self.close()
            return None
        reply = json.loads(line)
        if "exhausted" in reply:
            self.close()  # what a failed allocation left behind is not worth finding out
            return None
        return bool(reply["equal"])

    def close(self) -> None:
        """Kill the process, if there is one, and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
        )
        assert process.stdout is not None
        self._process, self._lines = process, lines
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
        try:
            ready = lines.get(timeout=START_LIMIT)
        except queue.Empty:
            ready = ""
        if ready.strip() != "ready":
            self.close()
            raise WorkerError(
                f"the math worker ({_PROGRAM.name}) did not start: check that "
                f"`{sys.executable} -c 'import math_verify'` works"
            )
        return process


def _forward(stream: IO[str], lines: "queue.SimpleQueue[str]") -> None:
    """Pass on the lines of a stream, then an empty one for its end."""
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put("")
