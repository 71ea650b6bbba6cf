"""What the rungs of the ladder do: to weights, the learner, the lineage and the standing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from agents.population import LoraPopulation
from evolution.guard.snapshots import Snapshot
from evolution.individuals.champion import Champion
from evolution.individuals.hyperparameters import Hyperparameters
from evolution.individuals.lineage import Individual, Lineage
from evolution.individuals.standing import Standing
from evolution.lowrank.genomes import Genome, clear, content_hash, restore_genome

if TYPE_CHECKING:
    from evolution.learning import AnyLearner

KL = 0.5
"""Least weight of the divergence from the base, once it is raised."""
_TIMES = 4.0  # what the weight that there is becomes, where that is more


@dataclass(frozen=True, slots=True)
class Means:
    """What the guard may change.

    Attributes:
        population: Whose weights.
        learner: Whose optimiser's state, learning rates and KL weights; None if nobody learns.
        lineage: Where a replacement is recorded.
        standing: Lost by whoever is rolled back or replaced.
        hyperparameters: Puts a newcomer's own settings where they are used.
    """

    population: LoraPopulation
    learner: "AnyLearner | None"
    lineage: Lineage
    standing: Standing
    hyperparameters: Hyperparameters

    @property
    def kl_weights(self) -> Tensor | None:
        """KL weight of each agent ``[N]``, to be written in place; None where nobody learns."""
        return getattr(self.learner, "kl_weights", None)


class Acting:
    """Climbs and comes down.

    Args:
        means: What may be changed.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._raised: dict[int, tuple[float, float]] = {}  # slot to the weight before and since

    @property
    def can_raise_kl(self) -> bool:
        """Whether anybody learns with a KL weight of its own."""
        return self._means.kl_weights is not None

    def raise_kl(self, slot: int) -> str:
        """Raise an agent's KL weight; says what was done."""
        weights = self._means.kl_weights
        assert weights is not None
        before = float(weights[slot])
        since = max(KL, _TIMES * before)
        weights[slot] = since
        self._raised[slot] = before, since
        return f"KL weight raised from {before:g} to {since:g}"

    def lower_kl(self, slot: int) -> str:
        """Give an agent the KL weight back that it had; says what was done, if anything."""
        before, since = self._raised.pop(slot, (0.0, 0.0))
        weights = self._means.kl_weights
        # One that something else has changed since, such as a birth, stays as that made it.
        if weights is None or not since or float(weights[slot]) != _single(since, weights):
            return ""
        weights[slot] = before
        return f"KL weight back to {before:g}"

    def hold_kl(self) -> None:
        """Have raised KL weights stay raised, whatever was born there."""
        weights = self._means.kl_weights
        for slot, (_, since) in self._raised.items():
            if weights is not None and float(weights[slot]) < _single(since, weights):
                self._raised[slot] = float(weights[slot]), since
                weights[slot] = since

    def roll_back(self, slot: int, snapshot: Snapshot) -> str:
        """Give an individual back the weights of its last good snapshot; says what was done."""
        self._write(slot, snapshot.genome)
        return f"rolled back to {_called(snapshot)}"

    def replace(
        self,
        slot: int,
        generation: int,
        snapshot: Snapshot | None,
        champion: Champion | None,
        evidence: Mapping[str, Any],
    ) -> str:
        """Put the best proven one into a slot, as an individual of its own; says what was done.

        Args:
            slot: Whose individual is replaced.
            generation: The one it is born in.
            snapshot: The best of the guard's; None if it has none.
            champion: Taken in its place then; without either, the base is.
            evidence: Why, for the lineage.
        """
        means, lora = self._means, self._means.population.lora
        lost = means.lineage.living[slot]
        parents: tuple[str, ...] = ()
        own, strength = dict(lost.hyperparameters), 1.0
        if snapshot is not None:
            self._write(slot, snapshot.genome)
            source, parents = _called(snapshot), (snapshot.individual,)
            own, strength = dict(snapshot.hyperparameters), snapshot.mutation_strength
        elif champion is not None:
            self._write(slot, champion.genome)
            source, parents = f"the champion {champion.individual}", (champion.individual,)
        else:
            clear(lora, slot)
            self._begin_anew(slot)
            source = "the base"
        parameters = {"replaced": lost.name, "by": source, "evidence": dict(evidence)}
        newcomer = Individual(
            f"g{generation}-{slot}-guard", slot, generation, "guard", parents, parameters,
            content_hash(lora, slot), strength, own,
        )  # fmt: skip
        means.lineage.add(newcomer)
        means.hyperparameters.write([newcomer])
        self.hold_kl()
        return f"replaced by {source}"

    def _write(self, slot: int, genome: Genome) -> None:
        restore_genome(self._means.population.lora, slot, genome)
        self._begin_anew(slot)

    def _begin_anew(self, slot: int) -> None:
        """Forget what belongs to weights that are gone."""
        if self._means.learner is not None:
            self._means.learner.reset([slot])
        self._means.standing.inherit({slot: None})

    def state(self) -> dict[str, list[float]]:
        """As JSON types."""
        return {str(slot): list(pair) for slot, pair in self._raised.items()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave; the weights themselves are the learner's to keep."""
        self._raised = {
            int(slot): (float(before), float(since)) for slot, (before, since) in saved.items()
        }


def _called(snapshot: Snapshot) -> str:
    when = f"after generation {snapshot.generation}" if snapshot.generation >= 0 else "as born"
    return f"{snapshot.individual} {when} ({snapshot.right} of {len(snapshot.marks)} anchors)"


def _single(value: float, like: Tensor) -> float:
    """A number as a tensor of this type holds it."""
    return float(like.new_tensor(value))
