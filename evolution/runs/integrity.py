"""Whether a run's files are what was written: one check that every command makes.

Nothing here defends against a person who changes a file and its digest; it finds what disks, copies
and editors do. Each byte of a run is covered once:

- a generation, and ``best``, by a manifest of digests that is sealed with the digest of its own
  text;
- files that grow, by the digest of what there was of them when the latest generation was saved;
- files that are written as a whole, by ``checksums.json``, sealed likewise. A file's new digest
  stands there before the file does, beside the old one: a kill in between is no damage.

What older versions wrote has no digests, and is read as it is. `report.html`, TensorBoard's files,
and what `populora bench` left in a run are not covered.
"""

import os
import time
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agents.plain_files import write_whole
from evolution.errors import CheckpointError, DamageError, OlderError, UsageError
from evolution.runs.files import (
    BEST,
    FORMAT,
    OLDEST,
    file_digest,
    folder_of,
    hash_prefix,
    read_object,
    saved_generations,
    sealed_text,
    size_of,
)

CHECKSUMS, MANIFEST = "checksums.json", "manifest.json"

_RESTORE = "restore it from a copy"
_DELETE = "restore it, or delete it: "
_REMEDIES: Mapping[str, str] = {
    "lineage.json": f"{_DELETE}populora evolve --resume writes it anew",
    "summary.json": f"{_DELETE}the run does not need it",
    "held_out.jsonl": f"{_DELETE}the run does not need it",
    "held_out_curve.jsonl": f"{_DELETE}the run does not need it",
    BEST: f"{_DELETE}the run goes on without, and writes it anew with its next generation",
    CHECKSUMS: f"{_DELETE}what it is for is then no longer checked",
}
"""What can be done about files that a run can do without; they may be missing."""
_ATTEMPTS = 4  # a run that is played meanwhile may change under the reader, once a generation
_PAUSE = 0.02  # seconds


