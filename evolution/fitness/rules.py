"""What diversity adds to the task return: a bonus, sharing, novelty, or a place in an archive.

Fitness is the (scaled) return plus what a rule adds to it. A rule is a class whose keyword-only
arguments are its parameters, registered in `FITNESSES` in the manner of `evolution.registry`; what
it remembers between generations is saved with the run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agents.engine.jobs import Feature
from evolution.errors import OperatorError
from evolution.fitness import descriptors as axes
from evolution.fitness.attempts import Attempts
from evolution.registry import Operators

_CELLS = ("solution", "objective", "measures")  # what a MAP-Elites archive holds of each


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a generation measured, as a rule sees it.

    Attributes:
        attempts: Of all agents.
        similarity: Kernel of the attempts that count, ``[problems, N, N]``; see
            `evolution.fitness.diversity.kernel`.
        distances: Mean distance of each attempt from the others, ``[problems, N]``; NaN of those
            that do not count.
        returns: Mean returns ``[N]``.
        scaled: The same as fitness counts them ``[N]``.
        births: Generation of birth and slot of each individual, ``[N, 2]``, which name it.
        weight: What a unit of diversity is worth.
    """

    attempts: Attempts
    similarity: np.ndarray
    distances: np.ndarray
    returns: np.ndarray
    scaled: np.ndarray
    births: np.ndarray
    weight: float


class Rule(Protocol):
    """What diversity adds to the return."""

    def bonus(self, measured: Measured) -> np.ndarray:
        """What each agent's return is changed by, ``[N]``; called once a generation."""
        ...

    def figures(self) -> dict[str, float]:
        """What else there is to say of the generation, for the history."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """All that is remembered."""
        ...

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Read back what `state` returned.

        Raises:
            ValueError: If it does not fit.
        """
        ...


FITNESSES = Operators[Callable[..., Rule]]("fitness")


