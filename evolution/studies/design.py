"""What a study is made of: arms, seeds, budgets, questions. What its file says becomes this.

Not covered here: reading the file and what is wrong with it (`evolution.studies.file`).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution.config import RunConfig
from evolution.errors import ConfigError
from evolution.runs.settings_files import from_mapping
from populora_env.keys import generator

UNSETTABLE: Mapping[str, str] = {
    "seed": "each run has one of the study's seeds",
    "generations": "a run ends when its replies are used up",
    "max_minutes": "say seconds at the top of the file",
    "held_out": "say it at the top of the file",
    "held_out_every": "runs are measured at the study's replies: give several",
    "out": "runs of a study keep no folder",
    "keep_generations": "runs of a study keep no folder",
    "keep_every": "runs of a study keep no folder",
}
"""Settings of a run that no study may set, and why."""

DRAWS: Mapping[str, Callable[[Any, Sequence[Any]], Any]] = {
    "uniform": lambda rng, of: float(rng.uniform(*of)),
    "log_uniform": lambda rng, of: float(math.exp(rng.uniform(*map(math.log, of)))),
    "choice": lambda rng, of: of[int(rng.integers(len(of)))],
}
"""How a setting is drawn for a seed, by name; between two numbers, but for a choice."""
IN_TURN = "in_turn"
"""Seeds take a setting's values one after the other."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A setting that each seed has its own value of."""

    how: str
    of: tuple[Any, ...]

    def value(self, setting: str, seed: int) -> Any:
        """What a seed draws."""
        if self.how == IN_TURN:
            return self.of[seed % len(self.of)]
        return DRAWS[self.how](generator("study", setting, seed), self.of)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to play.

    Attributes:
        name: In the file.
        label: As tables and figures call it.
        settings: Fields of `RunConfig`, values or draws.
        replies: Budgets, ascending.
        members: Whether each member is measured; false to measure the champion alone, which is
            most of the time that measuring takes.
    """

    name: str
    label: str
    settings: Mapping[str, Any]
    replies: tuple[int, ...]
    members: bool = True

    def config(self, seed: int) -> RunConfig:
        """The settings of a run.

        Raises:
            ConfigError: If they cannot be.
        """
        values = {
            name: value.value(name, seed) if isinstance(value, Draw) else value
            for name, value in self.settings.items()
        }
        where = f"arms.{self.name}"
        try:
            return from_mapping({**values, "seed": seed}, where)
        except ConfigError as error:
            said = str(error)
            raise ConfigError(said if said.startswith(where) else f"{where}: {said}") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A figure of an arm, as a question shows it."""

    arm: str
    figure: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is compared.

    Attributes:
        title: Of the table and the figure.
        figure: The one it asks for.
        entries: What it compares, in order.
        beside: What it shows besides, and compares with nothing.
        against: What the others are compared with; None for no comparison.
        over_replies: Whether it asks at every budget.
        note: Said below.
    """

    title: str
    figure: str
    entries: tuple[Entry, ...]
    beside: tuple[Entry, ...] = ()
    against: Entry | None = None
    over_replies: bool = False
    note: str = ""

    @property
    def slug(self) -> str:
        """Its title as the name of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Study:
    """A study.

    Attributes:
        name: Of its folder.
        seeds: One run each of every arm.
        seconds: After so many of a run no generation begins; None for no limit.
        held_out: Problems that a run is measured on and never trained on.
        arms: By name; the first is `BASE`.
        questions: What is shown.
    """

    name: str
    seeds: tuple[int, ...]
    seconds: float | None
    held_out: int
    arms: Mapping[str, Arm]
    questions: tuple[Question, ...]
