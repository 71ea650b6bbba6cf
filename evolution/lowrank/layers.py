"""Weighted sums of members' updates, all layers of a population at once.

Layers of equal shape are stacked so that the algebra of `evolution.lowrank.algebra` runs over many
at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.autograd.graph import increment_version

from agents.compiled import native
from agents.engine.adapters import LayerFactors, StackedLora
from evolution.lowrank.algebra import Compressed, compress, solve
from evolution.lowrank.parallel import parallel_map

R = TypeVar("R")

# Numbers gathered for one stack of layers.
_STACK = {"cpu": 1 << 22, "other": 1 << 26}


@dataclass(frozen=True, slots=True)
class LayerStack:
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

    def each(self) -> Iterator["LayerStack"]:
        """These layers one by one."""
        for index, factors in zip(self.index, self.factors, strict=True):
            yield LayerStack((index,), (factors,), self.scale, self.ranks)

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
        return self._energies(slots, made.energy)

    def recombine(self, slots: Tensor, members: Tensor, weights: Tensor, rank: int) -> Tensor:
        """Make children of weighted sums of members' updates in their slots; see `recombine`.

        On a CPU the compiled kernel reads and writes factors where they are.

        Args:
            slots: ``[C]``.
            members: ``[C, K]`` or ``[L, C, K]``.
            weights: Of that shape.
            rank: Of the population.

        Returns:
            As from `write`.
        """
        size = self.sizes(slots, members, weights)
        kernel = native.kernel()
        stacks = self._stacks() if kernel is not None else None
        if kernel is not None and stacks is not None:
            given = [stack.rows(self._each(members)) for stack in stacks]
            k = given[0].shape[2]
            inner, outer = (
                kernel.gram(rows.reshape(-1, k), stack.n)
                for rows, stack in zip(given, stacks, strict=True)
            )
            found = solve(inner, outer, min(rank, k, *(stack.n for stack in stacks)), size)
            if bool((found.known == rank).all()):  # no rows are to be filled up
                to = self._each(slots[:, None])
                beyond = torch.arange(rank) >= self.ranks[slots].repeat(len(self.index))[:, None]
                for stack, rows, by in zip(stacks, given, (found.to_A, found.to_B), strict=True):
                    by = by.float().masked_fill_(beyond[:, :, None], 0.0)
                    kernel.mix(rows, by, stack.rows(to)[:, :, 0].copy(), stack.n)
                increment_version(t for f in self.factors for t in (f.A, f.B))
                return self._energies(slots, found.energy)
        A, B = self.gather(members)
        return self.write(slots, compress(A, B, rank, size))

    def _energies(self, slots: Tensor, energy: Tensor) -> Tensor:
        """Energy beyond each child's rank, and all of it, ``[2, C]``; given ``[L*C, k]``."""
        each = energy.unflatten(0, (len(self.index), len(slots)))
        lost = torch.arange(each.shape[2], device=each.device) >= self.ranks[slots][:, None]
        return torch.stack([(each * lost).sum((0, 2)), each.sum((0, 2))])

    def _each(self, members: Tensor) -> np.ndarray:
        """Members ``[C, K]`` or ``[L, C, K]`` for every layer, ``[L, C, K]``.

        Raises:
            IndexError: If one is not in the population.
        """
        each = members.expand(len(self.index), *members.shape[-2:]).numpy()
        if each.size and not 0 <= each.min() <= each.max() < len(self.scale):
            raise IndexError(f"members: {each.min()} to {each.max()} are not all in the population")
        return each

    def _stacks(self) -> list["_Stack"] | None:
        """Where these layers' ``A`` and ``B`` lie, if the compiled kernel can read them there."""
        stacks: list[_Stack] = []
        for tensors in ([f.A for f in self.factors], [f.B.transpose(1, 2) for f in self.factors]):
            rank, n = tensors[0].shape[1:]
            for t in tensors:
                if t.dtype != torch.float32 or t.stride()[1:] != (n, 1) or t.device.type != "cpu":
                    return None
            starts = np.array([t.data_ptr() for t in tensors], dtype=np.int64)
            steps = np.array([t.stride(0) for t in tensors], dtype=np.int64)
            stacks.append(_Stack(starts, 4 * steps, rank, n))
        return stacks


