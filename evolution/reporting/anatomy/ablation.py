"""What switching off a block of layers costs: as it was measured, and how sure that is.

``populora report --ablate-blocks`` measures it (`evolution.commands.ablation`) and keeps it in the
run's folder, in ``ablation/generation_0007.json``: whose replies were right on which problem, with
the whole adapter, with one block of it switched off, and with none of it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution.runs.saved_run import SavedRun

FOLDER = "ablation"
_Z = 1.959964
_MOST = 100_000  # problems, blocks or layers of a file that is no accident


@dataclass(frozen=True, slots=True)
class Change:
    """A difference of two accuracies on the same problems, with its 95 % interval.

    Attributes:
        value: The difference.
        low: Lower end of Agresti and Min's interval for paired proportions (2005): as if half a
            problem more of each kind had been seen, so that what never differed is no exactness.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def text(self) -> str:
        """Return it as ``-0.156 (-0.27 to -0.03)``."""
        return f"{self.value:+.3f} ({self.low:+.2f} to {self.high:+.2f})"


def paired_change(ours: Sequence[bool], theirs: Sequence[bool]) -> Change:
    """Return the accuracy of some replies less that of others to the same problems."""
    gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    count = len(ours)
    more, less, all_of_them = gained + 0.5, lost + 0.5, count + 2
    middle = (more - less) / all_of_them
    error = math.sqrt((more + less) - (more - less) ** 2 / all_of_them) / all_of_them
    reach = _Z * error
    return Change((gained - lost) / count, max(middle - reach, -1.0), min(middle + reach, 1.0))


@dataclass(frozen=True, slots=True)
class AblatedAgent:
    """One agent's right and wrong replies.

    Attributes:
        adapter: Hash of its adapter.
        whole: With its whole adapter, ``[P]``.
        without: With one block of it switched off, ``[blocks][P]``.
    """

    adapter: str
    whole: tuple[bool, ...]
    without: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """What was measured of a run, greedily, on P problems of its training split.

    Attributes:
        generation: Of the adapters.
        blocks: First and last layer of each block, as the base counts them.
        base: The bare base's right and wrong replies, ``[P]``: the whole adapter switched off.
        agents: Agent to its own.
        weight_norms: Layer to the norm of the base's weights, where known.
    """

    generation: int
    blocks: tuple[tuple[int, int], ...]
    base: tuple[bool, ...]
    agents: Mapping[str, AblatedAgent]
    weight_norms: Mapping[str, float]

    @property
    def problems(self) -> int:
        """How many problems, P."""
        return len(self.base)

    def costs(self, agent: str) -> list[Change]:
        """Change of accuracy when each block is switched off; at last, when all of them are."""
        own = self.agents[agent]
        return [paired_change(marks, own.whole) for marks in (*own.without, self.base)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "generation": self.generation,
            "blocks": [list(block) for block in self.blocks],
            "base": _bits(self.base),
            "agents": {
                name: {
                    "adapter": own.adapter,
                    "whole": _bits(own.whole),
                    "without": [_bits(marks) for marks in own.without],
                }
                for name, own in self.agents.items()
            },
            "weight_norms": dict(self.weight_norms),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ablation":
        """Read back what `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        blocks = [tuple(_count(end) for end in block) for block in data["blocks"]]
        base = _marks(data["base"])
        if not base or any(len(block) != 2 for block in blocks):
            raise ValueError("expected problems, and two ends of each block")
        agents = {
            str(name): AblatedAgent(
                str(own["adapter"]),
                _marks(own["whole"]),
                tuple(_marks(marks) for marks in own["without"]),
            )
            for name, own in data["agents"].items()
        }
        for name, own in agents.items():
            lengths = {len(own.whole), *map(len, own.without)}
            if lengths != {len(base)} or len(own.without) != len(blocks):
                raise ValueError(f"{name[:60]}: expected as many marks as there are problems")
        norms = {str(name): float(value) for name, value in data["weight_norms"].items()}
        if any(not 0 <= value < math.inf for value in norms.values()):
            raise ValueError("weight_norms: expected finite numbers of at least 0")
        ends = tuple((block[0], block[1]) for block in blocks)
        return cls(_count(data["generation"]), ends, base, agents, norms)


def ablation_text(measured: Ablation) -> str:
    """What a run keeps of it."""
    return json.dumps(measured.to_dict(), indent=1) + "\n"


def ablation_file(path: Path, generation: int) -> Path:
    """Where a run folder keeps what was measured after a generation."""
    return path / FOLDER / f"generation_{generation:04d}.json"


def read_ablation(saved: SavedRun, generation: int | None = None) -> Ablation | None:
    """Return what was measured of a run; None if nothing was.

    Args:
        saved: The run.
        generation: Of which generation; None for the latest of which there is something.

    Raises:
        RunError: If the file is damaged.
    """
    if generation is None:
        there = sorted((saved.path / FOLDER).glob("generation_*.json"))
        file = there[-1] if there else None
    else:
        file = ablation_file(saved.path, generation)
    if file is None or not file.exists():
        return None
    with saved.reading(file):
        found = Ablation.from_dict(json.loads(file.read_text(encoding="utf-8")))
        if ablation_file(saved.path, found.generation) != file:
            raise ValueError(f"it is of generation {found.generation}")
    return found


def _bits(marks: Sequence[bool]) -> str:
    return "".join("1" if mark else "0" for mark in marks)


def _marks(bits: object) -> tuple[bool, ...]:
    if not isinstance(bits, str) or not set(bits) <= {"0", "1"} or len(bits) > _MOST:
        raise ValueError(f"expected a text of 0 and 1, got {repr(bits)[:60]}")
    return tuple(bit == "1" for bit in bits)


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST * 1000:
        return value
    raise ValueError(f"expected a whole number of at least 0, got {repr(value)[:60]}")
