"""Reading and writing members of a population: copies, views, comparisons, hashes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora, factors_hash
from evolution.lowrank.layers import recombine


def clear(lora: StackedLora, slot: int) -> None:
    """Make a member equal to the base, in factors that can be learned from."""
    for layer in lora.layers():
        layer.A[slot] = layer.B[slot] = 0.0
    recombine(lora, [slot], [[slot]], [[1.0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Genome:
    """One member.

    Attributes:
        alpha: Numerator of its scale.
        scale: Its scale.
        rank: Its rank.
        factors: ``A [r, in]`` and ``B [out, r]`` of each layer.
    """

    alpha: float
    scale: float
    rank: int
    factors: tuple[tuple[Tensor, Tensor], ...]

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return all(bool(torch.isfinite(t).all()) for pair in self.factors for t in pair)


def read_genome(lora: StackedLora, slot: int, *, copy: bool = True) -> Genome:
    """A member: a copy, or as it is at any time, with tensors that are the population's own."""
    pairs = ((layer.A[slot], layer.B[slot]) for layer in lora.layers())
    return Genome(
        alpha=float(lora.alpha[slot]),
        scale=float(lora.scale[slot]),
        rank=int(lora.ranks[slot]),
        factors=tuple((A.clone(), B.clone()) if copy else (A, B) for A, B in pairs),
    )


def write_genome(lora: StackedLora, slot: int, genome: Genome) -> float:
    """Put a copy into a slot of the population it came from.

    Into a slot of its own rank it goes number by number, with its alpha; into another, as the best
    update of that rank.

    Returns:
        Recompression error; 0 of a copy.
    """
    same_rank = int(lora.ranks[slot]) == genome.rank
    if same_rank:
        lora.set_alpha(slot, genome.alpha)
    size = 1.0 if same_rank else genome.scale / float(lora.scale[slot])
    for layer, (A, B) in zip(lora.layers(), genome.factors, strict=True):
        layer.A[slot], layer.B[slot] = A, B * size
    return 0.0 if same_rank else float(recombine(lora, [slot], [[slot]], [[1.0]])[0])


@dataclass(frozen=True, slots=True)
class ChildFigures:
    """How close a child is to the weighted mean of its parents' updates, over all layers.

    Attributes:
        cosine: Cosine between the child's update and the mean; 0 if one is zero.
        norm_ratio: Norm of the child's update over the norm of the mean.
    """

    cosine: float
    norm_ratio: float


def describe_child(
    child: Genome, parents: Sequence[Genome], weights: Sequence[float]
) -> ChildFigures:
    """Compare a child to the weighted mean of its parents' updates, which no rank limits.

    Args:
        child: Read after it was made.
        parents: Read before any slot was written.
        weights: Of the parents; equal ones for what has no weights of its own.
    """
    terms = [(1.0, child), *((-float(w), p) for w, p in zip(weights, parents, strict=True))]
    gram = np.zeros((len(terms), len(terms)))
    for layer in range(len(child.factors)):
        pairs = [genome.factors[layer] for _, genome in terms]
        for i, (A, B) in enumerate(pairs):
            for j, (C, D) in enumerate(pairs[: i + 1]):
                inner = (B.double().T @ D.double()) * (A.double() @ C.double().T)
                gram[i, j] = gram[j, i] = gram[i, j] + float(inner.sum())
    size = np.array([abs(weight) * genome.scale for weight, genome in terms])
    gram *= size[:, None] * size[None, :]
    own, mean, shared = gram[0, 0], gram[1:, 1:].sum(), gram[0, 1:].sum()
    norms = math.sqrt(max(own * mean, 0.0))
    return ChildFigures(
        shared / norms if norms else 0.0, math.sqrt(own / mean) if mean > 0 else math.inf
    )


def content_hash(lora: StackedLora, slot: int) -> str:
    """Hash of one member's alpha and factors, 16 hexadecimal characters."""
    return content_hashes(lora, [slot])[0]


def content_hashes(lora: StackedLora, slots: Sequence[int]) -> list[str]:
    """`content_hash` of several members.

    At the population's rank, whatever their own: the lineage of a run names them so.
    """
    return [
        factors_hash(float(lora.alpha[slot]), ((f.A[slot], f.B[slot]) for f in lora.layers()))
        for slot in slots
    ]
