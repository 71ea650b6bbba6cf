"""One adapter from many, without the base model: weighted sums of updates from adapter folders.

The sum of K updates is exact at the sum of their ranks and approximated at a smaller rank by
`evolution.lowrank.algebra`. How good the approximation is, is measured on what is written: the
difference between it and the exact sum is itself of low rank, so its norm needs no full matrix.

Not covered here: which adapters, and how they are weighted (`evolution.commands.export.command`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.peft_io import AdapterError, PeftAdapter
from agents.progress import Progress
from evolution.lowrank.algebra import compress


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a layer's merged update is from the exact weighted sum.

    Attributes:
        error: Frobenius norm of the difference, squared.
        size: Frobenius norm of the exact sum, squared.
        kept: Frobenius norm of the merged update, squared.
    """

    error: float
    size: float
    kept: float

    @property
    def relative(self) -> float:
        """Norm of the difference over norm of the exact sum; 0 where both are."""
        return math.sqrt(self.error / self.size) if self.size else math.sqrt(self.error)


@dataclass(frozen=True, slots=True)
class Merge:
    """A merged adapter and its measured error.

    Attributes:
        adapter: The merged adapter, its factors in float32.
        errors: Layer to its error.
    """

    adapter: PeftAdapter
    errors: Mapping[str, LayerError]

    @property
    def relative_error(self) -> float:
        """Relative Frobenius error over all layers together."""
        total = math.fsum(entry.size for entry in self.errors.values())
        error = math.fsum(entry.error for entry in self.errors.values())
        return math.sqrt(error / total) if total else math.sqrt(error)

    @property
    def energy_kept(self) -> float:
        """Squared norm of the merged update over that of the exact sum; 1 if both are 0."""
        total = math.fsum(entry.size for entry in self.errors.values())
        return math.fsum(entry.kept for entry in self.errors.values()) / total if total else 1.0

    @property
    def worst_layer(self) -> str:
        """Layer of the largest relative error, the first of equals."""
        return max(self.errors, key=lambda name: self.errors[name].relative)


def merge(
    adapters: Sequence[PeftAdapter],
    weights: Sequence[float],
    rank: int | None = None,
    progress: Progress | None = None,
) -> Merge:
    """Weighted sum of adapters' updates at a rank, layer by layer in float32.

    Rounding is about 1e-7 of the largest update, so it is a larger share of a sum that nearly
    cancels; the measured errors say so.

    Args:
        adapters: At least one, all of the same layers.
        weights: One for each.
        rank: Rank of the result; None for the sum of the ranks, where nothing is lost.
        progress: Called with ``merging`` and the fraction of the layers done.

    Returns:
        The merged adapter at the first one's scale, and the error measured on its factors.

    Raises:
        AdapterError: If the adapters do not have the same layers and shapes.
        ValueError: If there is not one weight for each adapter, or rank is below 1.
    """
    if not adapters or len(weights) != len(adapters):
        raise ValueError(
            f"weights: got {len(weights)} for {len(adapters)} adapters, expected one for each of "
            "at least one"
        )
    whole = sum(adapter.rank for adapter in adapters)
    rank = whole if rank is None else rank
    if rank < 1:
        raise ValueError(f"rank: got {rank}, expected at least 1")
    first = adapters[0]
    scale = first.scale or 1.0
    shares = torch.tensor(weights, dtype=torch.float32)
    scales = torch.tensor([adapter.scale for adapter in adapters])
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    errors: dict[str, LayerError] = {}
    for done, layer in enumerate(sorted(first.factors)):
        A, B = _stacked(adapters, layer)
        size = (shares * scales / torch.tensor(scale)).double().repeat_interleave(A.shape[1])
        made = compress(A.flatten(0, 1)[None], B.transpose(0, 1).flatten(1)[None], rank, size[None])
        factors[layer] = made.A[0], made.B[0]
        sized = B.double() * (shares.double() * scales.double())[:, None, None]
        wide = A.double().flatten(0, 1), sized.transpose(0, 1).flatten(1)
        result = made.A[0].double(), made.B[0].double() * scale
        errors[layer] = LayerError(
            _square(torch.cat([wide[0], result[0]]), torch.cat([wide[1], -result[1]], 1)),
            _square(*wide),
            _square(*result),
        )
        if progress is not None:
            progress("merging", (done + 1) / len(first.factors))
    whole = max(A.shape[0] for A, _ in factors.values())
    merged = PeftAdapter(rank=whole, alpha=scale * whole, base=first.base, factors=factors)
    return Merge(merged, errors)


def _stacked(adapters: Sequence[PeftAdapter], layer: str) -> tuple[Tensor, Tensor]:
    """``A [K, r, in]`` and ``B [K, out, r]`` of a layer, smaller ranks filled up with zeros."""
    rank = max(adapter.rank for adapter in adapters)
    first_A, first_B = adapters[0].factors[layer]
    A = torch.zeros(len(adapters), rank, first_A.shape[1])
    B = torch.zeros(len(adapters), first_B.shape[0], rank)
    for i, adapter in enumerate(adapters):
        pair = adapter.factors.get(layer)
        fits = (
            pair is not None and pair[0].shape[1] == A.shape[2] and pair[1].shape[0] == B.shape[1]
        )
        if pair is None or not fits or len(adapter.factors) != len(adapters[0].factors):
            raise AdapterError(
                f"adapters: number {i + 1} has other layers or shapes than number 1 (seen at "
                f"{layer}); merge adapters of one base with the same target modules"
            )
        own = pair[0].shape[0]
        A[i, :own], B[i, :, :own] = pair[0], pair[1]
    return A, B


def _square(A: Tensor, B: Tensor) -> float:
    """Squared Frobenius norm of ``B @ A``, by QR, so that small differences keep their digits."""
    R_b = torch.linalg.qr(B, mode="r").R
    R_a = torch.linalg.qr(A.T, mode="r").R
    return float((R_b @ R_a.T).square().sum())
