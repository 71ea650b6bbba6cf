"""Linear layers that multiply in 8-bit integers: how numbers are quantised, and the product.

A weight has one scale for each output, made once; an input has one for each row, made as it comes.
Both are symmetric, so a product is a sum of products of integers, exact in 32 bits, times two
scales. A row's result therefore depends on that row alone, to the last bit: not on its neighbours,
nor on how many there are, nor on who multiplies.

Some inputs of a language model are many times larger than the others of their row, and would leave
them few of an integer's steps. So inputs and weights are first turned by a Hadamard matrix, 64
inputs at a time, which leaves their product as it is and spreads what is large over all (QuaRot,
Ashkboos et al., 2024, arXiv:2404.00456; theirs is folded into the model, ours is done as it comes).

A gradient passes through as if the input had not been rounded (the straight-through estimator,
Bengio et al., 2013, arXiv:1308.3432): it is multiplied by the weight that the integers stand for.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.compiled.products import Panels, library, multiplies
from agents.machine.processor import has_bfloat16, has_int8

_LARGEST = 127
_LEAST = 2.0**-100  # of a row that is not taken for zeros; far below it 127 / m overflows
_BLOCK = 2048  # outputs whose integers are widened at once for a gradient: they stay in the cache
WIDEST = (2**31 - 1) // _LARGEST**2
"""Inputs of a layer up to which no sum overflows 32 bits."""


TURNED = 64
"""Inputs that are turned together; a width that is no multiple of it is not turned."""

_TOGETHER = 1024  # blocks of them whose sums are made at once: they stay in the cache


def turn(x: Tensor) -> Tensor:
    """Multiply by the Hadamard matrix of 64, block by block; `TURNED` times its own inverse.

    Sums and differences of entries 1 apart, then 2, 4, 8, 16 and 32, as the compiled code has it.

    Args:
        x: ``[..., width]`` float32; returned as it is if width is no multiple of `TURNED`.
    """
    if x.shape[-1] % TURNED:
        return x
    blocks = x.reshape(-1, TURNED)
    return torch.cat([_turn_blocks(some) for some in blocks.split(_TOGETHER)]).view(x.shape)


def _turn_blocks(blocks: Tensor) -> Tensor:
    """`turn` of ``[count, TURNED]``: laid out so that each sum is of two rows of all blocks."""
    made, apart = blocks.t().contiguous(), 1
    while apart < TURNED:
        one, other = made.view(TURNED // apart // 2, 2, apart, len(blocks)).unbind(1)
        made, apart = torch.stack((one + other, one - other), 1), 2 * apart
    return made.view(blocks.shape[::-1]).t()


@functools.cache
def _matrix() -> Tensor:
    return turn(torch.eye(TURNED))


def _turn_at_once(x: Tensor) -> Tensor:
    """`turn` as one product, four times as fast: for gradients, whose last bits nobody compares."""
    if x.shape[-1] % TURNED:
        return x
    return (x.reshape(-1, TURNED) @ _matrix()).view(x.shape)


def can_multiply_int8() -> bool:
    """Whether products in int8 can be had here, by our compiled code or by oneDNN."""
    return multiplies("int8") or has_int8()


class Int8Weight(NamedTuple):
    """A quantised weight, which stands for ``turn(values * scales[:, None])``.

    Attributes:
        values: ``[out, in]`` int8, from -127 to 127, row after row; None where the panels hold
            them and are all that is read.
        scales: ``[out]`` float32, above 0.
        bias: ``[out]`` float32, or None.
        panels: The same for the compiled products; None where there are none.
    """

    values: Tensor | None
    scales: Tensor
    bias: Tensor | None = None
    panels: Panels | None = None

    def integers(self) -> Tensor:
        """``[out, in]`` int8, whoever holds them."""
        if self.values is not None:
            return self.values
        assert self.panels is not None
        return self.panels.integers()


def quantise_weight(weight: Tensor, bias: Tensor | None = None) -> Int8Weight:
    """Round a weight to integers, with a scale for each output.

    In float32, turned: ``s = max|w| / 127`` over a row, 1 if that is 0; ``q = round(w / s)``, half
    to even, cut off at -127 and 127.

    Args:
        weight: ``[out, in]`` float32.
        bias: ``[out]`` float32, taken along.
    """
    if weight.shape[1] % TURNED == 0:
        weight = turn(weight) / TURNED
    scales = weight.abs().amax(1) / _LARGEST
    scales = torch.where(scales == 0, 1.0, scales)
    values = torch.round(weight / scales[:, None]).clamp_(-_LARGEST, _LARGEST)
    values = values.to(torch.int8).contiguous()
    made = library()
    if made is None or not multiplies("int8"):
        return Int8Weight(values, scales, bias)
    panels = Panels.of(values, bias, precision="int8", scales=scales)
    return Int8Weight(None if made.differentiates else values, scales, bias, panels)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round an input to integers, with a scale for each row.

    In float32, turned: ``m = max|x|`` over the row; ``q = round(x * (127 / m))``, half to even; and
    ``s = m / 127``. Where m is not above ``2**-100``, q is 0. Where a number of the row is not
    finite, s is NaN, and q may be anything.

    Args:
        x: ``[rows, in]`` float32.

    Returns:
        The integers ``[rows, in]`` int8 and the scales ``[rows, 1]`` float32.
    """
    x = turn(x)
    largest = x.abs().amax(1, keepdim=True)
    factor = torch.where(largest > _LEAST, _LARGEST / largest, 0.0)
    scales = largest / _LARGEST + (largest - largest)  # NaN if the largest is not finite
    return torch.round(x * factor).to(torch.int8), scales


