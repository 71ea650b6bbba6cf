"""Crossovers on singular components: which ones a child takes, and ways between subspaces.

The parents' updates are first brought to canonical form (see `evolution.lowrank.algebra`), in which
the rows of ``A`` are right singular vectors and the columns of ``B`` left ones with their sizes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from evolution.lowrank.algebra import compress
from evolution.lowrank.layers import LayerStack, lost_share, over_layers
from evolution.operators.crossover_step import CROSSOVERS, CrossoverStep, number, rounded, shares


@CROSSOVERS.add("subspace_split", share=(0, 1))
def subspace_split(
    lora: StackedLora, step: CrossoverStep, *, share: float = 0.5
) -> list[dict[str, Any]]:
    """Each singular component from one parent: the i-th largest of one or of another.

    Args:
        lora: The population.
        step: Children and parents.
        share: Chance of the best parent, for each component; the others share the rest.
    """
    count, parents = step.parents.shape
    chances = shares(parents, share)
    names = [layer.name for layer in lora.layers()]

    def split(layers: LayerStack, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        drawn = np.array(
            [
                [step.generator(i, names[at]).choice(parents, lora.rank, p=chances)
                 for i in range(count)]
                for at in layers.index
            ]
        )  # fmt: skip
        which = torch.from_numpy(drawn).to(A.device).flatten(0, 1)[:, None]
        rows = which[..., None].expand(-1, -1, -1, A.shape[3])
        columns = which[:, :, None].expand(-1, -1, B.shape[2], -1)
        return A.gather(1, rows)[:, 0], B.gather(1, columns)[:, 0]

    return _on_canonical(lora, step, split)


@CROSSOVERS.add("subspace_interpolation", share=(0, 1))
def subspace_interpolation(
    lora: StackedLora, step: CrossoverStep, *, share: float = 0.5
) -> list[dict[str, Any]]:
    """Low-rank interpolation: along the geodesic between the subspaces that parents read.

    The row spaces of two updates are aligned by their principal vectors (the orthogonal Procrustes
    problem; Bjorck & Golub, 1973). Each pair of principal vectors is turned into another by
    spherical interpolation, and what the parents make of the pair is interpolated with it. Nothing
    has to be cut off: the child has the parents' rank. Further parents are met one after the other.

    Args:
        lora: The population.
        step: Children and parents.
        share: Weight of the best parent; the others share the rest.
    """
    parents = step.parents.shape[1]
    weights = shares(parents, share)

    def interpolate(layers: LayerStack, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        del layers
        rows, columns = A[:, 0], B[:, 0]
        for k in range(1, parents):
            before = weights[: k + 1].sum()
            part = weights[k] / before if before > 0 else 1.0
            rows, columns = _turn(rows, columns, A[:, k], B[:, k], float(part))
        return rows, columns

    made = _on_canonical(lora, step, interpolate)
    return [{"weights": rounded(weights), **entry} for entry in made]


def _turn(
    rows: Tensor, columns: Tensor, other_rows: Tensor, other_columns: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """Go the way from one update (step 0) to another (step 1), see `subspace_interpolation`."""
    inner = rows.double() @ other_rows.double().transpose(1, 2)
    P, cosine, Qh = torch.linalg.svd(torch.nan_to_num(inner))
    angle = torch.arccos(cosine.clamp(max=1.0))
    sine = torch.sin(angle)
    far = angle > 1e-6  # closer pairs are the same to float32, and 0/0
    one = torch.where(far, torch.sin((1 - step) * angle) / sine, 1 - step)
    two = torch.where(far, torch.sin(step * angle) / sine, step)
    left, right = (P * one[:, None]).to(rows), (Qh.transpose(1, 2) * two[:, None]).to(rows)
    turned = left.transpose(1, 2) @ rows + right.transpose(1, 2) @ other_rows
    aligned, met = P.to(rows), Qh.transpose(1, 2).to(rows)
    return turned, (1 - step) * (columns @ aligned) + step * (other_columns @ met)


def _on_canonical(
    lora: StackedLora,
    step: CrossoverStep,
    make: Callable[[LayerStack, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> list[dict[str, Any]]:
    """Make children from their parents' canonical factors.

    Args:
        lora: The population.
        step: Children and parents.
        make: Takes layers and, in units of the children, the parents' ``A [M, K, r, in]`` and
            ``B [M, K, out, r]``; returns children's ``[M, r, in]`` and ``[M, out, r]``.
    """
    slots = torch.as_tensor(step.slots, device=lora.alpha.device)
    parents = torch.as_tensor(step.parents, device=lora.alpha.device)
    count, each = parents.shape

    def work(layers: LayerStack) -> Tensor:
        alone = parents.reshape(-1, 1)
        A, B = layers.gather(alone)
        ones = torch.ones(alone.shape, device=A.device)
        size = layers.sizes(slots.repeat_interleave(each), alone, ones)
        own = compress(A, B, lora.rank, size)
        made = make(layers, own.A.unflatten(0, (-1, each)), own.B.unflatten(0, (-1, each)))
        return layers.write(slots, compress(*made, lora.rank))

    step.is_canonical = True
    errors = lost_share(over_layers(lora, count * each, work))
    return [{"recompression_error": number(error)} for error in errors]
