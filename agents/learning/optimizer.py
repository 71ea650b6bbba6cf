"""AdamW for stacked adapters: one optimiser per agent, in the same tensors.

Each agent has its own learning rate, step count, gradient norm and clipping. Only agents that are
named in a step are read or written.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from agents.engine.adapters import StackedLora


def each_agent(
    name: str, value: float | Sequence[float], size: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A number for each agent, ``[size]``, of one for all or of as many.

    Raises:
        ValueError: If there are neither one nor as many.
    """
    given = torch.as_tensor(value, dtype=dtype)
    if given.ndim and given.shape != (size,):
        raise ValueError(
            f"{name}: got {given.numel()} values, expected one, or one for each of the {size} "
            "agents"
        )
    return given.expand(size).clone()


class StackedAdamW:
    """AdamW (Loshchilov & Hutter, 2019) per agent over stacked tensors.

    Moments are float32 whatever the adapters are. An adapter of smaller rank is padded with rows of
    ``A`` and columns of ``B`` that are both zero; the gradient of either is a product with the
    other, so it is zero, and so is every update: padding stays zero without being looked after.

    Args:
        lora: The adapters to train, in place; frozen rows have no state and never move.
        learning_rate: Of all agents, or one for each, ``[N]``.
        betas: Decay of the mean of gradients and of squared gradients.
        weight_decay: Decoupled weight decay per step, times the learning rate.
        max_grad_norm: Each agent's gradient is scaled down to this 2-norm.

    Attributes:
        learning_rates: Step size of each agent, ``[N]`` float32; may be written in place at any
            time, and is part of the state.

    Raises:
        ValueError: If the learning rates are not one per agent.
    """

    def __init__(
        self,
        lora: StackedLora,
        learning_rate: float | Sequence[float],
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.size = lora.size
        self._betas, self._decay, self._max_norm = betas, weight_decay, max_grad_norm
        device = lora.alpha.device
        self.learning_rates = each_agent("learning_rate", learning_rate, lora.size).to(device)
        self._params = {n: p for n, p in lora.named_parameters() if p.requires_grad}
        self._steps = torch.zeros(lora.size, dtype=torch.float32, device=device)
        self._mean = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self._named()}
        self._square = {name: torch.zeros_like(mean) for name, mean in self._mean.items()}

    def step(self, agents: Sequence[int]) -> Tensor:
        """Take one step with these agents along their gradients, then drop all gradients.

        An agent whose gradient is not finite does not move, and neither do its moments.

        Returns:
            2-norm of each agent's gradient before clipping, ``[N]``; 0 where there is none.
        """
        squares = torch.zeros(self.size, device=self._steps.device)
        for _, parameter in self._named():
            if parameter.grad is not None:
                squares += parameter.grad.float().flatten(1).square().sum(1)
        norms = squares.sqrt()
        index = torch.tensor(agents, dtype=torch.long, device=norms.device)
        index = index[torch.isfinite(norms[index])]
        factor = (self._max_norm / (norms[index] + 1e-6)).clamp(max=1.0)[:, None, None]
        self._steps[index] += 1
        steps = self._steps[index][:, None, None]
        rates = self.learning_rates[index][:, None, None]
        beta1, beta2 = self._betas
        for name, parameter in self._named():
            if parameter.grad is None:
                continue
            gradient = parameter.grad[index].float() * factor
            mean = self._mean[name][index].lerp_(gradient, 1 - beta1)
            square = self._square[name][index].lerp_(gradient.square_(), 1 - beta2)
            self._mean[name][index], self._square[name][index] = mean, square
            update = mean.div_(1 - beta1**steps)
            update /= square.div_(1 - beta2**steps).sqrt_().add_(1e-8)
            held = parameter.detach()  # writing to it counts as a change of the parameter
            values = held[index].float()
            update += self._decay * values
            held[index] = values.sub_(update.mul_(rates)).to(parameter.dtype)
            parameter.grad = None
        return norms

    def reset(self, agents: Sequence[int]) -> None:
        """Forget the moments and step counts of these agents; learning rates stay."""
        for tensor in self._moments().values():
            tensor[list(agents)] = 0

    def inherit(self, parents: Mapping[int, int]) -> None:
        """Give agents the moments and step count that others had before the call.

        Moments belong to the coordinates of the factors they were gathered in: entry (i, j) of a
        moment is about entry (i, j) of a factor. They mean something only to an agent that has its
        parent's coordinates, that is, the same rows ``A``, as a copy has. A child of crossover does
        not: it is factored anew, and while a change of coordinates could be carried over to a mean
        of gradients, elementwise squares have none.

        Args:
            parents: Agent that inherits to the agent whose state it gets.
        """
        heirs, sources = list(parents), list(parents.values())
        for tensor in self._moments().values():
            tensor[heirs] = tensor[sources]

    def state(self) -> dict[str, Tensor]:
        """The whole state as named tensors, as `load_state` takes it."""
        return {"learning_rates": self.learning_rates, **self._moments()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state.

        Raises:
            ValueError: If a tensor is missing or of another shape; nothing is changed then.
        """
        mine = self.state()
        for name, tensor in mine.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(f"state[{name!r}]: got {found}, expected {tuple(tensor.shape)}")
        for name, tensor in mine.items():
            tensor.copy_(state[name])

    def rows(self, agents: Sequence[int]) -> dict[str, Tensor]:
        """Copies of the state of these agents, ``[agents, ...]`` each, as `load_rows` takes it."""
        return {name: tensor[list(agents)] for name, tensor in self.state().items()}

    def load_rows(self, agents: Sequence[int], state: Mapping[str, Tensor]) -> None:
        """Take over the state of these agents alone; see `rows`."""
        for name, tensor in self.state().items():
            tensor[list(agents)] = state[name].to(tensor)

    def _named(self) -> Sequence[tuple[str, torch.nn.Parameter]]:
        return tuple(self._params.items())

    def _moments(self) -> dict[str, Tensor]:
        return {
            "steps": self._steps,
            **{f"mean.{name}": moment for name, moment in self._mean.items()},
            **{f"square.{name}": moment for name, moment in self._square.items()},
        }
