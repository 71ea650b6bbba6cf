"""Reading and writing members of a population: stacks of layers, copies, comparisons.

Layers of equal shape are stacked so that the algebra of `evolution.lowrank` runs over many at once,
in stacks small enough for a processor's cache.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from agents.adapters import LayerFactors, StackedLora
from evolution.lanes import in_lanes
from evolution.lowrank import Compressed, compress

R = TypeVar("R")

# Numbers gathered for one stack of layers.
_STACK = {"cpu": 1 << 20, "other": 1 << 26}


@dataclass(frozen=True, slots=True)
class Layers:
    """Some layers of one shape.

    Attributes:
        index: Their places among all layers of the population ``[L]``.
        factors: Theirs, to be read and written.
        scale: Scale of each agent ``[N]``.
        ranks: Rank of each agent ``[N]``.
    """

    index: tuple[int, ...]
    factors: tuple[LayerFactors, ...]
    scale: Tensor
    ranks: Tensor

    def gather(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of some members put side by side.

        Args:
            members: ``[C, K]``, or ``[L, C, K]`` where they differ by layer.

        Returns:
            ``[L*C, K*r, in]`` and ``[L*C, out, K*r]``, float32.
        """
        each = members.expand(len(self.index), *members.shape[-2:]).flatten(1)
        some = self.factors[0]
        shape = (len(self.index), each.shape[1], some.A.shape[1])
        A = some.A.new_empty((*shape, some.A.shape[2]))
        columns = some.B.new_empty((*shape, some.B.shape[1]))
        for i, layer in enumerate(self.factors):
            torch.index_select(layer.A, 0, each[i], out=A[i])
            torch.index_select(layer.B.transpose(1, 2), 0, each[i], out=columns[i])
        whole = (len(self.index) * members.shape[-2], members.shape[-1] * shape[2], -1)
        return A.view(whole).float(), columns.view(whole).float().transpose(1, 2)

    def sizes(self, slots: Tensor, members: Tensor, weights: Tensor) -> Tensor:
        """What `compress` is to scale gathered factors by.

        Args:
            slots: Where each child goes ``[C]``.
            members: Whose updates it sums ``[C, K]`` or ``[L, C, K]``.
            weights: Their weights, of that shape.

        Returns:
            ``[L*C, K*r]`` float64, in units of the child's scale.
        """
        size = weights.double() * self.scale.double()[members] / self.scale[slots][:, None]
        whole = size.expand(len(self.index), *size.shape[-2:]).flatten(0, 1)
        return whole.repeat_interleave(self.factors[0].A.shape[1], 1)

    def each(self) -> Iterator["Layers"]:
        """These layers one by one."""
        for index, factors in zip(self.index, self.factors, strict=True):
            yield Layers((index,), (factors,), self.scale, self.ranks)

    def write(self, slots: Tensor, made: Compressed) -> Tensor:
        """Store children in their slots, with zeros beyond each one's rank.

        Args:
            slots: ``[C]``.
            made: Their factors, M = L*C.

        Returns:
            Energy that did not fit, and energy asked for, ``[2, C]``.
        """
        shape = (len(self.index), len(slots))
        rows, columns = made.A.unflatten(0, shape), made.B.unflatten(0, shape)
        own = self.ranks[slots]
        if bool((own < rows.shape[2]).any()):
            beyond = torch.arange(rows.shape[2], device=rows.device) >= own[:, None]
            rows.masked_fill_(beyond[None, :, :, None], 0.0)
            columns.masked_fill_(beyond[None, :, None, :], 0.0)
        for i, layer in enumerate(self.factors):
            layer.A[slots] = rows[i].to(layer.A.dtype)
            layer.B[slots] = columns[i].to(layer.B.dtype)
        energy = made.energy.unflatten(0, shape)
        lost = torch.arange(energy.shape[2], device=rows.device) >= own[:, None]
        return torch.stack([(energy * lost).sum((0, 2)), energy.sum((0, 2))])


