"""Packing token sequences into rows that hold what sequences share only once.

A row is a tree of tokens, written depth first: sequences that begin alike share those places, and
a place looks at its ancestors alone. What a place computes depends on nothing else, so hidden
states, probabilities and gradients are those of each sequence by itself. The opening of a chat
template, a prompt that was answered several times, and replies that begin alike are computed once
per row. That is tree attention (SpecInfer, Miao et al., 2023, arXiv:2305.09781).

A row belongs to one agent. Rows of similar width form a batch, whatever agents they are of, so no
row is there only to fill up a grid.

Nothing here needs torch or a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# Per token, attention over w places costs w / (ATTENTION * width) of what the linear layers cost
# (measured forward and backward on a CPU at width 576; by operations alone it would be 6).
ATTENTION = 2.0
# The same beside products in int8, which cost a quarter: of 2, 0.6, 0.2 and 0.05 the fastest.
ATTENTION_INT8 = 0.6
# Where attention goes by the tree, it costs the same in a row of any width.
ATTENTION_TREE = float("inf")
# What a batch costs besides its places, in places; keeps batches from being tiny.
OVERHEAD = 64


@dataclass(frozen=True, slots=True)
class Row:
    """Sequences of one agent that share a row.

    Attributes:
        agent: Whose they are.
        members: Their indices, in lexicographic order of their tokens.
        width: Tokens in the row, shared ones counted once.
    """

    agent: int
    members: tuple[int, ...]
    width: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are computed together, by agent.

    Attributes:
        rows: At least one.
    """

    rows: tuple[Row, ...]

    @property
    def width(self) -> int:
        """Places of every row; narrower rows are padded."""
        return max(row.width for row in self.rows)

    @property
    def cells(self) -> int:
        """Places computed, padding included."""
        return self.width * len(self.rows)


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch written out; R rows of T places.

    Attributes:
        ids: Token ids ``[R, T]``, 0 in padding.
        positions: Depth of each place in its tree, which is its position in every sequence it is
            part of, ``[R, T]``.
        parents: Place of the token before, ``[R, T]``; -1 at a root.
        ends: Place t is looked at by the places from t to ``ends - 1``, ``[R, T]``.
        places: Sequence to its row and the place of each of its tokens.
        causal: Whether every place looks at all before it, as in ordinary rows.
    """

    ids: np.ndarray
    positions: np.ndarray
    parents: np.ndarray
    ends: np.ndarray
    places: Mapping[int, tuple[int, np.ndarray]] = field(hash=False)
    causal: bool

    def visible(self) -> np.ndarray:
        """Which places (last axis) each place looks at, ``[R, T, T]``."""
        at = np.arange(self.ids.shape[1])
        return (at[None, None, :] <= at[:, None]) & (at[:, None] < self.ends[:, None, :])


def plan(
    sequences: Sequence[Sequence[int]],
    agents: Sequence[int],
    budget: int,
    *,
    width: int = 576,
    attention: float = ATTENTION,
    only: Sequence[int] | None = None,
) -> list[Batch]:
    """Arrange sequences in rows and batches.

    A sequence joins a row while the tokens it shares with it outweigh attention over more places.

    Args:
        sequences: Token ids of each sequence, at least one token, ``[M]``.
        agents: Whose each one is, ``[M]``.
        budget: Most places of a batch, padding included; one sequence that is longer gets a batch
            of its own.
        width: Width of the model, which decides what attention costs beside linear layers.
        attention: What attention costs, likewise; see `ATTENTION`.
        only: Indices of the sequences to arrange; all by default.

    Returns:
        Batches, widest rows first; every sequence to arrange is in exactly one row.

    Raises:
        ValueError: If the lengths differ, a sequence is empty, or the budget is below 1.
    """
    if len(sequences) != len(agents):
        raise ValueError(
            f"agents: got {len(agents)}, expected one for each of the {len(sequences)} sequences"
        )
    if budget < 1:
        raise ValueError(f"budget: got {budget}, expected at least 1 token")
    if empty := [i for i, sequence in enumerate(sequences) if not len(sequence)]:
        raise ValueError(f"sequences[{empty[0]}]: expected at least 1 token, got none")
    rows: list[Row] = []
    chosen = range(len(sequences)) if only is None else only
    for agent in sorted({agents[i] for i in chosen}):
        mine = {i: tuple(sequences[i]) for i in chosen if agents[i] == agent}
        rows += _rows(agent, mine, budget, attention * width)
    rows.sort(key=lambda row: -row.width)
    return [Batch(tuple(sorted(group, key=lambda row: row.agent))) for group in _cut(rows, budget)]


def pack(batch: Batch, sequences: Sequence[Sequence[int]]) -> Packed:
    """Write a batch out.

    Args:
        batch: One of `plan`'s for these sequences.
        sequences: The same as there.
    """
    shape = (len(batch.rows), batch.width)
    ids, parents = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    # Padding goes on counting, as in ordinary rows, and looks at itself.
    positions = np.tile(np.arange(batch.width), (len(batch.rows), 1))
    ends = positions + 1
    places: dict[int, tuple[int, np.ndarray]] = {}
    causal = True
    for r, row in enumerate(batch.rows):
        path: list[int] = []  # places of the last sequence's tokens
        last: Sequence[int] = ()
        used = 0
        for member in row.members:
            sequence = sequences[member]
            shared = _common(last, sequence)
            ends[r, path[shared:]] = used
            causal = causal and shared == len(path)
            new = list(range(used, used + len(sequence) - shared))
            if new:
                ids[r, new] = sequence[shared:]
                positions[r, new] = range(shared, len(sequence))
                parents[r, new] = [path[shared - 1] if shared else -1, *new[:-1]]
            path = [*path[:shared], *new]
            places[member] = (r, np.array(path))
            used, last = used + len(new), sequence
        ends[r, path] = used
    return Packed(ids, positions, parents, ends, places, causal)


def _rows(
    agent: int, sequences: Mapping[int, tuple[int, ...]], budget: int, attention: float
) -> list[Row]:
    """Fill one agent's rows in lexicographic order, in which neighbours share most."""
    rows: list[Row] = []
    last: tuple[int, ...] = ()
    for i in sorted(sequences, key=lambda i: (sequences[i], i)):
        sequence = sequences[i]
        length, shared = len(sequence), _common(last, sequence)
        row = rows[-1] if rows else Row(agent, (), 0)
        width = row.width + length - shared
        # Rows cost w + w * w / attention: what is shared is saved, attention sees more places.
        dearer = (width**2 - row.width**2 - length**2) / attention
        if rows and width <= budget and shared > dearer:
            rows[-1] = Row(agent, (*row.members, i), width)
        else:
            rows.append(Row(agent, (i,), length))
        last = sequence
    return rows


def _cut(rows: Sequence[Row], budget: int) -> list[Sequence[Row]]:
    """Cut rows, widest first, into runs within the budget that pad least (dynamic programming)."""
    cost, start = [0], [0]  # of the first n rows: least cost, and where their last run begins
    for end in range(1, len(rows) + 1):
        best = (cost[end - 1] + rows[end - 1].width + OVERHEAD, end - 1)
        for first in range(end - 2, -1, -1):
            cells = rows[first].width * (end - first)
            if cells > budget:
                break
            best = min(best, (cost[first] + cells + OVERHEAD, first))
        cost.append(best[0])
        start.append(best[1])
    runs: list[Sequence[Row]] = []
    end = len(rows)
    while end:
        runs.append(rows[start[end] : end])
        end = start[end]
    return runs[::-1]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences share from the first."""
    limit = min(len(first), len(second))
    return next((i for i in range(limit) if first[i] != second[i]), limit)
