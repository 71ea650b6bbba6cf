"""Linear layers whose weights never change, packed for the processor's matrix kernels.

On a CPU, PyTorch multiplies with BLAS, which reads a weight afresh in every call. oneDNN (the
library behind PyTorch's compiled CPU code) can lay a constant weight out once, which is faster at
every size that decoding and learning use. It can also multiply in bfloat16 and add up in float32,
about 1.7 times as fast again on processors with bfloat16 instructions, at the price of 3 digits.
Elsewhere (GPU, other types, oneDNN missing) a frozen layer is the plain one.

Costs one more copy of the base's linear weights in memory.
"""

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DTYPE_NAMES = ("float32", "bfloat16", "float16")
"""Types of weights, by PyTorch's names."""


class MatmulPrecision(StrEnum):
    """Precision of the products of a float32 base's frozen weights on a CPU."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    AUTO = "auto"  # bfloat16 where the processor has instructions for it


def onednn() -> Any:
    """The oneDNN operators, or None where this build of PyTorch lacks them."""
    if not torch.backends.mkldnn.is_available():
        return None
    ops = torch.ops.mkldnn
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return ops if all(hasattr(ops, name) for name in names) else None


class _Product(torch.autograd.Function):
    """``x @ W.T + b`` with a gradient for ``x`` only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, plain: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(plain)
        return _multiply(x, packed, plain.dtype, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (plain,) = ctx.saved_tensors
        return _multiply(gradients[0], plain.t(), plain.dtype, None), None, None, None


def _multiply(x: Tensor, weight: Tensor, dtype: torch.dtype, bias: Tensor | None) -> Tensor:
    given = x.to(dtype)
    product = torch.ops.mkldnn._linear_pointwise(given, weight, None, "none", [], "").to(x.dtype)
    return product if bias is None else product + bias


class FrozenLinear(nn.Linear):
    """A linear layer for inference and for gradients that pass through it, not into it."""

    packed: Tensor
    plain: Tensor  # the weight in the type of the products

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input [..., in] @ weight.T + bias``, ``[..., out]``."""
        if input.dtype != torch.float32:
            return functional.linear(input, self.weight, self.bias)
        if torch.is_grad_enabled() and input.requires_grad:
            return _Product.apply(input, self.packed, self.plain, self.bias)  # type: ignore
        return _multiply(input, self.packed, self.plain.dtype, self.bias)


def pack_linears(
    model: nn.Module, products: MatmulPrecision | str = MatmulPrecision.FLOAT32
) -> int:
    """Turn the float32 CPU linear layers of a frozen model into `FrozenLinear`, in place.

    Args:
        model: Its linear weights must not change afterwards.
        products: Precision of the products.

    Returns:
        How many layers were packed; 0 where oneDNN cannot serve this model.

    Raises:
        ValueError: If bfloat16 is asked for and this processor has no instructions that oneDNN can
            pack such weights for.
    """
    ops = onednn()
    if ops and products == MatmulPrecision.BFLOAT16 and not packs_bfloat16():
        raise ValueError(
            "products: got 'bfloat16', which this processor cannot multiply (oneDNN needs AVX-512 "
            "or AVX-NE-CONVERT); use 'float32', or 'auto' to have it where it can be had"
        )
    low = products == MatmulPrecision.BFLOAT16 or (
        products == MatmulPrecision.AUTO and has_bfloat16()
    )
    dtype = torch.bfloat16 if low else torch.float32
    count = 0
    for module in model.modules() if ops else ():
        weight = module.weight if type(module) is nn.Linear else None
        if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32:
            continue
        module.__class__ = FrozenLinear  # same parameters, so names and tied weights stay
        frozen: Any = module
        with torch.no_grad():
            frozen.plain = weight.detach().to(dtype)
            frozen.packed = ops._reorder_linear_weight(frozen.plain, None)
        count += 1
    return count


def packs_bfloat16() -> bool:
    """Whether oneDNN can lay out bfloat16 weights for this processor."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))
