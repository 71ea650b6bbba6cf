"""A study's file: which arms, over which seeds, at which budgets, to answer which questions.

    name = "exchange"
    seeds = 10
    replies = 1440
    held_out = 256

    [settings]
    model = "embedded"

    [arms.one]
    label = "one learner"
    size = 1
    elites = 0

    [arms.six]
    label = "six learners"
    size = 6

    [[questions]]
    title = "Are six better than one?"
    arms = ["one", "six", "six:vote"]
    against = "one"

An arm's settings, and those that all arms share, are fields of `evolution.config.RunConfig`. One
may be drawn anew for each seed: ``learning_rate = {log_uniform = [3e-5, 3e-3]}``; arms that draw
the same field alike draw the same value.
"""

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

from agents.loading.linear import resolve
from evolution.config import RunConfig
from evolution.errors import ConfigError
from evolution.runs.settings_files import from_mapping
from evolution.studies.measured import BASE, FIGURES
from populora_env.keys import generator
from populora_env.problems.sources.spec import SELF_PLAY
from populora_env.settings import did_you_mean

T = TypeVar("T")

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

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
DRAWS: Mapping[str, Callable[[Any, Sequence[Any]], Any]] = {
    "uniform": lambda rng, of: float(rng.uniform(*of)),
    "log_uniform": lambda rng, of: float(math.exp(rng.uniform(*map(math.log, of)))),
    "choice": lambda rng, of: of[int(rng.integers(len(of)))],
}
"""How a setting is drawn for a seed, by name."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A setting that each seed draws anew."""

    how: str
    of: tuple[Any, ...]

    def value(self, setting: str, seed: int) -> Any:
        """What a seed draws."""
        return DRAWS[self.how](generator("study", setting, seed), self.of)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to play.

    Attributes:
        name: In the file.
        label: As tables and figures call it.
        settings: Fields of `RunConfig`, values or draws.
        replies: Budgets, ascending.
    """

    name: str
    label: str
    settings: Mapping[str, Any]
    replies: tuple[int, ...]

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
        entries: What it shows, in order.
        against: What the others are compared with; None for no comparison.
        over_replies: Whether it asks at every budget.
        note: Said below.
    """

    title: str
    figure: str
    entries: tuple[Entry, ...]
    against: Entry | None = None
    over_replies: bool = False
    note: str = ""


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


def read_study(path: str | Path) -> Study:
    """Read a study.

    Raises:
        ConfigError: If the file is missing or no TOML, or says anything that cannot be; one line.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"study: {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"study: {path} is not valid TOML ({error})") from error
    try:
        return study_of(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def study_of(data: Mapping[str, Any]) -> Study:
    """A study from what its file holds.

    Raises:
        ConfigError: If it cannot be.
    """
    known = ("name", "seeds", "replies", "seconds", "held_out", "settings", "arms", "questions")
    _known(data, known, "", ("name", "replies", "arms"))
    name = _text(data, "name")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: got {name!r}, expected letters, digits, dots and dashes")
    replies = _budgets(data["replies"], "replies")
    shared = _settings(_table(data, "settings"), "settings")
    given = _table(data, "arms")
    if not given:
        raise ConfigError("arms: got none, expected a table [arms.NAME] for each")
    arms: dict[str, Arm] = {}
    for key in given:
        if not _NAME.fullmatch(key) or key == BASE:
            raise ConfigError(
                f"arms.{key}: expected a name of letters, digits, dots and dashes, and not {BASE}"
            )
        table = _table(given, key, f"arms.{key}")
        extra = {k: table.pop(k) for k in ("label", "replies") if k in table}
        budgets = (
            _budgets(extra["replies"], f"arms.{key}.replies") if "replies" in extra else replies
        )
        label = _text(extra, "label", key, f"arms.{key}.")
        arms[key] = Arm(key, label, shared | _settings(table, f"arms.{key}"), budgets)
    seeds = _seeds(data.get("seeds", 5))
    for arm in arms.values():
        for seed in seeds:  # what is wrong is said before anything is played
            _check_run(arm.config(seed), arm.name)
    arms = {BASE: _base(shared, _shared_problems(arms, seeds[0])), **arms}
    return Study(
        name,
        seeds,
        _number(data, "seconds", None, 0.0),
        _whole(data, "held_out", 128),
        arms,
        tuple(
            _question(entry, f"questions[{i}]", arms)
            for i, entry in enumerate(_list(data.get("questions", []), "questions"))
        ),
    )


_OF_BASE = ("model", "dtype", "products", "device", "load_in_4bit", "solve_tokens", "max_rows")
_ALONE: Mapping[str, Any] = {"size": 1, "rank": 1, "elites": 0, "parents": 1, "learner": "none"}


def _base(shared: Mapping[str, Any], problems: str) -> Arm:
    """The base model, which answers as it is, alone, whatever the arms' size and learner are."""
    own = {k: v for k, v in shared.items() if k in _OF_BASE and not isinstance(v, Draw)}
    return Arm(BASE, "base model", {**own, **_ALONE, "problems": problems}, ())


