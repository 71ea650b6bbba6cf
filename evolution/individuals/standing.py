"""Standing: how far each individual is above its population, over its whole life.

Generations differ in how hard their problems are, so only what agents earned on the same problems
is compared: an individual's lead is its fitness over the population's mean, problem by problem.
Older generations count less. The mean is shrunk towards 0 as if everybody had also played one
average generation, so that a newborn's one lucky generation does not beat a proven lead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evolution.fitness.task import lead_errors


class Standing:
    """Leads of the individuals now in a population's slots.

    Args:
        size: Slots, N.
        memory: Weight of what was known before a generation, from 0 to below 1.
        roles: Slots of those who are compared with each other, each once; None for all.

    Attributes:
        evidence: Generations that each standing rests on, older ones counting less, ``[N]``.
    """

    def __init__(self, size: int, memory: float, roles: Sequence[np.ndarray] | None = None) -> None:
        self._memory = memory
        self._roles = [np.arange(size)] if roles is None else list(roles)
        self._lead = np.zeros(size)
        self._noise = np.zeros(size)  # variance of `_lead`; infinite where it cannot be known
        self._unit = 1.0  # what a unit of return was worth in the last generation's fitness
        self.evidence = np.zeros(size)

    @property
    def values(self) -> np.ndarray:
        """How far each individual is above the mean of its generations, ``[N]``; 0 is average."""
        return self._lead / (self.evidence + 1)

    @property
    def errors(self) -> np.ndarray:
        """Standard error of `values` from the choice of problems, ``[N]``.

        Infinite where nothing was measured, or in the last generation on one problem alone; from
        the next on that counts as if it had been as noisy as the next.
        """
        known = np.where(self.evidence > 0, self._noise, np.inf)
        return np.sqrt(known) / (self.evidence + 1)

    def update(
        self,
        fitness: np.ndarray,
        errors: np.ndarray,
        unit: float = 1.0,
        played: np.ndarray | None = None,
    ) -> None:
        """Take note of a generation.

        Args:
            fitness: ``[N]``; NaN of an individual that is broken, whose standing is NaN from then.
            errors: Standard errors of the leads, ``[N]``.
            unit: What a unit of return is worth in fitness, for trials to come.
            played: Who had a part in it, ``[N]``; None for all. Of the others nothing more is
                known than before.
        """
        self._unit = unit
        for role in self._roles:
            slots = role if played is None else role[played[role]]
            values = fitness[slots]
            known = values[np.isfinite(values)]
            mean = known.mean() if len(known) else 0.0
            self._lead[slots] = self._memory * self._lead[slots] + values - mean
            own = errors[slots] ** 2
            before = self._memory**2 * self._noise_before(slots, own) if self._memory else 0.0
            self._noise[slots] = before + own
            self.evidence[slots] = self._memory * self.evidence[slots] + 1

    def correct(self, slots: Sequence[int], earned: np.ndarray) -> None:
        """Take note of a trial of some individuals, which counts as much as a generation.

        Those who took part are compared with each other alone, so the trial shows how they differ
        and not how they stand to the rest: their mean standing stays.

        Args:
            slots: Who took part.
            earned: What each earned on each problem, in units of return, ``[slots, problems]``.
        """
        own, earned = list(slots), self._unit * earned
        base = np.nan_to_num(self.values[own]).mean()
        self._lead[own] += earned.mean(1) - earned.mean() + base
        noise = lead_errors(earned.T) ** 2
        self._noise[own] = self._noise_before(own, noise) + noise
        self.evidence[own] += 1
        self._lead[own] -= (np.nan_to_num(self.values[own]).mean() - base) * (
            self.evidence[own] + 1
        )

    def _noise_before(self, slots: Sequence[int] | np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Variances of leads until now; where they are not known, as of generations this noisy."""
        before = self._noise[slots]
        unknown = ~np.isfinite(before)
        before[unknown] = self.evidence[slots][unknown] * noise[unknown]
        return before

    def lose(self, slots: Sequence[int]) -> None:
        """Take the standing of individuals that broke: NaN until others are born in their slots."""
        self._lead[list(slots)] = np.nan

    def inherit(self, heirs: Mapping[int, int | None]) -> None:
        """Begin anew in the slots of newborns.

        Args:
            heirs: Slot of each newborn to the slot whose weights it copied, None if it is new:
                what was measured of the very same weights holds for their copy.
        """
        for known in (self._lead, self._noise, self.evidence):
            before = known.copy()
            for slot, source in heirs.items():
                known[slot] = 0.0 if source is None else before[source]

    def state(self) -> dict[str, Any]:
        """As JSON types."""
        lead, noise = (
            [value if np.isfinite(value) else None for value in values.tolist()]
            for values in (self._lead, self._noise)
        )
        evidence = self.evidence.tolist()
        return {"lead": lead, "noise": noise, "evidence": evidence, "unit": self._unit}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave.

        Raises:
            ValueError: If it is of another number of individuals.
        """
        parts = [
            np.array([unknown if value is None else value for value in saved[name]], dtype=float)
            for name, unknown in (("lead", np.nan), ("noise", np.inf), ("evidence", np.nan))
        ]
        if any(part.shape != self.evidence.shape for part in parts):
            raise ValueError(
                f"the run has {len(parts[0])} agents, the population {len(self.evidence)}"
            )
        self._lead, self._noise, self.evidence = parts
        self._unit = float(saved.get("unit", 1.0))
