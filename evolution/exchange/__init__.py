"""What members take over from each other between generations; this registers all exchanges."""

from evolution.exchange import averaging, exploiting, mixing, step, strategies
from evolution.exchange.step import EXCHANGES, Exchanged, ExchangeStep

__all__ = [
    "EXCHANGES",
    "ExchangeStep",
    "Exchanged",
    "averaging",
    "exploiting",
    "mixing",
    "step",
    "strategies",
]
