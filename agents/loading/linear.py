"""Linear layers whose weights never change, packed for the processor's matrix kernels.

On a CPU, PyTorch multiplies with BLAS, which reads a weight afresh in every call. A constant weight
can be laid out once, which is faster at every size that decoding and learning use: for our compiled
products (`agents.compiled.products`), or, where those are missing, for oneDNN, the library behind
PyTorch's compiled CPU code. Products in bfloat16, added up in float32, are twice as fast again on
processors with instructions for it, at the price of 3 digits; those in int8 four times. Elsewhere
(GPU, other types, neither library) a frozen layer is the plain one.

Costs one more copy of the base's linear weights in memory.
"""

from enum import StrEnum
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.compiled.products import Panels, library, multiplies
from agents.loading.int8 import WIDEST, Int8Linear, can_multiply_int8, quantise_weight
from agents.machine.processor import has_bfloat16, has_tiles, onednn, packs_bfloat16

DTYPE_NAMES = ("float32", "bfloat16", "float16")
"""Types of weights, by PyTorch's names."""


class MatmulPrecision(StrEnum):
    """Precision of the products of a float32 base's frozen weights on a CPU."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    AUTO = "auto"  # what `resolve` says


_AUTO = (MatmulPrecision.INT8, MatmulPrecision.BFLOAT16)  # the first that is fast here


class _Product(torch.autograd.Function):
    """``x @ W.T + b`` with a gradient for ``x`` only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "FrozenLinear") -> Tensor:
        ctx.save_for_backward(layer.plain)
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (plain,) = ctx.saved_tensors
        return _multiply(gradients[0], plain.t(), plain.dtype, None), None


def _multiply(x: Tensor, weight: Tensor, dtype: torch.dtype, bias: Tensor | None) -> Tensor:
    given = x.to(dtype)
    product = torch.ops.mkldnn._linear_pointwise(given, weight, None, "none", [], "").to(x.dtype)
    return product if bias is None else product + bias


class FrozenLinear(nn.Linear):
    """A linear layer for inference and for gradients that pass through it, not into it."""

    packed: Tensor | Panels
    plain: Tensor  # the weight in the type of the products

    def product(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias`` without a gradient; x is float32."""
        if isinstance(self.packed, Panels):
            return self.packed.multiply(x)
        return _multiply(x, self.packed, self.plain.dtype, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input [..., in] @ weight.T + bias``, ``[..., out]``."""
        if input.dtype != torch.float32:
            return functional.linear(input, self.weight, self.bias)
        if torch.is_grad_enabled() and input.requires_grad:
            return _Product.apply(input, self)  # type: ignore
        return self.product(input)


def _packed(plain: Tensor, bias: Tensor | None, ops: Any) -> Tensor | Panels:
    """A weight for our compiled products, or for oneDNN's where those are lacking or slower."""
    name = str(plain.dtype).removeprefix("torch.")
    if is_compiled(name):
        return Panels.of(plain, bias, precision=name)
    return ops._reorder_linear_weight(plain, None)


def is_compiled(precision: str) -> bool:
    """Whether our code multiplies in a precision here.

    In bfloat16 not where the processor has AMX and ours may not use it: oneDNN is faster there.
    """
    made = library()
    if made is None or precision not in made.precisions:
        return False
    return precision != "bfloat16" or made.matrices or not has_tiles()


def resolve(
    products: MatmulPrecision | str, *, dtype: str = "float32", device: str = "cpu"
) -> MatmulPrecision:
    """What ``auto`` is on this machine; any other precision is itself.

    Int8 where our compiled products have it, else bfloat16 where the processor has instructions for
    it, else float32; and float32 where weights are of another type or on a GPU, which this says
    nothing of.

    Args:
        products: Precision of the products.
        dtype: Of the weights, by name.
        device: Where they are to be, as `agents.loading.models.load_base` takes it.
    """
    if products != MatmulPrecision.AUTO:
        return MatmulPrecision(products)
    elsewhere = torch.cuda.is_available() if device == "auto" else device != "cpu"
    if elsewhere or dtype != "float32" or onednn() is None:
        return MatmulPrecision.FLOAT32
    had = {
        MatmulPrecision.INT8: lambda: multiplies("int8"),
        MatmulPrecision.BFLOAT16: has_bfloat16,
    }
    return next((p for p in _AUTO if had[p]()), MatmulPrecision.FLOAT32)


def precision(model: nn.Module) -> str:
    """What a model's linear layers multiply in: a `MatmulPrecision`, or its weights' own type."""
    own = "float32"
    for module in model.modules():
        if isinstance(module, Int8Linear):
            return MatmulPrecision.INT8.value
        if isinstance(module, FrozenLinear):
            return str(module.plain.dtype).removeprefix("torch.")
        if isinstance(module, nn.Linear) and module.weight.is_floating_point():
            own = str(module.weight.dtype).removeprefix("torch.")
    return own


def pack_linears(
    model: nn.Module, products: MatmulPrecision | str = MatmulPrecision.FLOAT32
) -> int:
    """Turn the float32 CPU linear layers of a frozen model into packed ones, in place.

    They become `FrozenLinear`, or `Int8Linear` for int8.

    Args:
        model: Its linear weights must not change afterwards.
        products: Precision of the products.

    Returns:
        How many layers were packed; 0 where oneDNN cannot serve this model.

    Raises:
        ValueError: If bfloat16 or int8 is asked for and this processor has no instructions for it.
    """
    ops = onednn()
    if ops and products == MatmulPrecision.BFLOAT16 and not packs_bfloat16():
        raise ValueError(
            "products: got 'bfloat16', which this processor cannot multiply (oneDNN needs AVX-512 "
            "or AVX-NE-CONVERT); use 'float32', or 'auto' to have it where it can be had"
        )
    if products == MatmulPrecision.INT8 and not can_multiply_int8():
        raise ValueError(
            "products: got 'int8', which cannot be multiplied here (our compiled code needs GCC "
            "and AVX2, oneDNN AVX-512 VNNI); use 'bfloat16' or 'float32', or 'auto' for the "
            "fastest that can be had"
        )
    chosen = resolve(products)
    dtype = torch.bfloat16 if chosen == MatmulPrecision.BFLOAT16 else torch.float32
    count = 0
    for module in model.modules() if ops else ():
        if type(module) is not nn.Linear:
            continue
        weight, frozen = module.weight, cast(Any, module)
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            continue
        with torch.no_grad():
            # The class alone changes: same parameters, so names and tied weights stay.
            if chosen == MatmulPrecision.INT8 and weight.shape[1] <= WIDEST:
                module.__class__ = Int8Linear
                bias = frozen.bias
                bias = None if bias is None else bias.detach()
                frozen.packed = quantise_weight(weight.detach(), bias)
            else:
                module.__class__ = FrozenLinear
                frozen.plain = weight.detach().to(dtype)
                frozen.packed = _packed(frozen.plain, frozen.bias, ops)
        count += 1
    return count
