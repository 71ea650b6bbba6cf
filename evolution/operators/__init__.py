"""Selection, crossover and mutation by name; this registers them all."""

from evolution.operators import (
    crossover,
    crossover_entries,
    crossover_subspace,
    mutation_inherited,
    mutation_weights,
    selection,
)
from populora_env.moved import names_of

__all__ = [
    "crossover",
    "crossover_entries",
    "crossover_subspace",
    "mutation_inherited",
    "mutation_weights",
    "selection",
]

__getattr__ = names_of(__name__, "evolution.registry")
