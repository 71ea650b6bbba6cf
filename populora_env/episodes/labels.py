"""Which attempts count as right.

The known answer decides, or the majority of the population, the population's judgements, or a
judge from outside; see `rewards.Labels`.
"""

from collections.abc import Sequence
from dataclasses import replace

from populora_env.episodes.rewards import Labels
from populora_env.grading import Grader
from populora_env.judges import Judge, round_robin
from populora_env.judges.asking import in_both_orders
from populora_env.judges.skill import answer_standings, mean, opinions, truth
from populora_env.judges.votes import Opinions, majority
from populora_env.reading.forms import FORMS
from populora_env.records import (
    AnswerKind,
    Assessment,
    Attempt,
    Evaluation,
    Problem,
)

Correctness = dict[str, float | None]


def majority_correctness(
    attempts: Sequence[Attempt],
    voters: Sequence[Attempt] | None = None,
    *,
    kind: AnswerKind = AnswerKind.MATH,
    opinions: Opinions | None = None,
) -> Correctness:
    """Return 1 for each attempt with the answer that most have, and 0 for the others.

    Attempts without an answer have no vote. None for all if no answer was given, or if several
    are the most frequent. Right about half of the time or more, a majority is a usable label;
    below that it reinforces errors.

    Args:
        attempts: What to label.
        voters: Whose answers are counted; None for ``attempts``.
        kind: How the problem's answers are compared.
        opinions: Says which answers are equal in value; None to go by numbers and canonical forms.
    """
    counted = attempts if voters is None else voters
    said = [attempt.answer for attempt in counted]
    every = said + [attempt.answer for attempt in attempts if attempt.answer not in said]
    stands = (opinions or Opinions()).group(every, kind)
    winner = majority([None if answer is None else stands[answer] for answer in said])
    if winner is None:
        return {attempt.agent: None for attempt in attempts}
    return {
        attempt.agent: float(attempt.answer is not None and stands[attempt.answer] == winner)
        for attempt in attempts
    }


def win_shares(agents: Sequence[str], evaluations: Sequence[Evaluation]) -> Correctness:
    """Return (wins + ties / 2) / decided comparisons of each attempt; None where none is."""
    found: dict[str, list[float]] = {agent: [] for agent in agents}
    for entry in evaluations:
        if entry.preference is not None:
            found[entry.first_author].append(entry.preference.points)
            found[entry.second_author].append(1.0 - entry.preference.points)
    return {agent: mean(earned) for agent, earned in found.items()}


def peer_standings(
    agents: Sequence[str], evaluations: Sequence[Evaluation], assessments: Sequence[Assessment]
) -> Correctness:
    """Return the mean opinion of peers on each attempt, every form of evaluation counting alike."""
    by_form = [opinions(agents, form, evaluations, assessments) for form in FORMS]
    return {agent: mean(mean(found[agent]) for found in by_form) for agent in agents}


