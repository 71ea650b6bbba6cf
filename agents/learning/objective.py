"""The loss of a learning step, token by token.

It is the mean over an agent's reply tokens of ``-gain + kl * k3``. With one update in a step,
``gain = advantage * log p``. With several, it is ``min(ratio * advantage, clamp(ratio, 1 - low,
1 + high) * advantage)`` (PPO, Schulman et al., 2017, arXiv:1707.06347), where ``ratio`` is to the
probability before the step; at ratio 1 both have the same gradient.

``k3 = q/p - log(q/p) - 1`` with ``q`` the bare base (Schulman, 2020,
http://joschu.net/blog/kl-approx.html) is never negative, and over replies of the agent's own its
mean is the divergence from the base. As a loss it pulls each token's probability towards the
base's, as in GRPO; the gradient is not exactly that of the divergence.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.learning.likelihood import Tokens

_FARTHEST = 20.0  # differences of log-probabilities above this are not put into exp


class Objective:
    """The loss of a step's tokens, and what was seen on the way.

    Args:
        tokens: All reply tokens of the step, M of them.
        agents: Whose each sample is.
        advantages: Of each sample.
        size: Number of agents, N.
        kl: Weight of the divergence from the base, for all agents or for each, ``[N]``; the number
            0 computes none.
        clip: How far probability ratios count, below and above 1; None for no ratios.
        device: Where to compute.

    Attributes:
        before: Log-probabilities before the step ``[M]``, to be filled in; used with ``clip`` only.
        reference: Those of the bare base ``[M]``, to be filled in; used where ``kl`` is not 0.
        recording: While true, tokens that are met are at their probability before the step, which
            is kept in ``before``.
    """

    def __init__(
        self,
        tokens: Tokens,
        agents: Sequence[int],
        advantages: Sequence[float],
        size: int,
        *,
        kl: Tensor | float,
        clip: tuple[float, float] | None,
        device: torch.device,
    ) -> None:
        self._sequence = torch.from_numpy(tokens.sequence).to(device)
        self._agent = torch.tensor(agents, dtype=torch.long, device=device)[self._sequence]
        self._advantage = torch.tensor(advantages, dtype=torch.float32, device=device)[
            self._sequence
        ]
        weights = torch.as_tensor(kl, dtype=torch.float32, device=device).expand(size)
        self._kl = weights[self._agent] if isinstance(kl, Tensor) or kl else None
        self._clip = clip
        self._weight = torch.zeros(len(tokens), device=device)
        self.before = torch.zeros(len(tokens), device=device)
        self.reference = torch.zeros(len(tokens), device=device)
        self.recording = False
        self._met = torch.zeros(size, device=device)
        self._divergence = torch.zeros(size, device=device)
        self._clipped = torch.zeros((), device=device)

    def weigh(self, samples: Sequence[int]) -> None:
        """Make the loss a mean over each agent's tokens in these samples."""
        chosen = torch.isin(
            self._sequence, torch.tensor(samples, dtype=torch.long, device=self._sequence.device)
        )
        counts = torch.zeros_like(self._met).index_add_(0, self._agent, chosen.float())
        self._weight = chosen / counts.clamp(min=1.0)[self._agent]

    def __call__(self, logp: Tensor, which: Tensor) -> Tensor:
        """The loss of some tokens, summed.

        Args:
            logp: Their log-probabilities, with gradient.
            which: Their numbers.
        """
        advantage, agent = self._advantage[which], self._agent[which]
        self._met.index_add_(0, agent, torch.ones_like(logp))
        if self._clip is None:
            gain = advantage * logp
        else:
            if self.recording:
                self.before[which] = logp.detach()
            ratio = (logp - self.before[which]).clamp(max=_FARTHEST).exp()
            low, high = self._clip
            free, held = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
            gain = torch.minimum(free, held)
            self._clipped += (held < free).sum()
        if self._kl is not None:
            weight = self._kl[which]
            apart = torch.where(weight > 0, self.reference[which] - logp, 0.0)
            # exp, continued by its tangent, so that no gradient vanishes or overflows.
            beyond = 1 + (apart - _FARTHEST).clamp(min=0)
            divergence = apart.clamp(max=_FARTHEST).exp() * beyond - apart - 1
            seen = torch.where(weight > 0, divergence.detach(), torch.nan)
            self._divergence.index_add_(0, agent, seen)
            gain = gain - weight * divergence
        return -(gain * self._weight[which]).sum()

    @property
    def divergence(self) -> tuple[float, ...] | None:
        """Mean ``k3`` of each agent's tokens as they were met, ``[N]``; None without ``kl``.

        NaN of agents that have no tokens, or no weight.
        """
        return None if self._kl is None else tuple((self._divergence / self._met).tolist())

    @property
    def clipped(self) -> float:
        """Share of the tokens, as they were met, that clipping kept from moving further."""
        return float(self._clipped / self._met.sum().clamp(min=1.0))
