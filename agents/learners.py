"""Policy-gradient learning of all adapters in one backward pass.

The factors of different agents are disjoint slices of the same tensors, so the gradient of the sum
of all agents' losses is every agent's own gradient. Each agent has its own step count, gradient
norm and clipping; only agents that have samples pay or move.

The estimator is REINFORCE (Williams, 1992) with the mean reward of the other agents on the same
problem as baseline (leave-one-out over the group, as RLOO) and advantages scaled by their standard
deviation over the whole step (as REINFORCE++).

Not covered here: several epochs over one batch, a KL penalty, rejection fine-tuning.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from agents.adapters import Layout, StackedLora
from agents.generation import common_prefix, pad_right
from agents.models import BaseModel, backbone


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply to learn from.

    Attributes:
        agent: Whose adapter wrote it.
        prompt_ids: Token ids of the prompt.
        reply_ids: Token ids of the reply, with the token that ended it, if one did.
        advantage: How much better than expected it was; its sign and size scale the gradient.
    """

    agent: int
    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]
    advantage: float


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """Settings of `PolicyGradient`.

    Attributes:
        learning_rate: AdamW step size.
        max_grad_norm: Each agent's gradient is scaled down to this 2-norm.
        beta1: Decay of AdamW's mean of gradients.
        beta2: Decay of AdamW's mean of squared gradients.
        weight_decay: Decoupled weight decay per step, times the learning rate.
        temperature: Softmax temperature the replies were sampled at; the gradient is that of the
            tempered policy.
        negative_weight: Factor on negative advantages. Pushing a reply down spreads its
            probability over everything else, so a small model learns more steadily below 1; at 0 it
            learns from better-than-expected replies alone, at half the cost.
        sample_fraction: Share of the replies that carry a gradient, those of largest absolute
            advantage (as PODS, Xu et al., 2025, with another criterion); saves time.
        tokens_per_batch: Padded tokens in one forward and backward pass; bounds memory.
    """

    learning_rate: float = 3e-4
    max_grad_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    temperature: float = 1.0
    negative_weight: float = 1.0
    sample_fraction: float = 1.0
    tokens_per_batch: int = 2048


@dataclass(frozen=True, slots=True)
class LearnerStats:
    """What one step did.

    Attributes:
        samples: Replies that carried a gradient (advantage not 0).
        tokens: Reply tokens among them.
        grad_norms: 2-norm of each agent's gradient before clipping, ``[N]``, 0 where none.
    """

    samples: int
    tokens: int
    grad_norms: tuple[float, ...]


