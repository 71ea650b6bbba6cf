"""Votes over answers: which answers are one opinion, and which opinion wins.

There is one rule. Replies without an answer do not vote. Answers that are equal in value are one
opinion (`Opinions`), and the opinion with the largest sum of weights wins. A tie is decided by
nobody's place in a list: where a vote is measured, it earns the share of the tied opinions that are
right (`vote_share`); where it is a label, there is none (`majority`); where a text has to be shown,
it is the first as texts are sorted (`elected`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from populora_env.grading import Grader
from populora_env.reading.answers import canonical_answer
from populora_env.reading.numerals import parse_number, same_number
from populora_env.records import AnswerKind, GradeStatus

MOST_COMPARISONS = 8  # checks by the grader for one problem; the most frequent answers come first
MOST_NUMBERS = 64  # different answers of one problem that are looked at for equal numbers
_TIMEOUT_COST = 50  # what a check that ran out of time takes from the sum of all checks


class Opinions:
    """Says which answers to a problem are equal in value, at bounded cost.

    Numbers are compared exactly and in no time. Other answers are given to a grader, two at a
    time and at most `MOST_COMPARISONS` times for one problem, the most frequent ones first; a
    check that runs out of time is that problem's last. Answers that were not compared, or about
    which the grader cannot tell, are different opinions.

    Args:
        grader: Used and left open; None to go by canonical forms and numbers alone.
        most: Checks for all problems together; None for no such limit.
    """

    def __init__(self, grader: Grader | None = None, most: int | None = None) -> None:
        self._grader = grader
        self._left = math.inf if most is None else most
        self._known: dict[tuple[AnswerKind, str, str], GradeStatus] = {}

    def group(
        self,
        answers: Sequence[str | None],
        kind: AnswerKind,
        right: Sequence[bool] = (),
        *,
        for_winner: bool = False,
    ) -> dict[str, str]:
        """Return for each different answer the one that stands for its opinion.

        Args:
            answers: One for each reply.
            kind: How the problem's answers are compared.
            right: Whether each reply is right, if that is known: all right answers are equal.
            for_winner: Stop as soon as an opinion has more than half of the votes: what else is
                equal then changes no winner.

        Returns:
            The answer that stands is the opinion's most frequent, the first in order of texts.
        """
        counts = Counter(answer for answer in answers if answer is not None)
        ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
        stands = {answer: answer for answer in ranked}
        good = {a for a, correct in zip(answers, right, strict=False) if correct and a is not None}
        first: dict[str, str] = {}
        for answer in ranked:
            form = "right" if answer in good else f"= {canonical_answer(answer, kind) or answer}"
            stands[answer] = first.setdefault(form, answer)

        def votes() -> Counter[str]:
            found: Counter[str] = Counter()
            for answer, one in stands.items():
                found[one] += counts[answer]
            return found

        def heads() -> list[str]:
            sums = votes()
            return sorted(sums, key=lambda answer: (-sums[answer], answer))

        def merge(one: str, other: str) -> None:
            stands.update({a: one for a, head in stands.items() if head == other})

        numbers = {
            head: None if kind is AnswerKind.TEXT else parse_number(head, units=False)
            for head in heads()
        }
        known = [(head, number) for head, number in numbers.items() if number is not None]
        exact = known[:MOST_NUMBERS]
        for at, (one, number) in enumerate(exact):
            for other, value in exact[at + 1 :]:
                apart = stands[one] == one and stands[other] == other
                if apart and not (good & {one, other}) and same_number(number, value):
                    merge(one, other)
        if kind is AnswerKind.NUMBER or self._grader is None:
            return stands
        left = MOST_COMPARISONS
        listed = heads()
        for at, one in enumerate(listed):
            for other in listed[at + 1 :]:
                if stands[one] != one or stands[other] != other or good & {one, other}:
                    continue  # one that is wrong was compared with the right one in grading
                if numbers.get(one) is not None and numbers.get(other) is not None:
                    continue
                if for_winner and 2 * max(votes().values()) > sum(counts.values()):
                    return stands
                if left <= 0 or self._left <= 0:
                    return stands
                left -= 1
                status = self._compare(self._grader, kind, one, other)
                if status is GradeStatus.CORRECT:
                    merge(one, other)
                elif status is GradeStatus.TIMED_OUT:
                    return stands
        return stands

    def read(
        self,
        answers: Sequence[str | None],
        kind: AnswerKind,
        right: Sequence[bool] = (),
        *,
        for_winner: bool = False,
    ) -> list[str | None]:
        """Return each reply's opinion, None where it has no answer; see `group`."""
        stands = self.group(answers, kind, right, for_winner=for_winner)
        return [None if answer is None else stands[answer] for answer in answers]

    def _compare(self, grader: Grader, kind: AnswerKind, one: str, other: str) -> GradeStatus:
        key = (kind, one, other)
        if key not in self._known:
            status = grader.same(one, other, kind)
            if kind is AnswerKind.TEXT and status is not GradeStatus.CORRECT:
                status = grader.same(other, one, kind)  # only a letter knows "(b) 12 meters"
            self._known[key] = status
            self._left -= _TIMEOUT_COST if status is GradeStatus.TIMED_OUT else 1
        return self._known[key]


def leaders(
    opinions: Sequence[str | None], weights: Sequence[float] | None = None
) -> tuple[str, ...]:
    """Return all opinions with the largest sum of weights: several in a tie, none without a vote.

    Args:
        opinions: One for each reply, None where it has no answer.
        weights: One for each reply; None for equal ones.
    """
    sums: dict[str, list[float]] = {}
    for i, opinion in enumerate(opinions):
        if opinion is not None:
            sums.setdefault(opinion, []).append(1.0 if weights is None else weights[i])
    # fsum, so that equal weights added in another order are still a tie.
    totals = {opinion: math.fsum(parts) for opinion, parts in sums.items()}
    most = max(totals.values(), default=0.0)
    return tuple(opinion for opinion, total in totals.items() if total == most > 0)


def elected(opinions: Sequence[str | None], weights: Sequence[float] | None = None) -> str | None:
    """Return the opinion that leads, in a tie the first as texts are sorted; None without a vote.

    The order of agents decides nothing. See `leaders`.
    """
    return min(leaders(opinions, weights), default=None)


def majority(opinions: Sequence[str | None]) -> str | None:
    """Return the opinion that leads alone; None in a tie, and if nobody has one."""
    first = leaders(opinions)
    return first[0] if len(first) == 1 else None


def vote_share(
    opinions: Sequence[str | None], right: Sequence[bool], weights: Sequence[float] | None = None
) -> float:
    """Return how right a vote is: 1 or 0, and in a tie the share of the tied opinions that are.

    That is what drawing one of them would earn on average, whoever gave it first. Answers that
    are right are one opinion however they are written, as all are equal to the known answer.

    Args:
        opinions: One for each reply, None where it has no answer.
        right: Whether each reply is right.
        weights: One for each reply; None for equal ones.
    """
    good = {opinion for opinion, correct in zip(opinions, right, strict=True) if correct} - {None}
    stands: Mapping[str | None, str | None] = dict.fromkeys(good, min(map(str, good), default=None))
    tied = leaders([stands.get(opinion, opinion) for opinion in opinions], weights)
    return sum(opinion in good for opinion in tied) / len(tied) if tied else 0.0
