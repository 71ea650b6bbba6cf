"""How hard a procedural generator's problems are: settings in the ranges of its curriculum.

reasoning-gym says of most of its generators by which parameters their problems get harder, and
through which values. Each of these is an axis here, its values are steps, and a level of a
generator is one step on each axis. Where a parameter is a pair of least and most, a step is one
value for both, or reaches from one value to the next where the curriculum asks for an interval;
so problems of a level are as hard as it says, none is easier.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from populora_env.problems.drawing.procedural import check_generator, curricula
from populora_env.problems.sources.base import ProblemSpecError
from populora_env.problems.sources.spec import GeneratorSpec

Level = tuple[int, ...]
"""One step on each axis of a generator, from 0, the easiest."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One way in which the problems of a generator get harder.

    Attributes:
        name: Such as ``terms``.
        aliases: Other names it is known by, in lower case.
        parameters: The least and the most of what it sets, or one parameter.
        values: By step, the easiest first; of an interval, one more than there are steps.
        interval: Whether a step reaches from its value to the next.
    """

    name: str
    aliases: tuple[str, ...]
    parameters: tuple[str, ...]
    values: tuple[Any, ...]
    interval: bool

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.values) - self.interval

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers in order, which stand for themselves in settings.

        In settings, a step of any other axis is its number, from 1.
        """
        if not all(type(value) in (int, float) for value in self.values):
            return False
        rises = all(b > a for a, b in pairwise(self.values))
        return rises or (not self.interval and all(b < a for a, b in pairwise(self.values)))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest setting."""
        if not self.numeric:
            return 1, self.steps
        values = self.values[self.interval :]
        return min(values), max(values)

    def setting(self, step: int) -> float:
        """Return what stands for a step in settings."""
        return self.values[step + self.interval] if self.numeric else step + 1

    def chosen(self, setting: float) -> dict[str, Any]:
        """Return the generator's parameters for a setting; numbers between two steps are allowed.

        Raises:
            ValueError: If it is out of range; one line.
        """
        low, high = self.bounds
        whole = not self.numeric or all(type(value) is int for value in self.values)
        if not low <= setting <= high or (whole and setting != int(setting)):
            kind = "an integer" if whole else "a number"
            raise ValueError(f"{self.name} must be {kind} {low:g} to {high:g}, got {setting:g}")
        value: Any = int(setting) if whole else float(setting)
        least = value
        if not self.numeric:
            value = self.values[int(setting) - 1 + self.interval]
            least = self.values[int(setting) - 1]
        elif self.interval:
            least = max(entry for entry in self.values if entry < value)
        return dict(zip(self.parameters, (least, value)[-len(self.parameters) :], strict=True))


@dataclass(frozen=True, slots=True)
class Ladder:
    """The levels of one generator.

    Attributes:
        generator: With the parameters that are the same at all levels.
        axes: Those that are not fixed by its parameters; maybe none.
    """

    generator: GeneratorSpec
    axes: tuple[Axis, ...]

    @property
    def top(self) -> int:
        """The difficulty of the hardest level: steps above the easiest, on all axes together."""
        return sum(axis.steps - 1 for axis in self.axes)

    def settings(self, level: Level) -> dict[str, float]:
        """Return what stands for a level in settings, by axis."""
        return {axis.name: axis.setting(step) for axis, step in self._steps(level)}

    def at(self, level: Level) -> GeneratorSpec:
        """Return the generator at a level."""
        return self.chosen(self.settings(level))

    def chosen(self, settings: dict[str, float]) -> GeneratorSpec:
        """Return the generator with these settings, one for each axis.

        Raises:
            ValueError: If one is out of range; one line.
        """
        parameters = dict(self.generator.parameters)
        for axis in self.axes:
            parameters |= axis.chosen(settings[axis.name])
        return GeneratorSpec(self.generator.name, parameters, self.generator.weight)

    def any_level(self, rng: np.random.Generator) -> Level:
        """Return a level, each with the same chance."""
        return tuple(int(rng.integers(axis.steps)) for axis in self.axes)

    def level_of(self, difficulty: int, rng: np.random.Generator) -> Level:
        """Return a level of a difficulty: so many steps up from the easiest, each on any axis.

        Args:
            difficulty: 0 to `top`.
            rng: Decides on which axes.
        """
        level = [0] * len(self.axes)
        for _ in range(difficulty):
            open_axes = [at for at, axis in enumerate(self.axes) if level[at] < axis.steps - 1]
            level[open_axes[int(rng.integers(len(open_axes)))]] += 1
        return tuple(level)

    def holds(self, level: Sequence[Any]) -> bool:
        """Return whether this is one of its levels."""
        return len(level) == len(self.axes) and all(
            type(step) is int and 0 <= step < axis.steps for axis, step in self._steps(level)
        )

    def _steps(self, level: Sequence[Any]) -> Iterator[tuple[Axis, Any]]:
        return zip(self.axes, level, strict=True)


def make_ladders(
    what: str, generators: Sequence[GeneratorSpec], upto: int | None
) -> tuple[Ladder, ...]:
    """Return the levels of generators.

    Args:
        what: Who asks, as messages call it.
        generators: Their parameters fix the axes that they belong to.
        upto: Steps to keep of each axis, the easiest ones; None for all.

    Raises:
        ProblemSpecError: If there are none, or one does not exist, refuses a parameter, or has no
            curriculum.
        ValueError: If ``upto`` is out of range.
    """
    if not generators:
        raise ProblemSpecError(
            f"{what} is made of procedural generators, as in {what}(chain_sum+products): got none"
        )
    if upto is not None and (type(upto) is not int or upto < 1):
        raise ValueError(f"upto: got {upto!r}, expected an integer >= 1, or none")
    return tuple(_ladder(generator, upto) for generator in generators)


def _ladder(generator: GeneratorSpec, upto: int | None) -> Ladder:
    check_generator(generator)
    made = curricula()
    if generator.name not in made:
        raise ProblemSpecError(
            f"{generator.name} has no curriculum, by which its levels are known: "
            f"choose among {', '.join(made)}"
        )
    attributes: list[Any] = list(made[generator.name]().attributes.values())
    axes: list[Axis] = []
    for attribute in attributes:
        known = {entry.name for entry in fields(attribute)}
        ranged = "lower_field_name" in known
        parameters = (
            (str(attribute.lower_field_name), str(attribute.upper_field_name))
            if ranged
            else (str(attribute.field_name),)
        )
        if any(name in generator.parameters for name in parameters):
            continue
        interval = ranged and bool(attribute.ensure_interval)
        values = tuple(attribute.levels)[: None if upto is None else upto + interval]
        name = str(attribute.name)
        short = name.removeprefix("num_")
        taken = {str(other.name) for other in attributes if other is not attribute}
        shown = name if short in taken or short == "generator" else short
        axes.append(
            Axis(shown, (name.lower(), parameters[-1].lower()), parameters, values, interval)
        )
    return Ladder(generator, tuple(axes))
