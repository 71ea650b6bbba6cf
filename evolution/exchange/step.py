"""Exchange: what members of a population take over from each other, by name.

An exchange is one function. It is called before the first generation, where it may arrange the
founders, and then every ``evolve_every`` generations; it overwrites members in place and returns
what is to be recorded of each. Its keyword-only arguments are its parameters, which a setting gives
in brackets: ``average(momentum=0.9)``; ``none`` is no exchange. What else changes with a member
(lineage, standing, rating, optimiser state) is looked after by whoever calls it; see
`evolution.individuals.exchanging`.

What an exchange has to know at the next step it keeps in ``step.memory``, which is saved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from agents.engine.adapters import StackedLora
from evolution.lowrank.genomes import (
    Genome,
    factors_named,
    named_factors,
    read_genome,
    write_genome,
)
from evolution.registry import Allowed, Operators
from populora_env.keys import Key, generator


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A member that an exchange wrote.

    Attributes:
        slot: Where.
        parents: Slots that had a part in it when the exchange began, the chief one first.
        parameters: What the lineage is to say: settings, weights, errors.
        operator: What made it; empty for the exchange itself.
        moments: Slot whose optimiser state it goes on with, as it was; None for a new one, or
            for what ``child_optimizer`` says.
        hyperparameters: Its own; None for those of the first parent.
        mutation_strength: Its own; None for that of the first parent.
    """

    slot: int
    parents: tuple[int, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    operator: str = ""
    moments: int | None = None
    hyperparameters: Mapping[str, float] | None = None
    mutation_strength: float | None = None


@dataclass(frozen=True)
class ExchangeStep:
    """What an exchange is told.

    Attributes:
        lora: The population, changed in place.
        generation: About to be played; 0 where the founders have just been made.
        seed: The run's.
        homes: Slots of those who exchange among themselves ``[members]``: islands, or roles.
        standing: Of the members ``[N]``; NaN of those who broke.
        fitness: In the generation that was played last ``[N]``; NaN where there was none.
        hyperparameters: Of the members, by slot; what one does not have of its own is the run's.
        memory: What the exchange keeps from step to step, by name.
        measure: Marks, 0 or 1, of members on this many fresh training problems, greedily, the same
            problems throughout a step: ``measure(slots, problems) -> [slots, problems]``. There may
            be fewer problems, and none without known answers.
        breed: Makes children by selection, crossover and mutation, as the settings say.
    """

    lora: StackedLora
    generation: int
    seed: int
    homes: Sequence[np.ndarray]
    standing: np.ndarray
    fitness: np.ndarray
    hyperparameters: Mapping[int, Mapping[str, float]]
    memory: dict[str, Tensor]
    measure: Callable[[Sequence[int], int], np.ndarray]
    breed: Callable[[], list[Exchanged]]

    @property
    def is_founding(self) -> bool:
        """Whether the founders have just been made, and nothing was played."""
        return self.generation == 0

    def generator(self, *what: Key) -> np.random.Generator:
        """The source of draws for one purpose."""
        return generator("exchange", self.seed, self.generation, *what)

    def sound(self, home: np.ndarray) -> np.ndarray:
        """Those of a home that are finite and have a standing, ``[members]``."""
        finite = self.lora.finite().cpu().numpy() & np.isfinite(self.standing)
        return home[finite[home]]

    def begin_equal(self, home: np.ndarray) -> Genome:
        """Give all of a home the weights of its first, and return these."""
        first = read_genome(self.lora, int(home[0]))
        for slot in home[1:].tolist():
            write_genome(self.lora, slot, first)
        return first

    def remember(self, name: str, genome: Genome) -> None:
        """Keep the factors of a genome."""
        kept = named_factors(genome, name)
        self.memory.update({key: factor.clone() for key, factor in kept.items()})

    def recall(self, name: str, like: Genome) -> Genome | None:
        """The genome that was kept under a name, with the scale and rank of another."""
        device = like.factors[0][0].device
        kept = factors_named(self.memory, name)
        factors = tuple((A.to(device), B.to(device)) for A, B in kept)
        return replace(like, factors=factors) if factors else None


Exchange = Callable[..., list[Exchanged]]


class Exchanges(Operators[Exchange]):
    """Exchanges by name, and what is true of each.

    Attributes:
        central: Names of those whose result is the mean of the members, not one of them.
    """

    def __init__(self) -> None:
        super().__init__("exchange")
        self.central: set[str] = set()

    def add_central(self, name: str, **allowed: Allowed) -> Callable[[Exchange], Exchange]:
        """As `add`, for an exchange whose population comes to the mean of its members' updates."""
        keep = self.add(name, **allowed)
        self.central.add(name)
        return keep

    def is_central(self, text: str) -> bool:
        """Whether a setting names an exchange that comes to a mean."""
        use = self.read_one(text)
        return use is not None and use.name in self.central


EXCHANGES = Exchanges()


@EXCHANGES.add("crossover")
def crossover(step: ExchangeStep) -> list[Exchanged]:
    """The least fit replaced by children: selection, crossover, mutation, and migration."""
    return [] if step.is_founding else step.breed()
