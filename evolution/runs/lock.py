"""One process at a time plays a run.

A run's folder holds a file ``run.lock``, locked as long as the process works on the run; the system
frees it when the process ends in whatever way, so it is never stale. In it stands who holds it.
Within a process a run may be opened again, as when a manager resumes it.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import weakref
from datetime import UTC, datetime
from pathlib import Path

LOCK_FILE = "run.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

_held: dict[tuple[int, int], "_Lock"] = {}  # by device and inode of the lock's file


class RunInUse(OSError):
    """A run that another process plays; the message says which."""


class _Lock:
    """A locked file, let go with the last `RunLock` that uses it."""

    def __init__(self, handle: int, key: tuple[int, int]) -> None:
        self.handle, self.key, self.users = handle, key, 0

    def release(self) -> None:
        self.users -= 1
        if self.users == 0 and _held.get(self.key) is self:
            del _held[self.key]
            os.close(self.handle)


class RunLock:
    """The right to write to a run, until `release` or until nobody refers to it.

    Args:
        folder: The run's, which exists.

    Raises:
        RunInUse: If another process has it.
        OSError: If the lock's file cannot be made, or is anything but a regular file.
    """

    def __init__(self, folder: Path) -> None:
        lock = _acquire(folder / LOCK_FILE)
        lock.users += 1
        self._release = weakref.finalize(self, lock.release)

    def release(self) -> None:
        """Let others play the run; doing so again changes nothing."""
        self._release()


def is_played(folder: Path) -> bool | None:
    """Whether a process of this machine plays a run; None where the system does not say.

    Only looks, at what Linux tells of locks: who wants the lock meanwhile is not refused.
    """
    file = folder / LOCK_FILE
    if not file.exists():
        return False
    try:
        inode, holder = file.stat().st_ino, json.loads(file.read_text(encoding="utf-8"))
        if holder["host"] != socket.gethostname():
            return None
        pid = str(holder["pid"])
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    held = (line.split() for line in locks if "FLOCK" in line)
    return any(pid in words and any(w.endswith(f":{inode}") for w in words) for words in held)


def _acquire(file: Path) -> _Lock:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(file, flags, 0o644)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, f"{file.name} is no regular file", str(file))
        key = found.st_dev, found.st_ino
        if key in _held:
            os.close(handle)
            return _held[key]
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:  # a file system without locks plays on without
                raise RunInUse(_holder(handle)) from error
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(holder) + "\n").encode(), 0)
    except BaseException:
        if handle not in {lock.handle for lock in _held.values()}:
            os.close(handle)
        raise
    _held[key] = _Lock(handle, key)
    return _held[key]


def _holder(handle: int) -> str:
    """Who holds a lock, as its file says."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        pid, host, since = int(found["pid"]), str(found["host"])[:100], str(found["since"])[:40]
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    plain = "".join(c if c.isprintable() else "?" for c in f"{host} since {since}")
    return f"process {pid} on {plain}"


def _forget() -> None:
    """In a forked child: the run is the parent's, and ends with it."""
    for lock in _held.values():
        with contextlib.suppress(OSError):  # one that is closed keeps no other from being closed
            os.close(lock.handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