@dataclass(frozen=True, slots=True)
class _Stack:
    """Where one factor of some layers lies in memory.

    Attributes:
        starts: Addresses ``[L]``.
        steps: Bytes from one agent to the next ``[L]``.
        rank: Rows of each agent.
        n: Length of a row.
    """

    starts: np.ndarray
    steps: np.ndarray
    rank: int
    n: int

    def rows(self, members: np.ndarray) -> np.ndarray:
        """Addresses of the rows of members ``[L, C, K]``, ``[L, C, K*rank]``."""
        first = self.starts[:, None, None] + members * self.steps[:, None, None]
        rows = first[..., None] + 4 * self.n * np.arange(self.rank, dtype=np.int64)
        return rows.reshape(*members.shape[:2], -1)


def over_layers(lora: StackedLora, rows: int, work: Callable[[LayerStack], R]) -> list[R]:
    """Call a function on all layers of a population, stack by stack.

    Args:
        lora: The population.
        rows: Members that the function gathers from each layer; the more, the smaller the stacks.
        work: Takes a stack; may write to its layers.

    Returns:
        What it returned for each stack.
    """
    device = lora.alpha.device
    layers = list(lora.layers())
    shapes = [(layer.A.shape[2], layer.B.shape[1]) for layer in layers]
    room = _STACK.get(device.type, _STACK["other"])
    stacks = [
        LayerStack(tuple(places), tuple(layers[p] for p in places), lora.scale, lora.ranks)
        for places in in_stacks(range(len(layers)), shapes, max(rows, 1) * lora.rank, room)
    ]
    return parallel_map(work, stacks, device)


def in_stacks(
    places: Sequence[int], shapes: Sequence[tuple[int, int]], rows: int, room: int
) -> Iterator[list[int]]:
    """Layers of one shape put together, as many as there is room for.

    Args:
        places: Of the layers.
        shapes: Of their updates, in the same order: inputs and outputs.
        rows: Rows of ``A``, and columns of ``B``, that are gathered from each.
        room: Numbers that one stack may hold, if it is not of a single layer.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for place, shape in zip(places, shapes, strict=True):
        alike.setdefault(shape, []).append(place)
    for (width, height), own in alike.items():
        each = max(1, room // (rows * (width + height)))
        for start in range(0, len(own), each):
            yield own[start : start + each]


def update_norms(lora: StackedLora) -> np.ndarray:
    """Frobenius norm of each member's update over all layers, ``[N]``.

    ``|B A|^2`` is the sum over entries of ``(B^T B) * (A A^T)``, which are r x r.
    """
    squares = np.zeros(lora.size)
    for layer in lora.layers():
        A, B = layer.A.double(), layer.B.double()
        inner, outer = A @ A.transpose(1, 2), B.transpose(1, 2) @ B
        squares += (inner * outer).sum((1, 2)).cpu().numpy()
    return lora.scale.double().cpu().numpy() * np.sqrt(np.maximum(squares, 0.0))


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

    def work(layers: LayerStack) -> Tensor:
        members, shares = (t[list(layers.index)] if t.ndim == 3 else t for t in (of, by))
        return layers.recombine(to, members, shares, lora.rank)

    return lost_share(over_layers(lora, of.shape[-2] * of.shape[-1], work))


def lost_share(energies: Sequence[Tensor]) -> np.ndarray:
    """Recompression error from what `LayerStack.write` returned for all stacks, ``[C]``."""
    lost, total = torch.stack(list(energies)).sum(0).cpu().numpy()
    return np.sqrt(np.divide(lost, total, out=np.zeros_like(lost), where=total > 0))
