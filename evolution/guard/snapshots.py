"""Snapshots: the last good state of each slot's individual, and what it got right then."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from evolution.lowrank.genomes import Genome, factors_named, named_factors

_PREFIX = "guard."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An individual as it was when a verdict called it good.

    Attributes:
        individual: Its name in the lineage.
        generation: After which it was taken; -1 for before the first.
        content_hash: Of its weights then.
        genome: These weights.
        marks: Which anchors it got right ``[anchors]``.
        hyperparameters: Settings of its own.
        mutation_strength: Factor on its mutations.
    """

    individual: str
    generation: int
    content_hash: str
    genome: Genome
    marks: tuple[bool, ...]
    hyperparameters: Mapping[str, float]
    mutation_strength: float = 1.0

    @property
    def right(self) -> int:
        """How many anchors it got right."""
        return sum(self.marks)


def snapshots_state(held: Mapping[int, Snapshot]) -> dict[str, Any]:
    """Snapshots by slot as JSON types, under ``snapshots``, and tensors, each genome once."""
    genomes = {snapshot.content_hash: snapshot.genome for snapshot in held.values()}
    tensors: dict[str, Any] = {}
    for name, genome in genomes.items():
        tensors |= named_factors(genome, f"{_PREFIX}{name}")
    rows: dict[str, Any] = {}
    for slot, snapshot in held.items():
        row = {f.name: getattr(snapshot, f.name) for f in fields(snapshot) if f.name != "genome"}
        row |= {"marks": list(snapshot.marks), "hyperparameters": dict(snapshot.hyperparameters)}
        genome = snapshot.genome
        row["genome"] = {"alpha": genome.alpha, "scale": genome.scale, "rank": genome.rank}
        rows[str(slot)] = row
    return {"snapshots": rows, **tensors}


def read_snapshots(saved: Mapping[str, Any]) -> dict[int, Snapshot]:
    """Read back what `snapshots_state` gave.

    Raises:
        KeyError: If a factor is missing.
    """
    held: dict[int, Snapshot] = {}
    known: dict[str, Genome] = {}
    for slot, row in saved["snapshots"].items():
        name = row["content_hash"]
        if name not in known:
            factors = factors_named(saved, f"{_PREFIX}{name}")
            known[name] = Genome(**row["genome"], factors=factors)
        values: dict[str, Any] = {**row, "marks": tuple(map(bool, row["marks"]))}
        values["genome"] = known[name]
        held[int(slot)] = Snapshot(**values)
    return held
