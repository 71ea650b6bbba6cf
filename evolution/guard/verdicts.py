"""Verdicts: whether an individual has become worse, by paired tests with a stated error rate.

On the same anchor problems, only those count that one got right and the other wrong. If neither is
better, each of them is as likely to speak for the one as for the other, so their number is
binomial: the exact one-sided McNemar (sign) test. What was forgotten is tested likewise: on how
many prompts the base's own reply has become less likely than `MARGIN` allows, which is half of them
by chance if the median prompt stands at the margin.

A verdict calls an individual bad if any of its tests does, each at its share of `ERROR`: of those
that are no worse, at most one verdict in a hundred says bad. The anchors are the same in all
verdicts, and a snapshot is the best so far, so verdicts in a row are not independent, and holding
an individual against the best of several is a little harder on it than the figure says.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ERROR = 0.01
"""Most often that a verdict says bad of an individual that is not worse."""
MARGIN = 0.25
"""Nats a token by which the base's own replies may become less likely."""
_TESTS = 3  # against the snapshot, against the base, of what was forgotten


@dataclass(frozen=True, slots=True)
class Test:
    """One paired test.

    Attributes:
        against: What the individual is held against: ``snapshot``, ``base`` or ``forgetting``.
        worse: Problems that speak against it.
        better: Problems that speak for it.
        p: How likely that is, or worse, if it is no worse.
    """

    against: str
    worse: int
    better: int
    p: float

    @property
    def bad(self) -> bool:
        """Whether it speaks against the individual at its share of the error rate."""
        return self.p <= ERROR / _TESTS

    def __str__(self) -> str:
        if self.against == "forgetting":
            return f"forgot {self.worse} of {self.worse + self.better} prompts (p {self.p:.2g})"
        return (
            f"{self.worse} anchors lost and {self.better} won against the {self.against} "
            f"(p {self.p:.2g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"worse": self.worse, "better": self.better, "p": float(f"{self.p:.4g}")}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What measuring an individual came to.

    Attributes:
        tests: Those that could be made.
    """

    tests: tuple[Test, ...]

    @property
    def bad(self) -> bool:
        """Whether any test speaks against the individual."""
        return any(test.bad for test in self.tests)

    def __str__(self) -> str:
        some = [test for test in self.tests if test.bad] or list(self.tests)
        return ", ".join(map(str, some))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"bad": self.bad, "tests": {test.against: test.to_dict() for test in self.tests}}


def sign_test(worse: int, better: int) -> float:
    """Chance of at least so many of all to speak against, if each does with chance 1/2.

    Args:
        worse: How many do.
        better: How many speak for.
    """
    count = worse + better
    ways = sum(math.comb(count, k) for k in range(worse, count + 1))
    return ways / 2**count


def paired(against: str, own: Sequence[bool], other: Sequence[bool]) -> Test:
    """The test of an individual's marks against another's, ``[anchors]`` each."""
    pairs = list(zip(own, other, strict=True))
    worse, better = pairs.count((False, True)), pairs.count((True, False))
    return Test(against, worse, better, sign_test(worse, better))


def forgotten(losses: np.ndarray) -> Test:
    """The test of what an individual has forgotten.

    Args:
        losses: Nats a token by which the base's replies became less likely, ``[prompts]``.
    """
    worse = int((losses > MARGIN).sum())
    better = len(losses) - worse
    return Test("forgetting", worse, better, sign_test(worse, better))


def judge(
    own: Sequence[bool],
    others: Mapping[str, Sequence[bool]],
    losses: np.ndarray | None = None,
) -> Verdict:
    """Judge an individual.

    Args:
        own: Its marks ``[anchors]``.
        others: Marks of what it is held against, by name.
        losses: What it has forgotten ``[prompts]``; None where that is not known.
    """
    tests = [paired(name, own, marks) for name, marks in others.items()]
    if losses is not None:
        tests.append(forgotten(losses))
    return Verdict(tuple(tests))


def least_to_lose() -> int:
    """Fewest right anchors of whoever an individual is held against for a verdict to be bad."""
    count = 0
    while sign_test(count, 0) > ERROR / _TESTS:
        count += 1
    return count
