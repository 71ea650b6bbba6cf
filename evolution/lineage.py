"""Lineage: where every individual comes from.

An individual is a set of factors that entered the population at one moment: at the start, or as a
child. Learning changes its weights, not its name; `content_hash` tells the weights it was born
with, so a copy and its original are seen to agree.
"""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a lineage is read without torch
    from agents.adapters import StackedLora


@dataclass(frozen=True, slots=True)
class Individual:
    """One individual's birth.

    Attributes:
        name: ``g<generation>-<slot>``, unique within a run.
        slot: Agent number it lives in.
        generation: First generation it plays in.
        operator: What made it: ``spread`` or ``crossover``.
        parents: Names of its parents.
        parameters: Of the operator, such as the parents' weights and the mutation's strength.
        content_hash: Of its factors at birth, 16 hexadecimal characters.
    """

    name: str
    slot: int
    generation: int
    operator: str
    parents: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any], hash=False)
    content_hash: str = ""


class Lineage:
    """All individuals of a run, in order of birth, and who lives where now."""

    def __init__(self) -> None:
        self.individuals: list[Individual] = []
        self.living: dict[int, Individual] = {}

    def add(self, individual: Individual) -> None:
        """Record a birth; the newcomer takes its slot."""
        self.individuals.append(individual)
        self.living[individual.slot] = individual

    def to_list(self) -> list[dict[str, Any]]:
        """All births as JSON types."""
        return [{**asdict(i), "parents": list(i.parents)} for i in self.individuals]

    @classmethod
    def from_list(cls, data: list[dict[str, Any]]) -> "Lineage":
        """Read back what `to_list` wrote."""
        lineage = cls()
        for entry in data:
            parents: tuple[str, ...] = tuple(entry["parents"])
            lineage.add(replace(Individual(**entry), parents=parents))
        return lineage


def content_hash(lora: "StackedLora", slot: int) -> str:
    """Hash of one member's alpha and factors, 16 hexadecimal characters."""
    digest = hashlib.sha256(repr(float(lora.alpha[slot])).encode())
    for layer in lora.layers():
        for tensor in (layer.A[slot], layer.B[slot]):
            digest.update(tensor.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
