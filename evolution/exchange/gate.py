"""A gate: a paired sequential test of whether one individual is no worse than another.

Both answer the same fresh problems, a few at a time, until it is decided. With ``d`` the difference
of their marks on a problem (-1, 0 or 1), two bets run side by side: one that the mean of ``d`` is
above ``-margin``, one that it is below 0. A bet's capital, the product of ``1 + l (d + margin)``,
is a supermartingale where the bet is wrong, so it ever exceeds ``1 / error`` with a chance of at
most ``error`` (Ville's inequality), whenever one looks. Capital is spread over several ``l``, none
of which can lose all (betting of Waudby-Smith & Ramdas, 2024, arXiv:2010.09686).

So a newcomer that is worse by the margin or more passes with a chance of at most ``error``, one
that is as good or better is found worse with a chance of at most ``error``; if nothing is decided
within ``most`` problems, the proven one stays.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from evolution.registry import Operators

BETS = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.7])
"""Shares of the capital that are put at stake on a problem."""


class GateOutcome(StrEnum):
    """What a gate decided."""

    NOT_WORSE = "not worse"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class GateRecord:
    """One test, for the run's record.

    Attributes:
        slot: Of the newcomer.
        newcomer: Its content hash.
        proven: Name of the individual it is to replace.
        outcome: What was decided.
        problems: On how many.
        newcomer_right: How many of them the newcomer answered rightly.
        proven_right: And the other.
    """

    slot: int
    newcomer: str
    proven: str
    outcome: GateOutcome
    problems: int
    newcomer_right: int
    proven_right: int

    @property
    def replies(self) -> int:
        """What it cost."""
        return 2 * self.problems


class PairedTest:
    """The test, fed problem by problem.

    Args:
        margin: What counts as worse, in accuracy.
        error: Chance of either mistake, at most.
    """

    def __init__(self, margin: float, error: float) -> None:
        self._margin = margin
        self._needed = math.log(1 / error)
        self._accept = np.zeros(len(BETS))  # logarithms of capital
        self._refuse = np.zeros(len(BETS))
        self.outcome = GateOutcome.UNDECIDED

    def add(self, difference: float) -> GateOutcome:
        """Take note of a problem; once decided, nothing changes.

        Args:
            difference: Of the marks, from -1 to 1.
        """
        if self.outcome is not GateOutcome.UNDECIDED:
            return self.outcome
        self._accept += np.log1p(BETS * (difference + self._margin) / (1 - self._margin))
        self._refuse += np.log1p(-BETS * difference)
        if _capital(self._accept) >= self._needed:
            self.outcome = GateOutcome.NOT_WORSE
        elif _capital(self._refuse) >= self._needed:
            self.outcome = GateOutcome.WORSE
        return self.outcome


def _capital(logarithms: np.ndarray) -> float:
    """Logarithm of the mean capital."""
    most = logarithms.max()
    return float(most + math.log(np.exp(logarithms - most).mean()))


@dataclass(frozen=True, slots=True)
class Gate:
    """How newcomers are tested.

    Attributes:
        margin: What counts as worse, in accuracy.
        error: Chance of either mistake, at most.
        most: Problems within which it has to be decided.
        step: Problems that are answered at once.
    """

    margin: float
    error: float
    most: int
    step: int

    def test(
        self, marks: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
    ) -> tuple[GateOutcome, Sequence[int]]:
        """Ask for marks until it is decided.

        Args:
            marks: Takes the first problem's number and how many; returns the newcomer's marks and
                the proven one's ``[problems]``, fewer where problems run out.

        Returns:
            The outcome; problems met, and how many each answered rightly.
        """
        test = PairedTest(self.margin, self.error)
        met = right = proven = 0
        while met < self.most and test.outcome is GateOutcome.UNDECIDED:
            mine, theirs = marks(met, min(self.step, self.most - met))
            if not len(mine):
                break
            for own, other in zip(mine.tolist(), theirs.tolist(), strict=True):
                test.add(own - other)
            met += len(mine)
            right += int(mine.sum())
            proven += int(theirs.sum())
        return test.outcome, (met, right, proven)


MakeGate = Callable[..., Gate]
GATES = Operators[MakeGate]("gate")


@GATES.add("paired", margin=(0.001, 0.5), error=(1e-6, 0.49), most=(1, 100_000), step=(1, 10_000))
def paired(*, margin: float = 0.1, error: float = 0.1, most: int = 128, step: int = 16) -> Gate:
    """The paired sequential test of this module; see `Gate` for the arguments."""
    return Gate(margin, error, most, step)
