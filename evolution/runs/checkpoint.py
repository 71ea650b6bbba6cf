"""A run on disk.

A generation is a folder of its own: adapters as PEFT folders, optimiser state, the rest as JSON. It
is written under a temporary name, its manifest of digests last, flushed to disk and renamed once: a
folder with its final name is whole whenever the process died; it is renamed again before it is
deleted. Files that grow (`history.jsonl`, `transcripts.jsonl`) are appended to before that; each
generation records how long they were and their digest, and resuming cuts off whatever came after.
Nothing is ever unpickled.

Not covered here: what a run's state means (`evolution.manager`), settings that change on the way
(`evolution.runs.changes`), runs that start from another one's generation
(`evolution.runs.branching`).
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.plain_files import appending, discard, remove, truncate, whole_folder, write_whole
from agents.population import AdapterError, LoraPopulation
from evolution.errors import CheckpointError, DamageError
from evolution.runs.files import (
    FORMAT,
    GROWING,
    digest_of,
    folder_of,
    hash_prefix,
    manifest_of,
    refuse_foreign,
    refuse_inside,
    refuse_taken,
    saved_generations,
    sealed_text,
    size_of,
    writing,
)
from evolution.runs.integrity import (
    CHECKSUMS,
    MANIFEST,
    check_generation,
    check_resumable,
    declared,
    read_checksums,
)
from evolution.runs.lock import RunInUse, RunLock

__all__ = ["FORMAT", "CheckpointError", "RunFolder", "Saved"]


@dataclass(frozen=True, slots=True)
class Saved:
    """What a saved generation holds besides the adapters.

    Attributes:
        generation: Its number, from 0.
        state: JSON state of the manager.
        tensors: State of the learner, the champion's factors, and what fitness remembers.
    """

    generation: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]


class RunFolder:
    """The folder of one run, locked against other processes until it is closed.

    Args:
        path: Made if it does not exist.

    Raises:
        CheckpointError: If the folder cannot be written, holds files of somebody else's that a run
            would delete, or another process plays the run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if "\0" in str(self.path):
            raise CheckpointError(f"run: got {str(self.path)!r}, expected a path without NUL")
        refuse_foreign(self.path)
        self._hashers: dict[str, tuple[xxhash.xxh3_128, int]] = {}  # and how much they have read
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.path)
            probe = self.path / ".writable"
            remove(probe)
            probe.open("xb").close()
            probe.unlink()
        except RunInUse as error:
            raise CheckpointError(
                f"run: {self.path} is being played by {error}; wait until that ends or stop it, "
                "or choose another folder"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"out: cannot write to {self.path} ({error.strerror}); choose a writable folder"
            ) from error

    def close(self) -> None:
        """Let other processes go on with the run; what is done with the folder is over."""
        self._lock.release()

    def generations(self) -> list[int]:
        """Numbers of the generations on disk, ascending."""
        return saved_generations(self.path)

    def begin(self) -> None:
        """Make the folder ready for a new run: what one left that never saved anything goes.

        Raises:
            CheckpointError: If it holds a run, or the history of one, or is part of another.
        """
        refuse_inside(self.path)
        refuse_taken(self.path)
        history = self.path / GROWING[0]
        if history.exists() and b'{"generation": 1,' in history.read_bytes():
            raise CheckpointError(
                f"out: {self.path} holds the history of a run whose generations are gone; choose "
                "another folder"
            )
        with writing(self.path, "the folder could not be cleared"):
            for name in GROWING:
                remove(self.path / name)
            try:
                read_checksums(self.path)
            except DamageError:  # what they are for is written anew
                remove(self.path / CHECKSUMS)
        self._hashers.clear()
        self.sweep()

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a JSONL file and flush it to disk.

        Raises:
            CheckpointError: If that fails.
        """
        with (
            writing(self.path, f"{name} could not be written"),
            appending(self.path / name) as file,
        ):
            hasher = self._hasher(name)
            del self._hashers[name]  # until all is written
            for row in rows:
                line = json.dumps(row, ensure_ascii=False) + "\n"
                file.write(line)
                hasher.update(line.encode())
            file.flush()
            self._hashers[name] = hasher, os.fstat(file.fileno()).st_size

    def write(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all.

        Raises:
            CheckpointError: If that fails.
        """
        with (
            writing(self.path, f"{name} could not be written"),
            declared(self.path, name, digest_of(text.encode())),
        ):
            write_whole(self.path / name, text)

    def replace(self, name: str, make: Callable[[Path], object]) -> Path:
        """Replace a folder in the run's, once the new one is whole and has its manifest.

        Args:
            name: Of the folder.
            make: Writes the new one to the path it is given.

        Raises:
            CheckpointError: If that fails.
        """
        target = self.path / name
        with (
            writing(self.path, f"{name} could not be written"),
            ExitStack() as announced,
            whole_folder(target, replace=True) as work,
        ):
            make(work)
            text = sealed_text(MANIFEST, manifest_of(work))
            write_whole(work / MANIFEST, text)
            digest = digest_of(text.encode())
            announced.enter_context(declared(self.path, f"{name}/{MANIFEST}", digest))
        return target

    def save(
        self,
        generation: int,
        population: LoraPopulation,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        keep: int,
        every: int = 0,
    ) -> Path:
        """Write a generation and delete all but those to be kept.

        Args:
            generation: Its number, from 0.
            population: Whose adapters to save.
            tensors: State of the learner, and the like.
            state: The rest, as JSON types.
            keep: How many of the latest generations stay, at least 1: resuming needs the latest.
            every: Besides, every so-manieth generation stays for good; 0 for none.

        Raises:
            CheckpointError: If it cannot be written; earlier generations stay as they were.
        """
        target = folder_of(self.path, generation)
        with (
            writing(self.path, f"generation {generation} could not be saved"),
            whole_folder(target, replace=True) as work,
        ):
            population.save_adapters(work / "adapters")
            if tensors:
                whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
                save_file(whole, work / "state.safetensors")
            sizes = {name: size_of(self.path / name) for name in GROWING}
            lengths = {name: size for name, size in sizes.items() if size is not None}
            digests = {name: self._hasher(name, lengths[name]).hexdigest() for name in lengths}
            rest = {"format": FORMAT, "generation": generation, "lengths": lengths}
            rest |= {"digests": digests, **state}
            (work / "state.json").write_text(json.dumps(rest, indent=1) + "\n")
            (work / MANIFEST).write_text(sealed_text(MANIFEST, manifest_of(work)))
        self.prune(keep, every)
        return target

    def prune(self, keep: int, every: int = 0) -> None:
        """Delete the generations that need not be kept; see `save`."""
        for old in self.generations()[:-keep]:
            if not every or (old + 1) % every:
                with suppress(OSError):  # the next generation tries again
                    discard(folder_of(self.path, old))

    def load(self, population: LoraPopulation) -> Saved:
        """Restore the latest generation and cut growing files back to it.

        Raises:
            CheckpointError: If there is none, any file of the run is damaged, or it is of a newer
                version; the message says what can be done, as which earlier one is whole.
        """
        numbers = self.generations()
        if not numbers:
            raise CheckpointError(
                f"resume: {self.path} holds no complete generation; start the run anew"
            )
        folder = folder_of(self.path, numbers[-1])
        state = check_resumable(self.path) or check_generation(self.path, numbers[-1])
        try:
            tensors: dict[str, Tensor] = {}
            if (folder / "state.safetensors").exists():
                tensors = load_file(folder / "state.safetensors")
            population.load_adapters(folder / "adapters")
        except (OSError, SafetensorError, AdapterError) as error:
            raise CheckpointError(f"resume: {folder} does not fit ({error})") from error
        with writing(self.path, "what came after the last generation could not be cut off"):
            for name in GROWING:
                size, wanted = size_of(self.path / name), state["lengths"].get(name, 0)
                if size is not None and size > wanted:
                    truncate(self.path / name, wanted)
        self._hashers.clear()
        self.sweep()
        return Saved(numbers[-1], state, tensors)

    def sweep(self) -> None:
        """Delete what interrupted writing and deleting left."""
        for leftover in self.path.glob(".*.tmp"):
            remove(leftover)

    def _hasher(self, name: str, length: int | None = None) -> xxhash.xxh3_128:
        """The hasher of a growing file, which is read only if it is not what was written here."""
        size = (size_of(self.path / name) or 0) if length is None else length
        hasher, seen = self._hashers.get(name, (None, 0))
        if hasher is None or seen != size:
            hasher = hash_prefix(self.path / name, size)
            self._hashers[name] = hasher, size
        return hasher
