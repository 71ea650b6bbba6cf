"""What crossovers are told and what they have in common: parents, weights, and weighted sums."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.engine.adapters import StackedLora
from evolution.lowrank.layers import recombine
from evolution.registry import Operators
from populora_env.keys import Key, generator

Crossover = Callable[..., list[dict[str, Any]]]
CROSSOVERS = Operators[Crossover]("crossover")


@dataclass
class CrossoverStep:
    """The children of one evolution step and their parents.

    Attributes:
        slots: Where each child goes ``[C]``.
        parents: Slots of its parents, from best to worst ``[C, K]``; their factors are as before
            the step.
        fitness: Scores of these parents ``[C, K]``; may be NaN.
        spread: Standard deviation of score over the population, the unit of differences.
        key: Of the step: the run's seed and the generation.
        is_canonical: Whether the children are in canonical form; set by what makes them so.
    """

    slots: np.ndarray
    parents: np.ndarray
    fitness: np.ndarray
    spread: float
    key: tuple[Key, ...]
    is_canonical: bool = False

    def generator(self, child: int, *what: Key) -> np.random.Generator:
        """The source of one child's draws for one purpose."""
        return generator("crossover", *self.key, int(self.slots[child]), *what)


def mix(lora: StackedLora, step: CrossoverStep, weights: np.ndarray) -> list[dict[str, Any]]:
    """Make each child a weighted sum of its parents' updates, at the best of its rank.

    Args:
        lora: The population.
        step: Children and parents.
        weights: What can be broadcast to ``[C, K]``.
    """
    weights = np.broadcast_to(weights, step.parents.shape)
    errors = recombine(lora, step.slots, step.parents, weights)
    step.is_canonical = True
    return [
        {"weights": rounded(row), "recompression_error": number(error)}
        for row, error in zip(weights, errors, strict=True)
    ]


def shares(parents: int, first: float) -> np.ndarray:
    """Shares of K parents that sum to 1, ``[K]``: the first one's, and the rest in equal parts."""
    if parents == 1:
        return np.ones(1)
    return np.array([first, *[(1 - first) / (parents - 1)] * (parents - 1)])


def rounded(values: np.ndarray) -> list[float]:
    """Numbers for the lineage."""
    return [number(value) for value in values]


def number(value: float) -> float:
    """A number for the lineage."""
    return round(float(value), 6)
