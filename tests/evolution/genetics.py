"""A small population with random factors, and its updates as whole matrices."""

from __future__ import annotations

import numpy as np
import torch

from agents.engine.adapters import StackedLora
from evolution.operators.crossover_step import CrossoverStep
from tests.conftest import make_tiny_base

RANKS = (4, 4, 2, 3)


def random_lora(ranks=RANKS, dtype=None, seed=0):
    """A population of these ranks, each member at an alpha of its own."""
    lora = StackedLora(make_tiny_base().model, len(ranks), list(ranks), dtype=dtype)
    drawn = torch.Generator().manual_seed(seed)
    for layer in lora.layers():
        for factor in (layer.A, layer.B):
            factor.copy_(torch.randn(factor.shape, generator=drawn) / factor.shape[-1] ** 0.5)
    for agent in range(lora.size):
        lora.set_alpha(agent, 2.0 + agent)
    lora.enforce_ranks()
    return lora


def updates(lora, agent):
    """``dW`` of one agent in each layer."""
    scale = float(lora.scale[agent])
    return [scale * (y.B[agent].double() @ y.A[agent].double()) for y in lora.layers()]


def distance(some, others):
    """Norm of the difference over the norm of the second, over all layers."""
    off = sum(float((a - b).square().sum()) for a, b in zip(some, others, strict=True))
    size = sum(float(b.square().sum()) for b in others)
    return (off / size) ** 0.5


def step(slots, parents, fitness=None, spread=1.0, key=(0, 1)):
    parents = np.array(parents)
    known = np.zeros(parents.shape) if fitness is None else np.array(fitness, dtype=float)
    return CrossoverStep(np.array(slots), parents, known, spread, key)
