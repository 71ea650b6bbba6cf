"""Products of low-rank factors on a CPU by a compiled kernel, where a C compiler is at hand.

With eight rows for each agent, a decoding step has some 300 small products, and what PyTorch needs
to begin each of them costs more than the products do. The kernel in ``native.c`` does all that
layers with one input add to their outputs in one call: it reads every factor once, and a row's
result does not depend on the rows beside it. `gram` serves the algebra of
`evolution.lowrank.algebra`.

`agents.compiled.compiling` compiles it at its first use. Where it cannot, `agents.engine.layers`
multiplies with PyTorch.

Not covered by it: gradients, other types than float32, other devices than a CPU.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agents.compiled import compiling
from agents.compiled.compiling import NativeError

_SOURCE = Path(__file__).with_name("native.c")
_SYMBOLS = tuple(
    f"populora_{name}" for name in ("block", "layers", "width", "update", "gram", "mix", "look_up")
)


class _Group(ctypes.Structure):
    _fields_ = (
        ("A", ctypes.c_void_p),
        ("A_step", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("B", ctypes.c_void_p * 3),
        ("B_step", ctypes.c_int64 * 3),
        ("outputs", ctypes.c_int64 * 3),
        ("layers", ctypes.c_int32),
        ("rank", ctypes.c_int32),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        ("tasks", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


class Factors:
    """The factors of layers that read one input, as the kernel reads them: in place.

    Args:
        A: ``[N, layers * r, in]``.
        B: Of each layer, ``[N, out, r]``, stored as ``[N, r, out]``.
    """

    def __init__(self, A: Tensor, B: Sequence[Tensor]) -> None:
        self._held = (A, *B)  # their memory is read, so they must live
        each = [0] * (3 - len(B))
        self._group = _Group(
            A.data_ptr(),
            A.stride(0),
            A.shape[2],
            (ctypes.c_void_p * 3)(*(b.data_ptr() for b in B), *each),
            (ctypes.c_int64 * 3)(*(b.stride(0) for b in B), *each),
            (ctypes.c_int64 * 3)(*(b.shape[1] for b in B), *each),
            len(B),
            A.shape[1] // len(B),
        )
        self.pointer = ctypes.addressof(self._group)


class Plan:
    """Which agent each row belongs to, cut into tasks for the threads.

    Args:
        rows: Agent of each row.
        tokens: Tokens in a row; all of them belong to its agent.
        scale: Of every agent ``[N]``.
        block: Most tokens of a task.
    """

    def __init__(self, rows: Sequence[int], tokens: int, scale: Tensor, block: int) -> None:
        agents = np.asarray(rows)
        order = np.argsort(agents, kind="stable")
        found, firsts, counts = np.unique(agents[order], return_index=True, return_counts=True)
        threads = torch.get_num_threads()
        while block > 1 and sum(-(-c * tokens // block) for c in counts.tolist()) < threads:
            block //= 2
        tasks = [
            (agent, place, min(block, (first + count) * tokens - place))
            for agent, first, count in zip(
                found.tolist(), firsts.tolist(), counts.tolist(), strict=True
            )
            for place in range(first * tokens, (first + count) * tokens, block)
        ]
        places = (order[:, None] * tokens + np.arange(tokens)).ravel()
        self._held = (
            np.array(tasks, dtype=np.int32),
            places.astype(np.int32),
            scale.to(torch.float32).numpy().copy(),
        )
        self._plan = _Plan(*(array.ctypes.data for array in self._held), len(tasks), threads)
        self.pointer = ctypes.addressof(self._plan)


class Kernel:
    """The compiled kernel.

    Attributes:
        compiler: What compiled it, such as ``GCC 12.2.0``.
        block: Most tokens of a task; see `Plan`.
    """

    def __init__(self, library: ctypes.CDLL, compiler: str) -> None:
        self.compiler = compiler
        self.block, self._layers, self._width = (
            ctypes.c_int32.in_dll(library, f"populora_{name}").value
            for name in ("block", "layers", "width")
        )
        self._update: Any = library.populora_update
        self._update.argtypes, self._update.restype = [ctypes.c_void_p] * 6, None
        self._gram: Any = library.populora_gram
        self._gram.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_int32]
        self._mix: Any = library.populora_mix
        self._mix.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 5 + [ctypes.c_void_p]
        self._look_up: Any = library.populora_look_up
        self._look_up.argtypes = [
            ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p,
        ]  # fmt: skip
        self._gram.restype = self._mix.restype = self._look_up.restype = None

    def factors(self, A: Tensor, B: Sequence[Tensor]) -> Factors | None:
        """Factors as the kernel reads them; None for those it cannot read."""
        fits = (
            len(B) <= self._layers
            and A.shape[1] <= self._width
            and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (A, *B))
            and A.is_contiguous()
            and all(b.transpose(1, 2).is_contiguous() for b in B)
        )
        return Factors(A, B) if fits else None

    def update(self, factors: Factors, plan: Plan, x: Tensor, outputs: Sequence[Tensor]) -> None:
        """Add ``scale * B A x`` to the outputs of layers that read ``x``, in place.

        Nothing is checked: shapes that disagree with factors or plan write outside of memory.

        Args:
            factors: Of these layers.
            plan: Whose each row is.
            x: ``[rows, tokens, in]``, contiguous, float32, on the CPU.
            outputs: Of each layer, ``[rows, tokens, out]``, likewise.
        """
        pointers = [output.data_ptr() for output in outputs] + [None, None]
        self._update(factors.pointer, plan.pointer, x.data_ptr(), *pointers[:3])

    def gram(self, rows: np.ndarray, n: int) -> Tensor:
        """Inner products of rows, computed in float64.

        Args:
            rows: Addresses of rows of n float32 numbers ``[M, k]``, int64, contiguous.
            n: Length of a row.

        Returns:
            ``[M, k, k]`` float64.
        """
        count, k = rows.shape
        made = torch.empty((count, k, k), dtype=torch.float64)
        self._gram(rows.ctypes.data, made.data_ptr(), count, k, n, torch.get_num_threads())
        return made

    def mix(self, rows: np.ndarray, weights: Tensor, outputs: np.ndarray, n: int) -> None:
        """Write weighted sums of rows; what a set reads may be what it writes.

        Args:
            rows: Addresses of rows of n float32 numbers ``[sets, each, k]``, int64, contiguous.
            weights: ``[sets * each, r, k]``, float32, on the CPU.
            outputs: Where the r rows of each go, one after the other: ``[sets, each]``, as rows.
            n: Length of a row.
        """
        (sets, each, k), r = rows.shape, weights.shape[1]
        room, weights = torch.empty((each, r, n)), weights.contiguous()
        self._mix(
            rows.ctypes.data, weights.data_ptr(), outputs.ctypes.data,
            sets, each, r, k, n, room.data_ptr(),
        )  # fmt: skip

    def look_up(self, out: np.ndarray, table: np.ndarray, seed: int, first: int) -> None:
        """Fill an array with entries of a table, four for each number of SplitMix64.

        Args:
            out: float32, contiguous.
            table: 65,536 of them.
            seed: Of the generator.
            first: How many of its numbers were used before.
        """
        self._look_up(out.ctypes.data, out.size, seed, first, table.ctypes.data)


def gram(rows: Tensor) -> Tensor:
    """Inner products of rows, computed in float64, by the kernel where it can.

    Args:
        rows: ``[M, k, n]``.

    Returns:
        ``[M, k, k]`` float64.
    """
    readable = rows.dtype == torch.float32 and rows.device.type == "cpu" and rows.is_contiguous()
    if readable and (made := kernel()) is not None:
        count, k, n = rows.shape
        places = np.arange(count * k, dtype=np.int64).reshape(count, k)
        return made.gram(rows.data_ptr() + places * n * rows.element_size(), n)
    exact = rows.double()
    return torch.bmm(exact, exact.transpose(1, 2))


class Stack(Protocol):
    """Factors of layers that read one input, with their place among all such."""

    place: int
    A: nn.Parameter
    B: nn.ParameterList


class NativeDispatch:
    """The kernel at work on one layout of rows; the factors' addresses are looked up once.

    Args:
        made: The kernel.
        rows: Agent of each row.
        scales: Of every agent ``[N]``.
    """

    def __init__(self, made: Kernel, rows: Sequence[int], scales: Tensor) -> None:
        self._kernel, self._rows, self._scales = made, rows, scales
        self._factors: dict[int, Factors | None] = {}
        self._plans: dict[int, Plan] = {}  # by tokens in a row

    @classmethod
    def of(cls, rows: Sequence[int], scales: Tensor) -> "NativeDispatch | None":
        """One for this layout, if there is a kernel for where its adapters are."""
        made = kernel() if scales.device.type == "cpu" else None
        return cls(made, rows, scales) if made is not None else None

    def factors(self, stack: Stack, x: Tensor) -> Factors | None:
        """The stack's factors, if the kernel can read them and ``x [rows, T, in]``."""
        if stack.place not in self._factors:
            self._factors[stack.place] = self._kernel.factors(stack.A, list(stack.B))
        readable = (
            x.dtype == torch.float32
            and x.dim() == 3
            and len(x) == len(self._rows)
            and x.is_contiguous()
        )
        return self._factors[stack.place] if readable else None

    def update(self, factors: Factors, x: Tensor, outputs: Sequence[Tensor]) -> None:
        """Add the updates to the outputs, in place; see `Kernel.update`."""
        tokens = x.shape[1]
        if tokens not in self._plans:
            self._plans[tokens] = Plan(self._rows, tokens, self._scales, self._kernel.block)
        self._kernel.update(factors, self._plans[tokens], x, outputs)


