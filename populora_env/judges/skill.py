"""What a judge's opinions are worth.

Judging is paid for telling better attempts from worse ones of the same problem. An opinion on an
attempt is a number in [0, 1]; the reference it is held against is the truth where the answer is
known, and otherwise the consensus of all other judges. Only how far a reference lies above or
below the mean counts, so an opinion that is always the same (always A, always tie, always 10,
always "correct") is worth 1/2 on average whatever the attempts are, and a judge has to be right
more often than a coin to earn more.

The consensus is on final answers, not on authors: attempts with the same answer share what is
thought of them. A bloc whose members praise each other and nobody else is then outvoted by what
others think of the same answers, as long as the bloc is a minority.
"""

from collections.abc import Iterable, Mapping, Sequence

from populora_env.reading.forms import FORMS
from populora_env.records import Assessment, Attempt, Evaluation, Phase, Preference

Reference = Mapping[str, float | None]  # author to how good its attempt is, in [0, 1]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values, None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def truth(attempts: Iterable[Attempt]) -> dict[str, float | None]:
    """Return 1 or 0 for each graded attempt, None for others, by author."""
    return {
        attempt.agent: None if attempt.correct is None else float(attempt.correct)
        for attempt in attempts
    }


def opinions(
    agents: Iterable[str],
    form: Phase,
    evaluations: Iterable[Evaluation],
    assessments: Iterable[Assessment],
    *,
    without: str | None = None,
) -> dict[str, list[float]]:
    """Collect what peers think of each attempt, in one form of evaluation.

    Nobody's opinion of its own attempt counts, nor of a pair that its own is in.

    Args:
        agents: Authors.
        form: Score, compare or critique.
        evaluations: Pairs; those of a judge outside the population are left out.
        assessments: Scores and critiques.
        without: A judge to leave out.

    Returns:
        Author to opinions in [0, 1], in the order given.
    """
    found: dict[str, list[float]] = {agent: [] for agent in agents}
    if FORMS[form].pairs:
        for entry in evaluations:
            authors = (entry.first_author, entry.second_author)
            if entry.preference is None or entry.judge in (None, without, *authors):
                continue
            found[authors[0]].append(entry.preference.points)
            found[authors[1]].append(1.0 - entry.preference.points)
    else:
        for entry in assessments:
            if entry.form is not form or entry.value is None:
                continue
            if entry.judge not in (without, entry.author):
                found[entry.author].append(entry.value)
    return found


def answer_standings(
    attempts: Iterable[Attempt], found: Mapping[str, Sequence[float]]
) -> dict[str, float | None]:
    """Return the mean opinion on each attempt's final answer, whoever gave it.

    Args:
        attempts: Their answers; an attempt without one stands for itself.
        found: Author to opinions, as `opinions` returns them.

    Returns:
        Author to a mean in [0, 1], None where there is no opinion.
    """
    groups: dict[str, list[float]] = {}
    names = {
        attempt.agent: f"of {attempt.agent}" if attempt.answer is None else f"= {attempt.answer}"
        for attempt in attempts
    }
    for agent, name in names.items():
        groups.setdefault(name, []).extend(found[agent])
    return {agent: mean(groups[name]) for agent, name in names.items()}


def opinion_skill(value: float, author: str, reference: Reference) -> float | None:
    """Return what an opinion on one attempt is worth.

    Args:
        value: The opinion, in [0, 1].
        author: Whose attempt it is about.
        reference: How good each attempt that the judge could have met is.

    Returns:
        In [0, 1]: 1/2 + (value - 1/2) times the attempt's distance from the mean, in units of the
        largest such distance. Of one right attempt among wrong ones, finding the right one is
        worth 1. None if the attempts do not differ or this one's worth is unknown.
    """
    known = [entry for entry in reference.values() if entry is not None]
    own = reference.get(author)
    if own is None:
        return None
    centre = sum(known) / len(known)
    furthest = max(abs(entry - centre) for entry in known)
    if furthest < 1e-9:
        return None
    return 0.5 + (value - 0.5) * (own - centre) / furthest


def pair_skill(
    preference: Preference, first: str, second: str, reference: Reference
) -> float | None:
    """Return what a preference between two attempts is worth.

    Returns:
        In [0, 1]: 1/2 for a tie; 1 for the better and 0 for the worse of the two attempts that
        differ most, and closer to 1/2 the less they differ. None if they do not differ or one's
        worth is unknown.
    """
    ours, theirs = reference.get(first), reference.get(second)
    if ours is None or theirs is None or abs(ours - theirs) < 1e-9:
        return None
    known = [entry for entry in reference.values() if entry is not None]
    return 0.5 + (preference.points - 0.5) * (ours - theirs) / (max(known) - min(known))


class JudgingSkill:
    """Rates the judgements of one episode.

    Args:
        attempts: What was judged.
        reference: The truth by author; None to go by the consensus of the other judges.
        evaluations: Pairs judged in the episode.
        assessments: Scores and critiques.
        self_judging: Whether agents could meet their own attempts.
    """

    def __init__(
        self,
        attempts: Sequence[Attempt],
        reference: Reference | None,
        evaluations: Sequence[Evaluation],
        assessments: Sequence[Assessment],
        *,
        self_judging: bool = False,
    ) -> None:
        self._attempts = attempts
        self._agents = [attempt.agent for attempt in attempts]
        self._truth = reference
        self._evaluations = evaluations
        self._assessments = assessments
        self._self_judging = self_judging
        self._consensus: dict[tuple[str, Phase], Reference] = {}

    def of_pair(self, judge: str, entry: Evaluation) -> tuple[float | None, bool]:
        """Return what a judged pair is worth, and whether a readable verdict could earn at all."""
        reference = self._reference(judge, Phase.COMPARE)
        first, second = entry.first_author, entry.second_author
        if pair_skill(Preference.A, first, second, reference) is None:
            return None, False
        if entry.preference is None:
            return None, True
        return pair_skill(entry.preference, first, second, reference), True

    def of_assessment(self, entry: Assessment) -> tuple[float | None, bool]:
        """Return what a score or a critique's verdict is worth; see `of_pair`."""
        reference = self._reference(entry.judge, entry.form)
        if opinion_skill(1.0, entry.author, reference) is None:
            return None, False
        if entry.value is None:
            return None, True
        return opinion_skill(entry.value, entry.author, reference), True

    def _reference(self, judge: str, form: Phase) -> Reference:
        """Return how good the attempts are that a judge may meet."""
        key = (judge, form)
        if key not in self._consensus:
            whole = self._truth
            if whole is None:
                found = opinions(
                    self._agents, form, self._evaluations, self._assessments, without=judge
                )
                whole = answer_standings(self._attempts, found)
            met = {agent: whole[agent] for agent in self._agents if agent != judge}
            self._consensus[key] = dict(whole) if self._self_judging else met
        return self._consensus[key]
