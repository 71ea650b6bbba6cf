"""Attention of packed rows by compiled code, forward and backward.

In a row that holds several sequences a place looks at its ancestors alone. Under a mask, PyTorch
computes all places with all others, and what is hidden costs as much as what is seen. ``trees.c``
goes from segment to segment instead, so a row may be as wide as its sequences share tokens.

What models call it for is said by `agents.learning.tree_attention`. Where it cannot be compiled,
`library` is None. In float32, on a CPU.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.compiled import compiling
from agents.compiled.compiling import NativeError

_SOURCE = Path(__file__).with_name("trees.c")
_SYMBOLS = tuple(f"populora_tree_{name}" for name in ("forward", "backward", "room", "lanes"))


class _Tree(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "places", "heads", "key_heads", "width")),
        *((name, ctypes.c_void_p) for name in ("firsts", "segments", "begins", "spans")),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
    )


class _Heads(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row", "head", "place")),
    )

    @classmethod
    def of(cls, x: Tensor) -> "_Heads":
        """``[rows, heads, places, width]``, the last axis dense."""
        return cls(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2))


class TreeLibrary:
    """The compiled code.

    Attributes:
        lanes: A head's width is a multiple of it.
    """

    def __init__(self, made: ctypes.CDLL, _: str = "") -> None:
        self.lanes = ctypes.c_int32.in_dll(made, "populora_tree_lanes").value
        self.forward: Any = made.populora_tree_forward
        self.backward: Any = made.populora_tree_backward
        self.room: Any = made.populora_tree_room
        self.forward.argtypes, self.backward.argtypes = [ctypes.c_void_p] * 6, [ctypes.c_void_p] * 9
        self.forward.restype = self.backward.restype = None
        self.room.argtypes, self.room.restype = [ctypes.c_void_p], ctypes.c_int64


@functools.cache
def library() -> TreeLibrary | None:
    """The compiled code; None where there is none on this machine."""
    return compiling.or_none(_build, "packed rows attend under a mask")


def _build() -> TreeLibrary:
    made = compiling.build(_SOURCE, _SYMBOLS, TreeLibrary)
    _prove(made)
    return made


class TreeRows:
    """Which places of packed rows look at which.

    Args:
        parents: Place of the token before each ``[R, T]``; -1 at a root. A place's descendants
            follow it without a gap, as `agents.learning.packing.Packed` has them.
        widths: Places of each row; those behind them are padding, whose attention is 0.
        made: The library; None for the one of this machine, which must be there.
    """

    def __init__(
        self, parents: np.ndarray, widths: Sequence[int], made: TreeLibrary | None = None
    ) -> None:
        found = made or library()
        assert found is not None
        self.library, self.shape = found, parents.shape
        firsts, segments, begins, spans = [0], [], [0], []
        for line, width in zip(parents, widths, strict=True):
            cuts = np.flatnonzero(line[:width] != np.arange(width) - 1).tolist()
            if not cuts or cuts[0]:
                cuts = [0, *cuts] if width else []
            start = np.repeat(cuts, np.diff([*cuts, width]))  # of each place's segment
            for first, past in zip(cuts, [*cuts[1:], width], strict=True):
                own, place = [], int(line[first])
                while place >= 0:
                    own.append((int(start[place]), place + 1))
                    place = int(line[start[place]])
                segments.append((first, past))
                spans += reversed(own)
                begins.append(len(spans))
            firsts.append(len(segments))
        self._arrays = tuple(
            np.array(values, dtype=np.int32) for values in (firsts, segments, begins, spans)
        )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention, with gradients.

        Args:
            q: Queries ``[R, H, T, width]``, float32.
            k: Keys ``[R, G, T, width]``; ``H / G`` heads of queries share one of keys.
            v: Values, likewise.
            scale: Of the scores.

        Returns:
            ``[R, T, H, width]``, dense.

        Raises:
            ValueError: If the shapes do not fit each other, these rows or the compiled code.
        """
        rows, heads, places, width = q.shape
        fits = (
            (rows, places) == self.shape
            and k.shape == v.shape == (rows, k.shape[1], places, width)
            and heads % k.shape[1] == 0
            and width % self.library.lanes == 0
            and q.dtype == k.dtype == v.dtype == torch.float32
        )
        if not fits:
            raise ValueError(
                f"queries, keys, values: got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
                f"expected float32 of {self.shape[0]} rows of {self.shape[1]} places, with heads "
                f"whose width is a multiple of {self.library.lanes}"
            )
        return _Attention.apply(q, k, v, self, scale)  # type: ignore

    def view(self, q: Tensor, k: Tensor, scale: float) -> _Tree:
        """As the compiled code reads it; valid while this object lives."""
        rows, heads, places, width = q.shape
        addresses = (array.ctypes.data for array in self._arrays)
        threads = torch.get_num_threads()
        return _Tree(rows, places, heads, k.shape[1], width, *addresses, scale, threads)


