"""A script of ours in a process of its own: it may take too long, grow or die, and can be killed.

Checking mathematics, running agents' code and drawing problems with strangers' parameters happen
in such processes. They talk in lines over pipes without buffers, of which a fork would copy what
is half-way, or a lock that nobody in the copy gives back. A script is started as one, not through
`multiprocessing` or a pool that uses it, so a caller's main module is never imported a second time
and needs no ``if __name__ == "__main__"``.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_CHUNK = 65536  # bytes read at once


class Program:
    """A running script, with what it starts itself; it ends when nobody holds this any more.

    Whoever started it may use it; a forked child has it still, but may only `leave` it.

    Args:
        script: The Python file to run.
        arguments: Of its command line.
        environment: All that it sees; ours by default.

    Raises:
        OSError: If no process can be started.
    """

    def __init__(
        self,
        script: Path,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            # -P: the folder of the script, whose files are named like anything, is no import path.
            [sys.executable, "-P", str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C is the caller's, and one signal reaches all of it
        )
        self._owner = os.getpid()
        self._rest = b""  # what came after the last line that was read
        self._dropped = weakref.finalize(self, _end_dropped, self._process, self._owner)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_ours(self) -> bool:
        """Whether this process started it, not the one that this is a fork of."""
        return self._owner == os.getpid()

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self.wait(0.0)

    @property
    def stdout(self) -> IO[bytes]:
        """Where its lines come from, for a thread that reads them all; then nobody calls `ask`."""
        assert self._process.stdout is not None
        return self._process.stdout

    def send(self, line: bytes) -> None:
        """Send a line, without its end.

        Raises:
            OSError: If the program is gone.
        """
        assert self._process.stdin is not None
        left = memoryview(line + b"\n")
        while left:
            left = left[self._process.stdin.write(left) or 0 :]

    def ask(self, line: bytes | None, seconds: float) -> tuple[bytes | None, bool]:
        """Send a line, if there is one, and wait for the next one from it.

        Returns:
            The reply; None if the program is gone. And whether it took longer, for which it is
            killed.
        """
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.kill()

        watch = threading.Timer(seconds, stop)
        watch.daemon = True
        watch.start()
        try:
            if line is not None:
                self.send(line)
            return self._read_line(), late.is_set()
        except OSError:
            return None, late.is_set()
        finally:
            watch.cancel()

    def signal(self, number: int) -> None:
        """Send the program, and not what it started, a signal."""
        self._process.send_signal(number)

    def close_input(self) -> None:
        """Tell the program that nothing more comes."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def wait(self, seconds: float) -> int | None:
        """Return its exit status as soon as it has one; None if it has none by then.

        What it started is killed when it has ended.
        """
        known = self._process.returncode
        if known is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                known = self._process.wait(seconds) if seconds > 0 else self._process.poll()
            if known is not None:
                _kill_group(self._process)
        return known

    def kill(self) -> None:
        """Kill it and what it started, from any thread, without waiting for the end."""
        _kill(self._process)

    def end(self) -> None:
        """Kill it, if it runs, wait for its end, and close the pipes. May be called twice."""
        self._dropped.detach()
        _end(self._process)

    def leave(self) -> None:
        """In a forked child: let go of the parent's program, which goes on."""
        self._dropped.detach()
        self._process.returncode = 0  # no child of ours: nothing to wait for
        _close_pipes(self._process)

    def _read_line(self) -> bytes | None:
        while b"\n" not in self._rest:
            read = self.stdout.read(_CHUNK)
            if not read:
                return None
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _end_dropped(process: "subprocess.Popen[Any]", owner: int) -> None:
    if os.getpid() == owner:
        _end(process)


def _end(process: "subprocess.Popen[Any]") -> None:
    _kill(process)
    process.wait()
    _close_pipes(process)


def _kill(process: "subprocess.Popen[Any]") -> None:
    """Kill a program, unless its end is known: its number may be another's by then."""
    if process.returncode is None:
        _kill_group(process)


def _kill_group(process: "subprocess.Popen[Any]") -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _close_pipes(process: "subprocess.Popen[Any]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