def over_layers(lora: StackedLora, rows: int, work: Callable[[Layers], R]) -> list[R]:
    """Call a function on all layers of a population, stack by stack.

    Args:
        lora: The population.
        rows: Members that the function gathers from each layer; the more, the smaller the stacks.
        work: Takes a stack; may write to its layers.

    Returns:
        What it returned for each stack.
    """
    device = lora.alpha.device
    shapes: dict[tuple[int, int], list[tuple[int, LayerFactors]]] = {}
    for place, layer in enumerate(lora.layers()):
        shapes.setdefault((layer.A.shape[2], layer.B.shape[1]), []).append((place, layer))
    stacks: list[Layers] = []
    for (width, height), members in shapes.items():
        room = _STACK.get(device.type, _STACK["other"])
        each = max(1, room // (max(rows, 1) * lora.rank * (width + height)))
        for start in range(0, len(members), each):
            places, layers = zip(*members[start : start + each], strict=True)
            stacks.append(Layers(places, layers, lora.scale, lora.ranks))
    return in_lanes(work, stacks, device)


def recombine(
    lora: StackedLora, slots: ArrayLike, parents: ArrayLike, weights: ArrayLike
) -> np.ndarray:
    """Overwrite slots of the population by weighted sums of its members' updates, all layers.

    All parents are read before any slot is written. A child keeps the scale and the rank of its
    slot, and comes out in canonical form.

    Args:
        lora: The population, changed in place.
        slots: Where each child goes ``[C]``.
        parents: ``[C, K]``, or ``[layers, C, K]`` where they differ by layer.
        weights: Of that shape.

    Returns:
        Recompression error of each child: norm of what its rank could not hold over the norm of
        the sum, ``[C]``.
    """
    device = lora.alpha.device
    to, of, by = (
        torch.from_numpy(np.array(np.asarray(given))).to(device)
        for given in (slots, parents, weights)
    )

    def work(layers: Layers) -> Tensor:
        members, shares = (t[list(layers.index)] if t.ndim == 3 else t for t in (of, by))
        A, B = layers.gather(members)
        size = layers.sizes(to, members, shares)
        return layers.write(to, compress(A, B, lora.rank, size))

    return lost_share(over_layers(lora, of.shape[-2] * of.shape[-1], work))


def lost_share(energies: Sequence[Tensor]) -> np.ndarray:
    """Recompression error from what `Layers.write` returned for all stacks, ``[C]``."""
    lost, total = torch.stack(list(energies)).sum(0).cpu().numpy()
    return np.sqrt(np.divide(lost, total, out=np.zeros_like(lost), where=total > 0))


@dataclass(frozen=True, slots=True)
class Genome:
    """A copy of one member.

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


def read_genome(lora: StackedLora, slot: int) -> Genome:
    """Copy a member."""
    return _genome(lora, slot, copied=True)


def view_genome(lora: StackedLora, slot: int) -> Genome:
    """A member as it is at any time: its tensors are the population's own."""
    return _genome(lora, slot, copied=False)


def _genome(lora: StackedLora, slot: int, copied: bool) -> Genome:
    pairs = ((layer.A[slot], layer.B[slot]) for layer in lora.layers())
    factors = tuple((A.clone(), B.clone()) if copied else (A, B) for A, B in pairs)
    return Genome(float(lora.alpha[slot]), float(lora.scale[slot]), int(lora.ranks[slot]), factors)


def write_genome(lora: StackedLora, slot: int, genome: Genome) -> float:
    """Put a copy into a slot of the population it came from.

    Into a slot of its own rank it goes number by number, with its alpha; into another, as the best
    update of that rank.

    Returns:
        Recompression error; 0 of a copy.
    """
    if int(lora.ranks[slot]) == genome.rank:
        lora.set_alpha(slot, genome.alpha)
        size = 1.0
    else:
        size = genome.scale / float(lora.scale[slot])
    for layer, (A, B) in zip(lora.layers(), genome.factors, strict=True):
        layer.A[slot], layer.B[slot] = A, B * size
    if int(lora.ranks[slot]) == genome.rank:
        return 0.0
    return float(recombine(lora, [slot], [[slot]], [[1.0]])[0])


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