def held_out_spec(config: RunConfig) -> str:
    """The spec of the held-out problems of a run."""
    return config.held_out_from or config.problems


def _check_run(config: RunConfig, arm: str) -> None:
    if config.engine != "local":
        raise ConfigError(
            f"arms.{arm}: engine: got {config.engine!r}, expected local: a study plays in one "
            "process"
        )
    if held_out_spec(config).strip().startswith(SELF_PLAY):
        raise ConfigError(
            f"arms.{arm}: held_out_from: got none, expected a spec of ordinary problems, such as "
            "procedural:chain_sum: nobody proposes held-out ones"
        )


def _shared_problems(arms: Mapping[str, Arm], seed: int) -> str:
    """The spec of the held-out problems of all arms; refuses arms that differ in it."""
    specs = {name: held_out_spec(arm.config(seed)) for name, arm in arms.items()}
    first, wanted = next(iter(specs.items()))
    for name, spec in specs.items():
        if spec != wanted:
            raise ConfigError(
                f"arms.{name}: held-out problems: got {spec!r}, expected {wanted!r}, as of "
                f"{first}: arms are compared on the same ones; set held_out_from for all"
            )
    return wanted


def _settings(table: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings of runs, with draws read."""
    names = {field.name for field in fields(RunConfig)}
    read: dict[str, Any] = {}
    for name, value in table.items():
        if name in UNSETTABLE:
            raise ConfigError(f"{where}.{name}: cannot be set in a study: {UNSETTABLE[name]}")
        if name not in names:
            raise ConfigError(f"{where}: unknown setting {name!r}{did_you_mean(name, names)}")
        read[name] = _draw(value, f"{where}.{name}") if isinstance(value, dict) else value
    if "products" in read and isinstance(read["products"], str):
        how = {k: read.get(k, getattr(RunConfig, k)) for k in ("dtype", "device")}
        read["products"] = str(resolve(read["products"], **how))  # what auto is here
    return read


def _draw(value: Mapping[str, Any], where: str) -> Draw:
    how, of = next(iter(value.items()), ("", []))
    numbers = isinstance(of, list) and all(
        isinstance(n, int | float) and not isinstance(n, bool) for n in cast(list[Any], of)
    )
    if len(value) != 1 or how not in DRAWS or not isinstance(of, list) or not of:
        raise ConfigError(
            f"{where}: got {dict(value)!r}, expected a value, or one of "
            + ", ".join(f"{{{name} = [...]}}" for name in DRAWS)
        )
    if how != "choice" and not (numbers and len(of) == 2 and of[0] <= of[1]):
        raise ConfigError(f"{where}.{how}: got {of!r}, expected two numbers, the smaller one first")
    if how == "log_uniform" and of[0] <= 0:
        raise ConfigError(f"{where}.{how}: got {of!r}, expected numbers above 0")
    return Draw(how, tuple(cast(list[Any], of)))


def _question(entry: Any, where: str, arms: Mapping[str, Arm]) -> Question:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: got {entry!r}, expected a table [[questions]]")
    table = cast(dict[str, Any], entry)
    _known(table, ("title", "figure", "arms", "against", "x", "note"), where, ("title", "arms"))
    figure = _figure(_text(table, "figure", "accuracy", f"{where}."), f"{where}.figure")

    def read(name: Any, at: str) -> Entry:
        arm, _, own = str(name).partition(":")
        if arm not in arms:
            raise ConfigError(
                f"{where}.{at}: unknown arm {arm!r}{did_you_mean(arm, arms)}; expected some of "
                f"{', '.join(arms)}"
            )
        return Entry(arm, _figure(own, f"{where}.{at}") if own else figure)

    entries = tuple(read(name, "arms") for name in _list(table["arms"], f"{where}.arms"))
    if len(set(entries)) < len(entries) or not entries:
        raise ConfigError(f"{where}.arms: got {table['arms']!r}, expected each arm once")
    against = read(table["against"], "against") if "against" in table else None
    if against is not None and against not in entries:
        raise ConfigError(
            f"{where}.against: got {table['against']!r}, expected one of the question's arms"
        )
    x = _text(table, "x", "arms", f"{where}.")
    if x not in ("arms", "replies"):
        raise ConfigError(f"{where}.x: got {x!r}, expected arms or replies")
    return Question(
        _text(table, "title", None, f"{where}."),
        figure,
        entries,
        against,
        x == "replies",
        _text(table, "note", "", f"{where}."),
    )


def _figure(name: str, where: str) -> str:
    if name not in FIGURES:
        raise ConfigError(
            f"{where}: unknown figure {name!r}{did_you_mean(name, FIGURES)}; expected one of "
            f"{', '.join(FIGURES)}"
        )
    return name


def _known(
    table: Mapping[str, Any], known: Sequence[str], where: str, needed: Sequence[str] = ()
) -> None:
    before = f"{where}: " if where else ""
    for name in table:
        if name not in known:
            raise ConfigError(
                f"{before}unknown field {name!r}{did_you_mean(name, known)}; expected some of "
                f"{', '.join(known)}"
            )
    for name in needed:
        if name not in table:
            raise ConfigError(f"{before}{name}: got nothing, expected it in the file")


def _table(data: Mapping[str, Any], name: str, where: str = "") -> dict[str, Any]:
    value = data.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{where or name}: got {value!r}, expected a table")
    return dict(cast(dict[str, Any], value))


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: got {value!r}, expected a list")
    return cast(list[Any], value)


def _text(table: Mapping[str, Any], name: str, default: str | None = None, where: str = "") -> str:
    value = table.get(name, default)
    if not isinstance(value, str) or (not value and default is None):
        raise ConfigError(f"{where}{name}: got {value!r}, expected text")
    return value


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _whole(table: Mapping[str, Any], name: str, default: int) -> int:
    value = table.get(name, default)
    if not _is_whole(value, 1):
        raise ConfigError(f"{name}: got {value!r}, expected an integer >= 1")
    return value


def _number(table: Mapping[str, Any], name: str, default: T, above: float) -> float | T:
    value = table.get(name, default)
    if value is default:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > above:
        raise ConfigError(f"{name}: got {value!r}, expected a number above {above:g}")
    return float(value)


def _budgets(value: Any, where: str) -> tuple[int, ...]:
    found = cast(list[Any], value) if isinstance(value, list) else [value]
    whole = found and all(_is_whole(n, 1) for n in found)
    if not whole or any(a >= b for a, b in pairwise(found)):
        raise ConfigError(
            f"{where}: got {value!r}, expected an integer >= 1, or several from small to large to "
            "be measured at each"
        )
    return tuple(found)


def _seeds(value: Any) -> tuple[int, ...]:
    if _is_whole(value, 1):
        return tuple(range(value))
    found = cast(list[Any], value) if isinstance(value, list) else []
    if not found or not all(_is_whole(n, 0) for n in found) or len(set(found)) < len(found):
        raise ConfigError(
            f"seeds: got {value!r}, expected how many, or a list of different integers >= 0"
        )
    return tuple(found)
