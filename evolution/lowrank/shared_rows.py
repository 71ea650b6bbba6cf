"""Updates written in rows that all members share.

With one ``A`` for all, sums of updates are sums of ``B`` and exact (FFA-LoRA, Sun et al., 2024,
arXiv:2403.12313). What factors a member anew gives it other rows; where these span what the shared
ones do, its update is brought back to them without loss.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora


def rows_of(lora: StackedLora, slot: int) -> list[Tensor]:
    """Copies of a member's rows ``A [r, in]`` of all layers."""
    return [layer.A[slot].clone() for layer in lora.layers()]


def are_shared(lora: StackedLora, slots: Sequence[int] | None = None) -> bool:
    """Whether some members, or all, have one rank and the same rows ``A``, number by number."""
    own = slice(None) if slots is None else list(slots)
    same = bool((lora.ranks[own] == lora.ranks[own][0]).all())
    return same and all(bool(A.eq(A[:1]).all()) for A in (layer.A[own] for layer in lora.layers()))


def bring_back(lora: StackedLora, slots: Sequence[int], rows: Sequence[Tensor]) -> np.ndarray:
    """Write members' updates in given rows, as near as these allow.

    Args:
        lora: The population, changed in place.
        slots: Who is written; one that has the rows stays as it is.
        rows: ``A [r, in]`` of all layers.

    Returns:
        Norm of what the rows could not hold over the norm of the update, ``[slots]``.
    """
    lost, whole = np.zeros((2, len(slots)))
    for layer, wanted in zip(lora.layers(), rows, strict=True):
        R = wanted.double()
        back = R.T @ torch.linalg.pinv(R @ R.T, hermitian=True)  # [in, r]
        for place, slot in enumerate(slots):
            A, B = layer.A[slot], layer.B[slot]
            if torch.equal(A, wanted):
                continue
            old, columns = A.double(), B.double()
            turned = old @ back
            missed, inner = old - turned @ R, columns.T @ columns
            lost[place] += float(((missed @ missed.T) * inner).sum().clamp(min=0))
            whole[place] += float(((old @ old.T) * inner).sum())
            B.copy_(columns @ turned)
            A.copy_(wanted)
    return np.sqrt(np.divide(lost, whole, out=np.zeros_like(lost), where=whole > 0))
