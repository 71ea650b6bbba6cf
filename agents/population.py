"""LoraPopulation: N adapters on one frozen base, as one policy.

Agents are named ``agent_0`` to ``agent_{N-1}`` as in the arena; the name ``base`` is the bare base
model, so a population can play against what it started from.

Not covered here: how the adapters are kept, saved and loaded (`agents.named_adapters`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from agents.engine.generation import generate
from agents.engine.jobs import DecodeStats, Job
from agents.loading.models import BaseModel, load_base
from agents.named_adapters import BASE, NamedAdapters
from agents.peft_io import CONFIG_FILE, WEIGHTS_FILE, AdapterError
from agents.policy import Request
from populora_env.reading.reply_ids import IdentifiedReply
from populora_env.records import Phase

__all__ = [
    "BASE",
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "AdapterError",
    "DecodingPolicy",
    "Generated",
    "GreedyPolicy",
    "LoraPopulation",
]

_IDS = count()  # of replies; no two of a process are alike


@dataclass(frozen=True, slots=True)
class Generated:
    """A reply with what the model knows about it.

    Attributes:
        id: By which `LoraPopulation.recall` finds it: the request's, if it has one.
        text: The decoded reply.
        prompt_ids: Token ids of the prompt.
        reply_ids: Token ids of the reply, with the token that ended it, if one did.
        feature: Mean last hidden state over the reply, ``[width]``.
        distribution: Mean of the distributions its tokens were drawn from, ``[vocabulary]``; only
            of attempts, and only if the population keeps them.
    """

    id: str
    text: str
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    feature: Tensor
    distribution: Tensor | None = None


class LoraPopulation(NamedAdapters):
    """N LoRA adapters answering as agents of an arena; a `Policy`.

    Agents may differ in rank, scale and dropout. A loaded adapter brings its rank and scale into
    its slot, the training settings stay the slot's; it may adapt fewer layers than the population
    and have any rank up to the largest here. Saved folders hold each agent at its own rank, with
    what PEFT, lm-eval and vLLM look for.

    Args:
        base: The frozen base.
        size: Number of agents, N.
        rank: Rank of every adapter, or of each, ``[N]``.
        alpha: Numerator of the scale of every adapter, or of each, ``[N]``; None for twice the
            agent's rank.
        targets: See `StackedLora`.
        dropout: Of every adapter, or of each, ``[N]``, while learning; see `StackedLora`.
        adapter_dtype: ``float32``, ``bfloat16`` or ``float16``; None for the base's own. Small
            learning steps are lost in bfloat16: float32 keeps them on a bfloat16 base.
        temperature: Sampling temperature; 0 is greedy.
        max_rows: Rows decoded at once; see `agents.engine.generation.generate`.
        top_p: Share of the probability from which tokens are drawn.

    Attributes:
        stats: Counts of all that was generated, with tokens per second.
        keeps_distributions: Whether attempts carry their mean token distribution; off at first.

    Raises:
        ValueError: If an argument is out of range, targets match nothing, or the base already
            carries adapters.
    """

    def __init__(
        self,
        base: BaseModel,
        size: int = 8,
        rank: int | Sequence[int] = 8,
        *,
        alpha: float | Sequence[float] | None = None,
        targets: str | Sequence[str] = "all-linear",
        dropout: float | Sequence[float] = 0.0,
        adapter_dtype: str | None = None,
        temperature: float = 1.0,
        max_rows: int = 64,
        top_p: float = 1.0,
    ) -> None:
        super().__init__(
            base,
            size,
            rank,
            alpha=alpha,
            targets=targets,
            dropout=dropout,
            adapter_dtype=adapter_dtype,
        )
        self.temperature, self.max_rows, self.top_p = temperature, max_rows, top_p
        self.stats = DecodeStats()
        self.keeps_distributions = False
        self._recent: dict[str, Generated] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str = "embedded",
        size: int = 8,
        rank: int | Sequence[int] = 8,
        *,
        alpha: float | Sequence[float] | None = None,
        targets: str | Sequence[str] = "all-linear",
        dropout: float | Sequence[float] = 0.0,
        adapter_dtype: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        products: str = "float32",
        load_in_4bit: bool = False,
        temperature: float = 1.0,
        max_rows: int = 64,
        top_p: float = 1.0,
    ) -> "LoraPopulation":
        """Load a base model and put N newborn adapters, equal to the base, on it.

        What the arguments mean is said at `load_base` and at the class.

        Raises:
            ModelError: If the model cannot be loaded.
            ValueError: See the class.
        """
        base = load_base(
            model, dtype=dtype, device=device, products=products, load_in_4bit=load_in_4bit
        )
        return cls(
            base,
            size,
            rank,
            alpha=alpha,
            targets=targets,
            dropout=dropout,
            adapter_dtype=adapter_dtype,
            temperature=temperature,
            max_rows=max_rows,
            top_p=top_p,
        )

    def act(
        self, requests: Sequence[Request], *, temperature: float | None = None, raw: bool = False
    ) -> list[str]:
        """Answer all requests in mixed batches; see `Policy` and `generate`.

        A prompt that does not fit the model's context with its reply, as one that quotes two long
        attempts may be, gets an empty reply, which counts as no answer or as an abstention;
        ``stats.overlong`` counts them. Replies know their ids; see `recall`.
        """
        replies = self.generate(requests, temperature=temperature, raw=raw, overlong="empty")
        return [IdentifiedReply(reply.text, reply.id) for reply in replies]

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float | None = None,
        raw: bool = False,
        overlong: Literal["refuse", "empty"] = "refuse",
        done: Callable[[int, str], None] | None = None,
    ) -> list[Generated]:
        """Answer all requests and keep tokens and features, for `recall` and for learning.

        Args:
            requests: What to answer.
            temperature: Overrides the population's own.
            raw: Whether prompts are texts to be completed, without a chat template.
            overlong: What becomes of a prompt that does not fit the model's context with its
                reply: an error, or an empty reply of no tokens.
            done: Called with the place of a request and the text of its reply as soon as it is
                there; not for those that are left empty, nor for what is answered beside them.

        Raises:
            ValueError: If an agent is unknown, or a prompt does not fit and that is refused.
        """
        encoded: dict[str, list[int]] = {}
        for request in requests:
            if request.prompt not in encoded:
                encode = self.base.text_ids if raw else self.base.chat_ids
                encoded[request.prompt] = encode(request.prompt)
        jobs = [
            Job(self.index(r.agent), encoded[r.prompt], r.max_new_tokens, r.seed, r.stop)
            for r in requests
        ]
        limit = self.base.context
        beyond = [
            i
            for i, job in enumerate(jobs)
            if limit and len(job.prompt_ids) + job.max_new_tokens > limit
        ]
        if beyond and overlong == "refuse":
            job = jobs[beyond[0]]
            raise ValueError(
                f"requests[{beyond[0]}]: {len(job.prompt_ids)} prompt tokens + "
                f"{job.max_new_tokens} new ones exceed the model's context of {limit}; shorten the "
                "prompt or the limit"
            )
        if beyond:
            return self._around(requests, jobs, beyond, temperature, raw)
        attempts = [self.keeps_distributions and r.phase is Phase.SOLVE for r in requests]
        used = self.temperature if temperature is None else temperature
        begin = time.perf_counter()
        replies = generate(
            self.base,
            self.lora,
            jobs,
            temperature=used,
            top_p=self.top_p,
            max_rows=self.max_rows,
            distribution=any(attempts),
            stats=self.stats,
            done=None if done is None else lambda i, reply: done(i, self._text(reply.ids)),
        )
        self.stats.seconds += time.perf_counter() - begin
        texts = self.base.tokenizer.batch_decode(
            [list(reply.ids) for reply in replies], skip_special_tokens=True
        )
        results: list[Generated] = []
        for i, (request, job, reply) in enumerate(zip(requests, jobs, replies, strict=True)):
            text, ids = texts[i], reply.ids if reply.end is None else (*reply.ids, reply.end)
            kept = reply.distribution if attempts[i] else None
            made = Generated(
                self._id(request), text, tuple(job.prompt_ids), ids, reply.feature, kept
            )
            self._recent[made.id] = made
            results.append(made)
        return results

    def _id(self, request: Request) -> str:
        return request.reply_id or f"reply {next(_IDS)}"

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.base.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _around(
        self,
        requests: Sequence[Request],
        jobs: Sequence[Job],
        beyond: Sequence[int],
        temperature: float | None,
        raw: bool,
    ) -> list[Generated]:
        """Answer what fits the context; what does not gets an empty reply."""
        self.stats.overlong += len(beyond)
        left_out = frozenset(beyond)
        asked = [request for i, request in enumerate(requests) if i not in left_out]
        answered = iter(self.generate(asked, temperature=temperature, raw=raw) if asked else ())
        nothing = torch.zeros(self.base.model.get_input_embeddings().weight.shape[1])
        results: list[Generated] = []
        for i, (request, job) in enumerate(zip(requests, jobs, strict=True)):
            if i in left_out:
                empty = Generated(self._id(request), "", tuple(job.prompt_ids), (), nothing)
                self._recent[empty.id] = empty
                results.append(empty)
            else:
                results.append(next(answered))
        return results

    def greedy(self) -> "GreedyPolicy":
        """This population as a policy that always takes the likeliest token."""
        return GreedyPolicy(self)

    def decoding(self, *, temperature: float, raw: bool = False) -> "DecodingPolicy":
        """This population as a policy that decodes in a fixed way; see `generate`."""
        return DecodingPolicy(self, temperature, raw)

    def recall(self, reply_id: str) -> Generated | None:
        """Tokens and feature of a reply given since the last `forget`, if it is known.

        Args:
            reply_id: As in `populora_env.Turn`, `Generated`, or in a text that `act` returned.
        """
        return self._recent.get(reply_id)

    def forget(self) -> None:
        """Drop what `recall` keeps."""
        self._recent.clear()


class GreedyPolicy:
    """A population at temperature 0; a `Policy`."""

    def __init__(self, population: LoraPopulation) -> None:
        self._population = population

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer with the likeliest tokens."""
        return self._population.act(requests, temperature=0.0)


class DecodingPolicy:
    """A population that decodes in a fixed way and keeps no tokens for learning; a `Policy`."""

    def __init__(self, population: LoraPopulation, temperature: float, raw: bool) -> None:
        self._population, self._temperature, self._raw = population, temperature, raw

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer all requests."""
        return self.act_telling(requests, None)

    def act_telling(
        self, requests: Sequence[Request], done: Callable[[int, str], None] | None
    ) -> list[str]:
        """Answer all requests, and tell each reply with its request's place once it is there."""
        try:
            # A measurement says that a prompt does not fit, instead of calling it unanswered.
            replies = self._population.generate(
                requests, temperature=self._temperature, raw=self._raw, done=done
            )
            return [reply.text for reply in replies]
        finally:
            self._population.forget()
