"""From grades and evaluations to rewards.

A reward is a weighted sum of named parts. A part is None where it is unknown, and an unknown part
is left out of the sum, never counted as zero or as a loss. Who is compared with whom is decided
in `matchmaking`, when rewards are paid out in `arena`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from populora_env.records import Attempt, Evaluation, Preference, ReplyStatus

Parts = dict[str, float | None]


class RewardPart(StrEnum):
    """Names of the parts of a reward."""

    CORRECTNESS = "correctness"
    FORMAT = "format"
    PEER = "peer"
    JUDGING = "judging"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """What each part of a reward counts.

    Attributes:
        correctness: 1 for a right answer, 0 for a wrong one; without a known answer, 1 for the
            majority's answer, or the standing in [0, 1] that a judge gave.
        format: 1 for a reply read by a strict rule, 0.5 by a lenient one, 0 unread.
        peer: Standing of the attempt among those it was compared with, in [0, 1].
        judging: Agreement with the known answers, in [0, 1].
        length: Minus the length of the reply in thousands of characters; a positive weight makes
            long replies cost.
    """

    correctness: float = 1.0
    format: float = 0.1
    peer: float = 0.1
    judging: float = 0.1
    length: float = 0.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{entry.name} must be a finite number, got {value!r}")

    def total(self, parts: Mapping[str, float | None]) -> float:
        """Return the weighted sum of the parts that are known."""
        known = ((name, value) for name, value in parts.items() if value is not None)
        return float(sum(getattr(self, RewardPart(name)) * value for name, value in known))


def format_part(status: ReplyStatus) -> float:
    """Return 1 for a strictly read reply, 0.5 for a leniently read one, 0 for any other."""
    return {ReplyStatus.OK: 1.0, ReplyStatus.LENIENT: 0.5}.get(status, 0.0)


def length_part(text: str) -> float:
    """Return minus the number of characters, in thousands."""
    return -len(text) / 1000


def graded_correctness(attempts: Sequence[Attempt]) -> dict[str, float | None]:
    """Return 1 or 0 for each agent whose attempt was graded, None for others."""
    return {
        attempt.agent: None
        if attempt.grade is None or attempt.grade.correct is None
        else float(attempt.grade.correct)
        for attempt in attempts
    }


def majority_correctness(attempts: Sequence[Attempt]) -> dict[str, float | None]:
    """Return 1 for each attempt with the answer that most have, and 0 for the others.

    Attempts without an answer have no vote. None for all if no answer was given, or if several
    are the most frequent. Right about half of the time or more, a majority is a usable label;
    below that it reinforces errors.
    """
    votes = Counter(attempt.answer for attempt in attempts if attempt.answer is not None)
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return {attempt.agent: None for attempt in attempts}
    return {attempt.agent: float(attempt.answer == ranked[0][0]) for attempt in attempts}


def standings(agents: Iterable[str], evaluations: Iterable[Evaluation]) -> dict[str, float | None]:
    """Return (wins + ties / 2) / decided comparisons of each agent's attempt.

    Returns:
        Agent to its standing in [0, 1]; None where no comparison of its attempt was decided.
    """
    points: dict[str, list[float]] = {agent: [] for agent in agents}
    for evaluation in evaluations:
        if evaluation.preference is None:
            continue
        won = {Preference.A: 1.0, Preference.B: 0.0, Preference.TIE: 0.5}[evaluation.preference]
        points[evaluation.first_author].append(won)
        points[evaluation.second_author].append(1.0 - won)
    return {agent: mean(earned) for agent, earned in points.items()}


def judging_skill(evaluation: Evaluation, attempts: Mapping[str, Attempt]) -> float | None:
    """Return how far a judge agrees with the known answer on one pair.

    Args:
        evaluation: The judge's result on the pair.
        attempts: Agent to attempt.

    Returns:
        1 if it prefers the only right attempt, 0.5 for a tie, 0 if it prefers the wrong one; None
        if it abstained, or unless exactly one of the two is known to be right and the other known
        to be wrong.
    """
    first = attempts[evaluation.first_author].grade
    second = attempts[evaluation.second_author].grade
    if evaluation.preference is None or first is None or second is None:
        return None
    if first.correct is None or second.correct is None or first.correct == second.correct:
        return None
    if evaluation.preference is Preference.TIE:
        return 0.5
    return float((evaluation.preference is Preference.A) == first.correct)


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values, None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
