"""LoraPopulation: N adapters on one frozen base, as one policy.

Agents are named ``agent_0`` to ``agent_{N-1}`` as in the arena; the name ``base`` is the bare base
model, so a population can play against what it started from.

Not covered here: how the adapters are kept, saved and loaded (`agents.named_adapters`).
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from agents.engine import jobs as seam
from agents.engine.jobs import DecodeStats, Engine, EngineError, Feature, Job, Reply
from agents.engine.local import LocalEngine
from agents.loading.models import BaseModel, load_base
from agents.measuring.fixed_policies import DecodingPolicy, FixedPolicy
from agents.named_adapters import BASE, HeldAdapters, NamedAdapters
from agents.peft_io import CONFIG_FILE, WEIGHTS_FILE, AdapterError
from agents.policy import Request
from agents.progress import Answered, teller
from populora_env.reading.reply_ids import IdentifiedReply
from populora_env.records import Phase

__all__ = [
    "BASE",
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "AdapterError",
    "DecodingPolicy",
    "EngineError",
    "FixedPolicy",
    "Generated",
    "LoraPopulation",
]

_IDS = count()  # of replies


@dataclass(frozen=True, slots=True)
class Generated:
    """A reply with what the model knows about it.

    Attributes:
        id: By which `LoraPopulation.recall` finds it; no two of a process are alike.
        text: The decoded reply.
        prompt_ids: Token ids of the prompt.
        reply_ids: Token ids of the reply, with the token that ended it, if one did.
        features: What else was asked for, by name; see `agents.engine.jobs.Feature`. None of a
            prompt that did not fit.
    """

    id: str
    text: str
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    features: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


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
        temperature: Sampling temperature of all agents, or of each, ``[N]``; 0 is greedy.
        max_rows: Rows decoded at once; see `agents.engine.generation.generate`.
        top_p: Share of the probability from which tokens are drawn.
        engine: Generates the replies; None for `agents.engine.local.LocalEngine`, in this process
            and with these rows. Another one brings its own.

    Attributes:
        engine: What generates.
        temperatures: Sampling temperature of each agent, ``[N]``; may be written in place.
        watcher: Told of each reply as soon as it is there; None for nobody.

    Raises:
        ValueError: If an argument is out of range, targets match nothing, the base already carries
            adapters, or has no weights and there is no engine that does.
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
        temperature: float | Sequence[float] = 1.0,
        max_rows: int = 64,
        top_p: float = 1.0,
        engine: Engine | None = None,
    ) -> None:
        if engine is None and base.is_skeleton:
            raise ValueError(
                f"engine: got None, but the weights of {base.name!r} are not here; pass an engine "
                "that has them, or load the base with load_base"
            )
        super().__init__(
            base,
            size,
            rank,
            alpha=alpha,
            targets=targets,
            dropout=dropout,
            adapter_dtype=adapter_dtype,
        )
        self.temperatures: NDArray[np.float64] = np.ones(size)
        try:
            self.temperature = temperature
        except BaseException:
            self.lora.detach()  # so that the base is free for the next try
            raise
        self.top_p = top_p
        self.engine = LocalEngine(base, self.lora, max_rows) if engine is None else engine
        self.watcher: Callable[[Answered], object] | None = None
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
        temperature: float | Sequence[float] = 1.0,
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

    @property
    def temperature(self) -> float | NDArray[np.float64]:
        """Sampling temperature of all agents; where they differ, ``temperatures``.

        It may be set to one number, or to one for each agent.
        """
        same = bool((self.temperatures == self.temperatures[0]).all())
        return float(self.temperatures[0]) if same else self.temperatures

    @temperature.setter
    def temperature(self, value: float | Sequence[float] | NDArray[np.float64]) -> None:
        given = np.asarray(value, dtype=np.float64)
        if given.shape not in ((), (self.size,)):
            raise ValueError(
                f"temperature: got {given.size} values, expected one, or one for each of the "
                f"{self.size} agents"
            )
        self.temperatures[:] = given

    @property
    def stats(self) -> DecodeStats:
        """The engine's counts of all that was generated, with tokens per second."""
        return self.engine.stats

    @property
    def max_rows(self) -> int:
        """Requests that the engine answers best at once."""
        return self.engine.max_rows

    @max_rows.setter
    def max_rows(self, rows: int) -> None:
        self.engine.max_rows = rows

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its reply together; None if neither base nor engine says.

        The base's, or the engine's where that has a ``context`` that is less.
        """
        limits = (self.base.context, getattr(self.engine, "context", None))
        return min((limit for limit in limits if limit), default=None)

    def act(
        self,
        requests: Sequence[Request],
        *,
        temperature: float | None = None,
        raw: bool = False,
        features: Collection[str] = (),
    ) -> list[str]:
        """Answer all requests in mixed batches; see `Policy` and `generate`.

        A prompt that does not fit the model's context with its reply, as one that quotes two long
        attempts may be, gets an empty reply, which counts as no answer or as an abstention;
        ``stats.overlong`` counts them. Replies know their ids; see `recall`, and `forget` in a loop
        of your own: what can be recalled is held in memory.

        Warns:
            RuntimeWarning: If a prompt does not fit.
        """
        before = self.stats.overlong
        replies = self.generate(
            requests, temperature=temperature, raw=raw, overlong="empty", features=features
        )
        if self.stats.overlong > before:
            warnings.warn(
                f"some prompts do not fit the model's context of {self.context} tokens with their "
                "replies and get empty ones, which count as no answer (stats.overlong of them); "
                "shorten the prompts or lower the limit of a reply",
                RuntimeWarning,
                stacklevel=2,
            )
        return [IdentifiedReply(reply.text, reply.id) for reply in replies]

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float | None = None,
        raw: bool = False,
        overlong: Literal["refuse", "empty"] = "refuse",
        done: Callable[[int, str], None] | None = None,
        features: Collection[str] = (),
    ) -> list[Generated]:
        """Answer all requests and keep tokens and features, for `recall` and for learning.

        All replies carry their mean hidden state, if the engine gives it.

        Args:
            requests: What to answer.
            temperature: Overrides the population's own; else the bare base has the mean of the
                agents'.
            raw: Whether prompts are texts to be completed, without a chat template.
            overlong: What becomes of a prompt that does not fit the model's context with its
                reply: an error, or an empty reply of no tokens.
            done: Called with the place of a request and the text of its reply as soon as it is
                there; not for those that are left empty.
            features: What attempts are to carry as well, names in `agents.engine.jobs.Feature`.

        Raises:
            ValueError: If an agent is unknown, or a prompt does not fit and that is refused.
            EngineError: If the engine lacks a feature, or its replies are not those asked for.
        """
        seam.check_features(self.engine, features)
        encoded: dict[str, list[int]] = {}
        for request in requests:
            if request.prompt not in encoded:
                encode = self.base.text_ids if raw else self.base.chat_ids
                encoded[request.prompt] = encode(request.prompt)
        rows = [self.index(request.agent) for request in requests]
        hashes = self.lora.hashes({row for row in rows if row is not None})
        heat = self._heat(rows) if temperature is None else [temperature] * len(rows)
        together = len(set(heat)) < 2  # then no job need say its own
        usual = frozenset({Feature.HIDDEN_STATES}) & self.engine.features
        jobs = [
            Job(
                row,
                encoded[r.prompt],
                r.max_new_tokens,
                r.seed,
                r.stop,
                f"reply {next(_IDS)}",
                BASE if row is None else hashes[row],
                usual.union(features) if r.phase is Phase.SOLVE else usual,
                None if together else own,
            )
            for r, row, own in zip(requests, rows, heat, strict=True)
        ]
        limit = self.context
        places = {
            job.id: i
            for i, job in enumerate(jobs)
            if not limit or len(job.prompt_ids) + job.max_new_tokens <= limit
        }
        if len(places) < len(jobs) and overlong == "refuse":
            i, job = next((i, job) for i, job in enumerate(jobs) if job.id not in places)
            raise ValueError(
                f"requests[{i}]: {len(job.prompt_ids)} prompt tokens + "
                f"{job.max_new_tokens} new ones exceed the model's context of {limit}; shorten the "
                "prompt or the limit"
            )
        self.stats.overlong += len(jobs) - len(places)
        asked = [job for job in jobs if job.id in places]
        replies: dict[str, Reply] = {}
        if asked:
            given = self.engine.generate(
                HeldAdapters(self, {name: self.agents[row] for row, name in hashes.items()}),
                asked,
                temperature=heat[0],
                top_p=self.top_p,
                done=teller(requests, places, done, self.watcher),
            )
            replies = {reply.id: reply for reply in seam.matched(self.engine, asked, given)}
        self.stats.replies += len(jobs)
        results: list[Generated] = []
        for job in jobs:
            reply = replies.get(job.id) or Reply(job.id, job.adapter, "", ())
            made = Generated(job.id, reply.text, tuple(job.prompt_ids), reply.ids, reply.features)
            self._recent[made.id] = made
            results.append(made)
        return results

    def _heat(self, rows: Sequence[int | None]) -> list[float]:
        """Temperatures of the agents in these rows; of the bare base where there is none."""
        found = self.temperature
        if not isinstance(found, np.ndarray):
            return [found] * len(rows)
        return [float(found.mean() if row is None else found[row]) for row in rows]

    def greedy(self) -> "FixedPolicy":
        """This population as a policy that always takes the likeliest token."""
        return FixedPolicy(self, temperature=0.0)

    def decoding(self, *, temperature: float, raw: bool = False) -> "DecodingPolicy":
        """This population as a policy that decodes in a fixed way; see `generate`."""
        return DecodingPolicy(self, temperature, raw)

    def content(self, agent: str) -> str:
        """Hash of an agent's adapter, which changes with it; empty of the bare base.

        Raises:
            ValueError: If the agent is unknown.
        """
        row = self.index(agent)
        return "" if row is None else self.lora.hashes({row})[row]

    def keeping(self, features: Collection[str]) -> "FixedPolicy":
        """This population as a policy whose attempts carry these features; see `generate`."""
        return FixedPolicy(self, features=features)

    def recall(self, reply_id: str) -> Generated | None:
        """Tokens and features of a reply given since the last `forget`, if it is known.

        Its id is in `populora_env.Turn`, `Generated`, and in a text that `act` returned.
        """
        return self._recent.get(reply_id)

    def forget(self, reply_ids: Iterable[str] | None = None) -> None:
        """Drop what `recall` keeps: of these replies, or of all."""
        if reply_ids is None:
            self._recent.clear()
        for reply_id in reply_ids or ():
            self._recent.pop(reply_id, None)
