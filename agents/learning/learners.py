"""Gradient learning of all adapters at once.

The factors of different agents are disjoint slices of the same tensors, so the gradient of the sum
of all agents' losses is every agent's own gradient. Only agents that have samples pay or move.

`PolicyGradient` learns from replies and their advantages (`agents.learning.advantages`),
`RejectionTuning` from replies that were found right (`agents.learning.rejection`).

Not covered here: value functions, penalties inside the reward, preference losses.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from torch import Tensor

from agents.engine.adapters import StackedLora
from agents.learning.likelihood import Likelihood, Tokens
from agents.learning.objective import Objective
from agents.learning.optimizer import StackedAdamW
from agents.learning.packing import ATTENTION, ATTENTION_INT8, ATTENTION_TREE, Batch, plan
from agents.learning.tree_attention import attends_by_tree
from agents.loading.models import BaseModel
from agents.progress import Progress
from populora_env.keys import Key
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
        temperature: Softmax temperature the replies were sampled at; the gradient is that of the
            tempered policy. Supervised learning from replies wants 1.
        epochs: How often a step goes through its samples.
        minibatches: Parts of each agent's samples that an epoch takes one after another, each with
            an update of its own.
        clip_low: With several updates in a step, a reply token whose probability has fallen below
            ``1 - clip_low`` times what it was at first is pushed down no further (PPO, Schulman
            et al., 2017, arXiv:1707.06347).
        clip_high: Likewise above ``1 + clip_high`` times and up; larger than ``clip_low`` leaves
            unlikely tokens more room (DAPO, Yu et al., 2025, arXiv:2503.14476).
        kl: Weight of the divergence from the bare base, per reply token: the estimator k3
            (Schulman, 2020, http://joschu.net/blog/kl-approx.html), as in GRPO.
        negative_weight: Factor on negative advantages. Pushing a reply down spreads its
            probability over everything else, so a small model learns more steadily below 1; at 0 it
            learns from better-than-expected replies alone, at half the cost.
        sample_fraction: Share of the replies that carry a gradient, those of largest absolute
            advantage (as PODS, Xu et al., 2025, with another criterion); saves time.
        tokens_per_batch: Padded tokens in one forward and backward pass; bounds memory.

    Raises:
        ValueError: If a value is out of range.
    """

    learning_rate: Annotated[float | Sequence[float], Range(0.0)] = 3e-4
    max_grad_norm: Annotated[float, Range(0.0)] = 1.0
    beta1: Annotated[float, Range(0.0, 0.99999)] = 0.9
    beta2: Annotated[float, Range(0.0, 0.99999)] = 0.99
    weight_decay: Annotated[float, Range(0.0)] = 0.0
    temperature: Annotated[float, Range(0.0)] = 1.0
    epochs: Annotated[int, Range(1)] = 1
    minibatches: Annotated[int, Range(1)] = 1
    clip_low: Annotated[float, Range(0.0, 1.0)] = 0.2
    clip_high: Annotated[float, Range(0.0)] = 0.2
    kl: Annotated[float, Range(0.0)] = 0.0
    negative_weight: Annotated[float, Range(0.0)] = 1.0
    sample_fraction: Annotated[float, Range(0.0, 1.0)] = 1.0
    tokens_per_batch: Annotated[int, Range(1)] = 2048

    def __post_init__(self) -> None:
        for name, rule in field_rules(LearnerConfig).items():
            value, limit, whole = getattr(self, name), rule.limit or Range(), rule.kind is int
            for number in value if isinstance(value, Sequence) else (value,):
                if number not in limit or (whole and not isinstance(number, int)):
                    expected = f"a finite number from {limit.least} to {limit.most}"
                    if whole:
                        expected = f"an integer {limit}"
                    raise ValueError(f"{name}: got {number!r}, expected {expected}")
        if self.temperature == 0:
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
            ``[N]``, NaN where an agent had no samples; None if it was not computed.
        clipped: Share of the reply tokens that the clipping of probability ratios kept from
            moving further.
    """

    samples: int
    tokens: int
    grad_norms: tuple[float, ...]
    kl: tuple[float, ...] | None = None
    clipped: float = 0.0


class _StackedLearner:
    """What learners share: batches, updates, the optimiser and its state."""

    def __init__(
        self, base: BaseModel, lora: StackedLora, config: LearnerConfig | None = None
    ) -> None:
        self.base, self.lora = base, lora
        self.config = config = config or LearnerConfig()
        self.optimizer = StackedAdamW(
            lora,
            config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )
        self._likelihood = Likelihood(base, lora, config.temperature)

    @property
    def learning_rates(self) -> Tensor:
        """Step size of each agent, ``[N]``; may be written in place, and is part of the state."""
        return self.optimizer.learning_rates

    def reset(self, agents: Sequence[int]) -> None:
        """Forget the optimiser's moments of these agents: their factors were replaced."""
        self.optimizer.reset(agents)

    def inherit(self, parents: Mapping[int, int]) -> None:
        """Give agents the optimiser's moments of others; see `StackedAdamW.inherit`."""
        self.optimizer.inherit(parents)

    def state(self) -> dict[str, Tensor]:
        """The whole state as named tensors, as `load` takes it."""
        return self.optimizer.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; see `StackedAdamW.load_state`."""
        self.optimizer.load_state(state)

    def _learn(
        self,
        samples: Sequence[Sample],
        by_ratio: bool,
        progress: Progress | None,
        key: Sequence[Key] | None,
    ) -> LearnerStats:
        """Take the updates of one step.

        Args:
            samples: All carry weight.
            by_ratio: Whether several updates are held together by probability ratios.
            progress: Told of every batch that is done.
            key: Of the dropout masks.
        """
        config, agents = self.config, [sample.agent for sample in samples]
        tokens = Tokens([s.prompt_ids for s in samples], [s.reply_ids for s in samples])
        parts = _parts(agents, config.minibatches)
        several = config.epochs * len(parts) > 1
        objective = Objective(
            tokens,
            agents,
            [sample.advantage for sample in samples],
            self.lora.size,
            kl=config.kl,
            clip=(config.clip_low, config.clip_high) if by_ratio and several else None,
            device=self.base.device,
        )

        def arranged(owners: Sequence[int], part: Sequence[int]) -> list[Batch]:
            width = self.base.model.get_input_embeddings().weight.shape[1]
            budget = config.tokens_per_batch
            return plan(tokens.sequences, owners, budget, width=width, attention=cost, only=part)

        longest = max(map(len, tokens.sequences), default=0)
        cost = ATTENTION_INT8 if self.base.precision == "int8" else ATTENTION
        if attends_by_tree(self.base, longest):
            cost = ATTENTION_TREE

        batches = [arranged(agents, part) for part in parts]
        # The base is one for all agents: what their samples share is computed once.
        bare = arranged([0] * len(agents), range(len(agents))) if config.kl else []
        # The first part is seen before any update anyway.
        later = [batch for part in batches[1:] for batch in part] if by_ratio else []
        tick = _ticks(progress, len(bare) + len(later) + config.epochs * sum(map(len, batches)))
        for batch in bare:
            self._likelihood.logps(batch, tokens, objective.reference, bare=True)
            tick()
        for batch in later:
            self._likelihood.logps(batch, tokens, objective.before)
            tick()
        norms, updates = np.zeros(self.lora.size), np.zeros(self.lora.size)
        self.lora.zero_grad(set_to_none=True)
        for number in range(config.epochs * len(parts)):
            part = parts[number % len(parts)]
            objective.weigh(part)
            objective.recording = number == 0
            for place, batch in enumerate(batches[number % len(parts)]):
                own = None if key is None else (*key, number, place)
                self._likelihood.backward(batch, tokens, objective, own)
                tick()
            moved = sorted({agents[i] for i in part})
            norms += self.optimizer.step(moved).cpu().numpy()
            updates[moved] += 1
        return LearnerStats(
            len(samples),
            len(tokens),
            tuple((norms / np.maximum(updates, 1)).tolist()),
            objective.divergence,
            objective.clipped,
        )

    def _usable(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that have an advantage and a reply.

        Raises:
            ValueError: If one is of no agent or has no prompt.
        """
        for i, sample in enumerate(samples):
            if not 0 <= sample.agent < self.lora.size:
                raise ValueError(
                    f"samples[{i}]: agent {sample.agent} is not in 0..{self.lora.size - 1}"
                )
            if not len(sample.prompt_ids):
                raise ValueError(f"samples[{i}]: expected a prompt of at least 1 token, got none")
        return [s for s in samples if not math.isnan(s.advantage) and len(s.reply_ids)]