class Labeller:
    """Says which attempts of one episode are right, and keeps count of the judge it asks.

    Args:
        labels: Who decides.
        problem: The problem.
        judge: The judge from outside, if any.
        grader: Says which answers are equal in value, for majorities; None to go by numbers and
            canonical forms.
    """

    def __init__(
        self, labels: Labels, problem: Problem, judge: Judge | None, grader: Grader | None = None
    ) -> None:
        if labels is Labels.AUTO:
            unknown = Labels.MAJORITY if judge is None else Labels.JUDGE
            labels = unknown if problem.answer is None else Labels.ANSWER
        self.labels = labels
        self._problem = problem
        self._judge = judge
        self._opinions = Opinions(grader)
        self.evaluations: list[Evaluation] = []
        self.failures = 0
        self.error: str | None = None
        self._first: Correctness = {}

    def truth(self, attempts: Sequence[Attempt]) -> Correctness | None:
        """Return what judgements are held against; None for the other judges' consensus."""
        known = self.labels is Labels.ANSWER and self._problem.answer is not None
        return truth(attempts) if known else None

    def by_value(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Return the attempts with one text for all answers that are equal in value."""
        answers = [attempt.answer for attempt in attempts]
        said = self._opinions.read(answers, self._problem.answer_kind)
        return [replace(attempt, answer=one) for attempt, one in zip(attempts, said, strict=True)]

    def first(self, attempts: Sequence[Attempt]) -> Correctness:
        """Return the correctness of attempts just made; None where it is not known yet."""
        if self.labels is Labels.MAJORITY:
            self._first = self._by_majority(attempts)
        elif self.labels is Labels.JUDGE and self._judge is not None:
            self._first = self._judged(self._judge, attempts)
        elif self.labels is Labels.ANSWER:
            self._first = truth(attempts)
        else:
            self._first = {attempt.agent: None for attempt in attempts}
        return self._first

    def by_peers(
        self,
        attempts: Sequence[Attempt],
        evaluations: Sequence[Evaluation],
        assessments: Sequence[Assessment],
    ) -> Correctness:
        """Return how each attempt's answer stands among peers, if that is what decides."""
        if self.labels is not Labels.PEERS:
            return {}
        agents = [attempt.agent for attempt in attempts]
        alike = self.by_value(attempts)
        by_form = [
            answer_standings(alike, opinions(agents, form, evaluations, assessments))
            for form in FORMS
        ]
        self._first = {agent: mean(found[agent] for found in by_form) for agent in agents}
        return self._first

    def revised(
        self, attempts: Sequence[Attempt], finals: Sequence[Attempt]
    ) -> tuple[Correctness, Correctness]:
        """Return what each revision changed in correctness, and how much better it made things.

        The change is from what `first` returned. The improvement is by the same label for both
        attempts: with a majority, the final one; with a judge, its comparison of the two. Both
        are in [-1, 1].
        """
        if self.labels is Labels.PEERS:
            alike = self.by_value([*attempts, *finals])
            firsts, lasts = alike[: len(attempts)], alike[len(attempts) :]
            known = {attempt.answer: self._first[attempt.agent] for attempt in firsts}
            change = _differences(self._first, {b.agent: known.get(b.answer) for b in lasts})
            kept = {a.agent: 0.0 for a, b in zip(attempts, finals, strict=True) if a == b}
            return change | kept, change | kept
        if self.labels is Labels.MAJORITY:
            before, after = self._by_majority(attempts, finals), self._by_majority(finals)
            return _differences(self._first, after), _differences(before, after)
        if self.labels is Labels.JUDGE and self._judge is not None:
            if all(a.text == b.text for a, b in zip(attempts, finals, strict=True)):
                unchanged: Correctness = {attempt.agent: 0.0 for attempt in attempts}
                return unchanged, unchanged
            change = _differences(self._first, self._judged(self._judge, finals))
            return change, self._improved(self._judge, attempts, finals)
        change = _differences(self._first, truth(finals))
        return change, change

    def _by_majority(
        self, attempts: Sequence[Attempt], voters: Sequence[Attempt] | None = None
    ) -> Correctness:
        kind = self._problem.answer_kind
        return majority_correctness(attempts, voters, kind=kind, opinions=self._opinions)

    def _judged(self, judge: Judge, attempts: Sequence[Attempt]) -> Correctness:
        evaluations, judgement = round_robin(judge, self._problem, attempts)
        self._count(judgement.failures, judgement.error)
        self.evaluations.extend(evaluations)
        return win_shares([attempt.agent for attempt in attempts], evaluations)

    def _improved(
        self, judge: Judge, attempts: Sequence[Attempt], finals: Sequence[Attempt]
    ) -> Correctness:
        improved: Correctness = {attempt.agent: 0.0 for attempt in attempts}
        pairs = [(b, a) for a, b in zip(attempts, finals, strict=True) if a.text != b.text]
        evaluations, judgement = in_both_orders(judge, self._problem, pairs)
        self._count(judgement.failures, judgement.error)
        for entry in evaluations:
            preference = entry.preference
            better = None if preference is None else 2 * preference.points - 1
            improved[entry.first_author] = better
        return improved

    def _count(self, failures: int, error: str | None) -> None:
        self.failures += failures
        self.error = self.error or error


def _differences(before: Correctness, after: Correctness) -> Correctness:
    """Return after - before where both are known, None elsewhere."""
    found: Correctness = {}
    for agent, new in after.items():
        old = before[agent]
        found[agent] = None if old is None or new is None else new - old
    return found
