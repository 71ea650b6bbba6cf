"""Figures about judges and majorities, from finished transcripts.

`judge_statistics` says how each agent judges: whether it holds to its verdict when the order is
swapped, whether it likes the first place, length or its own work, and whether it is right.
`majority_figures` says whether the most frequent answer is a usable label.

Figures are counted over all transcripts given, None where there is too little to count, and come
without error bars. They describe, they do not explain: right attempts may be longer, and an
agent's own may be better. Position bias and its cure by showing both orders: "Judging
LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv 2306.05685).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from populora_env.grading import Grader, opened
from populora_env.judges.skill import mean
from populora_env.judges.votes import Opinions, majority
from populora_env.reading.forms import FORMS
from populora_env.records import (
    Assessment,
    Attempt,
    Evaluation,
    Preference,
    Transcript,
)

OVERALL = "overall"  # all agents' judgements together
OUTSIDE = "outside"  # those of the judge outside the population, which are not part of OVERALL
MIN_POINTS = 3  # fewest data points of a correlation
MOST_COMPARISONS = 500  # of formulas, by `majority_figures`: seconds, however long a run is


@dataclass(frozen=True, slots=True)
class JudgeStatistics:
    """How one judge judges; shares are in [0, 1], None where there is nothing to share.

    Attributes:
        comparisons: Comparisons asked, two for each pair of attempts.
        assessments: Scores and critiques asked.
        abstention_rate: Share of all those that gave no readable judgement.
        flip_rate: Share of the pairs readable in both orders whose two verdicts differ.
        first_rate: Share for A among the single verdicts for A or B; 1/2 is no position bias.
        tie_rate: Share of ties among the readable single verdicts.
        pair_length_correlation: In [-1, 1], between preference (1 for the first, 0 for a tie, -1
            for the second) and the difference of the lengths in characters, over the pairs with a
            result, each entered both ways round so that it does not matter which is first.
        score_length_correlation: Pearson's, between scores and lengths in characters.
        own_peer_gap: Mean value given to own attempts minus that given to peers'. A value is a
            score, a critique's verdict, or 1, 1/2 or 0 for a pair won, tied or lost.
        agreement: Agreement with the known answers, 1/2 for a tie, over the pairs with a result
            of which exactly one attempt is right.
        agreement_pairs: How many such pairs there are.
        right_score: Mean score of right attempts.
        wrong_score: Mean score of wrong attempts.
        verdict_accuracy: Share of the critiques' readable verdicts that are right.
    """

    comparisons: int
    assessments: int
    abstention_rate: float | None
    flip_rate: float | None
    first_rate: float | None
    tie_rate: float | None
    pair_length_correlation: float | None
    score_length_correlation: float | None
    own_peer_gap: float | None
    agreement: float | None
    agreement_pairs: int
    right_score: float | None
    wrong_score: float | None
    verdict_accuracy: float | None


@dataclass(frozen=True, slots=True)
class MajorityFigures:
    """How good the majority is as a label, over the episodes whose answer is known.

    Attributes:
        episodes: Number of those episodes.
        decided: Episodes with a majority: one answer more frequent than any other.
        right: Episodes in which that answer is right.
        accuracy: Mean over the episodes of the share of right attempts; None without episodes.
        hard: Episodes in which less than half of the attempts are right.
        misled: Hard episodes whose majority is wrong. Learning from the majority there makes all
            agents worse.
    """

    episodes: int
    decided: int
    right: int
    accuracy: float | None
    hard: int
    misled: int

    @property
    def right_rate(self) -> float | None:
        """Share of the majorities that are right; None without majorities."""
        return self.right / self.decided if self.decided else None


@dataclass(frozen=True, slots=True)
class _Pair:
    evaluation: Evaluation
    first: Attempt
    second: Attempt


@dataclass(frozen=True, slots=True)
class _Opinion:
    assessment: Assessment
    attempt: Attempt


def judge_statistics(transcripts: Iterable[Transcript]) -> dict[str, JudgeStatistics]:
    """Return how each agent judges.

    Agents judge attempts as they were before any revision. A judge from outside does too, and a
    second time after it: its second result on a pair is about the revisions.

    Returns:
        Agent to its statistics, then `OVERALL` to those of all agents together, and `OUTSIDE` to
        those of the judge from outside where there was one.

    Raises:
        ValueError: If a judgement is about an author without an attempt.
    """
    pairs: dict[str | None, list[_Pair]] = {}
    opinions: dict[str, list[_Opinion]] = {}
    agents: dict[str, None] = {}
    for transcript in transcripts:
        agents |= dict.fromkeys(transcript.agents)
        before = {attempt.agent: attempt for attempt in transcript.attempts}
        after = {attempt.agent: attempt for attempt in transcript.final_attempts}
        judged_outside: set[frozenset[str]] = set()
        for entry in transcript.evaluations:
            authors = frozenset((entry.first_author, entry.second_author))
            seen = after if entry.judge is None and authors in judged_outside else before
            if entry.judge is None:
                judged_outside.add(authors)
            first, second = _find(seen, entry.first_author), _find(seen, entry.second_author)
            pairs.setdefault(entry.judge, []).append(_Pair(entry, first, second))
        for entry in transcript.assessments:
            opinion = _Opinion(entry, _find(before, entry.author))
            opinions.setdefault(entry.judge, []).append(opinion)
    found = {agent: _statistics(pairs.get(agent, []), opinions.get(agent, [])) for agent in agents}
    found[OVERALL] = _statistics(
        [pair for judge, entries in pairs.items() if judge is not None for pair in entries],
        [opinion for entries in opinions.values() for opinion in entries],
    )
    if None in pairs:
        found[OUTSIDE] = _statistics(pairs[None], [])
    return found


def majority_figures(
    transcripts: Iterable[Transcript], grader: Grader | None = None
) -> MajorityFigures:
    """Return how often the most frequent final answer is right.

    Answers that are equal in value are one (`votes.Opinions`); formulas are compared at most
    `MOST_COMPARISONS` times in all. Episodes in which not every attempt was graded are left out.

    Args:
        transcripts: Finished episodes.
        grader: Used and left open; None for one that is closed at the end.

    Raises:
        WorkerError: If a formula has to be compared and the grader's process does not start.
    """
    shares: list[float] = []
    decided = right = hard = misled = 0
    with opened(grader) as used:
        opinions = Opinions(used, MOST_COMPARISONS)
        for transcript in transcripts:
            attempts = transcript.final_attempts
            known = [attempt.correct for attempt in attempts]
            if not known or None in known:
                continue
            shares.append(sum(map(bool, known)) / len(known))
            hard += shares[-1] < 0.5
            correct = [bool(entry) for entry in known]
            votes = opinions.read(
                [attempt.answer for attempt in attempts], transcript.problem.answer_kind, correct,
                for_winner=True,
            )  # fmt: skip
            winner = majority(votes)
            if winner is None:
                continue
            good = winner in {
                vote for vote, is_right in zip(votes, correct, strict=True) if is_right
            }
            decided += 1
            right += good
            misled += shares[-1] < 0.5 and not good
    return MajorityFigures(len(shares), decided, right, mean(shares), hard, misled)


def _statistics(pairs: Sequence[_Pair], opinions: Sequence[_Opinion]) -> JudgeStatistics:
    verdicts = [verdict.preference for pair in pairs for verdict in pair.evaluation.verdicts]
    readable = [preference for preference in verdicts if preference is not None]
    both = [pair.evaluation for pair in pairs if pair.evaluation.preference is not None]
    valued = [(entry, entry.assessment.value) for entry in opinions]
    known = [(entry, value) for entry, value in valued if value is not None]
    scores = [pair for pair in known if not FORMS[pair[0].assessment.form].verdict]
    agreements = [agreed for pair in pairs if (agreed := _agreement(pair)) is not None]
    asked = len(verdicts) + len(opinions)
    return JudgeStatistics(
        comparisons=len(verdicts),
        assessments=len(opinions),
        abstention_rate=(asked - len(readable) - len(known)) / asked if asked else None,
        flip_rate=mean(entry.flipped for entry in both),
        first_rate=mean(entry is Preference.A for entry in readable if entry is not Preference.TIE),
        tie_rate=mean(entry is Preference.TIE for entry in readable),
        pair_length_correlation=_pair_length_correlation(pairs),
        score_length_correlation=_correlation(
            [(value, float(len(entry.attempt.text))) for entry, value in scores]
        ),
        own_peer_gap=_own_peer_gap(pairs, known),
        agreement=mean(agreements),
        agreement_pairs=len(agreements),
        right_score=mean(value for entry, value in scores if entry.attempt.correct is True),
        wrong_score=mean(value for entry, value in scores if entry.attempt.correct is False),
        verdict_accuracy=mean(
            (value >= 0.5) == right
            for entry, value in known
            if FORMS[entry.assessment.form].verdict and (right := entry.attempt.correct) is not None
        ),
    )


def _pair_length_correlation(pairs: Sequence[_Pair]) -> float | None:
    points = [
        (2 * preference.points - 1, float(len(pair.first.text) - len(pair.second.text)))
        for pair in pairs
        if (preference := pair.evaluation.preference) is not None
    ]
    if len(points) < MIN_POINTS:
        return None
    return _correlation([*points, *((-preference, -gap) for preference, gap in points)])


def _own_peer_gap(pairs: Sequence[_Pair], known: Sequence[tuple[_Opinion, float]]) -> float | None:
    given = [(entry.assessment.judge, entry.assessment.author, value) for entry, value in known]
    for pair in pairs:
        entry = pair.evaluation
        if entry.preference is not None and entry.judge is not None:
            points = entry.preference.points
            given.append((entry.judge, entry.first_author, points))
            given.append((entry.judge, entry.second_author, 1 - points))
    own = mean(value for judge, author, value in given if judge == author)
    peers = mean(value for judge, author, value in given if judge != author)
    return None if own is None or peers is None else own - peers


def _agreement(pair: _Pair) -> float | None:
    first, second = pair.first.correct, pair.second.correct
    preference = pair.evaluation.preference
    if preference is None or first is None or second is None or first == second:
        return None
    return preference.points if first else 1 - preference.points


def _correlation(points: Sequence[tuple[float, float]]) -> float | None:
    """Return Pearson's correlation; None below `MIN_POINTS` points or without variance."""
    if len(points) < MIN_POINTS:
        return None
    left = sum(x for x, _ in points) / len(points)
    right = sum(y for _, y in points) / len(points)
    spread = sum((x - left) ** 2 for x, _ in points), sum((y - right) ** 2 for _, y in points)
    if min(spread) < 1e-12:
        return None
    together = sum((x - left) * (y - right) for x, y in points)
    return max(-1.0, min(1.0, together / math.sqrt(spread[0] * spread[1])))


def _find(attempts: Mapping[str, Attempt], author: str) -> Attempt:
    if author not in attempts:
        raise ValueError(f"transcripts hold a judgement about {author!r}, who has no attempt there")
    return attempts[author]
