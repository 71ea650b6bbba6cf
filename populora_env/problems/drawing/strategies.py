"""Which level of a generator comes next, by what became of those before.

A strategy knows one generator. It is told how often problems of a level were solved, and asked
for a level; between the two it does not change.

    from populora_env import CURRICULA, LevelStrategy

    @CURRICULA.add("hardest")
    class Hardest(LevelStrategy):
        def choose(self, rng):
            return tuple(axis.steps - 1 for axis in self.ladder.axes)

is ``curriculum:hardest(chain_sum)``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from populora_env.problems.drawing.levels import Ladder, Level
from populora_env.settings import Range, Registry, check_fields


class LevelStrategy(ABC):
    """What chooses levels of one generator.

    Args:
        ladder: Its levels.
    """

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder

    @abstractmethod
    def choose(self, rng: np.random.Generator) -> Level:
        """Return a level; changes nothing."""

    def observe(self, level: Level, right: int, tries: int) -> None:  # noqa: B027, not all learn
        """Take in how many of some tries at a problem of a level were right."""

    def state(self) -> dict[str, Any]:
        """Return what was learned, as plain JSON types."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027, not all learn
        """Become as one with this state.

        Raises:
            ValueError: If it is no state of such a strategy.
            KeyError: If a part of it is missing.
            TypeError: If a part of it is of another type.
        """


CURRICULA = Registry[Callable[..., LevelStrategy]]("curriculum")
"""Strategies by name: classes, or functions, of a `Ladder` and the options of a spec."""


@CURRICULA.add("uniform")
class Uniform(LevelStrategy):
    """Any level, each with the same chance, whatever becomes of it."""

    def choose(self, rng: np.random.Generator) -> Level:
        """Return any level."""
        return self.ladder.any_level(rng)


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How a window moves.

    Attributes:
        up: Share of tries at its top difficulty that have to be right for it to move up.
        over: How many tries at least.
        width: Difficulties in it at most.
    """

    up: Annotated[float, Range(0, 1, above=True)] = 0.9
    over: Annotated[int, Range(1)] = 8
    width: Annotated[int, Range(1)] = 4

    def __post_init__(self) -> None:
        check_fields(self, ValueError)


@CURRICULA.add("window")
class Window(LevelStrategy):
    """A window of difficulties that moves up when its top is mastered.

    It begins at the easiest level. When ``over`` tries at its top were counted, it moves up if
    the share ``up`` of them was right, and the count begins anew either way. The adaptive
    difficulty of RLVE (Zeng et al. 2025).

    Args:
        ladder: The levels.
        up: See `WindowOptions` for all of them.
        over: How many tries at least.
        width: Difficulties in it at most.

    Raises:
        ValueError: If an option is out of range; one line.
    """

    def __init__(self, ladder: Ladder, *, up: float = 0.9, over: int = 8, width: int = 4) -> None:
        super().__init__(ladder)
        self._options = WindowOptions(up, over, width)
        self._low = self._high = self._right = self._tries = 0

    def choose(self, rng: np.random.Generator) -> Level:
        """Return a level of a difficulty in the window, each difficulty with the same chance."""
        return self.ladder.level_of(int(rng.integers(self._low, self._high + 1)), rng)

    def observe(self, level: Level, right: int, tries: int) -> None:
        """Count tries at the top, and move up."""
        if sum(level) != self._high:
            return
        self._right += right
        self._tries += tries
        if self._tries < self._options.over:
            return
        if self._right / self._tries >= self._options.up and self._high < self.ladder.top:
            self._high += 1
            self._low = max(self._low, self._high - self._options.width + 1)
        self._right = self._tries = 0

    def state(self) -> dict[str, Any]:
        """Return the window and the count."""
        return {"low": self._low, "high": self._high, "right": self._right, "tries": self._tries}

    def load(self, state: Mapping[str, Any]) -> None:
        """Have this window and count."""
        low, high, right, tries = (
            _count(state[name]) for name in ("low", "high", "right", "tries")
        )
        if not (low <= high <= self.ladder.top and right <= tries):
            raise ValueError(f"low {low}, high {high} of {self.ladder.top}, {right} of {tries}")
        self._low, self._high, self._right, self._tries = low, high, right, tries


@dataclass(frozen=True, slots=True)
class LearnabilityOptions:
    """How levels are kept and drawn.

    Attributes:
        buffer: Levels kept at most; the one that teaches least goes first.
        explore: Share of items at any level instead.
        memory: Tries after which older ones begin to be forgotten.
    """

    buffer: Annotated[int, Range(1)] = 64
    explore: Annotated[float, Range(0, 1, above=True)] = 0.25
    memory: Annotated[int, Range(1)] = 32

    def __post_init__(self) -> None:
        check_fields(self, ValueError)


@CURRICULA.add("learnability")
class Learnability(LevelStrategy):
    """Levels that are solved about half of the time.

    A level is drawn with a chance in proportion to p(1 - p), where p is the rate at which it is
    solved, and some are drawn at random, to find others. p(1 - p) is the variance of the reward,
    without which there is nothing to learn from (Foster et al. 2025; Tzannetos et al. 2023).

    Args:
        ladder: The levels.
        buffer: See `LearnabilityOptions` for all of them.
        explore: Share of items at any level instead.
        memory: Tries after which older ones begin to be forgotten.

    Raises:
        ValueError: If an option is out of range; one line.
    """

    def __init__(
        self, ladder: Ladder, *, buffer: int = 64, explore: float = 0.25, memory: int = 32
    ) -> None:
        super().__init__(ladder)
        self._options = LearnabilityOptions(buffer, explore, memory)
        self._kept: dict[Level, tuple[float, float]] = {}  # how many of how many tries were right

    def choose(self, rng: np.random.Generator) -> Level:
        """Return a level that was tried, by what it teaches, or any one."""
        if not self._kept or rng.random() < self._options.explore:
            return self.ladder.any_level(rng)
        levels = list(self._kept)
        weights = np.array([_learnability(*self._kept[level]) for level in levels])
        return levels[int(rng.choice(len(levels), p=weights / weights.sum()))]

    def observe(self, level: Level, right: int, tries: int) -> None:
        """Have a better estimate of a level, and forget one if there are too many."""
        before_right, before = self._kept.get(level, (0.0, 0.0))
        total = before + tries
        kept = min(1.0, self._options.memory / total) if total else 1.0
        self._kept[level] = ((before_right + right) * kept, total * kept)
        if len(self._kept) > self._options.buffer:
            del self._kept[min(self._kept, key=lambda entry: _learnability(*self._kept[entry]))]

    def state(self) -> dict[str, Any]:
        """Return all levels that are kept: their steps, right ones and tries."""
        return {"kept": [[list(level), *counts] for level, counts in self._kept.items()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Keep these levels."""
        kept: dict[Level, tuple[float, float]] = {}
        for level, right, tries in state["kept"]:
            known = self.ladder.holds(level) and tries <= self._options.memory + 1
            if not (known and 0 <= right <= tries):
                raise ValueError(f"{right} of {tries} right at {level}")
            kept[tuple(level)] = (float(right), float(tries))
        self._kept = kept


def _learnability(right: float, tries: float) -> float:
    """Return p(1 - p), where a level that was hardly tried is thought to teach much."""
    rate = (right + 0.5) / (tries + 1)
    return rate * (1 - rate)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
