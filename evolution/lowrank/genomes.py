"""Reading and writing members of a population: copies, views, names, hashes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.engine.adapters import StackedLora, factors_hash
from evolution.lowrank.layers import recombine


def clear(lora: StackedLora, slot: int) -> None:
    """Make a member equal to the base, in factors that can be learned from.

    Frozen rows stay what they are.
    """
    layers = list(lora.layers())
    if lora.rows_frozen and all(bool(torch.isfinite(y.A[slot]).all()) for y in layers):
        for layer in layers:
            layer.B[slot] = 0.0
        return
    for layer in layers:
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


def restore_genome(lora: StackedLora, slot: int, genome: Genome) -> None:
    """Give a slot a copy number by number, and its rank."""
    lora.set_rank(slot, genome.rank)
    write_genome(lora, slot, genome)


def named_factors(genome: Genome, prefix: str) -> dict[str, Tensor]:
    """A genome's factors by name, as they are saved: ``<prefix>.<layer's place>.A`` and ``.B``."""
    return {
        f"{prefix}.{place}.{side}": factor
        for place, pair in enumerate(genome.factors)
        for side, factor in zip("AB", pair, strict=True)
    }


def factors_named(saved: Mapping[str, Any], prefix: str) -> tuple[tuple[Tensor, Tensor], ...]:
    """Find what `named_factors` gave among what was saved; none under another prefix.

    Raises:
        KeyError: If a factor is missing.
    """
    count = sum(name.startswith(f"{prefix}.") for name in saved) // 2
    return tuple(
        (saved[f"{prefix}.{place}.A"], saved[f"{prefix}.{place}.B"]) for place in range(count)
    )


def content_hash(lora: StackedLora, slot: int) -> str:
    """Hash of one member's alpha and factors, 16 hexadecimal characters.

    At the population's rank, whatever its own: the lineage of a run names individuals so.
    """
    factors = ((layer.A[slot], layer.B[slot]) for layer in lora.layers())
    return factors_hash(float(lora.alpha[slot]), factors)
