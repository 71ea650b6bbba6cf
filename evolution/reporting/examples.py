"""Attempts worth reading: the best and the most different, and a wrong one that fooled its judges.

How different two texts are is measured in the space of `reporting.text`.
"""

from collections import Counter
from dataclasses import dataclass

from evolution.reporting.measures.data import Episode, RunData
from evolution.reporting.text import TextSpace
from populora_env.records import Attempt, Preference, Problem

_SEARCHED = 40  # latest episodes in which the two most different right attempts are looked for


@dataclass(frozen=True, slots=True)
class Example:
    """An attempt worth showing, and whose opinion of it, if any, makes it so."""

    generation: int
    problem: Problem
    attempt: Attempt
    opinions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contrast:
    """The best agent's attempt and the one farthest from it at the same problem.

    Attributes:
        best: The best agent's.
        other: Another agent's.
        distance: Between them, 0 (same words) to 1 (no common ones): 1 - cosine.
        graded: Whether both are known to be right; otherwise no answer is known.
    """

    best: Example
    other: Example
    distance: float
    graded: bool


def contrast(run: RunData) -> Contrast | None:
    """Return the most different right attempts by the best individual and another agent.

    Looked for in the latest episodes of that individual that have two different ones.
    """
    best = run.best[-1]
    if best is None:
        return None
    column = run.agents.index(best)
    lived = {g for g, who in zip(run.generations, run.individuals, strict=True)
             if who[column] == run.individuals[-1][column]}  # fmt: skip
    unknown = all(a.correct is None for e in run.episodes for a in e.transcript.final_attempts)
    found: list[tuple[Episode, Attempt, list[Attempt]]] = []
    for episode in reversed(run.episodes):
        attempts = episode.transcript.final_attempts
        usable = [a for a in attempts if a.text.strip() and (unknown or a.correct is True)]
        own = [a for a in usable if a.agent == best]
        others = [a for a in usable if a.agent != best and own and a.text != own[0].text]
        if episode.generation in lived and own and others:
            found.append((episode, own[0], others))
        if len(found) == _SEARCHED:
            break
    if not found:
        return None
    space = TextSpace([a.text for _, own, others in found for a in (own, *others)])
    chosen: tuple[float, Episode, Attempt, Attempt] | None = None
    for episode, own, others in found:
        vectors = space.vectors([own.text, *(other.text for other in others)])
        distances = 1 - vectors[1:] @ vectors[0]
        far = int(distances.argmax())
        if chosen is None or distances[far] > chosen[0] + 1e-12:
            chosen = float(distances[far]), episode, own, others[far]
    assert chosen is not None
    distance, episode, own, other = chosen
    problem = episode.transcript.problem
    return Contrast(
        Example(episode.generation, problem, own),
        Example(episode.generation, problem, other),
        min(max(distance, 0.0), 1.0),
        not unknown,
    )


def fooled(run: RunData) -> Example | None:
    """Return the wrong attempt that judges most often took for good; the latest of equals.

    First by how often it was called better than a right one, in both orders; then by how often it
    got a score or a verdict above 1/2.
    """
    chosen: Example | None = None
    most = 0, 0
    for episode in reversed(run.episodes):
        transcript = episode.transcript
        attempts = {attempt.agent: attempt for attempt in transcript.attempts}
        opinions: dict[str, list[str]] = {}
        wins: Counter[str] = Counter()
        for entry in transcript.evaluations:
            if entry.judge is None and transcript.revisions:
                continue  # it may be about the revisions
            pair = attempts[entry.first_author], attempts[entry.second_author]
            for (good, bad), wanted in ((pair, Preference.A), (pair[::-1], Preference.B)):
                if entry.preference is wanted and (good.correct, bad.correct) == (False, True):
                    judge = entry.judge or "the outside judge"
                    said = f"{judge}: better than the right attempt of {bad.agent}"
                    opinions.setdefault(good.agent, []).append(said)
                    wins[good.agent] += 1
        for entry in transcript.assessments:
            good = entry.value is not None and entry.value > 0.5 and entry.judge != entry.author
            if good and attempts[entry.author].correct is False:
                said = f"{entry.judge}: {entry.form} {entry.value:.2g}"
                opinions.setdefault(entry.author, []).append(said)
        for author, said in opinions.items():
            if (wins[author], len(said)) > most:
                most = wins[author], len(said)
                chosen = Example(
                    episode.generation, transcript.problem, attempts[author], tuple(said)
                )
    return chosen
