"""An episode as text, for people to read.

What `ReasoningArena.render` returns in mode ``"ansi"``, what mode ``"human"`` prints, and the
pieces they are made of. The text is not meant to be parsed: use `Transcript.to_dict`.
"""

import re
import sys
from collections.abc import Iterable, Iterator

from populora_env.episodes.observations import AnyEpisode
from populora_env.episodes.proposing import ProposingEpisode
from populora_env.prompts import clip
from populora_env.proposals.record import Proposal
from populora_env.reading.forms import FORMS
from populora_env.records import Assessment, Attempt, Evaluation, Preference
from populora_env.storage import storable

_SHOWN = 400  # characters of a prompt or an attempt
# What would act on the reader's terminal instead of being shown: control characters, and those that
# turn the direction of what stands beside them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def render_episode(episode: AnyEpisode) -> str:
    """Return the problem, the attempts, the judgements and the rewards so far, as lines."""
    head = f"problem {episode.problem.id}  phase {episode.phase}  round {episode.round}"
    return "\n".join([head, *_blocks(episode).values()])


def print_news(episode: AnyEpisode, told: set[str]) -> None:
    """Print what is new in an episode, and note it in ``told``."""
    blocks = _blocks(episode)
    news = [block for name, block in blocks.items() if name not in told]
    told.update(blocks)
    text = "\n".join([f"-- {episode.phase}, round {episode.round}", *news])
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def _blocks(episode: AnyEpisode) -> dict[str, str]:
    """Return the pieces of an episode, by names that stay the same as it goes on."""
    answer = "unknown" if episode.problem.answer is None else shown(episode.problem.answer)
    blocks: dict[str, str] = {}
    if isinstance(episode, ProposingEpisode):
        blocks["request"] = f"[{episode.proposer}] is asked:\n{indented(visible(episode.request))}"
        if episode.proposal is not None:
            blocks["proposal"] = proposal_line(episode.proposal)
    if not isinstance(episode, ProposingEpisode) or episode.solvers:
        blocks["problem"] = shown(episode.problem.prompt)
        blocks["answer"] = f"known answer: {answer}"
    for attempt in episode.attempts.values():
        blocks[f"attempt {attempt.agent}"] = "\n".join(_attempt(attempt))
    for at, entry in enumerate(episode.assessments):
        said = f"\n{indented(shown(entry.text))}" if FORMS[entry.form].written else ""
        blocks[f"assessment {at}"] = assessment_line(entry) + said
    for at, entry in enumerate(episode.evaluations):
        blocks[f"evaluation {at}"] = evaluation_line(entry)
    for revision in episode.revisions.values():
        if revision != episode.attempts[revision.agent]:
            blocks[f"revision {revision.agent}"] = "\n".join(["revised:", *_attempt(revision)])
    if episode.transcript is not None:
        earned = episode.transcript.rewards.items()
        blocks["rewards"] = "rewards: " + "  ".join(
            f"{agent} {value:.3f}" for agent, value in earned
        )
    return blocks


def proposal_line(proposal: Proposal) -> str:
    """Return what became of a proposal in one line."""
    why = f": {proposal.reason}" if proposal.reason else ""
    return f"{proposal.agent} proposes {shown(proposal.text)!r}: {proposal.status}{why}"


def opinion_lines(
    assessments: Iterable[Assessment], evaluations: Iterable[Evaluation]
) -> Iterator[str]:
    """Yield a line for each judgement: who thought what of whose attempt."""
    yield from map(assessment_line, assessments)
    yield from map(evaluation_line, evaluations)


def assessment_line(entry: Assessment) -> str:
    """Return a score or a critique's verdict in one line."""
    said = "nothing readable" if entry.value is None else FORMS[entry.form].show(entry.value)
    return f"{entry.judge}: {entry.form} of {entry.author}: {said}"


def evaluation_line(entry: Evaluation) -> str:
    """Return the result of a comparison in one line."""
    first, second = entry.first_author, entry.second_author
    said = {
        Preference.A: f"{first} better than {second}",
        Preference.B: f"{second} better than {first}",
        Preference.TIE: f"{first} and {second} tie",
        None: f"no verdict on {first} and {second}",
    }[entry.preference]
    flipped = " (changed its mind with the order)" if entry.flipped else ""
    return f"{entry.judge or 'outside judge'}: {said}{flipped}"


def visible(text: str) -> str:
    """Return the text with nothing in it that a terminal would obey."""
    return _CONTROL.sub("\ufffd", storable(text))


def shown(text: str) -> str:
    """Return the text clipped to a few lines, and visible."""
    return visible(clip(text, _SHOWN))


def indented(text: str) -> str:
    """Return the text with every line four spaces further in."""
    return "    " + text.replace("\n", "\n    ")


def _attempt(attempt: Attempt) -> list[str]:
    grade = "not graded" if attempt.grade is None else str(attempt.grade.status)
    answer = "none" if attempt.answer is None else shown(attempt.answer)
    return [
        f"[{attempt.agent}] answer {answer}  {grade}  read: {attempt.status}",
        indented(shown(attempt.text)),
    ]
