"""An episode as a conversation: who was asked what, said what, and what others made of it."""

from dataclasses import dataclass
from typing import Any

from evolution.reporting.charts import COLOURS
from evolution.watch.follower import Follower
from populora_env.episodes.rendering import assessment_line, evaluation_line
from populora_env.prompts import clip
from populora_env.reading.forms import FORMS
from populora_env.records import Attempt, Phase, Transcript, Turn

_CHIP = 160  # characters of a problem by which an episode is chosen


@dataclass(frozen=True, slots=True)
class Message:
    """An attempt with what it earned.

    Attributes:
        attempt: What was said, and how it was read and graded.
        earned: What this reply alone earned; None where turns were not kept.
    """

    attempt: Attempt
    earned: float | None


@dataclass(frozen=True, slots=True)
class Judging:
    """What one judge made of the attempts.

    Attributes:
        judge: Who; None for a judge from outside.
        opinions: A line for each attempt or pair.
        turns: What it was asked and wrote, where turns were kept.
    """

    judge: str | None
    opinions: tuple[str, ...]
    turns: tuple[Turn, ...]


def episodes_shown(
    follower: Follower, generation: int | None = None, number: int | None = None
) -> dict[str, Any] | None:
    """Return a generation's episodes to choose from, and one of them whole.

    Args:
        follower: Of the run.
        generation: Which; None, or one that is not there, for the latest.
        number: Which of its episodes, from 0; None for the first that was judged, or else the first
            that was attempted, or else the first.

    Returns:
        Arguments of the macro ``episodes``; None without episodes.
    """
    found = follower.episodes()
    if not found:
        return None
    kept = sorted(found)
    chosen = generation if generation in found else kept[-1]
    place, entries = kept.index(chosen), found[chosen]
    if number is None or not 0 <= number < len(entries):
        told = [bool(t.attempts) + bool(t.evaluations or t.assessments) for _, t in entries]
        number = told.index(max(told))
    offset, short = entries[number]
    transcript = follower.transcript(offset) or short
    return {
        "generation": chosen,
        "earlier": kept[place - 1] if place else None,
        "later": kept[place + 1] if place + 1 < len(kept) else None,
        "first": kept[0],
        "last": kept[-1],
        "number": number,
        "chips": [_chip(t) for _, t in entries],
        "episode": transcript,
        "request": next((t.prompt for t in transcript.turns if t.phase is Phase.PROPOSE), None),
        "attempts": _messages(transcript, transcript.attempts, Phase.SOLVE),
        "judges": _judges(transcript),
        "revisions": _messages(transcript, transcript.revisions, Phase.REVISE),
        "colours": {a: COLOURS[n % len(COLOURS)] for n, a in enumerate(transcript.agents)},
    }


def _chip(transcript: Transcript) -> dict[str, Any]:
    """What an episode is chosen by: how its problem begins, and who got it right."""
    proposal = transcript.proposal
    text = transcript.problem.prompt if proposal is None else proposal.text
    return {
        "text": clip(" ".join(text.split()), _CHIP),
        "marks": [attempt.correct for attempt in transcript.final_attempts],
        "status": None if proposal is None else proposal.status.value,
    }


def _messages(transcript: Transcript, attempts: tuple[Attempt, ...], phase: Phase) -> list[Message]:
    """Attempts with what they earned: an agent's tries are its turns of that phase, in order."""
    earned = {
        agent: [t.reward for t in transcript.turns if t.agent == agent and t.phase is phase]
        for agent in transcript.agents
    }
    return [
        Message(attempt, own.pop(0) if (own := earned.get(attempt.agent)) else None)
        for attempt in attempts
    ]


def _judges(transcript: Transcript) -> list[Judging]:
    entries = (*transcript.assessments, *transcript.evaluations)
    return [
        Judging(
            judge,
            tuple(
                line.partition(": ")[2]
                for line in (
                    *(assessment_line(e) for e in transcript.assessments if e.judge == judge),
                    *(evaluation_line(e) for e in transcript.evaluations if e.judge == judge),
                )
            ),
            tuple(t for t in transcript.turns if t.agent == judge and t.phase in FORMS),
        )
        for judge in sorted({e.judge for e in entries}, key=lambda name: name or "")
    ]
