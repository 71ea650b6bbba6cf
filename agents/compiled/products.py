"""Products of rows with a frozen weight, compiled for this processor, in three precisions.

What is computed for a row does not depend on the rows beside it, nor on the threads, to the last
bit. So what is multiplied in decoding, row by row, and in learning, thousands at a time, is the
same. ``products.h`` says how a weight is laid out and multiplied.

Where there is no GCC, or the processor lacks the instructions, `library` or `precisions` says so,
and `agents.loading.linear` multiplies with oneDNN.
"""

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.compiled import compiling
from agents.compiled.compiling import NativeError

PRECISIONS = ("float32", "bfloat16", "int8")
_SOURCE = Path(__file__).with_name("forward.c")
_SYMBOLS = tuple(
    f"populora_{name}"
    for name in (
        "forward", "product", "gradient", "choose", "columns", "lanes", "width", "chunk", "heads",
        "keys", "together", "precisions", "has_gradient", "matrices",
    )
)  # fmt: skip
_OFFSET = 128  # of int8 weights: one side of the instruction has no sign


class WeightView(ctypes.Structure):
    """A weight as the compiled code reads it; see ``Weight`` in ``products.h``."""

    _fields_ = (
        ("panels", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("precision", ctypes.c_int32),
    )


class Library:
    """The compiled code, with what it says of itself.

    Attributes:
        columns: Outputs of a panel.
        lanes: float32 numbers in a register.
        width: Most ranks of all adapters of one input.
        chunk: Tokens, or rows, that are taken at once.
        heads: Of queries that attention takes together.
        keys: Likewise.
        together: Inputs that one instruction takes, by precision.
        precisions: Names of those that this processor can multiply in.
        differentiates: Whether it has `Panels.gradient`.
    """

    def __init__(self, library: ctypes.CDLL, _: str = "") -> None:
        def number(name: str) -> int:
            return ctypes.c_int32.in_dll(library, f"populora_{name}").value

        self.columns, self.lanes, self.width = number("columns"), number("lanes"), number("width")
        self.chunk, self.heads, self.keys = number("chunk"), number("heads"), number("keys")
        self.together = {"float32": 1, "bfloat16": 2, "int8": number("together")}
        had, self.differentiates = number("precisions"), bool(number("has_gradient"))
        self.precisions = tuple(name for i, name in enumerate(PRECISIONS) if had >> i & 1)
        self._matrices = ctypes.c_int32.in_dll(library, "populora_matrices")
        self._has_matrices = bool(self._matrices.value)
        pointer, long, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
        self.forward: Any = library.populora_forward
        self.forward.argtypes = [pointer, pointer]
        self.product: Any = library.populora_product
        self.product.argtypes = [pointer, pointer, long, *[pointer] * 4, short]
        self.gradient: Any = library.populora_gradient
        self.gradient.argtypes = [pointer, pointer, long, pointer, pointer, short]
        self.choose: Any = library.populora_choose
        self.choose.argtypes = [
            pointer, long, long, pointer, pointer, pointer, short,
        ]  # fmt: skip
        for function in (self.forward, self.product, self.gradient, self.choose):
            function.restype = None

    @property
    def matrices(self) -> bool:
        """Whether products and gradients go by AMX; may be set to False, and back.

        Products in int8 are the same either way, to the last bit; those in bfloat16, and gradients,
        differ in their last bits. float32 has nothing of it.
        """
        return bool(self._matrices.value)

    @matrices.setter
    def matrices(self, wanted: bool) -> None:
        self._matrices.value = wanted and self._has_matrices

    def halves(self, precision: str) -> bool:
        """Whether a pass in this precision keeps keys and values in bfloat16; else in float32."""
        return precision != "float32" and "bfloat16" in self.precisions


@functools.cache
def library() -> Library | None:
    """The compiled code; None where there is none on this machine."""
    return compiling.or_none(_build, "the base is multiplied by PyTorch")


def _build() -> Library:
    made = compiling.build(_SOURCE, _SYMBOLS, Library)
    _prove(made)
    return made


def multiplies(precision: str) -> bool:
    """Whether this processor has compiled products in this precision."""
    made = library()
    return made is not None and precision in made.precisions


@dataclass(frozen=True, slots=True)
class Panels:
    """A frozen weight, laid out for the compiled products.

    Attributes:
        precision: Of the products.
        data: Panels of `Library.columns` outputs; see ``products.h``.
        scales: Of each output, for int8, filled up to whole panels.
        bias: Of each output, likewise; None for none.
        inputs: Width of a row.
        outputs: Of the result.
    """

    precision: str
    data: Tensor
    scales: Tensor | None
    bias: Tensor | None
    inputs: int
    outputs: int

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        precision: str = "float32",
        scales: Tensor | None = None,
        made: Library | None = None,
    ) -> "Panels":
        """Lay out a weight.

        Args:
            weight: ``[out, in]``; for int8 the integers, of which each output has a scale. With a
                multiple of 64 inputs they are of a turned weight (`agents.loading.int8.turn`).
            bias: ``[out]`` float32.
            precision: Of the products.
            scales: ``[out]`` float32, for int8 only.
            made: The library; None for the one of this machine, which must be there.
        """
        found = made or library()
        assert found is not None
        columns, together = found.columns, found.together[precision]
        outputs, inputs = weight.shape
        rows, deep = -(-outputs // columns) * columns, -(-inputs // together) * together
        filled = weight
        if (rows, deep) != (outputs, inputs):
            filled = weight.new_zeros(rows, deep)
            filled[:outputs, :inputs] = weight
        if precision == "int8":
            filled = (filled.to(torch.int16) + _OFFSET).to(torch.uint8)
        else:
            filled = filled.to(getattr(torch, precision))
        grid = filled.view(rows // columns, columns, deep // together, together)

        def fill(each: Tensor | None) -> Tensor | None:
            if each is None:
                return None
            return torch.cat([each.detach().float(), each.new_zeros(rows - outputs).float()])

        data = grid.permute(0, 2, 1, 3).contiguous()
        return cls(precision, data, fill(scales), fill(bias), inputs, outputs)

    def view(self) -> WeightView:
        """As the compiled code reads it; valid while this object lives."""
        return WeightView(
            self.data.data_ptr(),
            None if self.scales is None else self.scales.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            self.inputs,
            self.outputs,
            PRECISIONS.index(self.precision),
        )

    def multiply(self, x: Tensor, made: Library | None = None) -> Tensor:
        """Return ``x @ weight.T + bias``, ``[..., out]``.

        Args:
            x: ``[..., in]`` float32, on the CPU.
            made: The library, as for `of`.
        """
        found = made or library()
        assert found is not None
        flat = x.reshape(-1, self.inputs).contiguous()
        y = torch.empty(len(flat), self.outputs)
        room = torch.empty(found.chunk, row_bytes(self.inputs), dtype=torch.uint8)
        scales, shifts = torch.empty(found.chunk), torch.empty(found.chunk, dtype=torch.int32)
        found.product(
            ctypes.byref(self.view()), flat.data_ptr(), len(flat), y.data_ptr(), room.data_ptr(),
            scales.data_ptr(), shifts.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return y.view(*x.shape[:-1], self.outputs)

    def gradient(self, y: Tensor, made: Library | None = None) -> Tensor:
        """Return ``y @ weight``, turned where `multiply` turns its rows, ``[..., in]``.

        That is the gradient of what was multiplied, ``y`` being the product's. The scales go to
        ``y``, which is rounded to bfloat16; in it the integers are exact.

        Args:
            y: ``[..., out]`` float32, on the CPU.
            made: The library, as for `of`; it must have what this takes (`Library.differentiates`).

        Raises:
            ValueError: If the weight is not int8.
        """
        if self.precision != "int8":
            raise ValueError(f"precision: got {self.precision!r}, expected 'int8'")
        found = made or library()
        assert found is not None
        flat = y.reshape(-1, self.outputs).contiguous()
        x = torch.empty(len(flat), self.inputs)
        wide = -(-self.outputs // found.columns) * found.columns
        room = torch.empty(len(flat) + 15, wide + 31, dtype=torch.bfloat16)
        found.gradient(
            ctypes.byref(self.view()), flat.data_ptr(), len(flat), x.data_ptr(), room.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return x.view(*y.shape[:-1], self.inputs)

    def integers(self) -> Tensor:
        """The weight as `of` was given it, ``[out, in]``; for int8."""
        rows, deep = (n * m for n, m in zip(self.data.shape[:2], self.data.shape[2:], strict=True))
        grid = self.data.permute(0, 2, 1, 3).reshape(rows, deep)[: self.outputs, : self.inputs]
        return (grid.to(torch.int16) - _OFFSET).to(torch.int8)


def row_bytes(inputs: int) -> int:
    """Room that a row needs in any precision."""
    return 4 * inputs + 128


def _prove(made: Library) -> None:
    """Compare the products with PyTorch on small cases.

    Raises:
        NativeError: If they differ.
    """
    source = torch.Generator().manual_seed(0)
    shapes = ((1, 37, 5), (11, 70, 2 * made.columns + 3), (3, 128, made.columns))
    for precision in made.precisions:
        for rows, inputs, outputs in shapes:
            # Whole numbers, whose sums are exact in any order: none falls between two integers.
            x = torch.randint(-99, 100, (rows, inputs), generator=source).float()
            bias = torch.randn(outputs, generator=source)
            weight = torch.randn(outputs, inputs, generator=source)
            if precision == "int8":
                scales, weight = weight[:, 0].abs() / 127, (weight * 40).round().clamp(-127, 127)
                seen = _turned(x)
                step = seen.abs().amax(1, keepdim=True) / 127
                expected = (seen / step).round() * step @ (weight * scales[:, None]).T + bias
                integers = weight.to(torch.int8)
                panels = Panels.of(integers, bias, precision=precision, scales=scales, made=made)
            else:
                panels = Panels.of(weight, bias, precision=precision, made=made)
                rounded = getattr(torch, precision)
                expected = x.to(rounded).double() @ weight.to(rounded).double().T + bias
            pairs = [(panels.multiply(x, made), expected)]
            if precision == "int8" and made.differentiates:
                y = torch.randint(-99, 100, (rows, outputs), generator=source).float()
                given = (y * panels.scales[:outputs]).bfloat16().double()  # type: ignore
                pairs.append((panels.gradient(y, made), _turned(given @ weight.double())))
            for got, wanted in pairs:
                if not torch.allclose(got, wanted.float(), rtol=1e-4, atol=1e-2):
                    raise NativeError("what was compiled computes something else; a fault of GCC?")


def _turned(x: Tensor) -> Tensor:
    """Times the Hadamard matrix of 64, block by block, where there are whole blocks."""
    if x.shape[1] % 64:
        return x
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=x.dtype)
    matrix = functools.reduce(torch.kron, [two] * 6)
    return (x.view(len(x), -1, 64) @ matrix).view(x.shape)
