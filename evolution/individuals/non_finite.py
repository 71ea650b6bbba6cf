"""What becomes of an individual whose weights are no longer finite.

Learning with too large a step, a half-precision adapter, or code of a user's own can break one. It
is recorded in the lineage, its factors and its optimiser's state are cleared so that nothing that
is not finite is ever played, learned from or saved, and it has no standing: it never breeds, learns
nothing and is the first to be replaced. Until then its slot answers as the base does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.engine.adapters import StackedLora
from evolution.individuals.lineage import Lineage
from evolution.individuals.standing import Standing
from evolution.lowrank.genomes import clear

if TYPE_CHECKING:
    from evolution.learning import AnyLearner


def set_aside(
    lora: StackedLora,
    learner: "AnyLearner | None",
    lineage: Lineage,
    standing: Standing,
    generation: int,
) -> Sequence[int]:
    """Find individuals that are not finite, and take them out of evolution.

    Args:
        lora: The population's adapters; broken ones become equal to the base.
        learner: Forgets what it knew of them.
        lineage: Where it is recorded.
        standing: Of the members; NaN of broken ones from now on.
        generation: The one in which they are found.

    Returns:
        Their slots.
    """
    slots = [slot for slot, sound in enumerate(lora.finite().tolist()) if not sound]
    if not slots:
        return ()
    for slot in slots:
        clear(lora, slot)
        lineage.amend(slot, broken=generation, fitness=None)
    if learner is not None:
        learner.reset(slots)
    standing.lose(slots)
    return slots


def broken_slots(lineage: Lineage) -> list[int]:
    """Slots whose living individuals broke."""
    return [slot for slot, individual in lineage.living.items() if individual.broken is not None]
