"""Crossovers on single entries of updates: DARE and TIES.

Both decide about every entry of ``dW = scale * B @ A``, so the update of one layer and child at a
time is formed, merged, and brought back to the child's rank. What they make is far from low-rank,
and much of it can be lost: the recompression error is in the lineage.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from evolution.lowrank.algebra import Compressed, compress, joined
from evolution.lowrank.layers import LayerStack, lost_share, over_layers
from evolution.operators.crossover_step import CROSSOVERS, CrossoverStep, number

_OVERSAMPLING = 16
_POWER = 2
# Matrices with no more rows or columns than this are decomposed as a whole.
_SMALL = 128


@CROSSOVERS.add("dare", drop=(0, 0.99))
def dare(
    lora: StackedLora, step: CrossoverStep, *, drop: float = 0.7, exact: bool = False
) -> list[dict[str, Any]]:
    """The mean of updates that lost a random share of their entries (DARE, Yu et al., 2024).

    Args:
        lora: The population.
        step: Children and parents.
        drop: Chance of an entry to be dropped; the others are divided by ``1 - drop``.
        exact: See `truncate`.
    """

    def merge(updates: Tensor, rng: np.random.Generator) -> Tensor:
        drawn = rng.random(tuple(updates.shape), dtype=np.float32)
        kept = torch.from_numpy(drawn >= drop).to(updates.device)
        return (updates * kept).mean(0) / (1 - drop)

    return merge_entries(lora, step, merge, exact=exact)


@CROSSOVERS.add("ties", density=(0.001, 1))
def ties(
    lora: StackedLora, step: CrossoverStep, *, density: float = 0.2, exact: bool = False
) -> list[dict[str, Any]]:
    """Trim, elect a sign, and average those that agree with it (TIES, Yadav et al., 2023).

    Args:
        lora: The population.
        step: Children and parents.
        density: Share of each update's entries that is kept, the largest ones.
        exact: See `truncate`.
    """

    def merge(updates: Tensor, rng: np.random.Generator) -> Tensor:
        del rng
        size = updates.abs().flatten(1)
        least = round((1 - density) * size.shape[1]) + 1
        bar = size.kthvalue(min(least, size.shape[1]), dim=1).values[:, None, None]
        trimmed = torch.where(updates.abs() >= bar, updates, 0.0)
        elected = torch.sign(trimmed.sum(0))
        agreeing = (torch.sign(trimmed) == elected) & (trimmed != 0)
        return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)

    return merge_entries(lora, step, merge, exact=exact)


def merge_entries(
    lora: StackedLora,
    step: CrossoverStep,
    merge: Callable[[Tensor, np.random.Generator], Tensor],
    *,
    exact: bool = False,
) -> list[dict[str, Any]]:
    """Make each child from its parents' whole updates, layer by layer.

    Args:
        lora: The population.
        step: Children and parents.
        merge: Takes the updates ``[K, out, in]`` of a child's parents in one layer, in units of
            the child's scale, and a source of draws; returns ``[out, in]``.
        exact: See `truncate`.
    """
    device = lora.alpha.device
    slots = torch.as_tensor(step.slots, device=device)
    parents = torch.as_tensor(step.parents, device=device)
    names = [layer.name for layer in lora.layers()]

    def work(layers: LayerStack) -> Tensor:
        energies: list[Tensor] = []
        for layer in layers.each():
            name = names[layer.index[0]]
            made: list[Compressed] = []
            for child in range(len(step.slots)):
                of = parents[child][:, None]
                size = layer.sizes(slots[child].expand(len(of)), of, torch.ones_like(of))
                A, B = layer.gather(of)
                updates = torch.bmm(B * size[:, None].to(B), A)
                rng = step.generator(child, name)
                merged = merge(updates, rng)
                made.append(truncate(merged, lora.rank, rng, exact=exact))
            energies.append(layer.write(slots, joined(made)))
        return torch.stack(energies).sum(0)

    step.is_canonical = True
    errors = lost_share(over_layers(lora, step.parents.size, work))
    return [{"recompression_error": number(error)} for error in errors]


def truncate(
    matrix: Tensor, rank: int, rng: np.random.Generator, *, exact: bool = False
) -> Compressed:
    """The best approximation of a matrix at a rank, in canonical form.

    Larger matrices are sketched: a random projection to ``rank + 16`` dimensions, two power
    iterations, and the decomposition within that subspace (Halko, Martinsson & Tropp, 2011).

    Args:
        matrix: ``[out, in]`` float32.
        rank: Rank of the result.
        rng: Source of the projection.
        exact: Whether to decompose the whole matrix whatever its size.

    Returns:
        Factors ``[1, rank, in]`` and ``[1, out, rank]``; the last entry of the energy is all that
        they miss.
    """
    rows, columns = _factors(matrix, rank, rng, exact)
    made = compress(rows[None], columns[None], rank)
    energy = made.energy.new_zeros(1, rank + 1)
    kept = made.energy[:, :rank]
    energy[:, : kept.shape[1]] = kept
    missed = matrix.double() - made.B[0].double() @ made.A[0].double()
    energy[:, rank] = missed.square().sum()
    return Compressed(made.A, made.B, energy)


def _factors(
    matrix: Tensor, rank: int, rng: np.random.Generator, exact: bool
) -> tuple[Tensor, Tensor]:
    """Factors ``[k, in]`` and ``[out, k]`` whose best approximation is the matrix's own."""
    (height, width), sketch = matrix.shape, rank + _OVERSAMPLING
    if not torch.isfinite(matrix).all():
        return matrix.new_full((1, width), torch.nan), matrix.new_full((height, 1), torch.nan)
    if exact or min(height, width) <= max(_SMALL, sketch):
        U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        return Vh[:rank].to(matrix), (U * S)[:, :rank].to(matrix)
    start = rng.standard_normal((width, sketch), dtype=np.float32)
    basis = torch.linalg.qr(matrix @ torch.from_numpy(start).to(matrix)).Q
    for _ in range(_POWER):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    return basis.T @ matrix, basis
