"""What an engine is: jobs in, replies out, adapters by the hash of their content.

A population generates through an `Engine` alone, so that one elsewhere, such as a server, can take
the place of ours (`agents.engine.local`). Engine and caller share no state: an adapter is named by
its content hash, and a reply says which adapter wrote it. The caller compares, because the fault
that nothing else shows is that the adapter sampled is not the adapter trained.

Not covered here: the decoding itself (`agents.engine.generation`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from torch import Tensor

from agents.engine.adapters import StackedLora
from agents.loading.models import BaseModel
from agents.peft_io import PeftAdapter
from populora_env.errors import PopuloraError

BASE = "base"
"""In the place of an adapter's hash, and of an agent's name: the bare base model."""

LEAST_TEMPERATURE = 1e-6
"""Logits over less may be infinite in float32; the likeliest token is drawn at far more."""


class EngineError(PopuloraError, RuntimeError):
    """An engine that lacks what it is asked for, or broke a promise."""


class Feature(StrEnum):
    """What an engine may know of a reply besides its tokens."""

    HIDDEN_STATES = "hidden_states"  # mean last hidden state over the reply, [width], float32
    DISTRIBUTIONS = "distributions"  # mean of the tokens' distributions, [vocabulary], float32


@dataclass(frozen=True, slots=True)
class Job:
    """One reply to generate.

    Attributes:
        agent: Row of the caller's stacked adapters that writes it, for an engine that shares them;
            ``None`` for the bare base.
        prompt_ids: Token ids of the prompt, at least one.
        max_new_tokens: Length limit of the reply, at least 1.
        seed: Seed of its sampling.
        stop: Texts that end the reply when it contains one; they stay in its ids.
        id: Id of its reply, another one for each job; decoding alone needs none.
        adapter: Content hash of the adapter that writes it (`agents.engine.adapters.factors_hash`);
            ``base`` for the bare base. Engines elsewhere go by it.
        features: What the reply is to carry, names in `Feature` or of an engine's own.
        temperature: Softmax temperature of its sampling, where it is not that of all.
    """

    agent: int | None
    prompt_ids: Sequence[int]
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()
    id: str = ""
    adapter: str = BASE
    features: frozenset[str] = frozenset()
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An engine's reply to a `Job`.

    Attributes:
        id: The job's.
        adapter: Content hash of the adapter that wrote it, worked out from the weights that were
            used and not copied from the job; ``base`` for the bare base.
        text: The reply, without the token that ended it.
        ids: Token ids, with the token that ended it, if one did.
        features: What the job asked for, by name.
    """

    id: str
    adapter: str
    text: str
    ids: tuple[int, ...]
    features: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


class Engine(Protocol):
    """Whatever generates for a population.

    Attributes:
        features: Names of what its replies can carry; see `Feature`.
        max_rows: Jobs that are best asked for at once.
        stats: Counts of all it did; the caller counts ``overlong`` and ``replies``.
    """

    features: frozenset[str]
    max_rows: int
    stats: "DecodeStats"

    def generate(
        self,
        adapters: Mapping[str, PeftAdapter],
        jobs: Sequence[Job],
        *,
        temperature: float,
        top_p: float,
        done: "Callable[[Reply], None] | None" = None,
    ) -> Iterable[Reply]:
        """Generate one reply per job, in any order.

        Args:
            adapters: All that the jobs name, by content hash. Each is put together when it is
                looked up and shows the population's own tensors: copy what is to be kept.
            jobs: What to generate, at least one. A reply depends on its job, its adapter and the
                two numbers below, never on other jobs (up to rounding).
            temperature: Softmax temperature of jobs that name none; 0 is greedy.
            top_p: Share of the probability from which tokens are drawn.
            done: Called with each reply as soon as it is there.
        """
        ...


def check_features(engine: Engine, wanted: Iterable[str]) -> None:
    """Check that an engine's replies can carry all of this.

    Raises:
        EngineError: If one is missing.
    """
    if lacking := sorted(set(wanted) - engine.features):
        raise EngineError(
            f"features: got {', '.join(lacking)}, but {type(engine).__name__} gives "
            f"{', '.join(sorted(engine.features)) or 'none'}; ask for less, or use another engine"
        )


