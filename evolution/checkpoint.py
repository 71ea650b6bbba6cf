"""A run on disk.

A generation is a folder of its own: adapters as PEFT folders, optimiser state, the rest as JSON. It
is written under a temporary name, its manifest of hashes last, flushed to disk and renamed once, so
a folder with its final name is whole whenever the process died. Files that grow (`history.jsonl`,
`transcripts.jsonl`) are appended to before that; each generation records how long they were, and
resuming cuts off whatever came after. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.population import AdapterError, LoraPopulation

FORMAT = 3
_NAME = re.compile(r"generation_(\d+)")
_GROWING = ("history.jsonl", "transcripts.jsonl")


class CheckpointError(RuntimeError):
    """A run folder that cannot be written or resumed."""


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
    """The folder of one run.

    Args:
        path: Made if it does not exist.

    Raises:
        CheckpointError: If the folder cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"out: cannot write to {self.path} ({error.strerror}); choose a writable folder"
            ) from error

    def generations(self) -> list[int]:
        """Numbers of the generations on disk, ascending."""
        matches = (_NAME.fullmatch(entry.name) for entry in self.path.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a JSONL file and flush it to disk."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def write(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        work = self.path / f".{name}.tmp"
        with work.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        work.replace(self.path / name)

    def save(
        self,
        generation: int,
        population: LoraPopulation,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        keep: int,
    ) -> Path:
        """Write a generation and delete all but the latest ``keep``.

        Raises:
            CheckpointError: If it cannot be written; earlier generations stay as they were.
        """
        target = self.path / f"generation_{generation:04d}"
        work = self.path / f".{target.name}.tmp"
        try:
            shutil.rmtree(work, ignore_errors=True)
            population.save_adapters(work / "adapters")
            if tensors:
                whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
                save_file(whole, work / "state.safetensors")
            lengths = {
                name: (self.path / name).stat().st_size
                for name in _GROWING
                if (self.path / name).exists()
            }
            rest = {"format": FORMAT, "generation": generation, "lengths": lengths, **state}
            (work / "state.json").write_text(json.dumps(rest, indent=1) + "\n")
            manifest = {
                str(file.relative_to(work)): _sync_and_hash(file)
                for file in sorted(work.rglob("*"))
                if file.is_file()
            }
            (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            _sync_and_hash(work / "manifest.json")
            if target.exists():
                shutil.rmtree(target)
            work.rename(target)
            _sync_folder(self.path)
        except OSError as error:
            shutil.rmtree(work, ignore_errors=True)
            raise CheckpointError(
                f"generation {generation} could not be saved to {self.path} ({error.strerror}); "
                "earlier generations are intact"
            ) from error
        for old in self.generations()[:-keep]:
            shutil.rmtree(self.path / f"generation_{old:04d}", ignore_errors=True)
        return target

    def load(self, population: LoraPopulation) -> Saved:
        """Restore the latest whole generation and cut growing files back to it.

        Raises:
            CheckpointError: If there is none, or it is damaged or of a newer version.
        """
        numbers = self.generations()
        if not numbers:
            raise CheckpointError(
                f"resume: {self.path} holds no complete generation; start the run anew"
            )
        folder = self.path / f"generation_{numbers[-1]:04d}"
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            for name, digest in manifest.items():
                if _hash(folder / name) != digest:
                    raise CheckpointError(f"resume: {folder / name} is damaged (hash differs)")
            saved = json.loads((folder / "state.json").read_text())
            if saved["format"] > FORMAT:
                raise CheckpointError(
                    f"resume: {folder} was written by a newer version (format {saved['format']}); "
                    "update populora-env"
                )
            if saved["format"] < FORMAT:
                raise CheckpointError(
                    f"resume: {folder} was written by an older version (format {saved['format']}); "
                    "its adapters can be exported, but the run cannot go on with this one"
                )
            tensors: dict[str, Tensor] = {}
            if (folder / "state.safetensors").exists():
                tensors = load_file(folder / "state.safetensors")
            population.load_adapters(folder / "adapters")
        except (OSError, ValueError, KeyError, SafetensorError, AdapterError) as error:
            raise CheckpointError(f"resume: {folder} cannot be read ({error})") from error
        self._cut_back(saved["lengths"])
        return Saved(int(saved["generation"]), saved, tensors)

    def _cut_back(self, lengths: Mapping[str, int]) -> None:
        for name in _GROWING:
            path = self.path / name
            size = path.stat().st_size if path.exists() else 0
            wanted = lengths.get(name, 0)
            if size < wanted:
                raise CheckpointError(
                    f"resume: {path} is {wanted - size} bytes shorter than its generation recorded"
                )
            if size > wanted:
                os.truncate(path, wanted)
        for leftover in self.path.glob(".generation_*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