class PolicyGradient(_StackedLearner):
    """REINFORCE (Williams, 1992) with given advantages; PPO's clipping if a step updates often.

    Args:
        base: The frozen base.
        lora: The adapters to train, in place.
        config: Settings.
    """

    def step(
        self,
        samples: Sequence[Sample],
        progress: Progress | None = None,
        *,
        key: Sequence[Key] | None = None,
    ) -> LearnerStats:
        """Learn from replies; see `agents.learning.objective` for the loss.

        Replies of advantage 0 carry no gradient and cost nothing, unless there is a ``kl`` weight.

        Args:
            samples: Replies of any agents.
            progress: Called with ``learning`` and the fraction done after each forward (and
                backward) pass.
            key: Of the step's dropout masks; another one for each step.

        Raises:
            ValueError: If a sample is of no agent or has no prompt, or an agent has dropout and
                there is no key.
        """
        factor, fraction = self.config.negative_weight, self.config.sample_fraction
        weighted = [
            s if s.advantage > 0 else replace(s, advantage=factor * s.advantage)
            for s in self._usable(samples)
        ]
        useful = [s for s in weighted if s.advantage != 0 or self.config.kl]
        useful.sort(key=lambda sample: -abs(sample.advantage))
        return self._learn(useful[: math.ceil(fraction * len(weighted))], True, progress, key)


