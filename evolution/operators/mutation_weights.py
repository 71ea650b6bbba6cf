"""Mutation: random changes of adapters' updates.

A mutation changes some members of the population in place, all layers of each. Those on components
and those with noise need canonical form (see `evolution.lowrank.algebra`) and bring it about where
it is not there; `evolution.operators.mutation_inherited` has those on what is inherited besides
weights. With the rows of ``A`` orthonormal, Gaussian noise on ``B`` is Gaussian noise on ``dW``,
within the rows that the adapter reads, that depends on the update and not on how it was factored;
the rank stays what it is. Draws are keyed by slot: a child does not depend on who else is born.

To add a mutation, see `evolution.registry`: a function of the population and a `MutationStep`.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from evolution.lowrank.noise import Noise
from evolution.operators.mutation import MUTATIONS, Form, Mutation, MutationStep, Offspring, mutate
from evolution.operators.mutation_inherited import hyperparameters, self_adaptation
from populora_env.keys import generator

__all__ = [
    "MUTATIONS",
    "Mutation",
    "MutationStep",
    "Offspring",
    "dropout",
    "gaussian",
    "hyperparameters",
    "layer_gaussian",
    "masking",
    "mutate",
    "relative_gaussian",
    "self_adaptation",
    "spread",
    "svd",
]


@MUTATIONS.add("gaussian", strength=(0, 10))
def gaussian(lora: StackedLora, step: MutationStep, *, strength: float = 0.05) -> None:
    """Noise of standard deviation ``strength / sqrt(r)`` on ``B``, whatever the update's size."""

    def change(member: Offspring, A: Tensor, B: Tensor, draws: Noise) -> None:
        del A
        _add_noise(B, member.strength * strength / lora.rank**0.5, draws)

    if strength:
        _change_each(lora, step, Form.ORTHONORMAL, change)


@MUTATIONS.add("relative_gaussian", strength=(0, 10), floor=(0, 10))
def relative_gaussian(
    lora: StackedLora, step: MutationStep, *, strength: float = 0.15, floor: float = 0.01
) -> None:
    """Noise whose norm is ``strength`` times that of the layer's own update.

    Args:
        lora: The population.
        step: Who undergoes it.
        strength: Ratio of the Frobenius norms.
        floor: An update is taken to be no smaller than one of ``B`` with entries of
            ``floor / sqrt(r)``, so that updates of zero change too.
    """
    _relative_noise(lora, step, strength, floor)


@MUTATIONS.add("layer_gaussian", strength=(0, 10), fraction=(0, 1), floor=(0, 10))
def layer_gaussian(
    lora: StackedLora,
    step: MutationStep,
    *,
    strength: float = 0.1,
    fraction: float = 0.33,
    floor: float = 0.01,
) -> None:
    """`relative_gaussian` on a random fraction of the layers, drawn for each member."""
    count = sum(1 for _ in lora.layers())
    picked = {
        member.slot: step.generator(member, "layers").permutation(count) < round(fraction * count)
        for member in step.members
    }
    _relative_noise(lora, step, strength, floor, picked)


@MUTATIONS.add("svd", strength=(0, 10))
def svd(lora: StackedLora, step: MutationStep, *, strength: float = 0.1) -> None:
    """Singular values times ``exp(strength * z)``; singular vectors turned a little.

    Left and right singular vectors get noise of norm ``strength`` each, which turns them by about
    as many radians, out of the subspace they span, and are made orthonormal again.
    """

    def change(member: Offspring, A: Tensor, B: Tensor, draws: Noise) -> None:
        size = member.strength * strength
        sizes = B.float().norm(dim=0)
        left = B.float().T / torch.where(sizes > 0, sizes, 1.0)[:, None]
        factor = torch.exp(size * draws.normal(len(sizes)).to(sizes))
        A.copy_(_turned(A.float(), size, draws))
        B.copy_((_turned(left, size, draws) * (sizes * factor)[:, None]).T)

    if strength:
        _change_each(lora, step, Form.CANONICAL, change)


@MUTATIONS.add("dropout", rate=(0, 0.99))
def dropout(lora: StackedLora, step: MutationStep, *, rate: float = 0.1) -> None:
    """Each singular component dropped at this rate, the others divided by ``1 - rate``."""

    def change(member: Offspring, A: Tensor, B: Tensor, draws: Noise) -> None:
        del member, A
        B.mul_(torch.from_numpy((draws.rng.random(B.shape[1]) >= rate) / (1 - rate)).to(B))

    if rate:
        _change_each(lora, step, Form.CANONICAL, change)


