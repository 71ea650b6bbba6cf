"""How far the living have moved since their birth.

Learning changes an individual's weights and not its name, and what it was born with is on no disk:
a generation is saved after it has learned. So a sketch of each newborn's update is kept
(`evolution.lowrank.sketches`), from which the distance is told at any time, to a few percent.

A run of a version that kept none goes on without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from evolution.individuals.lineage import Individual
from evolution.lowrank.layers import update_norms
from evolution.lowrank.sketches import PRODUCTS, Sketcher

SKETCHES = "births.sketches"
"""Name of the sketches' tensor in a saved generation, ``[N, layers by name, PRODUCTS]``."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How large the members' updates are, and how far they are from those at birth.

    Attributes:
        norms: Frobenius norm of each agent's whole update, ``[N]``.
        drift: Distance between it and the update at birth, over the norm of that, ``[N]``: an
            estimate. NaN of one that is broken, or that was born as the base itself.
    """

    norms: np.ndarray
    drift: np.ndarray


class Births:
    """Sketches of the members' updates at birth; a `evolution.runs.parts.Part`.

    Args:
        lora: The population's adapters.
        seed: The run's.
    """

    def __init__(self, lora: StackedLora, seed: int) -> None:
        self._lora, self._seed = lora, seed
        self._sketcher: Sketcher | None = None
        self._names: list[str] = []  # of those whose sketches these are, by slot; empty: none kept
        self._sketches = torch.zeros(0)

    @property
    def kept(self) -> bool:
        """Whether sketches are kept, as since the beginning of a run or not at all."""
        return bool(self._names)

    def begin(self, members: Sequence[Individual]) -> None:
        """Keep those of a new run's first members."""
        self._names = [member.name for member in members]
        self._sketches = self._take(list(range(len(members)))).cpu()

    def meet(self, members: Sequence[Individual]) -> None:
        """Keep those of members that were not there before, as they are now."""
        if not self.kept:
            return
        new = [slot for slot, member in enumerate(members) if member.name != self._names[slot]]
        if new:
            self._sketches[new] = self._take(new).cpu()
            for slot in new:
                self._names[slot] = members[slot].name

    def forget(self) -> None:
        """Keep none."""
        self._names = []

    def moved(self, members: Sequence[Individual]) -> Moved | None:
        """Measure the members; None if no sketches are kept."""
        if not self.kept:
            return None
        now = self._take(list(range(self._lora.size))).cpu()
        with np.errstate(divide="ignore", invalid="ignore"):
            drift = _size(now - self._sketches) / _size(self._sketches)
        drift[[member.broken is not None for member in members]] = np.nan
        drift[~np.isfinite(drift)] = np.nan
        return Moved(update_norms(self._lora), drift)

    def state(self) -> dict[str, Any]:
        """Whose sketches they are, by slot, and the sketches."""
        return {"individuals": list(self._names), SKETCHES: self._sketches}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        sketches, names = saved[SKETCHES], [str(name) for name in saved["individuals"]]
        wanted = (self._lora.size, len(list(self._lora.layers())), PRODUCTS)
        if tuple(sketches.shape) != wanted or len(names) != self._lora.size:
            raise ValueError(
                f"births: got sketches {tuple(sketches.shape)} of {len(names)} members, expected "
                f"{wanted}"
            )
        self._names, self._sketches = names, sketches.clone()

    def _take(self, slots: list[int]) -> Tensor:
        """Sketches of these members' updates as they are now, ``[slots, layers, PRODUCTS]``."""
        layers = {layer.name: layer for layer in self._lora.layers()}
        if self._sketcher is None:
            widths = (max(y.A.shape[2], y.B.shape[1]) for y in layers.values())
            self._sketcher = Sketcher(self._seed, layers, max(widths))
        found = [
            self._sketcher.take(name, layers[name].A[slots].float(), layers[name].B[slots].float())
            for name in self._sketcher.layers
        ]
        return torch.stack(found, 1) * self._lora.scale[slots, None, None]


def _size(sketches: Tensor) -> np.ndarray:
    """Norms that sketches ``[N, L, PRODUCTS]`` estimate, ``[N]``."""
    return sketches.double().square().mean(2).sum(1).sqrt().numpy()
