"""The ladder: what is done about an individual that verdicts call bad, step by step.

Each rung is climbed only if the verdict is still bad after the one before. It takes `GOOD` good
verdicts in a row to come down by one, so that nobody goes up and down with chance. The rung is the
slot's: whoever is born there has to earn its way down, since what led the last one astray may be
what the slot is paid for.
"""

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

GOOD = 3
"""Good verdicts in a row that it takes to come down by one rung."""
PATIENCE = 2
"""Generations after the KL weight was raised until the next verdict; after other steps, one."""


class Rung(IntEnum):
    """How far things have gone."""

    CLEAR = 0
    NOTE = 1
    RAISE_KL = 2
    ROLL_BACK = 3
    REPLACE = 4
    STOP = 5

    @property
    def word(self) -> str:
        """As it stands in records: ``clear``, ``note``, ``raise_kl`` and so on."""
        return self.name.lower()


class Ladder:
    """Where each slot stands.

    Args:
        size: Slots, N.
        highest: The last rung that may be climbed.
    """

    def __init__(self, size: int, highest: Rung = Rung.STOP) -> None:
        self._highest = highest
        self._rungs = np.zeros(size, dtype=int)
        self._good = np.zeros(size, dtype=int)  # verdicts in a row
        self._due = np.zeros(size, dtype=int)  # generation of the next verdict, where on a rung

    def rung(self, slot: int) -> Rung:
        """Where a slot stands."""
        return Rung(int(self._rungs[slot]))

    def due(self, generation: int) -> set[int]:
        """Slots on a rung that are to be measured in a generation."""
        return {i for i, rung in enumerate(self._rungs) if rung and self._due[i] <= generation}

    def take(
        self, slot: int, bad: bool, generation: int, unable: Collection[Rung] = ()
    ) -> Rung | None:
        """Take a verdict.

        Args:
            slot: Whose.
            bad: What it says.
            generation: When it was given.
            unable: Rungs that cannot be done for this slot, which are passed over.

        Returns:
            The rung that is now reached and what is to be done: the one climbed to, or the one come
            down to; None if nothing changes. On the highest rung a bad verdict reaches it again.
        """
        now = self.rung(slot)
        if not bad:
            if now is Rung.CLEAR:
                return None
            self._good[slot] += 1
            self._due[slot] = generation + 1
            if self._good[slot] < GOOD:
                return None
            self._good[slot] = 0
            return self._put(slot, [r for r in Rung if r < now and r not in unable][-1])
        self._good[slot] = 0
        above = [r for r in Rung if now < r <= self._highest and r not in unable]
        self._due[slot] = generation + 1
        if not above:
            return Rung.STOP if now is Rung.STOP else None
        if above[0] is Rung.RAISE_KL:
            self._due[slot] = generation + PATIENCE
        return self._put(slot, above[0])

    def _put(self, slot: int, rung: Rung) -> Rung:
        self._rungs[slot] = rung
        return rung

    def state(self) -> dict[str, list[int]]:
        """As JSON types."""
        return {
            "rungs": self._rungs.tolist(),
            "good": self._good.tolist(),
            "due": self._due.tolist(),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave; rungs above the highest that may be climbed are lowered.

        Raises:
            ValueError: If it is of another number of slots.
        """
        parts = [np.array(saved[name], dtype=int) for name in ("rungs", "good", "due")]
        if any(part.shape != self._rungs.shape for part in parts):
            raise ValueError(
                f"the guard watched {len(parts[0])} agents, the population has {len(self._rungs)}"
            )
        self._rungs, self._good, self._due = parts
        self._rungs = np.minimum(self._rungs, int(self._highest))
