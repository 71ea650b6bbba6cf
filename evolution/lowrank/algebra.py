"""Exact algebra on low-rank updates.

An adapter's update is ``dW = scale * B @ A``. Averaging ``A`` and ``B`` separately is not averaging
updates, so everything here acts on ``dW``: a weighted sum of K updates of rank r is the
concatenation of their factors, of rank K*r, brought back to rank r, which is best done by the
singular value decomposition (Eckart & Young, 1936).

Canonical form: the rows of ``A`` are orthonormal, the columns of ``B`` are orthogonal and sorted
from large to small: ``A`` holds the right singular vectors, ``B`` the left ones times the singular
values over the scale. Where an update has fewer than r components, the columns of ``B`` are zero
and the rows of ``A`` are filled up to an orthonormal set: rows of zeros under columns of zeros
would never receive a gradient, nor noise. An agent of smaller rank keeps zeros beyond it.

Nothing of the size of a weight matrix is formed: the factors' Gram matrices say all there is to
know, and the rest is on matrices of K*r by K*r. A Gram matrix has the square of its factor's
condition, so it is taken in float64. Factors of lower precision are computed with in float32 and
stored as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from agents.compiled.native import gram
from populora_env.keys import generator

# Components below this share of the largest possible energy (squared norm) are rounding errors.
_NOTHING = 1e-11


@dataclass(frozen=True, slots=True)
class Compressed:
    """Updates brought to a rank.

    Attributes:
        A: ``[M, rank, in]``, canonical.
        B: ``[M, out, rank]``.
        energy: Squared singular values of what was asked for, from large to small, ``[M, k]``
            float64; those past the rank were lost.
    """

    A: Tensor
    B: Tensor
    energy: Tensor


def joined(parts: Sequence[Compressed]) -> Compressed:
    """Several put one after the other; their ranks and shapes are the same."""
    return Compressed(
        torch.cat([part.A for part in parts]),
        torch.cat([part.B for part in parts]),
        torch.cat([part.energy for part in parts]),
    )


def compress(A: Tensor, B: Tensor, rank: int, size: Tensor | None = None) -> Compressed:
    """Best approximations of ``B @ diag(size) @ A`` at a rank, in canonical form.

    With ``G = L L^T`` the Gram matrix of the rows of ``A``, the right singular vectors of the
    product are ``A^T L^-T y`` for the eigenvectors ``y`` of ``L^T B^T B L``. Rows are first scaled
    to length 1. Dependent rows are harmless: ``L^-T y`` is taken as ``B^T B L y`` over the
    eigenvalue, which needs no inverse.

    Args:
        A: ``[M, k, in]`` float32.
        B: ``[M, out, k]`` float32.
        rank: Rank of the results; zeros fill up what the matrix itself has no room for.
        size: ``[M, k]``; 1 by default.

    Returns:
        Results; NaN where a factor is not finite.
    """
    columns = B.transpose(1, 2)
    found = solve(gram(A), gram(columns), min(rank, A.shape[1], A.shape[2], B.shape[1]), size)
    new_A = torch.bmm(found.to_A.to(A.dtype), A)
    new_B = torch.bmm(found.to_B.to(B.dtype), columns)
    if (short := rank - new_A.shape[1]) > 0:
        new_A, new_B = (functional.pad(t, (0, 0, 0, short)) for t in (new_A, new_B))
    _fill_up(new_A, found.known)
    if found.broken.any():
        new_A[found.broken] = new_B[found.broken] = float("nan")
    return Compressed(new_A, new_B.transpose(1, 2), found.energy)


def inner_products(A: Tensor, B: Tensor) -> Tensor:
    """Frobenius inner products of the updates ``B @ A`` of one layer, ``[N, N]``.

    Args:
        A: ``[N, r, in]``.
        B: ``[N, out, r]``.
    """
    size, rank = A.shape[:2]
    rows = A.flatten(0, 1) @ A.flatten(0, 1).T
    columns = B.transpose(1, 2).flatten(0, 1) @ B.transpose(1, 2).flatten(0, 1).T
    return (rows * columns).view(size, rank, size, rank).sum((1, 3))


@dataclass(frozen=True, slots=True)
class Solution:
    """What rows of factors are to be multiplied by, which their inner products say; see `compress`.

    Attributes:
        to_A: Makes the new rows of ``A`` of the given ones, ``[M, kept, k]`` float64.
        to_B: Makes the new columns of ``B`` of the given ones, likewise.
        energy: As in `Compressed`.
        known: How many of the new rows there are, ``[M]``; those past it are zero.
        broken: Where a factor is not finite, ``[M]``; what is made of it must be NaN.
    """

    to_A: Tensor
    to_B: Tensor
    energy: Tensor
    known: Tensor
    broken: Tensor


def solve(rows: Tensor, columns: Tensor, kept: int, size: Tensor | None) -> Solution:
    """Find the best approximations of products from the inner products of their factors.

    Args:
        rows: Of the rows of ``A``, ``[M, k, k]`` float64; overwritten.
        columns: Of the columns of ``B``, likewise.
        kept: Components to keep.
        size: As for `compress`.
    """
    k = rows.shape[1]
    length = rows.diagonal(dim1=1, dim2=2).sqrt()
    inverse = torch.where(length > 0, 1 / length, 0.0)
    weight = length if size is None else length * size
    rows *= inverse[:, :, None] * inverse[:, None, :]
    columns *= weight[:, :, None] * weight[:, None, :]
    broken = ~torch.isfinite(rows.sum((1, 2)) + columns.sum((1, 2)))
    if broken.any():
        rows[broken] = columns[broken] = 0.0
    rows.diagonal(dim1=1, dim2=2).add_(4e-15 * k)
    lower = torch.linalg.cholesky_ex(rows).L
    energy, mix = _directions(lower, columns, kept)
    return Solution(
        (mix * inverse[:, :, None]).transpose(1, 2),
        ((rows @ mix) * weight[:, :, None]).transpose(1, 2),
        energy,
        (energy[:, :kept] > 0).sum(1),
        broken,
    )


def _directions(lower: Tensor, gram_B: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Squared singular values ``[M, k]``, and what the first right vectors are made of.

    The latter, ``[M, k, kept]``, are the coefficients of the rows of length 1 of ``A``.
    """
    right = gram_B @ lower
    values, vectors = torch.linalg.eigh(lower.transpose(1, 2) @ right)
    nothing = _NOTHING * gram_B.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    energy = torch.where(values > nothing, values, 0.0).flip(1)
    first = energy[:, None, :kept]
    last = vectors[..., vectors.shape[2] - kept :].flip(2)  # of the largest values, which come last
    return energy, (right @ last).mul_(torch.where(first > 0, 1 / first, 0.0))


def _fill_up(A: Tensor, known: Tensor) -> None:
    """Complete the first rows of each ``A [M, r, in]`` to an orthonormal set, in place."""
    rows = min(A.shape[1:])
    short = (known < rows).nonzero()[:, 0]
    if not len(short):
        return
    drawn = generator("basis", rows, A.shape[2]).standard_normal((rows, A.shape[2]))
    missing = torch.arange(rows, device=A.device) >= known[short, None]
    filled = torch.where(missing[..., None], torch.from_numpy(drawn).to(A), A[short, :rows])
    # The known rows come first, so they are the first columns of Q, up to their sign.
    Q, upper = torch.linalg.qr(filled.transpose(1, 2))
    sign = torch.sign(upper.diagonal(dim1=1, dim2=2))
    completed = (Q * sign[:, None]).transpose(1, 2)
    A[short, :rows] = torch.where(missing[..., None], completed, A[short, :rows])
