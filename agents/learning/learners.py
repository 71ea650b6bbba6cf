"""Gradient learning of all adapters at once.

The factors of different agents are disjoint slices of the same tensors, so the gradient of the sum
of all agents' losses is every agent's own gradient. Only agents that have samples pay or move.

`PolicyGradient` learns from replies and their advantages (`agents.learning.advantages`),
`RejectionTuning` from replies that were found right (`agents.learning.rejection`).

Not covered here: value functions, penalties inside the reward, preference losses.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from agents.learning.likelihood import Likelihood, Tokens
from agents.learning.objective import Objective
from agents.learning.optimizer import StackedAdamW, each_agent
from agents.learning.packing import ATTENTION, ATTENTION_INT8, ATTENTION_TREE, Batch, plan
from agents.learning.steps import LearnerConfig, LearnerStats, Sample, deal, ticks
from agents.learning.tree_attention import attends_by_tree
from agents.loading.models import BaseModel
from agents.progress import Progress
from agents.workers.shards import limited, split_agents
from populora_env.keys import Key

__all__ = [
    "Elsewhere", "LearnerConfig", "LearnerStats", "PolicyGradient", "RejectionTuning", "Sample",
    "StackedLearner",
]  # fmt: skip


_KL = "kl_weights"


class Elsewhere(Protocol):
    """Takes the parts of a step to where they are learned from, such as workers."""

    def __call__(
        self,
        learner: "StackedLearner",
        parts: Mapping[tuple[int, ...], Sequence[Sample]],
        progress: Progress | None,
        key: Sequence[Key] | None,
    ) -> list[LearnerStats]:
        """Learn, and put adapters and optimiser's state where the learner has them.

        Args:
            learner: Whose step it is; each part is what its `StackedLearner.learn` takes.
            parts: What to learn from, by the agents that do.
            progress: Told how much is done.
            key: Of the dropout masks, for all parts.
        """
        ...


class StackedLearner:
    """What learners share: batches, updates, the optimiser and its state.

    Attributes:
        elsewhere: Who takes the parts of a step; None to learn here.
        kl_weights: Weight of each agent's divergence from the base, ``[N]`` float32; may be written
            in place at any time, and is part of the state.
        temperatures: Softmax temperature of each agent's replies, ``[N]`` float64; may be written
            in place, and is not part of the state: whoever samples knows it.
    """

    by_ratio = False
    """Whether several updates of a step are held together by probability ratios."""

    def __init__(
        self, base: BaseModel, lora: StackedLora, config: LearnerConfig | None = None
    ) -> None:
        self.base, self.lora = base, lora
        self.config = config = config or LearnerConfig()
        lora.freeze_rows(not config.learns_rows)
        self.optimizer = StackedAdamW(
            lora,
            config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )
        self.kl_weights = each_agent("kl", config.kl, lora.size)
        self.temperatures = each_agent("temperature", config.temperature, lora.size, torch.float64)
        self._likelihood = Likelihood(base, lora)
        self.elsewhere: Elsewhere | None = None

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
        """The whole state as named tensors, as `load` takes it.

        Weights of the divergence are in it where they are not the settings' one for all.
        """
        common = self.config.kl if isinstance(self.config.kl, int | float) else None
        own = common is None or bool((self.kl_weights != common).any())
        return {**({_KL: self.kl_weights} if own else {}), **self.optimizer.state()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; see `StackedAdamW.load_state`.

        Weights of the divergence are those of the settings where the state has none.

        Raises:
            ValueError: If a tensor is missing or of another shape; nothing is changed then.
        """
        usual = each_agent("kl", self.config.kl, self.lora.size).to(self.kl_weights)
        weights = state.get(_KL, usual)
        if weights.shape != self.kl_weights.shape:
            raise ValueError(
                f"state[{_KL!r}]: got {tuple(weights.shape)}, expected "
                f"{tuple(self.kl_weights.shape)}"
            )
        self.optimizer.load_state(state)
        self.kl_weights.copy_(weights)

    def rows(self, agents: Sequence[int]) -> dict[str, Tensor]:
        """All that these agents' part of a step rests on but their adapters; see `load_rows`."""
        own = list(agents)
        settings = {name: tensor[own] for name, tensor in self._settings().items()}
        return {**settings, **self.optimizer.rows(agents)}

    def load_rows(self, agents: Sequence[int], state: Mapping[str, Tensor]) -> None:
        """Take over what `rows` gave, of these agents alone."""
        for name, tensor in self._settings().items():
            tensor[list(agents)] = state[name].to(tensor)
        self.optimizer.load_rows(agents, state)

    def _settings(self) -> dict[str, Tensor]:
        return {_KL: self.kl_weights, "temperatures": self.temperatures}

    def _learn_all(
        self, samples: Sequence[Sample], progress: Progress | None, key: Sequence[Key] | None
    ) -> LearnerStats:
        """Take the updates of one step, shard by shard; see `learn`."""
        loads = [0] * self.lora.size
        for sample in samples:
            loads[sample.agent] += len(sample.prompt_ids) + len(sample.reply_ids)
        dealt = {
            agents: [sample for sample in samples if sample.agent in agents]
            for agents in split_agents(loads, self.config.shards)
        }
        if self.elsewhere is not None and dealt:
            return LearnerStats.together(self.elsewhere(self, dealt, progress, key))
        if len(dealt) < 2:
            return self.learn(samples, progress, key=key)
        stats: list[LearnerStats] = []
        for place, own in enumerate(dealt.values()):

            def tell(label: str, fraction: float, place: int = place) -> None:
                if progress is not None:
                    progress(label, (place + fraction) / len(dealt))

            stats.append(self.learn(own, tell, key=key))
        return LearnerStats.together(stats)

    def learn(
        self,
        samples: Sequence[Sample],
        progress: Progress | None = None,
        *,
        key: Sequence[Key] | None = None,
    ) -> LearnerStats:
        """Take the updates of one step, or of a shard of it, from samples that were chosen.

        Args:
            samples: All carry weight.
            progress: Told of every batch that is done.
            key: Of the dropout masks.
        """
        with limited(self.config.threads):
            return self._learn(samples, progress, key)

    def _learn(
        self, samples: Sequence[Sample], progress: Progress | None, key: Sequence[Key] | None
    ) -> LearnerStats:
        config, agents, by_ratio = self.config, [sample.agent for sample in samples], self.by_ratio
        tokens = Tokens([s.prompt_ids for s in samples], [s.reply_ids for s in samples])
        parts = deal(agents, config.minibatches)
        several = config.epochs * len(parts) > 1
        heat = self.temperatures.numpy()
        held = [weight > 0 for weight in self.kl_weights.tolist()]
        diverging = any(held[agent] for agent in agents) if agents else any(held)
        objective = Objective(
            tokens,
            agents,
            [sample.advantage for sample in samples],
            self.lora.size,
            kl=self.kl_weights if diverging else 0.0,
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
        # The base is one for all agents: what their samples share is computed once, at every
        # temperature that there is.
        distinct, numbers = np.unique(heat, return_inverse=True)
        owners = [int(numbers[agent]) for agent in agents]
        bare = arranged(owners, [i for i, agent in enumerate(agents) if held[agent]])
        # The first part is seen before any update anyway.
        later = [batch for part in batches[1:] for batch in part] if by_ratio else []
        tick = ticks(progress, len(bare) + len(later) + config.epochs * sum(map(len, batches)))
        for batch in bare:
            self._likelihood.logps(batch, tokens, objective.reference, distinct, bare=True)
            tick()
        for batch in later:
            self._likelihood.logps(batch, tokens, objective.before, heat)
            tick()
        norms, updates = np.zeros(self.lora.size), np.zeros(self.lora.size)
        self.lora.zero_grad(set_to_none=True)
        for number in range(config.epochs * len(parts)):
            part = parts[number % len(parts)]
            objective.weigh(part)
            objective.recording = number == 0
            for place, batch in enumerate(batches[number % len(parts)]):
                own = None if key is None else (*key, number, place)
                self._likelihood.backward(batch, tokens, objective, heat, own)
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
        blank = self.lora.blank().tolist()
        if still := sorted({sample.agent for sample in samples if blank[sample.agent]}):
            warnings.warn(
                f"agents {', '.join(map(str, still))} learn nothing: both factors of their "
                "adapters are all zero, where every gradient is 0; first load adapters, or spread "
                "the population (evolution.operators.mutation_weights.spread)",
                RuntimeWarning,
                stacklevel=3,
            )
        return [s for s in samples if not math.isnan(s.advantage) and len(s.reply_ids)]


class PolicyGradient(StackedLearner):
    """REINFORCE (Williams, 1992) with given advantages; PPO's clipping if a step updates often.

    Args:
        base: The frozen base.
        lora: The adapters to train, in place.
        config: Settings.
    """

    by_ratio = True

    def step(
        self,
        samples: Sequence[Sample],
        progress: Progress | None = None,
        *,
        key: Sequence[Key] | None = None,
    ) -> LearnerStats:
        """Learn from replies; see `agents.learning.objective` for the loss.

        Replies of advantage 0 carry no gradient and cost nothing, unless their agent has a weight
        on its divergence from the base.

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
        held = [weight > 0 for weight in self.kl_weights.tolist()]
        useful = [s for s in weighted if s.advantage != 0 or held[s.agent]]
        useful.sort(key=lambda sample: -abs(sample.advantage))
        return self._learn_all(useful[: math.ceil(fraction * len(weighted))], progress, key)


class RejectionTuning(StackedLearner):
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
        return self._learn_all(self._usable(right), progress, key)
