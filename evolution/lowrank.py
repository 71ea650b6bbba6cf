"""Exact algebra on low-rank updates.

An adapter's update is ``dW = scale * B @ A``. Averaging ``A`` and ``B`` separately is not averaging
updates, so everything here acts on ``dW``: a weighted sum of K updates of rank r is the
concatenation of their factors, of rank K*r, brought back to rank r by two QR decompositions and an
SVD of the small core, which is the best approximation of that rank (Eckart & Young, 1936).

The result is in canonical form: rows of ``A`` orthonormal, sizes in ``B``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from agents.adapters import LayerFactors, StackedLora


def combine(
    A: Tensor,
    B: Tensor,
    scale: Tensor,
    parents: Tensor,
    weights: Tensor,
    child_scale: Tensor,
    rank: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sums of updates at a given rank.

    Args:
        A: Down factors ``[L, N, r, in]`` of L layers of one shape.
        B: Up factors ``[L, N, out, r]``.
        scale: Scale of each adapter ``[N]``.
        parents: Which adapters each child sums ``[C, K]``.
        weights: Their weights ``[C, K]``.
        child_scale: Scale at which each child's factors are to be read ``[C]``, not 0.
        rank: Rank of the children; r by default.

    Returns:
        Factors ``[L, C, rank, in]`` and ``[L, C, out, rank]``, zero-padded where the layer itself
        has a smaller rank.
    """
    layers, _, r, width = A.shape
    children, count = parents.shape
    rank = r if rank is None else rank
    size = (weights * scale[parents])[None, :, :, None, None]
    wide_A = A[:, parents].reshape(layers, children, count * r, width)
    wide_B = (B[:, parents] * size).transpose(2, 3).flatten(-2)  # [L, C, out, K*r]
    Q_b, R_b = torch.linalg.qr(wide_B.float())
    Q_a, R_a = torch.linalg.qr(wide_A.transpose(-1, -2).float())
    U, S, Vh = torch.linalg.svd(R_b @ R_a.transpose(-1, -2), full_matrices=False)
    kept = min(rank, S.shape[-1])
    new_A = A.new_zeros(layers, children, rank, width)
    new_B = B.new_zeros(layers, children, B.shape[2], rank)
    new_A[..., :kept, :] = Vh[..., :kept, :] @ Q_a.transpose(-1, -2)
    sized = U[..., :kept] * S[..., None, :kept] / child_scale[None, :, None, None]
    new_B[..., :kept] = Q_b @ sized
    return new_A, new_B


def by_shape(lora: StackedLora) -> Iterator[list[LayerFactors]]:
    """Layers of equal shape together, so that the algebra runs over many layers at once."""
    shapes: dict[tuple[int, int], list[LayerFactors]] = {}
    for layer in lora.layers():
        shapes.setdefault((layer.A.shape[2], layer.B.shape[1]), []).append(layer)
    yield from shapes.values()


def recombine(lora: StackedLora, slots: Tensor, parents: Tensor, weights: Tensor) -> None:
    """Overwrite slots of the population by weighted sums of its members, all layers.

    All parents are read before any slot is written. A child keeps the scale of its slot.

    Args:
        lora: The population, changed in place.
        slots: Where each child goes ``[C]``.
        parents: ``[C, K]``.
        weights: ``[C, K]``.
    """
    scale = lora.alpha / lora.rank
    for group in by_shape(lora):
        A, B = torch.stack([g.A for g in group]), torch.stack([g.B for g in group])
        new_A, new_B = combine(A, B, scale, parents, weights, scale[slots])
        for i, layer in enumerate(group):
            layer.A[slots] = new_A[i]
            layer.B[slots] = new_B[i]
