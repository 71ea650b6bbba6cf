"""What mutations are told and what they have in common: newborns, their form, chains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from agents.engine.adapters import StackedLora
from evolution.lowrank.layers import recombine
from evolution.registry import Operators, Use
from populora_env.keys import Key, generator

Mutation = Callable[..., None]
MUTATIONS = Operators[Mutation]("mutations")


class Form(IntEnum):
    """What is known of the form of factors; each includes those before it."""

    ANY = 0
    ORTHONORMAL = 1  # the rows of A
    CANONICAL = 2  # and the columns of B orthogonal


@dataclass
class Offspring:
    """A member that undergoes mutations; these keep it up to date.

    Attributes:
        slot: Where it lives.
        strength: Factor on the strength of noise.
        hyperparameters: Settings of its own.
        form: Of its factors.
    """

    slot: int
    strength: float = 1.0
    hyperparameters: dict[str, float] = field(default_factory=dict[str, float])
    form: Form = Form.ANY


@dataclass(frozen=True, slots=True)
class MutationStep:
    """Members that undergo one mutation.

    Attributes:
        members: These.
        key: Of the mutation: seed, generation, and its place among others.
    """

    members: Sequence[Offspring]
    key: tuple[Key, ...]

    def generator(self, member: Offspring, *what: Key) -> np.random.Generator:
        """The source of one member's draws for one purpose."""
        return generator("mutation", *self.key, member.slot, *what)

    def require(self, lora: StackedLora, form: Form) -> None:
        """Bring those to canonical form that are not in the form asked for."""
        short = [member for member in self.members if member.form < form]
        if short:
            slots = np.array([member.slot for member in short])
            recombine(lora, slots, slots[:, None], np.ones((len(slots), 1)))
        for member in short:
            member.form = Form.CANONICAL


def mutate(
    lora: StackedLora, chain: Sequence[Use[Mutation]], members: Sequence[Offspring], *key: Key
) -> list[list[str]]:
    """Apply mutations one after the other, each to those members that chance picks.

    Args:
        lora: The population, changed in place.
        chain: Mutations with their chances.
        members: Who may undergo them.
        key: Of the step: seed and generation.

    Returns:
        For each member, what it underwent.
    """
    undergone: list[list[str]] = [[] for _ in members]
    for place, use in enumerate(chain):
        step = MutationStep([], (*key, place, use.name))
        picked = [step.generator(m, "chance").random() < use.chance for m in members]
        chosen = [m for m, is_picked in zip(members, picked, strict=True) if is_picked]
        if chosen:
            use(lora, MutationStep(chosen, step.key))
        for entry, is_picked in zip(undergone, picked, strict=True):
            entry += [str(use)] * is_picked
    return undergone
