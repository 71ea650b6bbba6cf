"""What the rows of ``populora bench-engine`` share: models, adapters, requests, clocks, figures.

Adapters are put on a model only while they are timed, so that the bare model is bare when its turn
comes. Models that belong to peers are loaded a second time and left as Transformers makes them.
"""

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from agents.engine.adapters import StackedLora
from agents.engine.jobs import Job
from agents.loading.models import BaseModel
from agents.loading.quiet import no_bars
from agents.progress import Progress
from evolution.engine_benchmark.timing import Contender, Spread, interleaved, ratios
from evolution.operators import mutation_weights as mutation
from populora_env.keys import derive_seed
from populora_env.problems import ProblemSource
from populora_env.prompts import solve_prompt
from populora_env.records import Problem

SPREAD = 0.04  # strength of the adapters' difference from the base, as a run's default


class EndlessBase(BaseModel):
    """A base whose replies end at the length limit only."""

    def stop_ids(self) -> frozenset[int]:
        """No token's id."""
        return frozenset({-1})

    @classmethod
    def of(cls, base: BaseModel) -> "EndlessBase":
        """The same base without an end."""
        return cls(**{entry.name: getattr(base, entry.name) for entry in fields(base)})


class Attachment:
    """Layers that somebody put into a model, taken out until they are needed.

    Args:
        model: The model; bare again once this is made.
        build: Replaces modules of the model, and returns whatever manages them.

    Attributes:
        owner: What ``build`` returned.
    """

    def __init__(self, model: nn.Module, build: Callable[[], Any]) -> None:
        before = dict(model.named_modules())
        self.owner: Any = build()
        self._model = model
        self._swaps = [
            (name, before[name], module)
            for name, module in model.named_modules()
            if name in before and before[name] is not module
        ]
        self._put(attached=False)

    @contextmanager
    def on(self) -> Generator[Any, None, None]:
        """Have the layers in the model inside the block; gives the owner."""
        self._put(attached=True)
        try:
            yield self.owner
        finally:
            self._put(attached=False)

    def _put(self, *, attached: bool) -> None:
        for name, plain, wrapped in self._swaps:
            parent, _, last = name.rpartition(".")
            setattr(self._model.get_submodule(parent), last, wrapped if attached else plain)


def stacked(model: nn.Module, size: int, rank: int, seed: int) -> Attachment:
    """Adapters in all linear layers, a little different from the base and from each other."""
    attachment = Attachment(model, lambda: StackedLora(model, size, rank))
    mutation.spread(attachment.owner, SPREAD, seed)
    return attachment


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table.

    Attributes:
        key: Its name in the JSON file.
        what: Its name in the table.
        spread: Over the rounds; None if it was not measured.
        reason: Why not.
    """

    key: str
    what: str
    spread: Spread | None
    reason: str = ""


@dataclass
class Findings:
    """What has been measured so far.

    Attributes:
        figures: Lines of the table, in order.
        rounds: Contender to what it measured in each round; seconds or tokens per second.
    """

    figures: list[Figure] = field(default_factory=list[Figure])
    rounds: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])

    def add(self, key: str, what: str, values: Sequence[float]) -> None:
        """Add a figure with a value for each round."""
        self.figures.append(Figure(key, what, Spread.of(values)))

    def ratio(self, key: str, what: str, contender: str, to: str) -> None:
        """Add the ratio of two contenders that have run."""
        self.add(key, what, ratios(self.rounds[contender], self.rounds[to]))

    def missing(self, key: str, what: str, reason: str) -> None:
        """Add a figure that could not be measured."""
        self.figures.append(Figure(key, what, None, reason))


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: Rounds that count.
        peer_rounds: Those in which other libraries take part.
        rows: Rows decoded together, and requests of a rollout.
        agents: Population sizes; the first is the one for rows with a single size.
        rank: Rank of the adapters that decode and learn.
        step_rank: Rank of the adapters of the evolution step.
        new_tokens: Decoding steps after the prompt.
        reply_tokens: Length limit of a rollout's replies.
        seed: Seed of everything drawn.
    """

    rounds: int
    peer_rounds: int
    rows: int
    agents: tuple[int, ...]
    rank: int
    step_rank: int
    new_tokens: int
    reply_tokens: int
    seed: int


