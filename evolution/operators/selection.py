"""Selection: who stays, who breeds, who moves to another island.

Individuals are ranked by score: their fitness, unless the selection has another. Ties are broken by
fitness and then by slot, so selection is reproducible. A score that is not finite ranks below every
other and never breeds while another exists. Scores may be negative: nothing but differences counts.

A selection is a function from the scores of all who may breed, from best to worst, to the chance of
each to be a parent; `draw` does the rest. To add one, see `evolution.registry`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolution.errors import OperatorError
from evolution.registry import Operators, Use

Selection = Callable[..., np.ndarray]
SELECTIONS = Operators[Selection]("selection")


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is known of the individuals of a population.

    Attributes:
        fitness: ``[N]``.
        mu: Means of their ratings ``[N]``.
        sigma: Standard deviations of their ratings ``[N]``.
    """

    fitness: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray

    @classmethod
    def of(cls, fitness: np.ndarray) -> "Candidates":
        """Candidates without ratings."""
        return cls(fitness, np.zeros(len(fitness)), np.ones(len(fitness)))


def ranking(score: np.ndarray, fitness: np.ndarray | None = None) -> np.ndarray:
    """Slots from best to worst, ``[N]``; values that are not finite come last.

    Args:
        score: ``[N]``.
        fitness: Decides between equal scores ``[N]``.
    """
    keys = [score if fitness is None else fitness, score]
    return np.lexsort([-np.where(np.isfinite(key), key, -np.inf) for key in keys])


@SELECTIONS.add("tournament", size=(1, 1_000_000))
def tournament(score: np.ndarray, *, size: int = 3) -> np.ndarray:
    """The best of a random group of this size.

    Returns:
        Chances ``[n]``: of all groups, the share in which each one is the best.
    """
    n = len(score)
    size = min(size, n)
    return np.array([math.comb(n - 1 - i, size - 1) / math.comb(n, size) for i in range(n)])


@SELECTIONS.add("truncation", share=(0, 1))
def truncation(score: np.ndarray, *, share: float = 0.5) -> np.ndarray:
    """Any of the best share, rounded up, with equal chance."""
    count = max(math.ceil(share * len(score)), 1)
    return np.where(np.arange(len(score)) < count, 1 / count, 0.0)


@SELECTIONS.add("roulette", floor=(0, 1_000_000))
def roulette(score: np.ndarray, *, floor: float = 0.1) -> np.ndarray:
    """Chances in proportion to the lead over the worst, plus ``floor`` times the best's lead."""
    lead = score - score[-1]
    if lead[0] <= 0:
        return np.full(len(score), 1 / len(score))
    chances = lead / lead[0] + floor
    return chances / chances.sum()


@SELECTIONS.add("rank", pressure=(1, 2))
def rank(score: np.ndarray, *, pressure: float = 1.8) -> np.ndarray:
    """Chances that fall linearly with the rank (Baker, 1985).

    The best has ``pressure`` times the mean chance, the worst ``2 - pressure`` times.
    """
    if len(score) == 1:
        return np.ones(1)
    return np.linspace(pressure, 2 - pressure, len(score)) / len(score)


@SELECTIONS.add("lower_bound", c=(0, 100), share=(0, 1))
def lower_bound(score: np.ndarray, *, c: float = 3.0, share: float = 0.5) -> np.ndarray:
    """Any of the best share by rating, taken at its lower bound ``mu - c * sigma``.

    Who is replaced, elites aside, goes by the same bound: a rating that is merely unsure is not a
    good one.
    """
    del c  # in `_rating_bound`, which the score is by
    return truncation(score, share=share)


def _rating_bound(candidates: Candidates, *, c: float = 3.0, share: float = 0.5) -> np.ndarray:
    del share
    return candidates.mu - c * candidates.sigma


SELECTION_SCORES: dict[str, Callable[..., np.ndarray]] = {"lower_bound": _rating_bound}
"""What selections rank by where it is not fitness: functions of candidates and parameters."""


def selection_scores(use: Use[Selection], candidates: Candidates) -> np.ndarray:
    """What a selection ranks individuals by, ``[N]``."""
    if use.name not in SELECTION_SCORES:
        return candidates.fitness
    return SELECTION_SCORES[use.name](candidates, **use.parameters)


def draw(
    use: Use[Selection],
    score: np.ndarray,
    fitness: np.ndarray,
    members: np.ndarray,
    parents: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the parents of one child, one after the other.

    Args:
        use: The selection.
        score: ``[N]``, as `selection_scores` returns it.
        fitness: Decides between equal scores ``[N]``.
        members: Slots that may breed.
        parents: How many to draw.
        rng: Source of the draws.

    Returns:
        Slots ``[parents]``, from best to worst; all different, unless fewer than that have a
        finite score: then these are repeated.
    """
    best_first = members[ranking(score[members], fitness[members])]
    known = best_first[np.isfinite(score[best_first])]
    if len(known):
        best_first, values = known, score[known]
    else:
        values = np.zeros(len(best_first))
    chances = np.asarray(use(values), dtype=float)
    if chances.shape != values.shape or not (np.isfinite(chances) & (chances >= 0)).all():
        raise OperatorError(
            f"selection: {use.name} returned {chances!r}, expected a chance >= 0 for each of "
            f"{len(values)} scores"
        )
    left = list(range(len(best_first)))
    places: list[int] = []
    for _ in range(min(parents, len(left))):
        share = chances[left]
        place = rng.choice(left, p=share / share.sum()) if share.sum() > 0 else left[0]
        places.append(int(place))
        left.remove(int(place))
    return best_first[np.resize(sorted(places), parents)]


@dataclass(frozen=True, slots=True)
class Replacement:
    """Whose slots are given to others.

    Attributes:
        children: Slots that children take, and the slots their parents are drawn from.
        migrants: Slots that migrants take, and the slots they are copied from.
    """

    children: Mapping[int, np.ndarray]
    migrants: Mapping[int, int]


def best_of_each(order: np.ndarray, homes: Sequence[np.ndarray], count: int) -> set[int]:
    """Slots of the first so many of each island.

    Args:
        order: Slots from best to worst; those that are not in it are left out.
        homes: Slots of each island.
        count: How many of each; of an island with fewer, all.
    """
    return {slot for home in homes for slot in order[np.isin(order, home)][:count].tolist()}


def replacement(
    order: np.ndarray,
    homes: Sequence[np.ndarray],
    offspring: int,
    migrants: int,
    elites: Collection[int] = (),
) -> Replacement:
    """Who is replaced, island by island.

    The worst of each island make room for copies of the best of the island before it, in a ring;
    the worst after them for children of the island's own.

    Args:
        order: All slots from best to worst ``[N]``.
        homes: Slots of each island.
        offspring: Children of each island.
        migrants: Individuals that each island sends to the next; 0 if nobody moves.
        elites: Slots that stay, wherever they are in the order.
    """
    ranked = [order[np.isin(order, home)] for home in homes]
    children: dict[int, np.ndarray] = {}
    arrivals: dict[int, int] = {}
    for island, (home, best_first) in enumerate(zip(homes, ranked, strict=True)):
        worst_first = [slot for slot in best_first[::-1].tolist() if slot not in elites]
        arrivals.update(zip(worst_first[:migrants], ranked[island - 1].tolist(), strict=False))
        children.update(dict.fromkeys(worst_first[migrants : migrants + offspring], home))
    return Replacement(children, arrivals)