@functools.cache
def kernel() -> Kernel | None:
    """The kernel, compiled if need be; None where there is none on this machine."""
    return compiling.or_none(build, "adapters are multiplied by PyTorch")


def build() -> Kernel:
    """Compile the kernel, or load what was compiled before.

    Raises:
        NativeError: If there can be none; see `agents.compiled.compiling`.
        OSError: If files cannot be written or loaded.
        subprocess.SubprocessError: If the compiler takes too long.
    """
    made = compiling.build(_SOURCE, _SYMBOLS, Kernel)
    _prove(made)
    return made


def _prove(made: Kernel) -> None:
    """Compare the kernel with PyTorch on a small case.

    Raises:
        NativeError: If they differ.
    """
    source = torch.Generator().manual_seed(0)
    rank, wide, rows = 3, 37, (1, 0, 1, 1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source)

    A, B = draw(2, 2 * rank, wide), [draw(2, rank, out).transpose(1, 2) for out in (70, 33)]
    scale, x = torch.tensor([0.5, 2.0]), draw(len(rows), 3, wide)
    expected = [
        torch.stack([scale[a] * x[i] @ A[a, rank * n : rank * (n + 1)].T @ b[a].T
                     for i, a in enumerate(rows)])
        for n, b in enumerate(B)
    ]  # fmt: skip
    got = [torch.zeros_like(e) for e in expected]
    made.update(Factors(A, B), Plan(rows, 3, scale, made.block), x, got)
    places = np.array([[row.data_ptr() for row in own] for own in A], dtype=np.int64)
    weights, mixed = draw(2, 2, 2 * rank), torch.zeros(2, 2, wide)
    made.mix(places[None], weights, np.array([[m.data_ptr() for m in mixed]], np.int64), wide)
    expected += [torch.bmm(A.double(), A.double().transpose(1, 2)), torch.bmm(weights, A)]
    got += [made.gram(places, wide), mixed]
    if not all(
        torch.allclose(g, e, rtol=1e-4, atol=1e-4) for g, e in zip(got, expected, strict=True)
    ):
        raise NativeError("what was compiled computes something else; a fault of the compiler?")
