"""Crossover: how much each parent contributes to a child.

An operator turns parents' fitness into weights of their updates; `evolution.lowrank` does the rest
on the updates themselves. Add one by putting a function into `CROSSOVERS`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

Crossover = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def average(fitness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Equal weights.

    Args:
        fitness: Of the K parents of one child, ``[K]``.
        rng: Not used.

    Returns:
        Weights that sum to 1, ``[K]``.
    """
    del rng
    return np.full(len(fitness), 1 / len(fitness))


def weighted_average(fitness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random weights from a Dirichlet distribution, the larger ones for the fitter parents.

    Args:
        fitness: Of the K parents of one child, ``[K]``; any finite numbers.
        rng: Source of the weights.

    Returns:
        Weights that sum to 1, ``[K]``.
    """
    drawn = np.sort(rng.dirichlet(np.full(len(fitness), 2.0)))
    weights = np.empty(len(fitness))
    weights[np.argsort(fitness, kind="stable")] = drawn
    return weights


CROSSOVERS: Mapping[str, Crossover] = MappingProxyType(
    {"average": average, "weighted_average": weighted_average}
)
