"""Random generators derived from keys.

Every random draw of the project comes from a generator made here, from a key that says what the
draw is for (run seed, generation, problem id, agent, phase). No generator is shared or stored, so
the same key gives the same numbers on any machine, in any order, at any number of workers.
"""

import hashlib

import numpy as np

Key = str | int


def derive_seed(*key: Key) -> int:
    """Return the seed in [0, 2**63) that belongs to a key.

    Args:
        key: Strings and integers, in order; ``(1, "a")`` and ``("1", "a")`` are different keys.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: Key) -> np.random.Generator:
    """Return a fresh generator for a key; see `derive_seed`."""
    return np.random.default_rng(derive_seed(*key))
