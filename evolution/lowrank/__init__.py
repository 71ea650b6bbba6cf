"""Exact algebra on low-rank updates, layer by layer; knows nothing of evolution."""

from populora_env.moved import names_of

__getattr__ = names_of(__name__, "evolution.lowrank.algebra")
