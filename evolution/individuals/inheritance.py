"""What children inherit besides weights: optimiser state, ratings.

Hyperparameters of their own are in `evolution.individuals.hyperparameters`.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.engine.adapters import StackedLora
from evolution.config import ChildOptimizer
from evolution.individuals.breeding import Child
from populora_env.episodes.roles import PROPOSER, SOLVER, role_name
from populora_env.ratings import Ratings

if TYPE_CHECKING:
    from evolution.learning import AnyLearner


class OptimizerInheritance:
    """The optimiser state of a population that is about to have children.

    Where an exchange says whose state a member goes on with, it does. Otherwise a child gets the
    state of the first parent whose rows ``A`` it has bit for bit, as a copy has that did not
    mutate, and anyone where all share their rows; these are the coordinates that the state belongs
    to. Elsewhere crossover or mutation factors a child anew, so that it shares no parent's
    coordinates: its state begins afresh whatever the setting.

    Args:
        learner: Whose state it is; None if nobody learns.
        lora: The population, before the children are made.
        policy: Whether children inherit at all.
    """

    def __init__(
        self, learner: "AnyLearner | None", lora: StackedLora, policy: ChildOptimizer
    ) -> None:
        self._learner, self._lora = learner, lora
        inherits = learner is not None and policy == ChildOptimizer.INHERIT
        self._before = _row_hashes(lora) if inherits else None

    def hand_down(self, born: Sequence[Child]) -> None:
        """Pass on what children inherit, now that they are made, and forget the rest."""
        if self._learner is None:
            return
        heirs = {c.individual.slot: c.moments for c in born if c.moments is not None}
        if self._before is not None:
            after = _row_hashes(self._lora)
            for child in born:
                slot = child.individual.slot
                if slot in heirs:
                    continue
                alike = [p for p in child.parent_slots if self._before[p] == after[slot]]
                if alike:
                    heirs[slot] = alike[0]
        self._learner.inherit(heirs)
        slots = [child.individual.slot for child in born]
        self._learner.reset([slot for slot in slots if slot not in heirs])


def _row_hashes(lora: StackedLora) -> list[str]:
    """Hash of each member's rows ``A`` of all layers, ``[N]``."""
    digests = [hashlib.sha256() for _ in range(lora.size)]
    for layer in lora.layers():
        for digest, rows in zip(digests, layer.A.float().cpu(), strict=True):
            digest.update(rows.contiguous().numpy().data)
    return [digest.hexdigest() for digest in digests]


def inherit_ratings(ratings: Ratings, agents: Sequence[str], born: Sequence[Child]) -> Ratings:
    """Ratings in which children have their parents', as these were before any child was born.

    They have their parents' in each role that a parent was rated in, too.

    Args:
        ratings: Until now.
        agents: Names of all agents, by slot.
        born: The children.
    """
    before = ratings.to_dict()
    after = dict(before)
    for child in born:
        own, parents = agents[child.individual.slot], [agents[p] for p in child.parent_slots]
        for role in (None, PROPOSER, SOLVER):
            name, named = (
                (own, parents)
                if role is None
                else (role_name(own, role), [role_name(parent, role) for parent in parents])
            )
            if role is not None and not before.keys() & {name, *named}:
                continue
            heir = Ratings.from_dict(before)
            heir.reset(name, named)
            after[name] = heir.to_dict()[name]
    return Ratings.from_dict(after)


def rated_as(agents: Sequence[str], proposers: int | str) -> list[str]:
    """Names by which individuals are rated in what they are there for, by slot.

    Args:
        agents: Names of all agents.
        proposers: How many of the first write problems, or ``all``, who are rated as solvers.
    """
    if not proposers:
        return list(agents)
    writing = proposers if isinstance(proposers, int) else 0
    return [
        role_name(agent, PROPOSER if slot < writing else SOLVER)
        for slot, agent in enumerate(agents)
    ]