def group_advantages(rewards: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Advantages of replies that compete within groups.

    Args:
        rewards: Reward of each reply, ``[M]``.
        groups: Group of each reply (say, its problem's id), ``[M]``.

    Returns:
        Reward minus the mean reward of the others in the group, divided by the standard deviation
        of those differences over the whole batch, ``[M]``; zeros where nothing differs or a reply
        is alone in its group.
    """
    values = np.asarray(rewards, dtype=np.float64)
    _, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    count = np.bincount(member)[member]
    total = np.bincount(member, weights=values)[member]
    others = np.divide(total - values, count - 1, out=values.copy(), where=count > 1)
    difference = values - others
    deviation = difference.std()
    return difference / deviation if deviation > 1e-8 else np.zeros_like(difference)


class PolicyGradient:
    """One AdamW (Loshchilov & Hutter, 2019) per agent over stacked tensors.

    Args:
        base: The frozen base.
        lora: The adapters to train, in place.
        config: Settings.
    """

    def __init__(
        self, base: BaseModel, lora: StackedLora, config: LearnerConfig | None = None
    ) -> None:
        self.base, self.lora = base, lora
        self.config = config or LearnerConfig()
        self._params = {name: p for name, p in lora.named_parameters()}
        self._mean = {name: torch.zeros_like(p) for name, p in self._params.items()}
        self._square = {name: torch.zeros_like(p) for name, p in self._params.items()}
        self._steps = torch.zeros(lora.size, dtype=torch.float32, device=lora.alpha.device)

    def step(
        self, samples: Sequence[Sample], progress: Callable[[float], None] | None = None
    ) -> LearnerStats:
        """Take one gradient step with every agent that has a sample of nonzero advantage.

        The loss of an agent is the mean over its reply tokens of ``-advantage * log p(token)``.

        Args:
            samples: Replies of any agents.
            progress: Called with the fraction done after each forward and backward pass.
        """
        factor = self.config.negative_weight
        weighted = [
            s if s.advantage > 0 else replace(s, advantage=factor * s.advantage) for s in samples
        ]
        useful = [s for s in weighted if s.advantage != 0 and len(s.reply_ids) > 0]
        useful.sort(key=lambda sample: -abs(sample.advantage))
        useful = useful[: math.ceil(self.config.sample_fraction * len(samples))]
        tokens = np.zeros(self.lora.size)
        for sample in useful:
            tokens[sample.agent] += len(sample.reply_ids)
        self.lora.zero_grad(set_to_none=True)
        batches = _batches(useful, self.config.tokens_per_batch)
        for done, batch in enumerate(batches):
            self._backward(batch, tokens)
            if progress is not None:
                progress((done + 1) / len(batches))
        agents = sorted({sample.agent for sample in useful})
        norms = self._update(agents) if agents else [0.0] * self.lora.size
        self.lora.zero_grad(set_to_none=True)
        return LearnerStats(len(useful), sum(len(s.reply_ids) for s in useful), tuple(norms))

    def reset(self, agents: Sequence[int]) -> None:
        """Forget the moments of these agents: their factors were replaced."""
        for agent in agents:
            self._steps[agent] = 0
            for moments in (self._mean, self._square):
                for moment in moments.values():
                    moment[agent] = 0

    def state(self) -> dict[str, Tensor]:
        """The whole state as named tensors, as `load_state` takes it."""
        return {
            "steps": self._steps,
            **{f"mean.{name}": moment for name, moment in self._mean.items()},
            **{f"square.{name}": moment for name, moment in self._square.items()},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state.

        Raises:
            ValueError: If a tensor is missing or of another shape.
        """
        mine = self.state()
        for name, tensor in mine.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(f"state[{name!r}]: got {found}, expected {tuple(tensor.shape)}")
        for name, tensor in mine.items():
            tensor.copy_(state[name])

    def _backward(self, batch: Sequence[Sample], tokens: np.ndarray) -> None:
        device = self.base.device
        agents = sorted({sample.agent for sample in batch})
        per_agent = [[s for s in batch if s.agent == agent] for agent in agents]
        each = max(len(group) for group in per_agent)
        # Rows that fill up the grid repeat a row of their agent and carry no weight.
        rows = [group[i % len(group)] for group in per_agent for i in range(each)]
        real = [i < len(group) for group in per_agent for i in range(each)]
        shared = common_prefix([sample.prompt_ids for sample in rows]) if each > 1 else 0
        ids = pad_right([[*s.prompt_ids[shared:], *s.reply_ids] for s in rows]).to(device)
        weights = torch.zeros(ids.shape)
        for row, sample in enumerate(rows):
            start = len(sample.prompt_ids) - shared
            if real[row]:
                value = sample.advantage / tokens[sample.agent]
                weights[row, start : start + len(sample.reply_ids)] = value
        weights = weights.to(device)
        hidden = self._hidden(ids, tuple(agents), each, rows[0].prompt_ids[:shared])
        # Place t predicts token t + 1; only places that predict a weighted token need logits.
        row_at, place_at = weights.nonzero(as_tuple=True)
        logits = self.base.model.get_output_embeddings()(hidden[row_at, place_at - 1]).float()
        logits = logits / self.config.temperature
        logp = -torch.nn.functional.cross_entropy(logits, ids[row_at, place_at], reduction="none")
        loss = -(logp * weights[row_at, place_at]).sum()
        loss.backward()

    def _hidden(
        self, ids: Tensor, agents: tuple[int, ...], each: int, prefix: Sequence[int]
    ) -> Tensor:
        """Last hidden states ``[rows, T, width]`` of ids that follow a prefix all rows share."""
        body, device = backbone(self.base.model), self.base.device
        cache = _Prefix(each)
        mask = None
        positions = torch.arange(len(prefix), len(prefix) + ids.shape[1], device=device)
        if prefix:
            with self.lora.active(Layout(agents, 1)):
                body(
                    input_ids=torch.tensor([prefix], device=device).expand(len(agents), -1),
                    past_key_values=cache,
                    use_cache=True,
                )
            cache.recording = False
            places = torch.arange(len(prefix) + ids.shape[1], device=device)
            mask = (places[None] <= positions[:, None])[None, None]
        with self.lora.active(Layout(agents, each)):
            return body(
                input_ids=ids,
                position_ids=positions[None],
                attention_mask=mask,
                past_key_values=cache if prefix else None,
                use_cache=bool(prefix),
            ).last_hidden_state

    def _update(self, agents: Sequence[int]) -> list[float]:
        """Clip, then one AdamW step for these agents; return all gradient norms before clipping."""
        config, index = self.config, torch.tensor(agents, device=self._steps.device)
        squares = torch.zeros(self.lora.size, device=self._steps.device)
        for parameter in self._params.values():
            if parameter.grad is not None:
                squares += parameter.grad.float().flatten(1).square().sum(1)
        norms = squares.sqrt()
        # A gradient that is not finite moves nothing.
        usable = torch.isfinite(norms)
        factor = torch.where(usable, (config.max_grad_norm / (norms + 1e-6)).clamp(max=1.0), 0.0)
        index = index[usable[index]]
        self._steps[index] += 1
        steps = self._steps[index][:, None, None]
        for name, parameter in self._params.items():
            if parameter.grad is None:
                continue
            gradient = parameter.grad[index] * factor[index][:, None, None]
            mean, square = self._mean[name], self._square[name]
            mean[index] = mean[index].lerp(gradient, 1 - config.beta1)
            square[index] = square[index].lerp(gradient.square(), 1 - config.beta2)
            unbiased_mean = mean[index] / (1 - config.beta1**steps)
            unbiased_square = square[index] / (1 - config.beta2**steps)
            update = unbiased_mean / (unbiased_square.sqrt() + 1e-8)
            values = parameter.data[index]
            update += config.weight_decay * values
            parameter.data[index] = values - config.learning_rate * update
        return norms.tolist()


class _Prefix(Cache):
    """Keys and values of a shared prefix, a row per agent, shown to every row of the agent.

    Nothing is stored after the prefix, and gradients flow into it from all rows.
    """

    def __init__(self, each: int) -> None:
        super().__init__(layers=[])
        self.each = each
        self.recording = True
        self.kept: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Record the prefix, or put it in front of each row."""
        if self.recording:
            self.kept.append((key_states, value_states))
            return key_states, value_states
        keys, values = (kept.repeat_interleave(self.each, 0) for kept in self.kept[layer_idx])
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens in front of the present block."""
        del layer_idx
        return 0 if self.recording else self.kept[0][0].shape[2]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first token of the present block."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys a block looks at."""
        return query_length + self.get_seq_length(layer_idx), 0


def _batches(samples: Sequence[Sample], tokens_per_batch: int) -> list[list[Sample]]:
    """Split samples into batches within the budget of padded tokens.

    Each batch holds samples of similar length and, as far as there are any, the same number of
    every agent, so little is spent on filling up rows.
    """
    queues: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=_length):
        queues.setdefault(sample.agent, []).append(sample)
    batches: list[list[Sample]] = []
    while queues:
        longest = max(_length(queue[-1]) for queue in queues.values())
        each = max(1, tokens_per_batch // (longest * len(queues)))
        batch: list[Sample] = []
        for queue in queues.values():
            taken = [s for s in queue[-each:] if _length(s) * 4 >= longest * 3]
            batch += taken
            del queue[len(queue) - len(taken) :]
        batches.append(batch)
        queues = {agent: queue for agent, queue in queues.items() if queue}
    return batches


def _length(sample: Sample) -> int:
    return len(sample.prompt_ids) + len(sample.reply_ids)
