"""Mutation: random changes of adapters' updates.

The Gaussian acts on ``dW`` within the rows that an adapter reads: with the rows of ``A``
orthonormal, as `evolution.lowrank` leaves them, Gaussian noise on ``B`` is Gaussian noise on ``dW``
that depends on the update and not on how it was factored, and the rank stays what it is.
"""

import numpy as np
import torch

from agents.adapters import StackedLora
from populora_env.keys import generator


def spread(lora: StackedLora, strength: float, seed: int) -> None:
    """Turn newborn adapters, all equal to the base, into a population.

    All agents get the same random rows ``A`` (normal, variance 1/in) and their own small ``B``
    (normal, standard deviation ``strength / sqrt(r)``). Members that read the same rows can be
    averaged without loss.

    Args:
        lora: The population, overwritten.
        strength: At rank 8 and scale 2 on a 135M model, 0.03 to 0.05 changes replies and keeps
            every member about as accurate as the base; 0.3 breaks it.
        seed: Seed of the run.
    """
    for layer in lora.layers():
        _, rank, width = layer.A.shape
        rows = generator("spread rows", seed, layer.name).standard_normal(
            (rank, width), dtype=np.float32
        )
        layer.A[:] = torch.from_numpy(rows).to(layer.A) / width**0.5
        layer.B.zero_()
        for agent in range(lora.size):
            _add_noise(layer.B[agent], strength, generator("spread", seed, layer.name, agent))


def gaussian(lora: StackedLora, slots: np.ndarray, strength: float, *key: str | int) -> None:
    """Add Gaussian noise to the updates of some members.

    Args:
        lora: The population, changed in place.
        slots: Members to mutate; their factors are in canonical form.
        strength: Noise on ``B`` has standard deviation ``strength / sqrt(r)``.
        key: Key of the noise.
    """
    for layer in lora.layers():
        for slot in slots.tolist():
            _add_noise(layer.B[slot], strength, generator("gaussian", *key, layer.name, slot))


def _add_noise(B: torch.Tensor, strength: float, rng: np.random.Generator) -> None:
    noise = torch.from_numpy(rng.standard_normal(tuple(B.shape), dtype=np.float32))
    B.add_(noise.to(B), alpha=strength / B.shape[1] ** 0.5)