class _Attention(torch.autograd.Function):
    """Queries, keys and values are kept for the way back, where shares are made anew."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: TreeRows, scale: float) -> Tensor:
        q, k, v = (_dense(x) for x in (q, k, v))
        ctx.save_for_backward(q, k, v)
        ctx.rows, ctx.scale = rows, scale
        out = torch.zeros(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
        _call(rows.library.forward, rows, scale, (q, k, v, out.transpose(1, 2)))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        up = _dense(gradients[0].transpose(1, 2))
        # Of keys and values for each head of queries, so that no two threads add to one number.
        made = [torch.zeros(q.shape[0], q.shape[2], *q.shape[1::2]) for _ in range(3)]
        _call(
            ctx.rows.library.backward, ctx.rows, ctx.scale,
            (q, k, v, up, *(x.transpose(1, 2) for x in made)),
        )  # fmt: skip
        shared = (q.shape[0], q.shape[2], k.shape[1], -1, q.shape[3])
        of_keys = [x.view(shared).sum(3).transpose(1, 2) for x in made[1:]]
        return made[0].transpose(1, 2), *of_keys, None, None


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _call(function: Any, rows: TreeRows, scale: float, tensors: Sequence[Tensor]) -> None:
    tree = rows.view(tensors[0], tensors[1], scale)
    pointer = ctypes.addressof(tree)
    room = torch.empty(tree.threads, rows.library.room(pointer))
    heads = [_Heads.of(x) for x in tensors]
    function(pointer, *(ctypes.addressof(view) for view in heads), room.data_ptr())


def _prove(made: TreeLibrary) -> None:
    """Compare it with PyTorch under a mask on a small case.

    Raises:
        NativeError: If they differ.
    """
    source = torch.Generator().manual_seed(0)
    parents = np.array([[-1, 0, 1, 2, 1, 4, 0, -1, 7, -1], [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8]])
    seen = np.zeros((2, 1, 10, 10), dtype=bool)
    for row, place in np.ndindex(*parents.shape):
        if place < (9, 10)[row]:
            seen[row, 0, place] = seen[row, 0, parents[row, place]] & (parents[row, place] >= 0)
        seen[row, 0, place, place] = True

    def draw(heads: int) -> Tensor:
        return torch.randn(2, heads, 10, 2 * made.lanes, generator=source).requires_grad_()

    with torch.inference_mode(False), torch.enable_grad():
        given = [draw(4), draw(2), draw(2)]
        wide = [given[0], *(x.repeat_interleave(2, 1) for x in given[1:])]
        expected = torch.nn.functional.scaled_dot_product_attention(
            *wide, attn_mask=torch.from_numpy(seen), scale=0.3
        ).transpose(1, 2)
        q, k, v = given
        got = TreeRows(parents, (9, 10), made)(q, k, v, 0.3)
        up = torch.randn(got.shape, generator=source)
        up[0, 9] = 0  # padding, of which nobody asks anything
        ways = [torch.autograd.grad(out, given, up) for out in (got, expected)]
    pairs = [(got[0, :9], expected[0, :9]), (got[1], expected[1]), *zip(*ways, strict=True)]
    if not all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in pairs):
        raise NativeError("what was compiled computes something else; a fault of GCC?")
