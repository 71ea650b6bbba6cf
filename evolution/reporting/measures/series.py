"""Figures by generation that a run's history does not hold, from its episodes."""

from collections import Counter

import numpy as np

from evolution.reporting.measures.data import RunData, Series


def identical_share(run: RunData) -> Series | None:
    """Return the share of pairs of attempts at the same problem whose texts are the same, [G].

    White space does not count. NaN in a generation without episodes; None without any.
    """
    if not run.episodes or len(run.agents) < 2:
        return None
    shares: dict[int, list[float]] = {}
    for episode in run.episodes:
        counts = Counter(" ".join(a.text.split()) for a in episode.transcript.final_attempts)
        n = sum(counts.values())
        if n > 1:
            same = sum(count * (count - 1) for count in counts.values()) / (n * (n - 1))
            shares.setdefault(episode.generation, []).append(same)
    return np.array([np.mean(shares[g]) if g in shares else np.nan for g in run.generations])


def accuracy_error(run: RunData) -> Series | None:
    """Return the standard error over problems of the population's mean accuracy, [G].

    NaN in a generation with fewer than two graded problems; None where there is no other.
    """
    means: dict[int, list[float]] = {}
    for episode in run.episodes:
        marks = [a.grade.correct for a in episode.transcript.final_attempts if a.grade is not None]
        known = [float(mark) for mark in marks if mark is not None]
        if known:
            means.setdefault(episode.generation, []).append(float(np.mean(known)))
    errors = np.array(
        [
            np.std(own, ddof=1) / np.sqrt(len(own)) if len(own := means.get(g, [])) > 1 else np.nan
            for g in run.generations
        ]
    )
    return errors if bool(np.isfinite(errors).any()) else None