class RejectionTuning(_StackedLearner):
    """Supervised learning from replies that were found right: rejection sampling fine-tuning.

    RFT (Yuan et al., 2023, arXiv:2308.01825), STaR (Zelikman et al., 2022, arXiv:2203.14465).
    Which replies is said by `agents.learning.rejection.rejection_samples`. The loss is the mean
    over an agent's tokens of ``-log p``; advantages are not looked at.

    Args:
        base: The frozen base.
        lora: The adapters to train, in place.
        config: Settings; clipping, ``negative_weight`` and ``sample_fraction`` have no part in it.
    """

    def step(
        self,
        samples: Sequence[Sample],
        progress: Progress | None = None,
        *,
        key: Sequence[Key] | None = None,
    ) -> LearnerStats:
        """Learn from right replies.

        Args:
            samples: Replies for any agents, not necessarily their own.
            progress: Called with ``learning`` and the fraction done after each forward (and
                backward) pass.
            key: Of the step's dropout masks; another one for each step.

        Raises:
            ValueError: If a sample is of no agent or has no prompt, or an agent has dropout and
                there is no key.
        """
        right = [replace(sample, advantage=1.0) for sample in samples]
        return self._learn(self._usable(right), False, progress, key)


def _parts(agents: Sequence[int], count: int) -> list[list[int]]:
    """Deal each agent's samples out to ``count`` parts in turn; parts left empty are dropped."""
    parts: list[list[int]] = [[] for _ in range(count)]
    dealt = dict.fromkeys(agents, 0)
    for i, agent in enumerate(agents):
        parts[dealt[agent] % count].append(i)
        dealt[agent] += 1
    return [part for part in parts if part]


def _ticks(progress: Progress | None, total: int) -> Callable[[], None]:
    """A function to be called ``total`` times, which tells ``progress`` the fraction done."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("learning", done / total)

    return tick