def check_run(path: Path) -> dict[str, Any] | None:
    """Check that every file of a run is what was written; the run may be going on meanwhile.

    Args:
        path: Its folder; one that is no run holds nothing to check.

    Returns:
        The JSON state of its latest generation; None if it has none that this version wrote.

    Raises:
        DamageError: If a file is missing or changed; the message names it.
        CheckpointError: If it is of a newer version.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _check_run(path)
        except DamageError:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def check_resumable(path: Path) -> dict[str, Any] | None:
    """`check_run` for going on with the run: the error says from where that is still possible.

    Raises:
        CheckpointError: If a file is missing or changed, or it is of a newer version.
    """
    try:
        return check_run(path)
    except DamageError as error:
        raise CheckpointError(f"resume: {error}; {error.remedy or _way_on(path)}") from error


@contextmanager
def refusing(option: str) -> Generator[None, None, None]:
    """Say which option's run or adapter is damaged, and what to do, as an error of usage.

    Raises:
        UsageError: Where the block finds damage.
    """
    try:
        yield
    except DamageError as error:
        remedy = error.remedy or (
            f"{_RESTORE}, or go on from an earlier generation with "
            "populora evolve --branch RUN@GENERATION"
        )
        raise UsageError(f"{option}: {error}; {remedy}") from error
    except CheckpointError as error:
        raise UsageError(str(error).replace("resume:", f"{option}:", 1)) from error


def check_adapters(folders: Iterable[Path]) -> None:
    """Check adapter folders, and the runs that they belong to, where they do.

    Raises:
        DamageError: As `check_run`; also for a folder that was copied out of a run with its
            manifest.
        CheckpointError: If a run is of a newer version.
    """
    places = [Path(os.path.abspath(folder)) for folder in folders]
    runs = {place: _run_of(place) for place in places}
    for run in dict.fromkeys(run for run in runs.values() if run is not None):
        check_run(run)
    for place, run in runs.items():
        if run is None and _is_sealed(place / MANIFEST):
            _check_folder(place)


def check_generation(path: Path, generation: int, *, grown: bool = True) -> dict[str, Any]:
    """Check that a saved generation is whole, and return its JSON state.

    Args:
        path: The run folder.
        generation: One that is there.
        grown: Whether to check what the growing files held when it was saved, not only how much.

    Raises:
        DamageError: If a file is missing or changed; the message names it.
        CheckpointError: If it was written by another version.
    """
    file = (folder := folder_of(path, generation)) / "state.json"
    state = read_object(file)
    version = state.get("format")
    if not isinstance(version, int):
        raise DamageError(f"{file} is damaged (format: got {version!r})")
    if version > FORMAT:
        raise CheckpointError(
            f"resume: {file} was written by a newer version (format {version}; this one reads "
            f"{FORMAT}), or is damaged; update populora-env, or restore the file"
        )
    if version < OLDEST:
        raise OlderError(
            f"resume: {folder} was written by an older version (format {version}); its adapters "
            "can be exported, but the run cannot go on with this one"
        )
    if (held := state.get("generation", generation)) != generation:
        said = f"{folder} is damaged (it holds generation {held!r:.20})"
        raise DamageError(said, "delete it, or restore it")
    _check_folder(folder, sealed=version == FORMAT)
    lengths: Any = state.get("lengths")
    digests: Any = state.get("digests", {})
    for name, values, kind in (("lengths", lengths, int), ("digests", digests, str)):
        if not isinstance(values, dict) or not all(isinstance(v, kind) for v in values.values()):
            raise DamageError(f"{file} is damaged ({name}: got {values!r})")
    for name, wanted in lengths.items():
        if (size := size_of(path / name) or 0) < wanted:
            raise DamageError(
                f"{path / name} is damaged ({wanted - size} bytes shorter than generation "
                f"{generation} recorded)"
            )
        known = digests.get(name) if grown else None
        if known is not None and hash_prefix(path / name, wanted).hexdigest() != known:
            raise DamageError(
                f"{path / name} is damaged (not what it was when generation {generation} was saved)"
            )
    return state


def check_written(path: Path, names: Collection[str] | None = None) -> None:
    """Check files that `declared` announced.

    Args:
        path: The run folder.
        names: Of those to check; None for all.

    Raises:
        DamageError: If one is missing or changed; the message names it.
    """
    for name, accepted in read_checksums(path).items():
        if names is not None and name not in names:
            continue
        found = file_digest(path / name) if os.path.lexists(path / name) else None
        head = name.partition("/")[0]
        if found in accepted or (head in _REMEDIES and not os.path.lexists(path / head)):
            continue
        reason = "its checksum differs" if found else "it is missing"
        raise DamageError(f"{path / name} is damaged ({reason})", _remedy(name) or _RESTORE)


def read_checksums(path: Path) -> dict[str, list[str | None]]:
    """Digests of which each file written as a whole has one, by name; None if it may be missing.

    Raises:
        DamageError: If they are damaged.
    """
    file = path / CHECKSUMS
    if not os.path.lexists(file):
        return {}
    try:
        entries = _unsealed(file)
        if not all(isinstance(digests, list) for digests in entries.values()):
            raise DamageError(f"{file} is damaged (expected lists of digests)")
    except DamageError as error:
        raise DamageError(str(error), _remedy(CHECKSUMS)) from error
    return entries


@contextmanager
def declared(path: Path, name: str, digest: str) -> Generator[None, None, None]:
    """Announce the digest of a file that the block writes; the one before holds until it has.

    Raises:
        DamageError: If the digests on disk are damaged.
        OSError: If they cannot be written.
    """
    entries = read_checksums(path)
    if name not in entries:
        there = (path / name).is_file()
        entries[name] = [file_digest(path / name) if there else None]
    if entries[name] != [digest]:
        entries[name] = [*(d for d in entries[name] if d != digest), digest]
        write_checksums(path, entries)
    yield
    if entries[name] != [digest]:
        entries = read_checksums(path)
        entries[name] = [digest]
        write_checksums(path, entries)


def write_checksums(path: Path, entries: Mapping[str, list[str | None]]) -> None:
    """Write what `read_checksums` reads.

    Raises:
        OSError: If that fails.
    """
    write_whole(path / CHECKSUMS, sealed_text(CHECKSUMS, entries))


def _unsealed(file: Path) -> dict[str, Any]:
    """What `sealed_text` made a text of.

    Raises:
        DamageError: If the text is not exactly that.
    """
    entries = read_object(file)
    sealed = {name: value for name, value in entries.items() if name != file.name}
    try:
        same = file.read_bytes() == sealed_text(file.name, sealed).encode()
    except OSError as error:
        raise DamageError(f"{file} is damaged ({error.strerror})") from error
    if not same:
        raise DamageError(f"{file} is damaged (its checksum differs)")
    return sealed


def _check_run(path: Path) -> dict[str, Any] | None:
    check_written(path)
    states: dict[int, dict[str, Any]] = {}
    numbers = saved_generations(path)
    for number in reversed(numbers):  # the latest knows most of the growing files
        folder = folder_of(path, number)
        if not os.path.lexists(folder / MANIFEST):
            file = folder / "state.json"
            if not os.path.lexists(file) or "format" not in read_object(file):
                continue  # nothing that a run would have saved
        try:
            states[number] = check_generation(path, number, grown=number == numbers[-1])
        except OlderError:
            continue
        except DamageError as error:
            if number == numbers[-1]:
                raise
            remedy = f"restore it, or delete {folder}: the run goes on without"
            raise DamageError(str(error), remedy) from error
    if os.path.lexists(path / BEST / MANIFEST):
        try:
            _check_folder(path / BEST)
        except DamageError as error:
            raise DamageError(str(error), _remedy(BEST)) from error
    return states.get(numbers[-1]) if numbers else None


def _check_folder(folder: Path, *, sealed: bool = True) -> None:
    """Check a folder's files against its manifest."""
    manifest = read_object(folder / MANIFEST)
    if (state := folder / "state.json").exists() and state.name not in manifest:
        raise DamageError(
            f"{folder / MANIFEST} or {state.name} is damaged (the first does not list the second)"
        )
    for name, digest in (_unsealed(folder / MANIFEST) if sealed else manifest).items():
        if file_digest(folder / name, like=digest) != digest:
            raise DamageError(f"{folder / name} is damaged (its hash differs)")


def _way_on(path: Path) -> str:
    """What can be done where the latest generation, or what it needs, is damaged."""
    for number in reversed(saved_generations(path)[:-1]):
        with suppress(CheckpointError):
            check_generation(path, number)
            return (
                f"generation {number} is whole: go on from it with populora evolve --branch "
                f"{path}@{number} --out NEW"
            )
    return "no earlier generation on disk is whole; restore the file or start the run anew"


def _remedy(name: str) -> str:
    """What can be done about a damaged file; empty if its run needs it."""
    return _REMEDIES.get(name.partition("/")[0], "")


def _run_of(folder: Path) -> Path | None:
    """The run whose best adapter, or an agent's adapter, a folder is."""
    if folder.name == BEST:
        run = folder.parent
    elif folder.parent.name == "adapters" and len(folder.parents) > 2:
        run = folder.parents[2]
    else:
        return None
    return run if (run / CHECKSUMS).exists() or saved_generations(run) else None


def _is_sealed(file: Path) -> bool:
    """Whether a manifest is one of ours: others' files may have that name."""
    try:
        return file.is_file() and MANIFEST in read_object(file)
    except DamageError:
        return False
