"""Writing files where a stranger may have put links, and reading those that may be hollow.

A folder that came from elsewhere may hold a link under the name of a file that is about to be
written; following it would change a file outside. Nothing here follows one.
"""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_MOST_HOLES = 64 << 20  # bytes of a file that are read whether they are stored or not
_MOST_PER_BYTE = 16  # bytes that a stored one may stand for: a newborn's B is all zeros


def cache_folder() -> Path:
    """Where converted models are kept: ``$POPULORA_CACHE``, else the user's cache folder."""
    if "POPULORA_CACHE" in os.environ:
        return Path(os.environ["POPULORA_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "populora"


def open_growing(path: Path) -> TextIO:
    """Open a text file to append to it, made if it does not exist.

    Raises:
        OSError: If it cannot be opened, or is a link, a pipe or anything but a regular file.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its other end.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "it is no regular file", str(path))
        return os.fdopen(handle, "a", encoding="utf-8")
    except BaseException:
        os.close(handle)
        raise


def refuse_links(folder: Path) -> None:
    """Make sure that what is written into a folder, or one below it, stays there.

    Raises:
        OSError: If the folder itself or anything below it is a link, or it cannot be read.
    """
    linked = [folder] if folder.is_symlink() else []
    for parent, folders, files in os.walk(folder):
        linked += [
            Path(parent, name) for name in folders + files if Path(parent, name).is_symlink()
        ]
    if linked:
        raise OSError(
            errno.ELOOP, "it is a link, and links are not followed: delete it", str(linked[0])
        )


def refuse_holes(handle: int, name: str) -> None:
    """Refuse a file that says it is far larger than what is stored of it.

    A hole costs its author nothing and its reader all the memory that it is read into.

    Args:
        handle: Descriptor of an open regular file; its position is at the beginning afterwards.
        name: What messages call it.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If so.
    """
    size = os.fstat(handle).st_size
    if size <= _MOST_HOLES:
        return
    stored = at = 0
    while at < size and stored * _MOST_PER_BYTE < size:
        try:
            begin = os.lseek(handle, at, os.SEEK_DATA)
            at = os.lseek(handle, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                break
            return  # a file system that does not tell
        stored += at - begin
    os.lseek(handle, 0, os.SEEK_SET)
    if stored * _MOST_PER_BYTE < size:
        raise ValueError(
            f"{name} claims {size:,} bytes, of which {stored:,} are stored and the rest are holes"
        )


def truncate(path: Path, length: int) -> None:
    """Cut a regular file off.

    Raises:
        OSError: If it cannot be opened, or is a link or anything but a regular file.
    """
    with open_growing(path) as file:
        file.truncate(length)


@contextmanager
def appending(path: Path) -> Generator[TextIO, None, None]:
    """`open_growing`; what the block wrote is on disk when it ends.

    Raises:
        OSError: As `open_growing`, or if it cannot be written.
    """
    with open_growing(path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; what was there under its name is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    with whole_file(path) as work, work.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def whole_file(path: Path, *, shared: bool = False) -> Generator[Path, None, None]:
    """Make a file whole or not at all: the block writes it under the name that it is given.

    It is flushed to disk and renamed when the block ends; what was there is replaced.

    Args:
        path: Of the file.
        shared: Whether other processes may be making it as well; then what a killed one left stays.

    Raises:
        OSError: If it cannot be written.
    """
    with _unfinished(path, shared) as work:
        yield work
        _sync(work)
        work.replace(path)


@contextmanager
def whole_folder(
    path: Path, *, shared: bool = False, replace: bool = False
) -> Generator[Path, None, None]:
    """Make a folder whole or not at all: the block fills the empty one that it is given.

    All in it is flushed to disk, and it is renamed once, when the block ends.

    Args:
        path: Of the folder; its parent exists.
        shared: As for `whole_file`.
        replace: Whether what is there under its name goes, whole; else only an empty folder does.

    Raises:
        OSError: If it cannot be written, or something is there that is not to be replaced.
    """
    with _unfinished(path, shared) as work:
        work.mkdir()
        yield work
        for entry in (*work.rglob("*"), work):
            _sync(entry)
        if replace:
            discard(path)
        work.rename(path)


def discard(folder: Path) -> None:
    """Delete a folder, which is seen under its name either whole or not at all."""
    if folder.exists() or folder.is_symlink():
        remove(aside := folder.with_name(f".{folder.name}.old.tmp"))
        folder.rename(aside)
        remove(aside)


@contextmanager
def _unfinished(path: Path, shared: bool) -> Generator[Path, None, None]:
    """Give the name under which something is made that is not whole yet; the block renames it."""
    mark = f".{uuid.uuid4().hex[:8]}" if shared else ""
    work = path.with_name(f".{path.name}{mark}.tmp")
    remove(work)
    try:
        yield work
    except BaseException:
        with suppress(OSError):
            remove(work)
        raise
    # Let the rename outlast a loss of power, where the file system can, and we may read there.
    with suppress(OSError):
        _sync(path.parent, 0)


def _sync(path: Path, flags: int = os.O_NOFOLLOW) -> None:
    """Flush a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file, a folder or a link itself, whichever is there, if it can be deleted.

    Raises:
        OSError: If a file or a link cannot be deleted; what is left of a folder stays.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