class Workbench:
    """A base model, requests for it, and what was found.

    Args:
        base: The frozen base as the engine uses it.
        problems: Where prompts come from.
        sizes: How much is measured.
        progress: Told what is going on.
    """

    def __init__(
        self,
        base: BaseModel,
        problems: ProblemSource,
        sizes: Sizes,
        progress: Progress | None = None,
    ) -> None:
        self.base, self.sizes, self.findings = base, sizes, Findings()
        self._problems, self._progress = problems, progress

    @cached_property
    def plain(self) -> Any:
        """The same model as Transformers loads it, for peers."""
        with no_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(
                self.base.path, dtype=self.base.model.dtype, trust_remote_code=False
            )
        return model.to(self.base.device).eval().requires_grad_(False)

    @cached_property
    def problems(self) -> list[Problem]:
        """Distinct problems, at most one for each row."""
        found = {problem.id: problem for problem in islice(self._problems, 8 * self.sizes.rows)}
        return list(found.values())[: self.sizes.rows]

    def prompts(self, count: int, first: int = 0) -> list[list[int]]:
        """Token ids of so many problems' chat prompts, from problem ``first`` on, in a circle."""
        chosen = [self.problems[(first + i) % len(self.problems)] for i in range(count)]
        return [self.base.chat_ids(solve_prompt(problem)) for problem in chosen]

    def requests(self, size: int, number: int, count: int) -> list[Job]:
        """What ``size`` agents are asked in a generation: all of them the same problems.

        Args:
            size: Number of agents.
            number: Of the round; each has problems and seeds of its own.
            count: Requests in all, a multiple of ``size``.
        """
        each = count // size
        prompts = self.prompts(each, number * each)
        return [
            Job(
                agent,
                ids,
                self.sizes.reply_tokens,
                derive_seed("bench-engine", self.sizes.seed, number, agent, i),
            )
            for agent in range(size)
            for i, ids in enumerate(prompts)
        ]

    def race(
        self, contenders: Mapping[str, Contender], warmup: int = 1, peers: Collection[str] = ()
    ) -> None:
        """Run contenders in turn and keep what they measured.

        Args:
            contenders: Name to contender.
            warmup: Rounds before those that count.
            peers: Names of those of other libraries, many times as slow as ours: they run in
                `Sizes.peer_rounds` rounds.
        """
        self.findings.rounds.update(
            interleaved(
                contenders,
                self.sizes.rounds,
                warmup=warmup,
                slow=peers,
                slow_rounds=self.sizes.peer_rounds,
                progress=self._progress,
            )
        )

    def tell(self, what: str, fraction: float = 0.0) -> None:
        """Say what is about to happen, and how much of it has."""
        if self._progress is not None:
            self._progress(what, fraction)


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    """Wall-clock seconds of a call, work on the GPU included."""
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def decode_seconds(model: Any, steps: int, run: Callable[[], object]) -> float:
    """Wall-clock seconds of the last so many decoding steps of a call.

    The clock starts when the logits before those steps are there, whoever decodes; so prompts are
    not in it, nor what is set up before them.

    Args:
        model: The causal language model that decodes; its output layer is called once a step.
        steps: Decoding steps of the call, at least 1.
        run: The call.

    Raises:
        RuntimeError: If the output layer is called less than ``steps + 1`` times.
    """
    head = model.get_output_embeddings()
    device: torch.device = head.weight.device
    stamps: list[Any] = []

    def stamp(*_: object) -> None:
        if device.type == "cuda":  # an event on the stream: nobody waits
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            stamps.append(event)
        else:
            stamps.append(time.perf_counter())

    handle = head.register_forward_hook(stamp)
    try:
        run()
        stamp()
    finally:
        handle.remove()
    if len(stamps) < steps + 2:
        raise RuntimeError(f"the output layer was called {len(stamps) - 1} times in {steps} steps")
    start, end = stamps[-steps - 2], stamps[-1]
    if device.type == "cuda":
        end.synchronize()
        return start.elapsed_time(end) / 1000
    return end - start


def pad_left(prompts: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Prompts ``[rows, longest]``, filled up on the left, and their mask."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.tensor([[value] * (longest - len(ids)) + list(ids) for ids in prompts])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    return ids, mask


@contextmanager
def kept_random_state(device: torch.device, seed: int) -> Generator[None, None, None]:
    """Seed PyTorch's global generator inside the block only, for libraries that draw from it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
