"""What decoding is asked for, what comes of it, and the counts it keeps.

Not covered here: the decoding itself (`agents.engine.generation`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from agents.engine.adapters import StackedLora
from agents.loading.models import BaseModel


@dataclass(frozen=True, slots=True)
class Job:
    """One reply to generate.

    Attributes:
        agent: Row of the stacked adapters that writes it; ``None`` for the bare base.
        prompt_ids: Token ids of the prompt, at least one.
        max_new_tokens: Length limit of the reply, at least 1.
        seed: Seed of its sampling.
        stop: Texts that end the reply when it contains one; they stay in its ids.
    """

    agent: int | None
    prompt_ids: Sequence[int]
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What was generated for one `Job`.

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
        seconds: Time all this took, where a `LoraPopulation` counts.
        overlong: Requests that did not fit the model's context and got an empty reply, where a
            `LoraPopulation` counts.
    """

    tokens: int = 0
    decoded: int = 0
    slot_steps: int = 0
    prompt_tokens: int = 0
    prompt_tokens_read: int = 0
    seconds: float = 0.0
    overlong: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens per second; 0 before anything was generated."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def slot_efficiency(self) -> float:
        """Useful tokens / (slots x steps): the share of the batch that was not idle."""
        return self.decoded / self.slot_steps if self.slot_steps else 1.0


def check_jobs(base: BaseModel, lora: StackedLora | None, jobs: Sequence[Job]) -> None:
    """Check that each of these jobs can be done.

    Raises:
        ValueError: If a prompt is empty, a job does not fit the model's context, or names an agent
            where there are no adapters.
    """
    limit = base.context
    for i, job in enumerate(jobs):
        if not job.prompt_ids or job.max_new_tokens < 1:
            raise ValueError(f"jobs[{i}]: a prompt and max_new_tokens need at least 1 token each")
        if limit and len(job.prompt_ids) + job.max_new_tokens > limit:
            raise ValueError(
                f"jobs[{i}]: {len(job.prompt_ids)} prompt tokens + {job.max_new_tokens} new ones "
                f"exceed the model's context of {limit}; shorten the prompt or the limit"
            )
        if job.agent is not None and lora is None:
            raise ValueError("lora: got None, but a job names an agent; pass the adapters")
