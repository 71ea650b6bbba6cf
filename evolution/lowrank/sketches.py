"""Sketches: a few numbers of an update, from which its distance to a later one is told.

For each layer, `PRODUCTS` products ``u^T dW v`` with random signs ``u`` and ``v``. Each has mean
square ``|dW|^2`` (Frobenius), and sketches are linear, so the mean square of the difference of two
sketches estimates the squared distance between two updates without either being kept (Johnson and
Lindenstrauss, 1984; the fourth moment of such forms bounds the error). The relative error of a
distance is ``sqrt(2 / PRODUCTS)`` in one layer at worst, and falls with the root of the
number of layers that are taken together.

Signs are keyed by a seed, so sketches taken in different processes fit together.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from populora_env.keys import generator

PRODUCTS = 128  # numbers per layer; 107 kB of an adapter with 210 layers


class Sketcher:
    """Takes sketches of updates of the same layers.

    Args:
        seed: Of the signs; sketches of one seed and the same layers fit together.
        layers: Names of all layers, in any order.
        widest: The largest number of inputs or outputs of a layer.
        products: Numbers per layer.
    """

    def __init__(
        self, seed: int, layers: Iterable[str], widest: int, products: int = PRODUCTS
    ) -> None:
        self.layers = tuple(sorted(layers))
        self._places = {name: place for place, name in enumerate(self.layers)}
        size = (widest + len(self.layers), products)
        # Each layer takes a window of its own, so that what all of them have in common is met by
        # other signs in each.
        self._signs = [
            torch.from_numpy(2 * generator("sketch", seed, side).integers(0, 2, size, np.int8) - 1)
            for side in ("inputs", "outputs")
        ]

    def take(self, layer: str, A: Tensor, B: Tensor) -> Tensor:
        """Sketch some updates ``B @ A`` of a layer.

        Args:
            layer: Its name.
            A: ``[M, r, in]``.
            B: ``[M, out, r]``.

        Returns:
            ``[M, products]``, of the factors' type.
        """
        place = self._places[layer]
        ends = [
            signs[place : place + width].to(A)
            for signs, width in zip(self._signs, (A.shape[2], B.shape[1]), strict=True)
        ]
        return ((A @ ends[0]) * (B.transpose(1, 2) @ ends[1])).sum(1)
