"""What goes into a learning step, and what comes out of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from agents.progress import Progress
from populora_env.settings import Range, field_rules


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply to learn from.

    Attributes:
        agent: Whose adapter learns from it.
        prompt_ids: Token ids of the prompt, at least one.
        reply_ids: Token ids of the reply, with the token that ended it, if one did.
        advantage: How much better than expected it was; its sign and size scale the gradient. NaN
            where that is not known: the reply is left out.
    """

    agent: int
    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]
    advantage: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """Settings of a learner.

    Attributes:
        learning_rate: AdamW step size of all agents, or one for each.
        max_grad_norm: Each agent's gradient is scaled down to this 2-norm.
        beta1: Decay of AdamW's mean of gradients.
        beta2: Decay of AdamW's mean of squared gradients.
        weight_decay: Decoupled weight decay per step, times the learning rate.
        temperature: Softmax temperature the replies were sampled at, of all agents or one for each;
            the gradient is that of the tempered policy. Supervised learning from replies wants 1.
        epochs: How often a step goes through its samples. With dropout each update has a mask of
            its own, so that ratios to the first differ by chance and some tokens are clipped by it.
        minibatches: Parts of each agent's samples that an epoch takes one after another, each with
            an update of its own.
        clip_low: With several updates in a step, a reply token whose probability has fallen below
            ``1 - clip_low`` times what it was at first is pushed down no further (PPO, Schulman
            et al., 2017, arXiv:1707.06347).
        clip_high: Likewise above ``1 + clip_high`` times and up; larger than ``clip_low`` leaves
            unlikely tokens more room (DAPO, Yu et al., 2025, arXiv:2503.14476).
        kl: Weight of the divergence from the bare base, per reply token, for all agents or for
            each: the estimator k3 (Schulman, 2020, http://joschu.net/blog/kl-approx.html), as in
            GRPO. Above 0 replies of advantage 0 count in an agent's mean over its tokens, too.
        learns_rows: Whether the rows ``A`` are learned, too; otherwise ``B`` alone moves, so that
            agents of the same rows keep them (FFA-LoRA, Sun et al., 2024, arXiv:2403.12313).
        negative_weight: Factor on negative advantages. Pushing a reply down spreads its
            probability over everything else, so a small model learns more steadily below 1; at 0 it
            learns from better-than-expected replies alone, at half the cost.
        sample_fraction: Share of the replies that carry a gradient, those of largest absolute
            advantage (as PODS, Xu et al., 2025, with another criterion); saves time.
        tokens_per_batch: Padded tokens in one forward and backward pass; bounds memory.
        shards: Parts of the agents that learn one after another, or elsewhere at once; see
            `agents.workers.shards`.
        threads: CPU threads that learn; 0 for PyTorch's.

    Raises:
        ValueError: If a value is out of range.
    """

    learning_rate: Annotated[float | Sequence[float], Range(0.0)] = 3e-4
    max_grad_norm: Annotated[float, Range(0.0, above=True)] = 1.0
    beta1: Annotated[float, Range(0.0, 0.99999)] = 0.9
    beta2: Annotated[float, Range(0.0, 0.99999)] = 0.99
    weight_decay: Annotated[float, Range(0.0)] = 0.0
    temperature: Annotated[float | Sequence[float], Range(0.0)] = 1.0
    epochs: Annotated[int, Range(1)] = 1
    minibatches: Annotated[int, Range(1)] = 1
    clip_low: Annotated[float, Range(0.0, 1.0)] = 0.2
    clip_high: Annotated[float, Range(0.0)] = 0.2
    kl: Annotated[float | Sequence[float], Range(0.0)] = 0.0
    learns_rows: bool = True
    negative_weight: Annotated[float, Range(0.0)] = 1.0
    sample_fraction: Annotated[float, Range(0.0, 1.0)] = 1.0
    tokens_per_batch: Annotated[int, Range(1)] = 2048
    shards: Annotated[int, Range(1)] = 1
    threads: Annotated[int, Range(0)] = 0

    def __post_init__(self) -> None:
        for name, rule in field_rules(LearnerConfig).items():
            value, limit, whole = getattr(self, name), rule.limit or Range(), rule.kind is int
            if isinstance(value, np.ndarray | np.generic):
                value = value.tolist()
                object.__setattr__(self, name, value)
            several = isinstance(value, Sequence) and not isinstance(value, str)
            for number in value if several else (value,):
                fits = isinstance(number, int if whole else int | float) and number in limit
                if not fits:
                    expected = f"a finite number from {limit.least} to {limit.most}"
                    if whole:
                        expected = f"an integer {limit}"
                    raise ValueError(f"{name}: got {number!r}, expected {expected}")
        heat = self.temperature
        if 0 in (heat if isinstance(heat, Sequence) else (heat,)):
            raise ValueError("temperature: got 0, expected more: greedy replies have no gradient")


@dataclass(frozen=True, slots=True)
class LearnerStats:
    """What one step did.

    Attributes:
        samples: Replies that carried a gradient.
        tokens: Reply tokens among them.
        grad_norms: 2-norm of each agent's gradient before clipping to ``max_grad_norm``, mean over
            its updates, ``[N]``; 0 where there was none.
        kl: Estimated divergence from the base per reply token of each agent, mean over the step,
            ``[N]``, NaN where an agent had no samples or no weight on it; None if it was not
            computed.
        clipped: Share of the reply tokens that the clipping of probability ratios kept from
            moving further.
    """

    samples: int
    tokens: int
    grad_norms: tuple[float, ...]
    kl: tuple[float, ...] | None = None
    clipped: float = 0.0

    @classmethod
    def together(cls, parts: "Sequence[LearnerStats]") -> "LearnerStats":
        """What a step did whose agents learned in parts, each in one of them; at least one."""
        tokens = sum(part.tokens for part in parts)
        rows = [part.kl for part in parts if part.kl is not None]
        return cls(
            sum(part.samples for part in parts),
            tokens,
            tuple(map(sum, zip(*(part.grad_norms for part in parts), strict=True))),
            tuple(_known(values) for values in zip(*rows, strict=True)) if rows else None,
            sum(part.clipped * part.tokens for part in parts) / max(tokens, 1),
        )


def _known(values: Sequence[float]) -> float:
    """The one value that is known; NaN if none is."""
    return next((value for value in values if not math.isnan(value)), math.nan)


def deal(agents: Sequence[int], count: int) -> list[list[int]]:
    """Deal each agent's samples out to ``count`` parts in turn; parts left empty are dropped."""
    count = min(count, max(len(agents), 1))
    parts: list[list[int]] = [[] for _ in range(count)]
    dealt = dict.fromkeys(agents, 0)
    for i, agent in enumerate(agents):
        parts[dealt[agent] % count].append(i)
        dealt[agent] += 1
    return [part for part in parts if part]


def ticks(progress: Progress | None, total: int) -> Callable[[], None]:
    """A function to be called ``total`` times, which tells ``progress`` the fraction done."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("learning", done / total)

    return tick
