"""Figures by generation that a run's history does not hold, from its episodes."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from evolution.reporting.measures.data import RunData, Series
from populora_env.records import Attempt


def ends(values: Series, least: int = 1) -> tuple[float, float]:
    """Return means over the first and the last fifth of the known values, so many at least."""
    known = values[np.isfinite(values)]
    part = max(len(known) // 5, least)
    return float(known[:part].mean()), float(known[-part:].mean())


def identical_share(run: RunData) -> Series | None:
    """Return the share of pairs of agents' attempts at a problem whose texts are the same, [G].

    Several tries of one agent are no pair. White space does not count. NaN in a generation without
    episodes; None without any.
    """

    def alike(attempts: Sequence[Attempt]) -> float | None:
        texts = [" ".join(attempt.text.split()) for attempt in attempts]
        agents = [attempt.agent for attempt in attempts]
        pairs = _pairs([0] * len(agents)) - _pairs(agents)
        same = _pairs(texts) - _pairs(list(zip(agents, texts, strict=True)))
        return same / pairs if pairs else None

    if not run.episodes or len(run.agents) < 2:
        return None
    return np.array([np.mean(own) if own else np.nan for own in _by_generation(run, alike)])


def accuracy_error(run: RunData) -> Series | None:
    """Return the standard error over problems of the population's mean accuracy, [G].

    NaN in a generation with fewer than two graded problems; None where there is no other.
    """

    def accuracy(attempts: Sequence[Attempt]) -> float | None:
        known = [attempt.correct for attempt in attempts if attempt.correct is not None]
        return float(np.mean(known)) if known else None

    errors = np.array([
        np.std(own, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan
        for own in _by_generation(run, accuracy)
    ])  # fmt: skip
    return errors if bool(np.isfinite(errors).any()) else None


def _pairs(of: Sequence[object]) -> int:
    """Return how many pairs of equals there are."""
    return sum(k * (k - 1) // 2 for k in Counter(of).values())


def _by_generation(
    run: RunData, figure: Callable[[Sequence[Attempt]], float | None]
) -> list[list[float]]:
    """Return a figure of each episode's final attempts, where it is known, [G][episodes]."""
    found: dict[int, list[float]] = {generation: [] for generation in run.generations}
    for episode in run.episodes:
        value = figure(episode.transcript.final_attempts)
        if value is not None and episode.generation in found:
            found[episode.generation].append(value)
    return list(found.values())
