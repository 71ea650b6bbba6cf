"""Normal noise in bulk, which is most of what mutation costs.

A draw is one of 65,536 equally likely quantiles of the normal distribution, looked up by 16 bits of
a SplitMix64 generator (Steele, Lea & Flood, 2014): a tenth of the time of NumPy's own normal draws
where there is a compiled kernel (`agents.compiled.native`), the same numbers where there is none.
"""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from agents.compiled.native import kernel

_LEVELS = 1 << 16
_STEP, _MIX_1, _MIX_2 = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Noise:
    """A source of standard normal draws.

    Args:
        rng: Gives the seed; one number is taken from it.

    Attributes:
        rng: The same, for other draws.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._seed = int(rng.integers(1 << 63))
        self._used = 0

    def normal(self, *shape: int) -> Tensor:
        """Draws of this shape, float32, on the CPU."""
        drawn = np.empty(shape, np.float32)
        numbers = -(-math.prod(shape) // 4)
        if (made := kernel()) is not None:
            made.look_up(drawn, _quantiles(), self._seed, self._used)
        else:
            bits = self._numbers(numbers).astype("<u8").view("<u2")
            drawn.flat[:] = _quantiles()[bits[: drawn.size]]
        self._used += numbers
        return torch.from_numpy(drawn)

    def _numbers(self, count: int) -> np.ndarray:
        """The next numbers of the generator."""
        place = np.arange(self._used + 1, self._used + count + 1, dtype=np.uint64)
        z = np.uint64(self._seed) + place * _STEP
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        return z ^ (z >> np.uint64(31))


@cache
def _quantiles() -> np.ndarray:
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / _LEVELS) for i in range(_LEVELS // 2, _LEVELS)])
    whole = np.concatenate([-upper[::-1], upper])
    return (whole / whole.std()).astype(np.float32)
