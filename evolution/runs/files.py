"""The files of a run: where generations are, how files are read, hashed and written.

What a generation holds is written and read in `evolution.runs.checkpoint`; whether a run is whole
is checked in `evolution.runs.integrity`. Neither this nor that needs a model.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from safetensors import SafetensorError

from evolution.errors import CheckpointError, DamageError
from evolution.runs.lock import LOCK_FILE
from populora_env.errors import PopuloraError

FORMAT = 5
OLDEST = 4  # the oldest format that a run can go on from: without digests of growing files
HISTORY_FILE = "history.jsonl"
"""What became of each agent in each generation."""
TRANSCRIPTS_FILE = "transcripts.jsonl"
"""Episodes, in order."""
SUMMARY_FILE = "summary.json"
"""What was measured when the run ended."""
GUARD_FILE = "guard.jsonl"
"""What the guard saw and did, by generation and agent."""
GROWING = (HISTORY_FILE, TRANSCRIPTS_FILE, GUARD_FILE)
CURVE_FILE = "held_out_curve.jsonl"
"""Accuracy on held-out problems, by generation and agent."""

BEST = "best"
WRITTEN = (
    "run.toml", *GROWING, CURVE_FILE, SUMMARY_FILE, "lineage.json", "checksums.json",
    "changes.jsonl", "held_out.jsonl", "report.html", BEST,
)  # fmt: skip
"""What a run writes into its folder, or over what is there."""

_NAME = re.compile(r"generation_([0-9]+)")
_CHUNK = 1 << 20
_ATTEMPTS = 3  # to read a run whose generations are deleted meanwhile
_GONE = os.strerror(errno.ENOENT)

T = TypeVar("T")


def saved_generations(path: Path) -> list[int]:
    """Numbers of the generations in a run folder, ascending; none if there is no folder."""
    if not path.is_dir():
        return []
    matches = (_NAME.fullmatch(entry.name) for entry in path.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def read_while_it_goes_on(path: Path, read: Callable[[], T]) -> T:
    """Read a run, and again if a generation was deleted meanwhile, as a run that goes on does.

    Args:
        path: Its folder.
        read: Reads it; chooses the generation anew each time.
    """
    for _ in range(_ATTEMPTS):
        before = set(saved_generations(path))
        try:
            return read()
        except (PopuloraError, OSError):
            if not before - set(saved_generations(path)):
                raise
    return read()


def refuse_inside(path: Path) -> None:
    """Refuse a folder for a run that lies in a part of another run, which deletes its parts.

    Raises:
        CheckpointError: If it is, or is in, a saved generation or `BEST`.
    """
    place = Path(os.path.abspath(path))
    for folder in (place, *place.parents):
        is_part = folder.name == BEST or _NAME.fullmatch(folder.name)
        if is_part and (folder.parent / GROWING[0]).is_file():
            raise CheckpointError(
                f"out: {path} lies in {folder}, which the run in {folder.parent} may delete; "
                "choose another folder"
            )


def refuse_taken(path: Path) -> None:
    """Refuse a folder for a new run that holds one.

    Raises:
        CheckpointError: If it does.
    """
    if saved_generations(path):
        raise CheckpointError(
            f"out: {path} already holds a run; continue it with --resume {path} or choose another "
            "folder"
        )


def refuse_foreign(path: Path) -> None:
    """Refuse a folder for a new run in which files lie that a run would delete, and no run began.

    Raises:
        CheckpointError: If it is one.
    """
    if (path / LOCK_FILE).exists() or saved_generations(path):
        return
    if theirs := [name for name in WRITTEN if os.path.lexists(path / name)]:
        raise CheckpointError(
            f"out: {path} holds {', '.join(theirs)}, and a run that is not there yet would write "
            "over that; choose another folder"
        )


def folder_of(path: Path, generation: int) -> Path:
    """Where a run folder keeps a generation."""
    return path / f"generation_{generation:04d}"


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a run.

    Raises:
        DamageError: If the file is not there, or holds anything else.
    """
    try:
        check_regular(file)
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamageError(f"{file} is damaged ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{file} is damaged ({error})") from error
    if not isinstance(data, dict):
        raise DamageError(f"{file} is damaged (expected a JSON object, got {type(data).__name__})")
    return data


@contextmanager
def writing(path: Path, failed: str) -> Generator[None, None, None]:
    """Say in one line that something could not be written, and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path}: {failed} ({reason}); generations saved before are intact: make room or "
            "make it writable, then resume"
        ) from error


def size_of(path: Path) -> int | None:
    """Length in bytes; None if there is no such file."""
    return path.stat().st_size if path.exists() else None


def digest_of(data: bytes) -> str:
    """Digest (XXH3, 128 bits) of what a file holds, in hexadecimal."""
    return xxhash.xxh3_128(data).hexdigest()


def file_digest(path: Path, like: object = None) -> str:
    """`digest_of` a file; SHA-256 where a digest ``like`` it is one, as in older runs.

    Raises:
        DamageError: If it cannot be read.
    """
    sha = isinstance(like, str) and len(like) == 64
    return _digest(path, hashlib.sha256() if sha else xxhash.xxh3_128()).hexdigest()


def hash_prefix(path: Path, length: int) -> xxhash.xxh3_128:
    """The hasher that has read the first bytes of a file, to be updated with what follows.

    Raises:
        DamageError: If the file cannot be read.
    """
    return _digest(path, xxhash.xxh3_128(), length)


def manifest_of(folder: Path) -> dict[str, str]:
    """Digests of all files in a folder, by their path in it."""
    files = sorted(entry for entry in folder.rglob("*") if entry.is_file())
    return {str(file.relative_to(folder)): file_digest(file) for file in files}


def sealed_text(name: str, entries: Mapping[str, Any]) -> str:
    """The text of a JSON file of digests, with the digest of itself without that under its name."""
    return _text({**entries, name: digest_of(_text(entries).encode())})


def _text(entries: Mapping[str, Any]) -> str:
    return json.dumps(entries, indent=1) + "\n"


def check_regular(path: Path) -> None:
    """Refuse a pipe, which would wait for its other end, and what is no file at all."""
    if not path.is_file():
        raise OSError(0, "it is no regular file" if os.path.lexists(path) else _GONE)


def _digest(path: Path, hasher: Any, length: int | None = None) -> Any:
    """Update a hasher with a file, or its first bytes."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            left = size_of(path) or 0 if length is None else length
            while left and (data := file.read(min(left, _CHUNK))):
                hasher.update(data)
                left -= len(data)
    except OSError as error:
        raise DamageError(f"{path} is damaged ({error.strerror})") from error
    return hasher
