"""An exchange as the manager holds it: who is written, who may stay, and what changes with them.

The exchanges themselves are in `evolution.exchange`. Here a gate may refuse what they wrote in
place of a proven individual, which is then as it was; the others enter the lineage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from agents.population import LoraPopulation
from evolution.config import EvolutionConfig
from evolution.exchange.gate import Gate, GateOutcome, GateRecord
from evolution.exchange.step import EXCHANGES, Exchange, Exchanged, ExchangeStep
from evolution.individuals.breeding import Breeder, Child, candidates
from evolution.individuals.inheritance import OptimizerInheritance, inherit_ratings, rated_as
from evolution.individuals.lineage import Lineage
from evolution.individuals.non_finite import broken_slots
from evolution.individuals.reevaluation import Reevaluations
from evolution.individuals.standing import Standing
from evolution.lowrank.genomes import Genome, content_hash, read_genome, write_genome
from evolution.registry import Use
from populora_env.ratings import Ratings

if TYPE_CHECKING:
    from evolution.learning import AnyLearner


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """What became of an exchange.

    Attributes:
        name: Of the exchange.
        written: Slots that it wrote and that stayed.
        gates: Tests of a gate, if there is one.
    """

    name: str
    written: tuple[int, ...]
    gates: tuple[GateRecord, ...] = ()


@dataclass
class Exchanging:
    """Holds a run's exchanges.

    Attributes:
        population: Whose members exchange.
        config: Settings of the run.
        breeder: Makes children, and records all newborns.
        reevaluations: Knows who is proven, and measures.
        standing: Of the members.
        lineage: Of the run.
        learner: Whose optimiser states go with members; None if nobody learns.
        fitness: In the generation played last ``[N]``; the manager sets it.
        memory: What the exchange keeps from step to step.
        last: What became of the last one.
        use: The exchange that the settings name.
    """

    population: LoraPopulation
    config: EvolutionConfig
    breeder: Breeder
    reevaluations: Reevaluations
    standing: Standing
    lineage: Lineage
    learner: "AnyLearner | None"
    fitness: np.ndarray
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    last: ExchangeRecord | None = None
    use: Use[Exchange] | None = field(init=False)

    def __post_init__(self) -> None:
        self.use = EXCHANGES.read_one(self.config.exchange)

    @property
    def has_state(self) -> bool:
        """Whether there is anything to keep; breeding goes by what is kept elsewhere."""
        return self.use is not None and self.use.name != "crossover"

    def arrange(self) -> None:
        """Let the exchange arrange the founders, before they are recorded."""
        if self.use is not None:
            self.use(self._step(0, Ratings()))

    def hold(self, generation: int, ratings: Ratings) -> tuple[tuple[Child, ...], Ratings]:
        """Exchange, and see to what changes with those that were written.

        Args:
            generation: About to be played.
            ratings: Of the agents until now.

        Returns:
            The newborns, and the ratings from now on.
        """
        lora, agents = self.population.lora, self.population.agents
        use, gate = self.use, self.reevaluations.gate
        if use is None:
            return (), ratings
        inheritance = OptimizerInheritance(self.learner, lora, self.config.child_optimizer)
        before: dict[int, Genome] = {}
        if gate is not None:
            before = {slot: read_genome(lora, slot) for slot in self._proven()}
        made: list[Exchanged] = use(self._step(generation, ratings))
        gates: list[GateRecord] = []
        if gate is not None:
            made, gates = self._admit(made, before, gate, generation)
        born = self.breeder.record(generation, made, use.name)
        inheritance.hand_down(born)
        self.standing.inherit(
            {c.individual.slot: c.parent_slots[0] if c.is_copy else None for c in born}
        )
        written = tuple(one.slot for one in made)
        self.last = ExchangeRecord(use.name, written, tuple(gates))
        return born, inherit_ratings(ratings, agents, born)

    def state(self) -> dict[str, Any]:
        """What the exchange keeps, and the last generation's fitness."""
        known = [value if np.isfinite(value) else None for value in self.fitness.tolist()]
        return {"fitness": known, **{f"exchange.{k}": v for k, v in self.memory.items()}}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.fitness = np.array([np.nan if v is None else v for v in saved["fitness"]], dtype=float)
        kept = ((name, value) for name, value in saved.items() if name != "fitness")
        self.memory = {name.removeprefix("exchange."): value for name, value in kept}

    def _step(self, generation: int, ratings: Ratings) -> ExchangeStep:
        config, size = self.config, self.population.size
        homes = config.homes(size)
        living = self.lineage.living
        usual = {"temperature": config.resolved(size).temperature, "kl": config.kl}

        def breed() -> list[Exchanged]:
            names = rated_as(self.population.agents, config.proposers)
            broken = broken_slots(self.lineage)
            known = candidates(self.standing.values, ratings, names, broken)
            return self.breeder.breed(generation, known)

        return ExchangeStep(
            self.population.lora,
            generation,
            config.seed,
            homes[1:] if config.only_propose else homes,
            self.standing.values,
            self.fitness,
            {slot: usual | dict(one.hyperparameters) for slot, one in living.items()},
            self.memory,
            self.reevaluations.for_exchange(generation),
            breed,
        )

    def _proven(self) -> list[int]:
        elites = self.reevaluations.elites
        first = self.config.only_propose  # who only proposes has no marks to be tested by
        living = self.lineage.living.items()
        return [slot for slot, one in living if one.name in elites and slot >= first]

    def _admit(
        self,
        made: Sequence[Exchanged],
        before: Mapping[int, Genome],
        gate: Gate,
        generation: int,
    ) -> tuple[list[Exchanged], list[GateRecord]]:
        """Test those that took a proven one's slot, and undo those that do not pass.

        Newcomers of equal weights are tested once, against the best of those they replace.
        """
        lora, living = self.population.lora, self.lineage.living
        hashes = {one.slot: content_hash(lora, one.slot) for one in made if one.slot in before}
        records: dict[str, GateRecord] = {}
        order = sorted(
            hashes, key=lambda slot: -np.nan_to_num(self.standing.values[slot], nan=-9e9)
        )
        for slot in order:
            if hashes[slot] in records or hashes[slot] == living[slot].content_hash:
                continue
            records[hashes[slot]] = self.reevaluations.contest(
                gate, slot, before[slot], living[slot].name, generation, len(records)
            )
        refused = {
            slot
            for slot, known in hashes.items()
            if known in records and records[known].outcome is not GateOutcome.NOT_WORSE
        }
        for slot in refused:
            write_genome(lora, slot, before[slot])
        return [one for one in made if one.slot not in refused], list(records.values())
