"""What the processor and this build of PyTorch multiply fast, and exactly where it has to be."""

from functools import cache
from typing import Any

import torch


def onednn() -> Any:
    """The oneDNN operators, or None where this build of PyTorch lacks them."""
    if not torch.backends.mkldnn.is_available():
        return None
    ops = torch.ops.mkldnn
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return ops if all(hasattr(ops, name) for name in names) else None


def packs_bfloat16() -> bool:
    """Whether oneDNN can lay out bfloat16 weights for this processor."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively."""
    return _says("_is_avx512_bf16_supported") or has_tiles()


def has_tiles() -> bool:
    """Whether it multiplies tiles of bfloat16 (AMX), which oneDNN uses."""
    return _says("_is_amx_tile_supported")


@cache
def has_int8() -> bool:
    """Whether oneDNN multiplies 8-bit integers natively here and adds up exactly in 32 bits.

    Instructions older than AVX-512 VNNI add pairs in 16 bits, where large products are cut off, so
    sums of the largest are tried as well.
    """
    if onednn() is None or not _says("_is_vnni_supported"):
        return False
    signs = torch.tensor([1, -1, 1, 1, -1], dtype=torch.int8)
    rows = (127 * signs[:, None]).expand(5, 1000).contiguous()
    try:
        made = torch.ops.aten._int_mm(rows, rows[:3].t())
    except (AttributeError, RuntimeError):  # no such product here
        return False
    return torch.equal(made, 127 * 127 * 1000 * torch.outer(signs, signs[:3]).int())


def _says(name: str) -> bool:
    return hasattr(torch.cpu, name) and bool(getattr(torch.cpu, name)())
