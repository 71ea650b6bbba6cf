"""Paying out at the end of an episode.

What an attempt is worth to its peers, what judgements and critiques are worth, and what a revision
changed is known only when all is said; here it is credited to the turns that earned it, and summed
up for each agent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from populora_env.episodes.labels import Labeller, peer_standings
from populora_env.episodes.rewards import Parts, RewardPart, RewardWeights
from populora_env.judges.skill import JudgingSkill, mean
from populora_env.reading.forms import FORMS
from populora_env.records import Assessment, Attempt, Evaluation, Phase, Turn

Judged = Mapping[tuple[str, int], Evaluation | Assessment]  # by judge and round


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is paid at the end.

    Attributes:
        turns: All turns, with the parts that were still unknown.
        parts: Agent to the parts that are paid in the last step.
    """

    turns: tuple[Turn, ...]
    parts: Mapping[str, Parts]


def settle(
    turns: Sequence[Turn],
    judged: Judged,
    attempts: Sequence[Attempt],
    revisions: Sequence[Attempt],
    labeller: Labeller,
    weights: RewardWeights,
    *,
    self_judging: bool = False,
) -> Settlement:
    """Work out all that is known only at the end of an episode.

    Args:
        turns: All actions, in order.
        judged: What came of each judging turn; both turns of a pair have the same evaluation.
        attempts: One of each agent.
        revisions: The same after revising; empty if nobody was asked to.
        labeller: Who says which attempts are right.
        weights: What each part counts.
        self_judging: Whether agents could judge their own attempts.
    """
    agents = [attempt.agent for attempt in attempts]
    evaluations = list({id(e): e for e in judged.values() if isinstance(e, Evaluation)}.values())
    assessments = [entry for entry in judged.values() if isinstance(entry, Assessment)]
    peer = peer_standings(agents, evaluations, assessments)
    standing = labeller.by_peers(attempts, evaluations, assessments)
    change, improvement = labeller.revised(attempts, revisions) if revisions else ({}, {})
    truth = labeller.truth(attempts)
    skill = JudgingSkill(
        labeller.by_value(attempts) if truth is None else attempts,  # the consensus is on answers
        truth, evaluations, assessments, self_judging=self_judging,
    )  # fmt: skip
    skills: dict[str, list[float]] = {agent: [] for agent in agents}
    readable = dict.fromkeys(agents, False)
    settled: list[Turn] = []
    for turn in turns:
        added: Parts = {}
        entry = judged.get((turn.agent, turn.round))
        if turn.phase is Phase.SOLVE:
            added[RewardPart.PEER.value] = peer[turn.agent]
            if standing:
                added[RewardPart.CORRECTNESS.value] = standing[turn.agent]
        elif turn.phase is Phase.REVISE:
            added[RewardPart.CORRECTNESS.value] = change[turn.agent]
        elif entry is not None:
            if isinstance(entry, Evaluation):
                worth, can_earn = skill.of_pair(turn.agent, entry)
            else:
                worth, can_earn = skill.of_assessment(entry)
                if FORMS[turn.phase].written and revisions:
                    added[RewardPart.UPLIFT.value] = _uplift(entry, improvement)
            added[RewardPart.JUDGING.value] = worth
            if can_earn:
                skills[turn.agent].append(worth or 0.0)
                readable[turn.agent] |= worth is not None
        earned = {**turn.parts, **added}
        settled.append(replace(turn, parts=earned, reward=weights.total(earned)))
    parts: dict[str, Parts] = {}
    for agent in agents:
        own = [turn for turn in settled if turn.agent == agent]
        parts[agent] = _summed(own)
        if standing or change:
            late = [found[agent] for found in (standing, change) if found]
            known = [value for value in late if value is not None]
            parts[agent][RewardPart.CORRECTNESS.value] = sum(known) if known else None
        if any(turn.phase not in (Phase.SOLVE, Phase.REVISE) for turn in own):
            worth = mean(skills[agent]) if readable[agent] else None
            parts[agent][RewardPart.JUDGING.value] = worth
    return Settlement(tuple(settled), parts)


def _summed(turns: Sequence[Turn]) -> Parts:
    """Return what an agent's attempt earned late, and its later turns but for correctness."""
    solve, later = turns[0], turns[1:]
    parts: Parts = {RewardPart.PEER.value: solve.parts[RewardPart.PEER.value]}
    if later:
        lengths = [turn.parts[RewardPart.LENGTH.value] for turn in later]
        parts[RewardPart.LENGTH.value] = sum(length or 0.0 for length in lengths)
    for part in (RewardPart.FORMAT.value, RewardPart.UPLIFT.value):
        values = [turn.parts[part] for turn in later if part in turn.parts]
        if values:
            parts[part] = mean(values)
    return parts


def _uplift(entry: Assessment, improvement: Mapping[str, float | None]) -> float | None:
    """Return how much better the attempt became; nothing for silence or criticising oneself."""
    said = entry.text.strip() and entry.judge != entry.author
    return improvement[entry.author] if said else None
