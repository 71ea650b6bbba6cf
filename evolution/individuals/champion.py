"""The champion: the best that was ever confirmed, a snapshot of weights. And the members' mean."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.engine.adapters import StackedLora
from agents.peft_io import write_adapter
from agents.population import LoraPopulation
from evolution.individuals.lineage import AVERAGE, Individual
from evolution.lowrank.genomes import (
    Genome,
    content_hash,
    factors_hash,
    factors_named,
    named_factors,
    read_genome,
    restore_genome,
)
from evolution.lowrank.sums import mean_of_members

_NAME = "champion"


@dataclass(frozen=True, slots=True)
class Champion:
    """The best that was confirmed, as it was then.

    Attributes:
        individual: Its name in the lineage.
        agent: Agent whose slot it had.
        generation: Generations it had played in the run when the snapshot was taken.
        content_hash: Of its weights then.
        genome: These weights.
        accuracy: In its last trial; None before the first.
        is_mean: Whether the weights are the mean of all who solve, the individual being the best.
    """

    individual: str
    agent: str
    generation: int
    content_hash: str
    genome: Genome
    accuracy: float | None = None
    is_mean: bool = False

    @property
    def who(self) -> str:
        """The agent that it is, or `AVERAGE`."""
        return AVERAGE if self.is_mean else self.agent

    @classmethod
    def of(
        cls, population: LoraPopulation, slot: int, individual: Individual, generation: int
    ) -> "Champion":
        """Take a snapshot of a member."""
        lora = population.lora
        return cls(
            individual.name,
            population.agents[slot],
            generation,
            content_hash(lora, slot),
            read_genome(lora, slot),
        )

    @classmethod
    def mean(
        cls,
        population: LoraPopulation,
        slots: Sequence[int],
        individual: Individual,
        generation: int,
    ) -> "Champion":
        """The mean of members' updates, kept under the name of the best of them."""
        lora = population.lora
        genome = mean_of_members(lora, slots)
        known = factors_hash(genome.alpha, genome.factors)
        agent = population.agents[individual.slot]
        return cls(individual.name, agent, generation, known, genome, is_mean=True)

    def save(self, population: LoraPopulation, folder: str | Path) -> Path:
        """Write it as a PEFT adapter folder."""
        names = [layer.name for layer in population.lora.layers()]
        rank = self.genome.rank
        factors = {
            name: (A[:rank], B[:, :rank])
            for name, (A, B) in zip(names, self.genome.factors, strict=True)
        }
        return write_adapter(
            folder, factors, alpha=self.genome.alpha, dropout=0.0, base=population.base.path
        )

    def state(self) -> dict[str, Any]:
        """As JSON types, and its factors as tensors by name, for `restore`."""
        return {
            "individual": self.individual,
            "agent": self.agent,
            "generation": self.generation,
            "content_hash": self.content_hash,
            "accuracy": self.accuracy,
            **({"is_mean": True} if self.is_mean else {}),
            "alpha": self.genome.alpha,
            "scale": self.genome.scale,
            "rank": self.genome.rank,
            **named_factors(self.genome, _NAME),
        }

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> "Champion":
        """Read back what `state` gave.

        Raises:
            KeyError: If a factor is missing.
        """
        factors = factors_named(saved, _NAME)
        own = {name: value for name, value in saved.items() if not name.startswith(f"{_NAME}.")}
        numbers = {name: own.pop(name) for name in ("alpha", "scale", "rank")}
        genome = Genome(**numbers, factors=factors)
        return cls(**own, genome=genome)


@contextmanager
def hosting(lora: StackedLora, slot: int, genome: Genome) -> Generator[None, None, None]:
    """Give a slot to a copy inside the block, and back to its owner after it."""
    owner = read_genome(lora, slot)
    restore_genome(lora, slot, genome)
    try:
        yield
    finally:
        restore_genome(lora, slot, owner)


@contextmanager
def averaged(population: LoraPopulation, agents: Sequence[str]) -> Generator[str, None, None]:
    """Put the mean of some members' updates into the first one's slot inside the block.

    At that member's rank; those whose weights are not finite are left out.

    Args:
        population: Theirs.
        agents: At least one.

    Yields:
        The agent whose slot it is.
    """
    lora, slots = population.lora, [population.agents.index(agent) for agent in agents]
    finite = lora.finite().cpu().numpy()
    some = [slot for slot in slots if finite[slot]] or [slots[0]]
    with hosting(lora, slots[0], mean_of_members(lora, some)):
        yield agents[0]
