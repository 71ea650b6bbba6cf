"""Replies as points: hashed TF-IDF, and a map of a run's first and last ones.

Hidden features are not kept on disk, so replies are compared by their text. A text's features are
its words, pairs of words and runs of three to five characters, hashed into `BUCKETS` dimensions,
each counted as 1 + log(count), weighted by the log of how few texts have it, and scaled to length
1. Every digit is read as the same one: what is compared is how a reply reasons, not with which
numbers. Everything is deterministic.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evolution.reporting.measures.data import Episode, RunData, Series
from populora_env.keys import generator
from populora_env.records import Attempt, Problem

BUCKETS = 4096
READ = 2000  # characters of a reply that are looked at
MAP_SIZE = 600  # attempts on the map, half of them early and half of them late
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")
_GRAMS = (3, 4, 5)


class TextSpace:
    """TF-IDF vectors of texts, with the weights of the texts it was made from.

    Args:
        texts: At least one.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts: dict[str, tuple[NDArray[np.int64], Series]] = {}
        seen = np.zeros(BUCKETS)
        for text in texts:
            seen[self._count(text)[0]] += 1
        self._rarity = np.log((1 + len(texts)) / (1 + seen)) + 1

    def vectors(self, texts: Sequence[str]) -> Series:
        """Return a row of length 1 for each text, [texts, BUCKETS]; zeros for one that is empty."""
        rows = np.zeros((len(texts), BUCKETS))
        for row, text in zip(rows, texts, strict=True):
            buckets, counts = self._count(text)
            row[buckets] = (1 + np.log(counts)) * self._rarity[buckets]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, norms, out=rows, where=norms > 0)

    def _count(self, text: str) -> tuple[NDArray[np.int64], Series]:
        """Return the buckets that a text's features fall into, and how often."""
        if text not in self._counts:
            buckets = Counter(
                zlib.crc32(feature.encode("utf-8", "replace")) % BUCKETS
                for feature in _features(text)
            )
            keys = np.fromiter(buckets.keys(), np.int64, len(buckets))
            values = np.fromiter(buckets.values(), np.float64, len(buckets))
            self._counts[text] = keys, values
        return self._counts[text]


def _features(text: str) -> list[str]:
    words = _WORD.findall(_DIGIT.sub("0", text[:READ]).lower())
    joined = " ".join(words)
    found = [f"w {word}" for word in words]
    found += [f"p {a} {b}" for a, b in pairwise(words)]
    for n in _GRAMS:
        found += [joined[i : i + n] for i in range(len(joined) - n + 1)]
    return found


def principal_components(rows: Series) -> tuple[Series, Series]:
    """Return coordinates on the first two principal components, and their shares of the variance.

    Args:
        rows: [points, dimensions], at least one point.

    Returns:
        Coordinates [points, 2] and shares [2]; zeros for components that do not exist.
        Each component's sign is such that the point farthest from 0 is on its positive side.
    """
    centred = rows - rows.mean(axis=0)
    # The Gram matrix is the smaller one: hundreds of points, thousands of dimensions.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values = np.maximum(values[::-1], 0.0)
    total = float(values.sum())
    coordinates, shares = np.zeros((len(rows), 2)), np.zeros(2)
    if total <= 1e-12 * len(rows):
        return coordinates, shares
    for k in range(min(2, len(rows))):
        if values[k] <= 1e-12 * total:  # of rounding alone, which would part what is identical
            break
        axis = vectors[:, -1 - k] * np.sqrt(values[k])
        coordinates[:, k] = axis if axis[np.abs(axis).argmax()] >= 0 else -axis
        shares[k] = values[k] / total
    return coordinates, shares


@dataclass(frozen=True, slots=True)
class Point:
    """An attempt on the map.

    Attributes:
        generation: When it was made.
        attempt: The attempt.
        problem: What it is about.
        late: Whether it is of the last generations, not the first.
        x: First coordinate.
        y: Second coordinate.
    """

    generation: int
    attempt: Attempt
    problem: Problem
    late: bool
    x: float
    y: float

    @property
    def wrong(self) -> bool:
        """Whether it is known to be wrong."""
        return self.attempt.correct is False


@dataclass(frozen=True, slots=True)
class TextMap:
    """A map of early and late attempts.

    Attributes:
        points: At most `MAP_SIZE`, early ones first.
        shares: Shares of the variance that the two coordinates explain.
        early: First and last generation of the early ones.
        late: The same of the late ones; None where a run has only one generation.
        drift: Distance between the means of the early and of the late ones, in units of the
            early ones' root mean square distance from their mean; None without late ones, or if
            the early ones are all the same.
    """

    points: tuple[Point, ...]
    shares: tuple[float, float]
    early: tuple[int, int]
    late: tuple[int, int] | None
    drift: float | None


def text_map(run: RunData, size: int = MAP_SIZE) -> TextMap | None:
    """Return a map of the first and the last fifth of a run; None without attempts."""
    kept = sorted({e.generation for e in run.episodes if e.transcript.attempts})
    if not kept:
        return None
    part = min(max(len(kept) // 5, 1), len(kept) // 2) or 1
    eras = [kept[:part]] + ([kept[-part:]] if len(kept) > 1 else [])
    chosen: list[tuple[Episode, Attempt, bool]] = []
    for late, era in enumerate(eras):
        found = [
            (episode, attempt, bool(late))
            for episode in run.episodes
            if episode.generation in era
            for attempt in episode.transcript.final_attempts
        ]
        order = generator("report map", late).permutation(len(found))[: size // 2]
        chosen += [found[i] for i in sorted(order.tolist())]
    texts = [attempt.text for _, attempt, _ in chosen]
    rows = TextSpace(texts).vectors(texts)
    coordinates, shares = principal_components(rows)
    points = tuple(
        Point(episode.generation, attempt, episode.transcript.problem, late, float(x), float(y))
        for (episode, attempt, late), (x, y) in zip(chosen, coordinates, strict=True)
    )
    is_late = np.array([late for _, _, late in chosen])
    return TextMap(
        points=points,
        shares=(float(shares[0]), float(shares[1])),
        early=(eras[0][0], eras[0][-1]),
        late=(eras[1][0], eras[1][-1]) if len(eras) > 1 else None,
        drift=_drift(rows[~is_late], rows[is_late]),
    )


def _drift(early: Series, late: Series) -> float | None:
    if not len(early) or not len(late):
        return None
    centre = early.mean(axis=0)
    spread = float(np.sqrt(((early - centre) ** 2).sum(axis=1).mean()))
    return None if spread < 1e-9 else float(np.linalg.norm(late.mean(axis=0) - centre)) / spread
