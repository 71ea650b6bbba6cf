"""Fair timing: contenders take turns, so that whatever the machine is doing meets all of them.

A contender is a function that is told the number of the round and returns what it measured.
Figures are taken from rounds: ratios within a round first, then the median over the rounds.

Not covered here: what is measured (`evolution.engine_benchmark.rows`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.progress import Progress

Contender = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of what several rounds measured.

    Attributes:
        median: The median.
        low: First quartile.
        high: Third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Spread of at least one value; quartiles are interpolated linearly.

        Raises:
            ValueError: If there is no value.
        """
        if not values:
            raise ValueError("values: got none, expected one for each round")
        low, median, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))


def interleaved(
    contenders: Mapping[str, Contender],
    rounds: int,
    *,
    warmup: int = 1,
    slow: Collection[str] = (),
    slow_rounds: int = 0,
    progress: Progress | None = None,
) -> dict[str, tuple[float, ...]]:
    """Let every contender run once in each round; slow ones in the first few only.

    The first to run changes from round to round, so that none is always the one that follows
    another.

    Args:
        contenders: Name to contender.
        rounds: Rounds that count, numbered from 0.
        warmup: Rounds before them whose results are dropped; numbered below 0.
        slow: Contenders that run in no warm-up, and in the first ``slow_rounds`` rounds only.
        slow_rounds: See ``slow``; at most ``rounds`` count.
        progress: Called with the name of who is about to run, and the fraction of all runs that
            are done.

    Returns:
        What each contender measured, in order of the rounds from 0 on.

    Raises:
        ValueError: If rounds is below 1 or warmup below 0.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds and warmup: got {rounds} and {warmup}, expected >= 1 and >= 0")
    names = list(contenders)
    measured: dict[str, list[float]] = {name: [] for name in names}
    turns: list[tuple[int, str]] = []
    for number in range(-warmup, rounds):
        first = number % len(names) if names else 0
        turns += [
            (number, name)
            for name in names[first:] + names[:first]
            if name not in slow or 0 <= number < slow_rounds
        ]
    for done, (number, name) in enumerate(turns):
        if progress is not None:
            progress(name, done / len(turns))
        value = contenders[name](number)
        if number >= 0:
            measured[name].append(value)
    return {name: tuple(values) for name, values in measured.items()}


def ratios(values: Sequence[float], to: Sequence[float]) -> tuple[float, ...]:
    """Ratios of what two contenders measured, in each round that both took part in.

    Raises:
        ValueError: If there is no such round.
    """
    if not values or not to:
        raise ValueError(
            f"rounds: got {len(values)} and {len(to)} of two contenders, expected >= 1"
        )
    return tuple(value / base for value, base in zip(values, to, strict=False))
