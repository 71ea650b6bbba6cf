"""The files of a run: where generations are, whether one is whole, and how files are written.

What a generation holds is written and read in `evolution.checkpoint`; checking it needs no model.
"""

import hashlib
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from agents.plain_files import remove

FORMAT = 4
GROWING = ("history.jsonl", "transcripts.jsonl")
_NAME = re.compile(r"generation_(\d+)")


class CheckpointError(RuntimeError):
    """A run folder that cannot be written or resumed."""


class DamageError(CheckpointError):
    """A saved generation of which something is missing or changed."""


def saved_generations(path: Path) -> list[int]:
    """Numbers of the generations in a run folder, ascending; none if there is no folder."""
    if not path.is_dir():
        return []
    matches = (_NAME.fullmatch(entry.name) for entry in path.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def folder_of(path: Path, generation: int) -> Path:
    """Where a run folder keeps a generation."""
    return path / f"generation_{generation:04d}"


def check(path: Path, generation: int) -> dict[str, Any]:
    """Check that a saved generation is whole, and return its JSON state.

    Args:
        path: The run folder.
        generation: One that is there.

    Raises:
        DamageError: If a file is missing or changed; the message names it.
        CheckpointError: If it was written by another version.
    """
    folder = folder_of(path, generation)
    state = _read_object(folder / "state.json")
    version = state.get("format")
    if not isinstance(version, int):
        raise DamageError(f"{folder / 'state.json'} is damaged (format: got {version!r})")
    if version > FORMAT:
        raise CheckpointError(
            f"resume: {folder} was written by a newer version (format {version}; this one reads "
            f"{FORMAT}); update populora-env"
        )
    if version < FORMAT:
        raise CheckpointError(
            f"resume: {folder} was written by an older version (format {version}); its adapters "
            "can be exported, but the run cannot go on with this one"
        )
    manifest = _read_object(folder / "manifest.json")
    for name, digest in {"state.json": None, **manifest}.items():
        try:
            if file_hash(folder / name) != digest:
                raise DamageError(f"{folder / name} is damaged (its hash differs)")
        except OSError as error:
            raise DamageError(f"{folder / name} is damaged ({error.strerror})") from error
    lengths = state.get("lengths")
    if not isinstance(lengths, dict) or not all(isinstance(n, int) for n in lengths.values()):
        raise DamageError(f"{folder / 'state.json'} is damaged (lengths: got {lengths!r})")
    for name, wanted in lengths.items():
        if (size := size_of(path / name) or 0) < wanted:
            raise DamageError(
                f"{path / name} is damaged ({wanted - size} bytes shorter than generation "
                f"{generation} recorded)"
            )
    return state


def _read_object(file: Path) -> dict[str, Any]:
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamageError(f"{file} is damaged ({error.strerror})") from error
    except ValueError as error:
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


def discard(folder: Path) -> None:
    """Delete a folder, which is seen under its name either whole or not at all."""
    if folder.exists() or folder.is_symlink():
        remove(aside := folder.with_name(f".{folder.name}.old.tmp"))
        folder.rename(aside)
        remove(aside)


def size_of(path: Path) -> int | None:
    """Length in bytes; None if there is no such file."""
    return path.stat().st_size if path.exists() else None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_and_hash(path: Path) -> str:
    """Flush a file to disk and hash it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
