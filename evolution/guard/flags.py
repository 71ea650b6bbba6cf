"""Flags: signals that left what was usual in this very run; a flag only asks for a measurement.

Usual is the median of all agents over the last `WINDOW` generations, give or take the median
absolute deviation (MAD), which a few strange values do not move. A value is flagged if it lies
farther away than `FAR` deviations (1.4826 MAD, a normal's standard deviation) and than the signal's
own least distance, below which it is not worth a measurement. Before `WARM` generations are known
nothing is flagged.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolution.fitness.task import known
from evolution.guard.signals import Signal, Signals

WINDOW, WARM = 8, 3
FAR = 5.0
_NORMAL = 1.4826  # standard deviations of a normal distribution in one MAD


@dataclass(frozen=True, slots=True)
class Rule:
    """When a signal is worth a flag.

    Attributes:
        least: Smallest distance from the median; of logarithms where ``log``.
        log: Whether ratios count and not differences.
        both: Whether a fall counts as a rise does.
    """

    least: float
    log: bool = False
    both: bool = False


RULES: Mapping[Signal, Rule] = {
    Signal.DIVERGENCE: Rule(0.5),
    Signal.ENTROPY: Rule(0.75, both=True),
    Signal.LENGTH: Rule(math.log(2), log=True, both=True),
    Signal.REPETITION: Rule(0.25),
    Signal.GAP: Rule(0.25),
    Signal.NORM: Rule(math.log(1.25), log=True),
}


@dataclass(frozen=True, slots=True)
class Flag:
    """A signal of an agent that left what was usual.

    Attributes:
        signal: Which.
        value: Its value.
        usual: The median that it is held against.
        far: How many deviations it lies away, or at least `FAR` if there were none.
    """

    signal: Signal
    value: float
    usual: float
    far: float

    def __str__(self) -> str:
        return f"{self.signal.value} {self.value:.3g} (usual {self.usual:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        far = round(self.far, 2) if math.isfinite(self.far) else None
        return {
            "signal": self.signal.value,
            "value": self.value,
            "usual": self.usual,
            "deviations": far,
        }


class Baseline:
    """What was usual lately, and who left it."""

    def __init__(self) -> None:
        self._seen: deque[dict[str, list[float | None]]] = deque(maxlen=WINDOW)

    def flags(self, signals: Signals) -> list[list[Flag]]:
        """Flags of each agent ``[N][...]``, against the generations before; then remember these.

        Args:
            signals: Of a generation.
        """
        size = len(next(iter(signals.values())))
        raised: list[list[Flag]] = [[] for _ in range(size)]
        for signal, values in signals.items():
            rule = RULES[signal]
            before = self._before(signal, rule)
            if before is None:
                continue
            usual = float(np.median(before))
            deviation = _NORMAL * float(np.median(np.abs(before - usual)))
            for slot, value in enumerate(_scaled(values, rule).tolist()):
                apart = abs(value - usual) if rule.both else value - usual
                if apart > max(rule.least, FAR * deviation):
                    shown = math.exp(usual) if rule.log else usual
                    far = apart / deviation if deviation else math.inf
                    raised[slot].append(Flag(signal, float(values[slot]), shown, far))
        self._seen.append({s.value: [known(v) for v in values] for s, values in signals.items()})
        return raised

    def _before(self, signal: Signal, rule: Rule) -> np.ndarray | None:
        """Values of the generations before on the rule's scale; None if there are too few."""
        rows = [row[signal.value] for row in self._seen]
        kept = [[value for value in row if value is not None] for row in rows]
        if sum(map(bool, kept)) < WARM:
            return None
        scaled = _scaled(np.array([value for row in kept for value in row]), rule)
        scaled = scaled[np.isfinite(scaled)]
        return scaled if len(scaled) else None

    def state(self) -> list[dict[str, list[float | None]]]:
        """As JSON types."""
        return list(self._seen)

    def load(self, saved: list[dict[str, list[float | None]]]) -> None:
        """Read back what `state` gave."""
        self._seen = deque(saved, maxlen=WINDOW)


def _scaled(values: np.ndarray, rule: Rule) -> np.ndarray:
    """Values as they are compared; NaN where they cannot be."""
    if not rule.log:
        return values
    return np.log(np.where(values > 0, values, np.nan))