class Forgetful:
    """A rule that remembers nothing."""

    def figures(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Nothing to read.

        Raises:
            ValueError: If there is.
        """
        if saved:
            raise ValueError(f"fitness: the run remembers {', '.join(saved)}, which nothing reads")


@FITNESSES.add("bonus")
class DistanceBonus(Forgetful):
    """The weight times the mean distance of an agent's attempts from the others' at the problem.

    The mean is over all problems; an attempt that does not count adds 0.
    """

    def bonus(self, measured: Measured) -> np.ndarray:
        """See the class."""
        return measured.weight * np.nan_to_num(measured.distances).mean(0)


@FITNESSES.add("sharing", radius=(1e-6, 1), alpha=(1e-3, 100))
class Sharing(Forgetful):
    """Fitness sharing: a lead over the worst is divided among those who are alike.

    As Goldberg and Richardson (1987), but it is not the return that is divided, which would reward
    crowding where returns are negative, but the lead over the least return: nobody gains, the worst
    stay worst, and a constant added to all returns changes nothing. What `diversity_weight` says
    does not matter here.

    An attempt's niche holds all others that count and are nearer than the radius, each by
    ``1 - (distance / radius) ** alpha``, and itself. An attempt that does not count gains nothing
    by it: its niche is the whole population.

    Args:
        radius: Distance from which on attempts do not share.
        alpha: Form of the sharing function; 1 is a straight line.
    """

    def __init__(self, *, radius: float = 0.1, alpha: float = 1.0) -> None:
        self._radius, self._alpha = radius, alpha

    def bonus(self, measured: Measured) -> np.ndarray:
        """Shared fitness less the scaled return, 0 or below ``[N]``."""
        known = np.isfinite(measured.scaled)
        least = measured.scaled[known].min() if known.any() else 0.0
        lead = measured.scaled - least
        return lead / self.niches(measured.similarity) - lead

    def niches(self, similarity: np.ndarray) -> np.ndarray:
        """Mean size of each agent's niches, ``[N]``, from 1 to N."""
        apart = np.clip(1 - similarity, 0, 1)
        shares = np.where(apart < self._radius, 1 - (apart / self._radius) ** self._alpha, 0.0)
        counted = np.isfinite(np.diagonal(similarity, axis1=1, axis2=2))
        return np.where(counted, shares.sum(2), similarity.shape[1]).mean(0)


@FITNESSES.add("novelty", k=(1, 1000), archive=(0, 1_000_000), add=(0, 1000))
class Novelty:
    """The weight times how far an agent's behaviour is from all that was seen before.

    That is the mean distance to the k nearest of the archive and of the others now (Lehman and
    Stanley, 2011, "Abandoning Objectives"), times the share of its attempts that count. After each
    generation the most novel agents are archived, the first slots of equals; the oldest make room.

    Args:
        k: Neighbours.
        archive: Behaviours that are kept.
        add: Behaviours that are added after each generation.
        behaviour: ``hidden_states`` (the agent's mean hidden state, at unit length), or
            descriptors joined by ``+``; see `evolution.fitness.descriptors`.
    """

    def __init__(
        self, *, k: int = 5, archive: int = 200, add: int = 1, behaviour: str = "hidden_states"
    ) -> None:
        self._k, self._most, self._add = k, archive, add
        self._axes = None if behaviour == "hidden_states" else axes.read(behaviour)
        self.needs = (Feature.HIDDEN_STATES,) if self._axes is None else ()
        self._archive: np.ndarray | None = None

    def bonus(self, measured: Measured) -> np.ndarray:
        """See the class."""
        vectors = self._behaviours(measured.attempts)
        if self._archive is None:
            self._archive = np.zeros((0, vectors.shape[1]))
        elif self._archive.shape[1] != vectors.shape[1]:
            raise OperatorError(
                f"fitness: novelty: behaviours have {vectors.shape[1]} numbers, those in the "
                f"archive {self._archive.shape[1]}; expected as many"
            )
        novelty = self._distances(vectors, self._archive)
        order = [i for i in np.argsort(-novelty, kind="stable") if np.isfinite(vectors[i]).all()]
        kept = np.concatenate([self._archive, vectors[order[: self._add]]])
        self._archive = kept[max(len(kept) - self._most, 0) :]
        return measured.weight * novelty * measured.attempts.counted.mean(0)

    def figures(self) -> dict[str, float]:
        """Behaviours in the archive."""
        return {"archived": 0.0 if self._archive is None else float(len(self._archive))}

    def state(self) -> dict[str, np.ndarray]:
        """The archive, ``[behaviours, width]``, the oldest first."""
        return {} if self._archive is None else {"archive": self._archive}

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Read the archive back.

        Raises:
            ValueError: If it is none.
        """
        if set(saved) - {"archive"} or any(a.ndim != 2 for a in saved.values()):
            raise ValueError(f"fitness: novelty cannot read {', '.join(saved)}")
        self._archive = saved.get("archive")

    def _behaviours(self, attempts: Attempts) -> np.ndarray:
        """Points no further apart than 1, ``[N, width]``; NaN of an agent none of whose count."""
        if self._axes is not None:
            values, _ = axes.describe(self._axes, attempts)
            return values / values.shape[1] ** 0.5
        means = attempts.mean(attempts.hidden_states)
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        return np.divide(means, 2 * norms, out=np.full(means.shape, np.nan), where=norms > 0)

    def _distances(self, vectors: np.ndarray, archive: np.ndarray) -> np.ndarray:
        """Mean distance of each to its k nearest, ``[N]``; 0 where nothing is known."""
        novelty = np.zeros(len(vectors))
        known = np.isfinite(vectors).all(1)
        for i in np.flatnonzero(known):
            others = known & (np.arange(len(vectors)) != i)
            seen = np.concatenate([archive, vectors[others]])
            if len(seen):
                nearest = np.sort(np.linalg.norm(seen - vectors[i], axis=1))[: self._k]
                novelty[i] = nearest.mean()
        return novelty


@FITNESSES.add("map_elites", floor=(-1e6, 1e6))
class MapElites:
    """The weight, for agents that hold a cell of a MAP-Elites archive; nothing for the others.

    The archive (Mouret and Clune, 2015, "Illuminating search spaces by mapping elites") is a grid
    over descriptors of an agent's replies. Each cell remembers the individual whose mean return in
    one generation was the highest that was ever measured there. An agent holds the cell it is in if
    that individual is itself: nobody whose replies are like that, dead or alive, did better. With a
    weight above the range of returns, every holder is fitter than everyone else in a generation.

    The archive keeps returns and names, not weights: parents are living members of the population.
    Returns are noisy, so the record of a lucky individual may stay unbeaten when it is gone.

    Args:
        descriptors: Axes of the grid joined by ``+``, such as ``length(cells=6)+strategy``; see
            `evolution.fitness.descriptors`.
        floor: The return that adds nothing to the QD score, the sum over all cells of how far their
            returns are above it.
    """

    def __init__(self, *, descriptors: str = "length+strategy", floor: float = 0.0) -> None:
        self._axes, self._floor = axes.read(descriptors), floor
        self._archive: Any = None
        self._saved: Mapping[str, np.ndarray] = {}

    def bonus(self, measured: Measured) -> np.ndarray:
        """See the class."""
        values, cells = axes.describe(self._axes, measured.attempts)
        if self._archive is None:
            self._archive = self._grid(cells)
        known = np.flatnonzero(np.isfinite(values).all(1) & np.isfinite(measured.returns))
        holds = np.zeros(len(values))
        if len(known):
            self._archive.add(measured.births[known], measured.returns[known], values[known])
            # What each one's cell holds now, itself perhaps from an earlier generation.
            found, elites = self._archive.retrieve(values[known])
            holds[known] = found & (elites["solution"] == measured.births[known]).all(1)
        return measured.weight * holds

    def figures(self) -> dict[str, float]:
        """Share of the cells that were ever reached, and the QD score."""
        if self._archive is None:
            return {}
        stats = self._archive.stats
        return {"coverage": float(stats.coverage), "qd_score": float(stats.qd_score)}

    def state(self) -> dict[str, np.ndarray]:
        """The cells: names ``[cells, 2]``, returns ``[cells]``, descriptors ``[cells, axes]``."""
        if self._archive is None:
            return dict(self._saved)
        data = self._archive.data(list(_CELLS))
        return {name: np.array(data[name]) for name in _CELLS}

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Read the cells back.

        Raises:
            ValueError: If they have other axes.
        """
        axes = (len(self._axes),)
        if saved and (set(saved) != set(_CELLS) or saved["measures"].shape[1:] != axes):
            raise ValueError("fitness: the run's MAP-Elites archive has other descriptors")
        self._archive, self._saved = None, dict(saved)

    def _grid(self, cells: list[int]) -> Any:
        """An archive with what was saved in it."""
        from ribs.archives import GridArchive

        archive = GridArchive(
            solution_dim=2,
            dims=cells,
            ranges=[(0.0, 1.0)] * len(cells),
            qd_score_offset=self._floor,
            seed=0,
            solution_dtype=np.int64,
            objective_dtype=np.float64,
            measures_dtype=np.float64,
        )
        if self._saved:
            archive.add(*(self._saved[name] for name in _CELLS))
        return archive