def matched(engine: object, jobs: Sequence[Job], replies: Iterable[Reply]) -> list[Reply]:
    """An engine's replies in the order of their jobs.

    Args:
        engine: Whose replies they are; its type is what messages call it.
        jobs: What was asked.
        replies: What came.

    Raises:
        EngineError: If one is missing, there twice, was not asked for, lacks a feature, or was
            written by another adapter than its job names.
    """
    name, asked, found = type(engine).__name__, {job.id: job for job in jobs}, dict[str, Reply]()
    if len(asked) < len(jobs):
        raise EngineError("jobs: got two of one id, expected an id of its own for each")
    for reply in replies:
        job = asked.get(reply.id)
        if job is None or reply.id in found:
            problem = "of a job that was not given" if job is None else "twice"
            raise EngineError(
                f"{name}: got reply {reply.id!r} {problem}, expected one for each job"
            )
        if reply.adapter != job.adapter:
            raise EngineError(
                f"{name}: reply {reply.id!r} was written by adapter {reply.adapter!r}, expected "
                f"{job.adapter!r}; its weights are not those it was given: load the adapter anew"
            )
        if lacking := sorted(job.features - reply.features.keys()):
            raise EngineError(f"{name}: reply {reply.id!r} lacks {lacking[0]}, which was asked for")
        found[reply.id] = reply
    if missing := [job.id for job in jobs if job.id not in found]:
        raise EngineError(
            f"{name}: got {len(found)} replies to {len(jobs)} jobs, expected one for each; "
            f"{missing[0]!r} is missing"
        )
    return [found[job.id] for job in jobs]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was decoded for one `Job`.

    Attributes:
        ids: Token ids, without the token that ended the reply.
        finished: Whether the model ended it or a stop text came; False: the length limit did.
        end: The end token with which the model ended it; None if something else did.
        feature: Mean last hidden state over the tokens of the reply, ``[width]``, float32; without
            the last token of a reply that no end token ended.
        distribution: Mean of the distributions its tokens were drawn from, at temperature 1,
            ``[vocabulary]``, float32; None unless asked for.
    """

    ids: tuple[int, ...]
    finished: bool
    feature: Tensor
    distribution: Tensor | None = None
    end: int | None = None


@dataclass(slots=True)
class DecodeStats:
    """Counts that add up over calls of `generate`.

    Attributes:
        tokens: Tokens of replies, end tokens included.
        decoded: Those of them that a decoding step gave; the others came with the prompt.
        slot_steps: Rows of the batch summed over decoding steps, ended rows included.
        prompt_tokens: Tokens of all prompts.
        prompt_tokens_read: Those of them that were computed.
        seconds: Time all this took, where an engine counts.
        overlong: Requests that did not fit the model's context and got an empty reply, where a
            `LoraPopulation` counts.
        replies: Requests that were answered, these included, where it counts.
    """

    tokens: int = 0
    decoded: int = 0
    slot_steps: int = 0
    prompt_tokens: int = 0
    prompt_tokens_read: int = 0
    seconds: float = 0.0
    overlong: int = 0
    replies: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens per second; 0 before anything was generated."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def words(self) -> str:
        """How fast it went, for a progress bar; empty before anything was generated."""
        rate = self.tokens_per_second
        return f"{rate:.0f} tokens/s" if rate else ""

    @property
    def slot_efficiency(self) -> float:
        """Useful tokens / (slots x steps): the share of the batch that was not idle."""
        return self.decoded / self.slot_steps if self.slot_steps else 1.0


def check_temperature(name: str, value: float) -> None:
    """Raise a ValueError unless it is 0, or a finite number that logits can be divided by."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: got {value}, expected a finite number >= 0")
    if 0 < value < LEAST_TEMPERATURE:
        raise ValueError(
            f"{name}: got {value}, expected 0, which is greedy, or at least {LEAST_TEMPERATURE:g}"
        )


def check_jobs(base: BaseModel, lora: StackedLora | None, jobs: Sequence[Job]) -> None:
    """Check that each of these jobs can be done.

    Raises:
        ValueError: If a prompt is empty, a job does not fit the model's context, names an agent
            that has no adapter, or a temperature out of range.
    """
    limit = base.context
    for i, job in enumerate(jobs):
        if job.temperature is not None:
            check_temperature(f"jobs[{i}]: temperature", job.temperature)
        if not job.prompt_ids or job.max_new_tokens < 1:
            raise ValueError(f"jobs[{i}]: a prompt and max_new_tokens need at least 1 token each")
        if limit and len(job.prompt_ids) + job.max_new_tokens > limit:
            raise ValueError(
                f"jobs[{i}]: {len(job.prompt_ids)} prompt tokens + {job.max_new_tokens} new ones "
                f"exceed the model's context of {limit}; shorten the prompt or the limit"
            )
        if job.agent is not None and lora is None:
            raise ValueError("lora: got None, but a job names an agent; pass the adapters")
        if job.agent is not None and lora is not None and not 0 <= job.agent < lora.size:
            raise ValueError(f"jobs[{i}]: agent {job.agent} is not in 0..{lora.size - 1}")
