"""Fitness scaling and the weight of diversity over time.

Scales make one generation's returns comparable with a bonus whatever their level: all of them keep
the order of the returns, and all but ``none`` do not change when a constant is added to every
return, so negative returns do no harm. Schedules say what a unit of diversity is worth in a
generation. To add one of either, see `evolution.registry`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evolution.errors import OperatorError
from evolution.registry import Operators, Use

Scale = Callable[..., np.ndarray]
Schedule = Callable[..., float]

SCALES = Operators[Scale]("fitness_scale")
SCHEDULES = Operators[Schedule]("diversity_schedule")


@dataclass(frozen=True, slots=True)
class Progress:
    """What a schedule may go by.

    Attributes:
        start: The setting ``diversity_weight``.
        generation: Number of the generation, from 0.
        weight: Of the generation before; ``start`` in the first.
        vendi: Vendi score of this generation's attempts; NaN if none counts.
    """

    start: float
    generation: int
    weight: float
    vendi: float


@SCALES.add("z_score")
def z_score(returns: np.ndarray) -> np.ndarray:
    """Lead over the mean, in standard deviations ``[N]``; 0 for all if they are the same."""
    spread = returns.std()
    lead = returns - returns.mean()
    return lead / spread if spread > 1e-12 else np.zeros_like(returns)


@SCALES.add("rank")
def rank(returns: np.ndarray) -> np.ndarray:
    """Rank among all, from -1/2 (worst) to 1/2 (best) ``[N]``; equals share their mean rank."""
    below = (returns[:, None] > returns).sum(1) - (returns[:, None] < returns).sum(1)
    return below / (2 * max(len(returns) - 1, 1))


@SCALES.add("min_max")
def min_max(returns: np.ndarray) -> np.ndarray:
    """From 0 (worst) to 1 (best) ``[N]``; 0 for all if they are the same."""
    lead = returns - returns.min()
    return lead / lead.max() if lead.max() > 1e-12 else np.zeros_like(returns)


def scaled(use: Use[Scale] | None, returns: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns as fitness counts them.

    Args:
        use: The scale; None changes nothing.
        returns: ``[N]``. Those that are not finite stay NaN and do not count for the others.

    Returns:
        ``[N]``, and what a unit of return is worth on the new scale: the ratio of the standard
        deviations, 1 where all returns are the same.

    Raises:
        OperatorError: If the scale does not return a finite number for each return.
    """
    if use is None:
        return returns, 1.0
    known = np.isfinite(returns)
    values = np.full(len(returns), np.nan)
    if known.any():
        own = np.asarray(use(returns[known]), dtype=float)
        if own.shape != returns[known].shape or not np.isfinite(own).all():
            raise OperatorError(
                f"fitness_scale: {use.name} returned {own!r}, expected a finite number for each "
                f"of {known.sum()} returns"
            )
        values[known] = own
    spread = float(returns[known].std()) if known.any() else 0.0
    return values, float(values[known].std()) / spread if spread > 1e-12 else 1.0


@SCHEDULES.add("constant")
def constant(progress: Progress) -> float:
    """The setting itself."""
    return progress.start


@SCHEDULES.add("linear", end=(-1e6, 1e6), generations=(1, 1_000_000))
def linear(progress: Progress, *, end: float = 0.0, generations: int = 20) -> float:
    """From the setting to ``end`` in a straight line, then ``end``."""
    done = min(progress.generation / generations, 1.0)
    return progress.start + done * (end - progress.start)


@SCHEDULES.add("cosine", end=(-1e6, 1e6), generations=(1, 1_000_000))
def cosine(progress: Progress, *, end: float = 0.0, generations: int = 20) -> float:
    """From the setting to ``end`` in half a cosine wave, then ``end``."""
    done = min(progress.generation / generations, 1.0)
    return end + (progress.start - end) * (1 + math.cos(math.pi * done)) / 2


@SCHEDULES.add(
    "target", vendi=(1, 1_000_000), rate=(0, 10), least=(1e-9, 1e6), most=(1e-9, 1e6)
)  # fmt: skip
def target(
    progress: Progress,
    *,
    vendi: float = 2.0,
    rate: float = 0.5,
    least: float = 0.01,
    most: float = 10.0,
) -> float:
    """Hold the Vendi score at a target: more weight while it is below, less while it is above.

    The last weight times ``exp(rate * (1 - score / target))``, from ``least`` to ``most``; the last
    weight where no score is known.
    """
    step = 0.0 if math.isnan(progress.vendi) else rate * (1 - progress.vendi / vendi)
    return min(max(progress.weight * math.exp(step), least), most)
