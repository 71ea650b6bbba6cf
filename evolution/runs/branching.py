"""Runs that start from a saved generation of another one."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from agents.plain_files import whole_folder
from evolution.errors import CheckpointError, DamageError
from evolution.runs.changes import CHANGES_FILE, find_changes
from evolution.runs.files import (
    CURVE_FILE,
    GROWING,
    file_digest,
    folder_of,
    refuse_inside,
    saved_generations,
    writing,
)
from evolution.runs.integrity import check_generation, check_written, write_checksums
from evolution.runs.saved_run import SavedRun

if TYPE_CHECKING:
    from evolution.config import EvolutionConfig

_COPIED = ("run.toml", CHANGES_FILE, CURVE_FILE)  # as far as they are older than the branch


def branch(
    origin: str | Path,
    generation: int,
    folder: str | Path,
    config: "EvolutionConfig | None" = None,
    note: str = "",
) -> Path:
    """Start a new run from a saved generation, with its history up to there.

    `EvolutionManager.resume` goes on from it. Where it comes from is recorded in ``run.toml``,
    under ``origin``. The folder appears once it is whole; the original is only read.

    Args:
        origin: Run folder.
        generation: Number of a generation that it has on disk.
        folder: Of the new run; must not exist, or be empty.
        config: Settings to go on with, which `EvolutionManager.resume` is to be given, too: what
            differs is recorded, so that a branch that is killed at once is none with others. None
            leaves that to it.
        note: For the record of these.

    Returns:
        The new folder.

    Raises:
        CheckpointError: If the generation is not there or damaged, or the folder is in use, part of
            a run, or cannot be written.
    """
    origin, folder = Path(origin).expanduser(), Path(folder).expanduser()
    state = check_branch(origin, generation, folder)
    saved = SavedRun(origin, "branch")
    settings = _settings(saved, generation, folder)
    changes = saved.changes(generation)
    if config is not None:
        changes += find_changes(state.get("config", {}), config, generation + 1, note)
    curve = [row for _, row in saved.rows(CURVE_FILE) if row["generation"] <= generation]
    with writing(folder, f"generation {generation} could not be copied"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as work:
            shutil.copytree(folder_of(origin, generation), folder_of(work, generation))
            for name in GROWING:
                if name in state["lengths"]:
                    _copy_start(origin / name, work / name, state["lengths"][name])
            if settings:
                (work / "run.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
            _write_rows(work / CHANGES_FILE, [change.to_dict() for change in changes])
            _write_rows(work / CURVE_FILE, curve)
            there = [name for name in _COPIED if (work / name).exists()]
            write_checksums(work, {name: [file_digest(work / name)] for name in there})
    return folder


def check_branch(origin: Path, generation: int, folder: Path) -> dict[str, Any]:
    """Check that there can be such a branch; return the state of its generation.

    Raises:
        CheckpointError: As `branch`.
    """
    numbers = saved_generations(origin)
    if generation not in numbers:
        said = ", ".join(map(str, numbers)) or "none"
        raise CheckpointError(
            f"branch: {origin} has no generation {generation} on disk; expected one of: {said} "
            "(keep_every and keep_generations say which stay)"
        )
    try:
        check_written(origin, _COPIED)
        state = check_generation(origin, generation)
    except DamageError as error:
        way = error.remedy or "restore it, or branch from another generation"
        raise CheckpointError(f"branch: {error}; {way}") from error
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"out: {folder} is in use; choose a folder that does not exist yet")
    refuse_inside(folder)
    return state


def split_branch(text: str) -> tuple[Path, int]:
    """Read ``RUN@GENERATION``.

    Raises:
        CheckpointError: If it is something else; the message lists the generations on disk.
    """
    run, _, number = text.rpartition("@")
    if run and number.isdecimal():
        return Path(run), int(number)
    numbers = saved_generations(Path(text))
    said = f"; {text} has on disk: {', '.join(map(str, numbers))}" if numbers else ""
    raise CheckpointError(f"branch: got {text!r}, expected RUN@GENERATION{said}")


def _settings(origin: SavedRun, generation: int, folder: Path) -> dict[str, Any]:
    """The ``run.toml`` of a branch; empty where the original, made in Python, has none."""
    if not origin.tables:
        return {}
    source = {"run": str(origin.path.resolve()), "generation": generation}
    if "origin" in origin.tables:
        source["origin"] = origin.tables["origin"]
    config = {**origin.first_settings, "out": str(folder)}
    return {**origin.tables, "config": config, "origin": source}


def _copy_start(source: Path, target: Path, length: int) -> None:
    """Copy a file up to a length in bytes."""
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new)
        new.truncate(length)


def _write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    if rows:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
