"""Selection: who stays, who breeds.

Ranks are by fitness with ties broken by slot, so selection is reproducible; a fitness that is not
finite ranks below every other and never breeds while another exists.
"""

import numpy as np


def ranking(fitness: np.ndarray) -> np.ndarray:
    """Slots from fittest to least fit, ``[N]``; values that are not finite come last."""
    keyed = np.where(np.isfinite(fitness), fitness, -np.inf)
    return np.argsort(-keyed, kind="stable")


def tournament(
    fitness: np.ndarray, parents: int, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw parents of one child, each the fittest of a random group.

    Args:
        fitness: ``[N]``.
        parents: How many to draw, at most N; all different.
        size: Slots in each group, at least 1.
        rng: Source of the groups.

    Returns:
        Slots ``[parents]``.
    """
    place = np.empty(len(fitness), dtype=int)
    place[ranking(fitness)] = np.arange(len(fitness))
    left = [i for i in range(len(fitness)) if np.isfinite(fitness[i])]
    if len(left) < parents:
        left = list(range(len(fitness)))
    chosen: list[int] = []
    for _ in range(parents):
        group = rng.choice(left, size=min(size, len(left)), replace=False)
        winner = int(min(group, key=lambda slot: place[slot]))
        chosen.append(winner)
        left.remove(winner)
    return np.array(chosen)
