"""Lineage: where every individual comes from.

An individual is a set of factors that entered the population at one moment: at the start, as a
child, or as a copy that migrated. Learning changes its weights, not its name; `content_hash` tells
the weights it was born with, so a copy and its original are seen to agree.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

CHAMPION, AVERAGE = "champion", "average"
"""What the champion, and the average of all who solve, are called beside agents."""


@dataclass(frozen=True, slots=True)
class Individual:
    """One individual's birth, and what is inherited or measured besides its weights.

    Attributes:
        name: ``g<generation>-<slot>``, unique within a run.
        slot: Agent number it lives in.
        generation: First generation it plays in.
        operator: What made it: ``spread`` or ``given`` at the start, the name of a crossover,
            ``migration``, or ``clone`` and ``base`` where another operator failed.
        parents: Names of its parents, from best to worst.
        parameters: Of the operator: its settings, the parents' weights, the mutations that
            followed, the recompression error, and ``failed`` with the reason if it did.
        content_hash: Of its factors at birth, 16 hexadecimal characters.
        mutation_strength: Factor on the strength of mutations that it and its children undergo.
        hyperparameters: Settings of its own: ``learning_rate``, ``kl``, ``temperature``; see
            `evolution.individuals.hyperparameters`.
        fitness: Its standing when last measured; once it is dead, that at its death.
        broken: Generation in which its weights were found not to be finite; None if never. From
            then on it has no standing, and its slot answers as the base does.
    """

    name: str
    slot: int
    generation: int
    operator: str
    parents: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any], hash=False)
    content_hash: str = ""
    mutation_strength: float = 1.0
    hyperparameters: dict[str, float] = field(default_factory=dict[str, float], hash=False)
    fitness: float | None = None
    broken: int | None = None


class Lineage:
    """All individuals of a run, in order of birth, and who lives where now."""

    def __init__(self) -> None:
        self.individuals: list[Individual] = []
        self._living: dict[int, int] = {}  # slot to place in the list

    @property
    def living(self) -> dict[int, Individual]:
        """Who lives in which slot."""
        return {slot: self.individuals[place] for slot, place in self._living.items()}

    @property
    def members(self) -> tuple[Individual, ...]:
        """Who lives in the slots, by slot."""
        living = self.living
        return tuple(living[slot] for slot in sorted(living))

    @property
    def births(self) -> np.ndarray:
        """Generation and slot of birth of the members, ``[N, 2]``."""
        return np.array([(i.generation, i.slot) for i in self.members], dtype=np.int64)

    def add(self, individual: Individual) -> None:
        """Record a birth; the newcomer takes its slot."""
        self._living[individual.slot] = len(self.individuals)
        self.individuals.append(individual)

    def amend(self, slot: int, **entries: Any) -> None:
        """Change entries in the record of the one who lives in a slot."""
        place = self._living[slot]
        self.individuals[place] = replace(self.individuals[place], **entries)

    def measure(self, fitness: Mapping[int, float | None]) -> None:
        """Record the fitness of the living, by slot."""
        for slot, value in fitness.items():
            self.amend(slot, fitness=value)

    def state(self) -> list[dict[str, Any]]:
        """All individuals as JSON types."""
        return [{**asdict(i), "parents": list(i.parents)} for i in self.individuals]

    def load(self, saved: list[dict[str, Any]]) -> None:
        """Read back what `state` gave, in place of what is there."""
        read = [replace(Individual(**entry), parents=tuple(entry["parents"])) for entry in saved]
        self.individuals.clear()
        self._living.clear()
        for individual in read:
            self.add(individual)


def lineage_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A lineage's state as JSON, a line for each individual."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
