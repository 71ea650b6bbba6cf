"""What of a difference over a few seeds is not luck: intervals, a paired test, many tests at once.

A seed is the unit: its value is a mean over problems that it shares with what it is compared with.
Problems of one seed are not taken as independent runs. Not covered here: which values these are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from populora_env.keys import generator

EXACT = 16
"""Most seeds of which all signs are tried; of more, `DRAWN` are drawn."""
DRAWN = 100_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and how sure it is.

    Attributes:
        mean: Of the seeds.
        low: Lower end of the confidence interval; None of a single seed.
        high: Upper end.
        seeds: How many.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float], confidence: float = 0.95) -> "Interval":
        """The t interval of the mean of a value for each seed, at least one.

        Args:
            values: One for each seed.
            confidence: Share of such intervals that hold the true mean, were the values normal.
        """
        array = np.asarray(values, dtype=float)
        mean, count = float(array.mean()), len(array)
        if count < 2:
            return cls(mean, None, None, count)
        spread = 0.0 if array.min() == array.max() else float(array.std(ddof=1))
        half = t_quantile((1 + confidence) / 2, count - 1) * spread / math.sqrt(count)
        return cls(mean, mean - half, mean + half, count)

    def within(self, least: float, most: float) -> "Interval":
        """The same without what no value can be."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, least), high=min(self.high, most))


def t_cdf(t: float, freedom: int) -> float:
    """Chance that Student's t of so many degrees of freedom is at most ``t``.

    The finite sums of Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = cosine if freedom % 2 else 1.0, 0.0
    for power in range(freedom % 2, freedom - 1, 2):  # of the cosine
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    inside = 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
    return (1 + inside) / 2


@cache
def t_quantile(share: float, freedom: int) -> float:
    """The value that Student's t is below with this chance, from 0.5 to below 1.

    Args:
        share: The chance.
        freedom: Degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if t_cdf(middle, freedom) < share else (low, middle)
    return high


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of a mean difference, were each seed's as likely of the other sign.

    A permutation test: the share of all ways to choose the signs whose mean is at least as far from
    0 as the one seen (Fisher, 1935, "The Design of Experiments"). All ways are tried up to `EXACT`
    seeds; of more, `DRAWN` are drawn from a key, and the one seen counts as one of them. With n
    seeds it cannot be below ``2 / 2**n``.

    Args:
        differences: One for each seed, at least one.
    """
    values = np.asarray(differences, dtype=float)
    seen = abs(float(values.sum()))
    seen -= 1e-9 * float(np.abs(values).sum())  # equal sums may differ in the last digit
    if len(values) <= EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1)
        return float((np.abs(signs @ values) >= seen).mean())
    rng = generator("sign flips", len(values))
    past = 0
    for _ in range(10):
        signs = 1 - 2 * rng.integers(0, 2, (DRAWN // 10, len(values)))
        past += int((np.abs(signs @ values) >= seen).sum())
    return (past + 1) / (DRAWN + 1)


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for being several, so that one below x is one of all with chance x.

    Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    corrected, most = [0.0] * len(values), 0.0
    order = sorted(range(len(values)), key=lambda i: values[i])
    for place, i in enumerate(order):
        most = max(most, min(1.0, (len(values) - place) * values[i]))
        corrected[i] = most
    return corrected


def problem_error(differences: Sequence[np.ndarray], *, shared: bool = False) -> float:
    """Standard error that a mean difference has from the choice of problems alone.

    Were the runs of the seeds what they are, and others of their kind asked.

    Args:
        differences: Of each seed, at each of its problems, ``[problems]``; two problems at least.
        shared: Whether all seeds had the same problems, in one order: another choice would have
            been another for all of them.
    """
    if shared:
        over_seeds = np.mean(np.stack(list(differences)), 0)
        return float(over_seeds.std(ddof=1)) / math.sqrt(len(over_seeds))
    squared = [float(own.var(ddof=1)) / len(own) for own in map(np.asarray, differences)]
    return math.sqrt(sum(squared)) / len(squared)
