"""Weighted sums of members as genomes, in coordinates that a learner can go on with.

Where members share their rows ``A`` bit for bit, a sum is one of ``B`` alone, and exact. Elsewhere
it is the best update of its rank, factored so that its rows lie as near as can be to the mean of
the given ones: ``B A = (B P^-1)(P A)`` for every invertible P. The moments of an optimiser belong
to coordinates; members that drifted little since they were equal can keep theirs.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from agents.engine.adapters import StackedLora
from evolution.lowrank import algebra
from evolution.lowrank.algebra import compress
from evolution.lowrank.genomes import Genome, read_genome
from evolution.lowrank.layers import in_stacks

_NUMBERS = 1 << 22  # gathered at once
_FLAT = 1e-3  # rows that are nearer than this to dependent are left as they were found


def mean_of_members(lora: StackedLora, slots: Sequence[int]) -> Genome:
    """One genome whose update is the mean of some members', at the first one's rank.

    Args:
        lora: Theirs.
        slots: At least one.
    """
    members = [read_genome(lora, slot, copy=False) for slot in slots]
    mean, _ = weighted_sum(members, [1 / len(members)] * len(members))
    return mean


def weighted_sum(genomes: Sequence[Genome], weights: ArrayLike) -> tuple[Genome, float]:
    """One genome whose update is the weighted sum of others'.

    Args:
        genomes: Of one population's layers; the result has scale, alpha and rank of the first.
        weights: ``[K]``, or ``[layers, K]`` where they differ by layer.

    Returns:
        The genome, and its recompression error: norm of what its rank could not hold over the norm
        of the sum; 0 where rows are shared.
    """
    first = genomes[0]
    places = len(first.factors)
    shares = np.broadcast_to(np.asarray(weights, dtype=float), (places, len(genomes)))
    sized = torch.tensor(shares * [genome.scale / first.scale for genome in genomes])
    factors: dict[int, tuple[Tensor, Tensor]] = {}
    energy = torch.zeros(2, dtype=torch.float64)  # lost, and all
    apart: list[int] = []
    for place in range(places):
        pairs = [genome.factors[place] for genome in genomes]
        if all(A is pairs[0][0] or torch.equal(A, pairs[0][0]) for A, _ in pairs):
            columns = torch.stack([B.float() for _, B in pairs])
            total = torch.einsum("k,kor->or", sized[place].to(columns), columns)
            factors[place] = pairs[0][0].clone(), total.to(pairs[0][1].dtype)
        else:
            apart.append(place)
    shapes = [(first.factors[p][0].shape[1], first.factors[p][1].shape[0]) for p in apart]
    wide = first.factors[0][0].shape[0] * len(genomes)
    for some in in_stacks(apart, shapes, wide, _NUMBERS):
        A, B, lost = _summed([[g.factors[p] for g in genomes] for p in some], sized[some], first)
        energy += lost
        factors |= {place: (A[i], B[i]) for i, place in enumerate(some)}
    made = Genome(
        alpha=first.alpha,
        scale=first.scale,
        rank=first.rank,
        factors=tuple(factors[place] for place in range(places)),
    )
    lost, whole = energy.tolist()
    return made, (lost / whole) ** 0.5 if whole else 0.0


def inner_products(genomes: Sequence[Genome]) -> np.ndarray:
    """Frobenius inner products of updates by layer, ``[layers, K, K]``."""
    found: list[np.ndarray] = []
    for place in range(len(genomes[0].factors)):
        A = torch.stack([g.factors[place][0].double() for g in genomes])
        B = torch.stack([g.factors[place][1].double() * g.scale for g in genomes])
        found.append(algebra.inner_products(A, B).cpu().numpy())
    return np.stack(found)


def _summed(
    layers: Sequence[Sequence[tuple[Tensor, Tensor]]], sizes: Tensor, first: Genome
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums for layers of one shape.

    Args:
        layers: Factors of each genome, by layer.
        sizes: Weights in units of the first one's scale ``[L, K]``.
        first: Whose rank and types the result has.

    Returns:
        ``[L, r, in]``, ``[L, out, r]``, and energy that was lost, and all, ``[2]``.
    """
    A = torch.stack([torch.cat([A for A, _ in pairs]) for pairs in layers]).float()
    B = torch.stack([torch.cat([B for _, B in pairs], 1) for pairs in layers]).float()
    wide = layers[0][0][0].shape[0]  # of the stack, of which rank rows are not zero
    made = compress(A, B, wide, sizes.to(A.device).repeat_interleave(wide, 1))
    near = A.unflatten(1, (-1, wide)).mean(1)
    rows, columns = made.A, made.B
    energy = made.energy.clone()
    if first.rank < wide:
        rows[:, first.rank :] = 0
        columns[:, :, first.rank :] = 0
    lost = torch.stack([energy[:, first.rank :].sum(), energy.sum()]).cpu()
    rows, columns = _turned(rows, columns, near, first.rank, energy)
    kind = layers[0][0]
    return rows.to(kind[0].dtype), columns.to(kind[1].dtype), lost


def _turned(A: Tensor, B: Tensor, near: Tensor, rank: int, energy: Tensor) -> tuple[Tensor, Tensor]:
    """The same products with rows near to given ones, where these do not lie flat on them."""
    own, want = A[:, :rank].double(), near[:, :rank].double()
    P = want @ own.transpose(1, 2)  # the given rows within the span of the product's
    spread = torch.linalg.svdvals(P)
    full = (energy[:, :rank] > 0).all(1)
    good = full & (spread[:, -1] > _FLAT * spread[:, 0])
    nothing = energy.sum(1) == 0
    rows, columns = A.clone(), B.clone()
    if good.any():
        rows[good, :rank] = (P[good] @ own[good]).to(A.dtype)
        turned = torch.linalg.solve(P[good].transpose(1, 2), B[good, :, :rank].double().mT)
        columns[good, :, :rank] = turned.mT.to(B.dtype)
    rows[nothing, :rank] = want[nothing].to(A.dtype)
    columns[nothing] = 0
    return rows, columns


def both_lost(first: float, second: float) -> float:
    """Relative error of a best update of a rank that is cut to a smaller one again.

    What the second cut leaves out is orthogonal to what the first did.

    Args:
        first: Of the first cut.
        second: Of the second, relative to what the first left.
    """
    return (first**2 + (1 - first**2) * second**2) ** 0.5
