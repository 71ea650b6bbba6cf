"""Evolution strategies: all members are perturbations of one mean, which moves along their returns.

There is no gradient and no crossover. The mean is what the population comes to; no member is better
than it but by chance.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from evolution.errors import ConfigError
from evolution.exchange.step import EXCHANGES, Exchanged, ExchangeStep
from evolution.lowrank.shared_rows import are_shared
from populora_env.keys import generator


def _ranks(returns: np.ndarray) -> np.ndarray:
    """From -1/2 to 1/2. Equal returns share a rank, so that who sits where decides nothing."""
    below = (returns[:, None] > returns).sum(1)
    ties = (returns[:, None] == returns).sum(1)
    return (below + (ties - 1) / 2) / (len(returns) - 1) - 0.5


def _deviations(returns: np.ndarray) -> np.ndarray:
    return returns - returns.mean()


SHAPES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "ranks": _ranks,
    "returns": _deviations,
}
"""What becomes of returns, by name; at least two of them."""


@EXCHANGES.add_central("evolution_strategy", sigma=(1e-6, 10), rate=(0, 100), shape=SHAPES)
def evolution_strategy(
    step: ExchangeStep,
    *,
    sigma: float = 0.02,
    rate: float = 1.0,
    shape: str = "ranks",
    rank_one: bool = True,
) -> list[Exchanged]:
    """Members are the mean plus and minus perturbations of rank 1; the mean follows their returns.

    Evolution strategies as plain stochastic gradient ascent on a smoothed return (Salimans et al.,
    2017, arXiv:1703.03864) with antithetic pairs, and perturbations of low rank as in EGGROLL
    (Sarkar et al., 2025, arXiv:2511.16652). All members read the same fixed rows ``A``, and only
    ``B`` is perturbed, by ``u v^T``: with that the update changes by the matrix ``u (v^T A)`` of
    rank 1, sums over members are exact, and there are none of the cross terms that perturbing both
    factors brings. The mean itself is the members' mean, since pairs cancel; an odd member out is
    the mean itself.

    Args:
        step: The members; their fitness in the last generation is what is followed.
        sigma: Size of a perturbation: root mean square of its entries of ``B``.
        rate: Step of the mean in units of ``sigma``, for returns of standard deviation 1: how far
            the root mean square of ``B`` may move if all members agreed.
        shape: ``ranks`` of returns from -1/2 to 1/2, which no outlier bends; or ``returns``, less
            their mean over the members, who all had the same problems.
        rank_one: Whether perturbations are outer products; false for independent entries.
    """
    for number, home in enumerate(step.homes):
        slots = home.tolist()
        if step.is_founding:
            if len(ranks := set(step.lora.ranks[slots].tolist())) > 1:
                raise ConfigError(
                    f"exchange: evolution_strategy moves one mean of one rank, got ranks {ranks}"
                )
            mean = [B for _, B in step.begin_equal(home).factors]
        else:
            if not are_shared(step.lora, slots):
                raise ConfigError(
                    "exchange: evolution_strategy moves one mean in rows A that members share, "
                    "and these do not (adapters that were given, or a run that began with another "
                    "exchange); begin a new run"
                )
            mean = _moved(step, slots, shaped(step.fitness[home], shape), rate)
        key = ("evolution strategy", step.seed, step.generation, number)
        perturb(step.lora, slots, mean, sigma, key, rank_one=rank_one)
    if step.is_founding:
        return []
    return [
        Exchanged(slot, (slot, *(p for p in home.tolist() if p != slot)))
        for home in step.homes
        for slot in home.tolist()
    ]


def shaped(returns: np.ndarray, shape: str) -> np.ndarray:
    """Weights of members in a step, ``[members]``; they sum to 0, unknown returns have 0.

    Args:
        returns: ``[members]``; NaN is not known.
        shape: One of `SHAPES`.
    """
    known = np.isfinite(returns)
    weights = np.zeros(len(returns))
    if known.sum() < 2:
        return weights
    weights[known] = SHAPES[shape](returns[known])
    spread = weights[known].std()
    return weights / spread if spread > 0 else weights


def perturb(
    lora: StackedLora,
    slots: list[int],
    mean: list[Tensor],
    sigma: float,
    key: tuple[str | int, ...],
    *,
    rank_one: bool,
) -> None:
    """Write the mean plus and minus perturbations to pairs of slots, and to an odd one the mean.

    Args:
        lora: The population.
        slots: ``[members]``.
        mean: ``[out, r]`` of each layer.
        sigma: Root mean square of a perturbation's entries.
        key: Of the draws; each pair has its own.
        rank_one: Whether they are outer products.
    """
    layers = list(lora.layers())
    for first in range(0, len(slots) - 1, 2):
        rng = generator(*key, first // 2)
        rank = int(lora.ranks[slots[first]])
        for layer, centre in zip(layers, mean, strict=True):
            out = centre.shape[0]
            if rank_one:
                u = rng.standard_normal((out, 1), dtype=np.float32)
                v = rng.standard_normal((1, rank), dtype=np.float32)
                noise = torch.from_numpy(u * v)
            else:
                noise = torch.from_numpy(rng.standard_normal((out, rank), dtype=np.float32))
            change = torch.zeros_like(centre, dtype=torch.float32)
            change[:, :rank] = sigma * noise.to(centre.device)
            for slot, sign in ((slots[first], 1), (slots[first + 1], -1)):
                layer.B[slot] = centre + sign * change
    if len(slots) % 2:
        for layer, centre in zip(layers, mean, strict=True):
            layer.B[slots[-1]] = centre


def _moved(step: ExchangeStep, slots: list[int], weights: np.ndarray, rate: float) -> list[Tensor]:
    """The mean after a step, ``[out, r]`` of each layer.

    With deviations ``E_i`` of root mean square sigma, it moves by ``rate mean(w_i E_i)``.
    """
    pairs = len(slots) // 2 * 2
    moved: list[Tensor] = []
    for layer in step.lora.layers():
        members = layer.B[slots].float()
        centre = members[:pairs].mean(0) if pairs else members[0]
        by = torch.from_numpy(weights[:pairs]).to(members)
        step_by = torch.einsum("k,kor->or", by, members[:pairs] - centre) / max(pairs, 1)
        moved.append((centre + rate * step_by).to(layer.B.dtype))
    return moved
