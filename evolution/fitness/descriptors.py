"""Descriptors: what an agent's replies of a generation are like, as numbers from 0 to 1.

They span the grid of a MAP-Elites archive and the space in which novelty is measured, and say
nothing of how good a reply is. A descriptor is a function of `Attempts`, registered in
`DESCRIPTORS` in the manner of `evolution.registry`; only attempts above the bar are looked at.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evolution.errors import OperatorError
from evolution.fitness.attempts import Attempts
from evolution.fitness.strategies import CLASSIFIERS
from evolution.registry import Operators, Use

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """A descriptor of all agents.

    Attributes:
        values: ``[N]`` from 0 to 1; NaN of an agent of whose attempts none counts.
        cells: Parts into which a grid cuts the axis.
    """

    values: np.ndarray
    cells: int


Descriptor = Callable[..., Axis]
DESCRIPTORS = Operators[Descriptor]("descriptors", factor="weight")


@DESCRIPTORS.add("length", cells=(1, 1000), most=(1, 1e9))
def length(attempts: Attempts, *, cells: int = 8, most: float = 1024) -> Axis:
    """Mean logarithm of the characters of a reply; 1 is ``most`` or longer."""
    return _mean_logarithm(attempts, len, cells, most)


@DESCRIPTORS.add("numbers", cells=(1, 1000), most=(1, 1e9))
def numbers(attempts: Attempts, *, cells: int = 6, most: float = 32) -> Axis:
    """Mean logarithm of how many numbers a reply holds; 1 is ``most`` or more."""
    return _mean_logarithm(attempts, lambda text: len(_NUMBER.findall(text)), cells, most)


@DESCRIPTORS.add("repetition", cells=(1, 1000))
def repetition(attempts: Attempts, *, cells: int = 5) -> Axis:
    """Mean share of the words of a reply that were there before."""

    def repeated(text: str) -> float:
        words = text.lower().split()
        return 1 - len(set(words)) / len(words) if words else 0.0

    return Axis(attempts.mean(_each(attempts, repeated)), cells)


@DESCRIPTORS.add("strategy", classifier=CLASSIFIERS)
def strategy(attempts: Attempts, *, classifier: str = "surface") -> Axis:
    """The most frequent class of an agent's replies, the first of equals; a cell for each class.

    See `evolution.fitness.strategies`.
    """
    classes = len(CLASSIFIERS.classes(classifier))
    found = np.array([[CLASSIFIERS.classify(classifier, t) for t in row] for row in attempts.texts])
    counts = ((found[..., None] == np.arange(classes)) & attempts.counted[..., None]).sum(0)
    values = (counts.argmax(1) + 0.5) / classes
    return Axis(np.where(attempts.counted.any(0), values, np.nan), classes)


def read(text: str) -> list[Use[Descriptor]]:
    """Read descriptors joined by ``+``, such as ``length(cells=6)+strategy``.

    Raises:
        OperatorError: If one does not exist, or there is none.
    """
    uses = DESCRIPTORS.read_several(text)
    if not uses or any(use.chance != 1 for use in uses):
        raise OperatorError(
            f"descriptors: got {text!r}, expected names joined by +, some of "
            f"{', '.join(DESCRIPTORS)}"
        )
    return uses


def describe(uses: Sequence[Use[Descriptor]], attempts: Attempts) -> tuple[np.ndarray, list[int]]:
    """Descriptors of all agents.

    Returns:
        Values ``[N, descriptors]``, and the cells of each axis.

    Raises:
        OperatorError: If a descriptor returns anything but a value from 0 to 1, or NaN, for each.
    """
    axes = [use(attempts) for use in uses]
    for use, axis in zip(uses, axes, strict=True):
        known = axis.values[np.isfinite(axis.values)]
        if axis.values.shape != (attempts.shape[1],) or ((known < 0) | (known > 1)).any():
            raise OperatorError(
                f"descriptors: {use.name} returned {axis.values!r}, expected a number from 0 to 1 "
                f"for each of {attempts.shape[1]} agents"
            )
    return np.stack([axis.values for axis in axes], axis=1), [axis.cells for axis in axes]


def _each(attempts: Attempts, function: Callable[[str], float]) -> np.ndarray:
    return np.array([[float(function(text)) for text in row] for row in attempts.texts])


def _mean_logarithm(
    attempts: Attempts, count: Callable[[str], float], cells: int, most: float
) -> Axis:
    values = np.log1p(_each(attempts, count)) / np.log1p(most)
    return Axis(attempts.mean(np.clip(values, 0, 1)), cells)