@MUTATIONS.add("masking", rho=(0, 1))
def masking(lora: StackedLora, step: MutationStep, *, rho: float = 0.3) -> None:
    """A random fraction ``rho`` of the singular components of each layer set to zero."""

    def change(member: Offspring, A: Tensor, B: Tensor, draws: Noise) -> None:
        del member, A
        lost = draws.rng.permutation(B.shape[1])[: round(rho * B.shape[1])]
        B[:, torch.from_numpy(lost).to(B.device)] = 0.0

    if rho:
        _change_each(lora, step, Form.CANONICAL, change)


def spread(lora: StackedLora, strength: float, seed: int) -> None:
    """Turn newborn adapters, all equal to the base, into a population.

    All agents get the same random rows ``A`` (normal, variance 1/in) and their own small ``B``
    (normal, standard deviation ``strength / sqrt(r)``). Members that read the same rows can be
    averaged without loss.

    Args:
        lora: The population, overwritten.
        strength: At rank 8 and scale 2 on a 135M model, 0.03 to 0.05 changes replies and keeps
            every member about as accurate as the base; 0.3 breaks it.
        seed: Seed of the run.
    """
    own = lora.ranks.tolist()
    for layer in lora.layers():
        _, rank, width = layer.A.shape
        rows = generator("spread rows", seed, layer.name).standard_normal(
            (rank, width), dtype=np.float32
        )
        layer.A[:] = torch.from_numpy(rows).to(layer.A) / width**0.5
        layer.B.zero_()
        for agent in range(lora.size):
            rng = generator("spread", seed, layer.name, agent)
            noise = rng.standard_normal((rank, layer.B.shape[1]), dtype=np.float32)
            layer.B[agent].T.add_(torch.from_numpy(noise).to(layer.B), alpha=strength / rank**0.5)
            layer.A[agent, own[agent] :] = 0.0
            layer.B[agent, :, own[agent] :] = 0.0


def _change_each(
    lora: StackedLora,
    step: MutationStep,
    form: Form,
    change: Callable[[Offspring, Tensor, Tensor, Noise], None],
    picked: Mapping[int, np.ndarray] | None = None,
) -> None:
    """Change the factors of all members, layer by layer.

    Args:
        lora: The population.
        step: Members.
        form: Form that the change needs, and leaves.
        change: Takes a member, its ``A [a, in]`` and ``B [out, a]`` in one layer, to be written in
            place, and the source of its draws; a is the rank that the agent and the layer have.
        picked: Which layers are changed, by slot; all by default.
    """
    step.require(lora, form)
    layers, own = list(lora.layers()), lora.ranks.tolist()

    # One after the other: steps this small spend more on passing the interpreter between threads
    # than a second thread saves.
    for member in step.members:
        draws = Noise(step.generator(member))
        for place, layer in enumerate(layers):
            if picked is not None and not picked[member.slot][place]:
                continue
            A, B = layer.A[member.slot], layer.B[member.slot]
            room = min(own[member.slot], A.shape[1], len(B))
            change(member, A[:room], B[:, :room], draws)
        member.form = min(member.form, form)


def _relative_noise(
    lora: StackedLora,
    step: MutationStep,
    strength: float,
    floor: float,
    picked: Mapping[int, np.ndarray] | None = None,
) -> None:
    """See `relative_gaussian`, and `_change_each` for ``picked``."""

    def change(member: Offspring, A: Tensor, B: Tensor, draws: Noise) -> None:
        del A
        norm = max(float(B.float().norm()), floor * len(B) ** 0.5)
        _add_noise(B, member.strength * strength * norm / B.numel() ** 0.5, draws)

    if strength:
        _change_each(lora, step, Form.ORTHONORMAL, change, picked)


def _add_noise(B: Tensor, deviation: float, draws: Noise) -> None:
    B.T.add_(draws.normal(*B.T.shape).to(B), alpha=deviation)  # as it lies in memory


def _turned(rows: Tensor, size: float, draws: Noise) -> Tensor:
    """Orthonormal rows with noise of norm ``size`` each, made orthonormal again."""
    noise = draws.normal(*rows.shape).to(rows)
    turned = rows + noise * (size / rows.shape[1] ** 0.5)
    exact = turned.double()
    lower = torch.linalg.cholesky_ex(exact @ exact.T).L
    return torch.linalg.solve_triangular(lower.to(rows), turned, upper=False)
