"""Accuracy of a population on problems, under named prompts and rules of extraction.

`benchmark` asks every agent every problem, keeps each reply in a `ReplyLog` as soon as it is there,
and computes `Figures` for each rule that the prompt preset names. A log on disk lets a measurement
that was cut off go on where it stopped.

Not covered here: loading adapters and runs, tables and the command line
(`evolution.commands.bench.command`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Protocol, runtime_checkable

from agents.measuring.batch_log import BatchLog, Telling, Tells
from agents.measuring.reply_log import Key, LoggedReply, ReplyLog, text_hash
from agents.measuring.statistics import Figures, Mark, figures
from agents.policy import Policy, Request, ask, failures_said
from agents.progress import Progress
from populora_env.grading import Grader, opened
from populora_env.grading.extraction import EXTRACTIONS
from populora_env.judges.votes import Opinions
from populora_env.keys import derive_seed
from populora_env.problems import ProblemSource
from populora_env.problems.fewshot import PromptPreset, prompt_preset
from populora_env.records import Phase, Problem
from populora_env.settings import Range, check_fields


@runtime_checkable
class Decodes(Protocol):
    """A model that can be told how to decode, such as `LoraPopulation`."""

    def decoding(self, *, temperature: float, raw: bool) -> Policy:
        """Return it as a policy that decodes so."""
        ...


@runtime_checkable
class HasWeights(Protocol):
    """A model that knows when an agent's weights have changed, such as `LoraPopulation`."""

    def content(self, agent: str) -> str:
        """Return what stands for an agent's weights, and changes with them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How replies are drawn.

    Attributes:
        temperature: 0 is greedy. A plain policy decodes as it likes and never sees this.
        samples: Replies of each agent to each problem; more than one needs a temperature.
        max_new_tokens: Length limit; None for the prompt preset's.
        seed: Seed of all draws. Every agent, problem and sample has a seed of its own.

    Raises:
        ValueError: If a value is out of range.
    """

    temperature: Annotated[float, Range(0, 100)] = 0.0
    samples: Annotated[int, Range(1)] = 1
    max_new_tokens: Annotated[int | None, Range(1)] = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, ValueError)
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples: got {self.samples} at temperature 0, expected 1: greedy replies are all "
                "the same; set a temperature"
            )

    @property
    def how(self) -> str:
        """What sets one reply's draw apart from another's to the same prompt, in words."""
        if self.temperature == 0:
            return "greedy"
        return f"temperature {self.temperature:g}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Participant:
    """An agent in a benchmark.

    Attributes:
        name: What it is called in results.
        agent: What the policy calls it; by default the same.
        apart: Whether it is measured beside the population and has no vote, like the bare base.
        weight: Its weight in the weighted vote; None for no such vote.
        content: Hash of its weights, which a log compares when it goes on; empty to ask the policy,
            if it is a `LoraPopulation`.
    """

    name: str
    agent: str = ""
    apart: bool = False
    weight: float | None = None
    content: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What came out.

    Attributes:
        task: Name of the problems.
        preset: The prompt preset.
        sampling: How replies were drawn, with the length limit that was used.
        problems: What was asked.
        participants: Who was asked.
        figures: Rule of extraction to its figures, the preset's main rule first.
        replies: Participant to its replies, [problems][samples].
    """

    task: str
    preset: PromptPreset
    sampling: Sampling
    problems: tuple[Problem, ...]
    participants: tuple[Participant, ...]
    figures: Mapping[str, Figures]
    replies: Mapping[str, Sequence[Sequence[LoggedReply]]]

    @property
    def main(self) -> Figures:
        """Figures under the preset's main rule."""
        return self.figures[self.preset.extractions[0]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but problems and replies, as plain JSON types."""
        return {
            "task": self.task,
            "prompt": self.preset.name,
            "sampling": asdict(self.sampling),
            "problems": len(self.problems),
            "entrants": [asdict(participant) for participant in self.participants],
            "rules": {rule: entry.to_dict() for rule, entry in self.figures.items()},
        }


def benchmark(
    policy: Policy | Decodes,
    problems: Sequence[Problem],
    participants: Sequence[Participant | str] = ("agent_0",),
    *,
    preset: PromptPreset | str = "arena-v1",
    sampling: Sampling | None = None,
    task: str = "problems",
    examples: ProblemSource | None = None,
    log: ReplyLog | None = None,
    grader: Grader | None = None,
    batch: int = 64,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Ask agents problems and compute all figures.

    Args:
        policy: Answers for all participants. A `LoraPopulation` is told the temperature and
            whether a prompt is to be completed without a chat template; any other policy gets
            the prompts.
        problems: At least one, all different, each with a known answer.
        participants: Names, or participants in full; at least one that is not apart.
        preset: The prompt, or its name.
        sampling: How replies are drawn; None for greedy.
        task: Name of the problems, in results and in the log.
        examples: Where a few-shot prompt's examples come from; None for its training split.
        log: Replies to go on from and to add to; None to start anew and keep nothing.
        grader: Used and left open; None for one that is closed at the end.
        batch: Requests asked for at once. The log is written after each batch, and within one as
            replies come, if the policy tells them (`Tells`).
        progress: Called with how many replies of which task are needed, and the fraction of them
            that are there.

    Raises:
        ValueError: If problems or participants cannot be used; `PromptError` and `ReplyLogError`
            are kinds of it.
        PolicyError: If the policy does not return one text per request.
    """
    chosen = prompt_preset(preset) if isinstance(preset, str) else preset
    drawn = sampling or Sampling()
    limit = drawn.max_new_tokens or chosen.max_new_tokens
    drawn = replace(drawn, max_new_tokens=limit)
    who = tuple(Participant(e) if isinstance(e, str) else e for e in participants)
    _check(problems, who, chosen, batch)
    prompts = chosen.prompts(problems, examples)
    if isinstance(policy, HasWeights):
        known = policy.content
        who = tuple(replace(e, content=e.content or known(e.agent or e.name)) for e in who)
    if isinstance(policy, Decodes):
        policy = policy.decoding(temperature=drawn.temperature, raw=chosen.raw)
    log = ReplyLog() if log is None else log  # an empty one is false
    rows: dict[Key, LoggedReply] = {}
    missing: list[tuple[Key, Request, Problem, str]] = []
    for problem, prompt in zip(problems, prompts, strict=True):
        for participant in who:
            for sample in range(drawn.samples):
                key = Key(task, chosen.name, participant.name, problem.id, sample)
                asked = text_hash(prompt)
                found = log.find(
                    key,
                    content=participant.content,
                    asked=asked,
                    max_new_tokens=limit,
                    drawn=drawn.how,
                )
                if found is not None and set(chosen.extractions) <= set(found.marks):
                    rows[key] = found
                    continue
                seed = derive_seed("bench", drawn.seed, participant.name, problem.id, sample)
                agent = participant.agent or participant.name
                request = Request(agent, Phase.SOLVE, prompt, limit, seed, chosen.stops)
                missing.append((key, request, problem, participant.content))
    needed = len(rows) + len(missing)
    label = f"{needed} replies to {task}"
    with opened(grader) as used:
        for start in range(0, len(missing), batch):
            if progress is not None:
                progress(label, len(rows) / needed)
            part = missing[start : start + batch]
            batch_log = BatchLog(part, chosen, drawn.how, used, log)
            told = Telling(policy, batch_log.keep) if isinstance(policy, Tells) else policy
            try:
                with failures_said(policy):
                    replies = ask(told, [request for _, request, _, _ in part])
                for place, reply in enumerate(replies):
                    batch_log.keep(place, reply)
            finally:
                batch_log.write()
            rows.update((row.key, row) for row in batch_log.rows.values())
        if progress is not None:
            progress(label, 1.0)
        replies = {
            participant.name: [
                [
                    rows[Key(task, chosen.name, participant.name, problem.id, sample)]
                    for sample in range(drawn.samples)
                ]
                for problem in problems
            ]
            for participant in who
        }
        found = _figures(problems, chosen, who, replies, used)
    return BenchmarkResult(task, chosen, drawn, tuple(problems), who, found, replies)


def _figures(
    problems: Sequence[Problem],
    preset: PromptPreset,
    participants: Sequence[Participant],
    replies: Mapping[str, Sequence[Sequence[LoggedReply]]],
    grader: Grader,
) -> dict[str, Figures]:
    members = [participant for participant in participants if not participant.apart]
    weights = {e.name: e.weight for e in members if e.weight is not None}
    beside = next((participant.name for participant in participants if participant.apart), None)
    opinions = Opinions(grader)
    names = [participant.name for participant in members]
    return {
        rule: figures(
            _marks(problems, rule, replies, names, opinions), names, weights or None, beside
        )
        for rule in preset.extractions
    }


def _marks(
    problems: Sequence[Problem],
    rule: str,
    replies: Mapping[str, Sequence[Sequence[LoggedReply]]],
    voters: Sequence[str],
    opinions: Opinions,
) -> dict[str, list[list[Mark]]]:
    """Return all marks under a rule; voters' answers that are equal in value get one text."""
    marks = {
        name: [[Mark(*row.marks[rule]) for row in own] for own in rows]
        for name, rows in replies.items()
    }
    for at, problem in enumerate(problems):
        said = [mark for name in voters for mark in marks[name][at]]
        stands = opinions.group(
            [mark.answer for mark in said], problem.answer_kind, [mark.correct for mark in said]
        )
        for name in voters:
            marks[name][at] = [
                mark if mark.answer is None else Mark(stands[mark.answer], mark.correct)
                for mark in marks[name][at]
            ]
    return marks


def _check(
    problems: Sequence[Problem],
    participants: Sequence[Participant],
    preset: PromptPreset,
    batch: int,
) -> None:
    if not problems:
        raise ValueError("problems: got none, expected at least one")
    seen: set[str] = set()
    for problem in problems:
        if problem.answer is None:
            raise ValueError(f"problems: {problem.id} has no known answer, so nothing is right")
        if problem.id in seen:
            raise ValueError(f"problems: {problem.id} is there twice; use distinct() of a source")
        seen.add(problem.id)
    names = [participant.name for participant in participants]
    if len(set(names)) != len(names):
        raise ValueError(f"participants: got {', '.join(names)}; expected different names")
    if all(participant.apart for participant in participants):
        raise ValueError(
            "participants: expected at least one that is not apart from the population"
        )
    weights = {e.name: e.weight for e in participants if not e.apart}
    if any(weight is not None for weight in weights.values()):
        for name, weight in weights.items():
            if weight is None or not 0 <= weight < math.inf:
                raise ValueError(
                    f"participants: {name}: weight: got {weight!r}, expected a number >= 0, as "
                    "another has a weight; give each one or none"
                )
    if unknown := [rule for rule in preset.extractions if rule not in EXTRACTIONS]:
        raise ValueError(
            f"preset: {preset.name} names the extraction {unknown[0]!r}, expected one of "
            f"{', '.join(EXTRACTIONS)}"
        )
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected at least 1")