def multiply_int8(x: Tensor, packed: Int8Weight) -> Tensor:
    """Return ``x @ weight.T + bias`` in 8-bit integers, ``[..., out]`` float32.

    ``y = float(sum) * s_x * s_w + bias``, in this order, each step in float32; the sum is an
    exact 32-bit integer. A row that holds a number that is not finite gives NaN throughout, and no
    other row does.

    Args:
        x: ``[..., in]`` float32.
        packed: What `quantise_weight` made.
    """
    if packed.panels is not None:
        return packed.panels.multiply(x)
    values, scales, bias = packed.integers(), packed.scales, packed.bias
    rows, row_scales = quantise_rows(x.reshape(-1, x.shape[-1]))
    y = torch.ops.aten._int_mm(rows, values.t()).float().mul_(row_scales).mul_(scales)
    if bias is not None:
        y += bias
    return y.view(*x.shape[:-1], -1) if len(y) else y.view(*x.shape[:-1], len(values))


class _Product(torch.autograd.Function):
    """`multiply_int8` with a gradient for ``x`` only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Int8Weight) -> Tensor:
        ctx.packed = packed  # frozen, so nobody writes it meanwhile
        return multiply_int8(x, packed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return ``turn(gradient @ (values * scales[:, None]))``.

        The scales go to the gradient: the integers are exact in bfloat16, in which the processor
        multiplies if it can.
        """
        packed: Int8Weight = ctx.packed
        if packed.values is None and packed.panels is not None:
            return packed.panels.gradient(gradients[0]), None
        values, scales = packed.integers(), packed.scales
        dtype = torch.bfloat16 if has_bfloat16() else torch.float32
        given = (gradients[0] * scales).to(dtype)
        product = torch.ops.mkldnn._linear_pointwise
        result: Tensor | None = None
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK].to(dtype).t()
            piece = given[..., start : start + _BLOCK]
            part = product(piece.contiguous(), block, None, "none", [], "").float()
            result = part if result is None else result.add_(part)
        return None if result is None else _turn_at_once(result), None


class Int8Linear(nn.Linear):
    """A frozen linear layer whose float32 inputs are multiplied in 8-bit integers.

    It keeps its weight, which the input embeddings may share, beside the integers.
    """

    packed: Int8Weight

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input [..., in] @ weight.T + bias``, ``[..., out]``."""
        if input.dtype != torch.float32:
            return functional.linear(input, self.weight, self.bias)
        if torch.is_grad_enabled() and input.requires_grad:
            return _Product.apply(input, self.packed)  # type: ignore
        return multiply_int8(input, self.packed)
