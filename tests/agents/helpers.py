from __future__ import annotations

import torch


def randomise(lora, strength=0.5, seed=0):
    """Give every adapter its own factors."""
    generator = torch.Generator().manual_seed(seed)
    for layer in lora.layers():
        layer.A[:] = torch.randn(layer.A.shape, generator=generator) / layer.A.shape[-1] ** 0.5
        layer.B[:] = torch.randn(layer.B.shape, generator=generator) * strength
    return lora
