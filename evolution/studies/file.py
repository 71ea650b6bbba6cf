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

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

from agents.loading.linear import MatmulPrecision, resolve
from evolution.config import RunConfig
from evolution.errors import ConfigError
from evolution.studies.design import (
    DRAWS,
    IN_TURN,
    UNSETTABLE,
    Arm,
    Draw,
    Entry,
    Question,
    Study,
)
from evolution.studies.measured import BASE, FIGURES
from evolution.studies.results import BASE_ANSWERS
from populora_env.problems.sources.spec import SELF_PLAY
from populora_env.settings import did_you_mean

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


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
        extra = {k: table.pop(k) for k in ("label", "replies", "members") if k in table}
        budgets = (
            _budgets(extra["replies"], f"arms.{key}.replies") if "replies" in extra else replies
        )
        label = _text(extra, "label", key, f"arms.{key}.")
        members = extra.get("members", True)
        if not isinstance(members, bool):
            raise ConfigError(f"arms.{key}.members: got {members!r}, expected true or false")
        own = shared | _settings(table, f"arms.{key}")
        arms[key] = Arm(key, label, own, budgets, members)
    seeds = _seeds(data.get("seeds", 5))
    for seed in seeds:  # what is wrong is said before anything is played
        configs = {key: arm.config(seed) for key, arm in arms.items()}
        for key, config in configs.items():
            _check_run(config, key)
        _check_problems(configs)
    _check_turns(arms.values(), seeds)
    arms = {BASE: _base(shared, list(arms.values()), seeds[0]), **arms}
    return Study(
        name,
        seeds,
        _number(data, "seconds", None, 0.0),
        _whole(data, "held_out", 128),
        arms,
        _questions(data.get("questions", []), arms),
    )


_ALONE: Mapping[str, Any] = {"size": 1, "rank": 1, "elites": 0, "parents": 1, "learner": "none"}


def _base(shared: Mapping[str, Any], arms: Sequence[Arm], seed: int) -> Arm:
    """The base model, which answers as it is, alone, whatever the arms' size and learner are.

    What has a part in its answers is as in all arms, and where these differ as the settings say;
    its problems are the held-out ones.
    """
    source = "held_out_from" if arms[0].settings.get("held_out_from") else "problems"
    own: dict[str, Any] = {"problems": held_out_spec(arms[0].config(seed))}
    if isinstance(drawn := arms[0].settings.get(source), Draw):  # other problems for other seeds
        own[source] = drawn
    for name in BASE_ANSWERS:
        if name == "problems":
            continue
        values = [arm.settings.get(name, getattr(RunConfig, name)) for arm in arms]
        if all(value == values[0] for value in values):
            own[name] = values[0]
        elif name in shared:
            own[name] = shared[name]
        else:
            raise ConfigError(
                f"settings.{name}: got nothing, and arms differ in it; expected what holds for the "
                "base model, which every study measures"
            )
    return Arm(BASE, "base model", {**own, **_ALONE}, ())


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


def _check_problems(configs: Mapping[str, RunConfig]) -> None:
    """Refuse arms that differ in their held-out problems."""
    specs = {name: held_out_spec(config) for name, config in configs.items()}
    first, wanted = next(iter(specs.items()))
    for name, spec in specs.items():
        if spec != wanted:
            raise ConfigError(
                f"arms.{name}: held-out problems: got {spec!r}, expected {wanted!r}, as of "
                f"{first}: arms are compared on the same ones; set held_out_from for all"
            )


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
    if read.get("products") in list(MatmulPrecision):  # else refused with a run's settings
        how = {k: read.get(k, getattr(RunConfig, k)) for k in ("dtype", "device")}
        read["products"] = str(resolve(read["products"], **how))  # what auto is here
    return read


def _draw(value: Mapping[str, Any], where: str) -> Draw:
    how, of = next(iter(value.items()), ("", []))
    numbers = isinstance(of, list) and all(
        isinstance(n, int | float) and not isinstance(n, bool) for n in cast(list[Any], of)
    )
    if len(value) != 1 or how not in (*DRAWS, IN_TURN) or not isinstance(of, list) or not of:
        raise ConfigError(
            f"{where}: got {dict(value)!r}, expected a value, or one of "
            + ", ".join(f"{{{name} = [...]}}" for name in (*DRAWS, IN_TURN))
        )
    if how not in ("choice", IN_TURN) and not (numbers and len(of) == 2 and of[0] <= of[1]):
        raise ConfigError(f"{where}.{how}: got {of!r}, expected two numbers, the smaller one first")
    if how == "log_uniform" and of[0] <= 0:
        raise ConfigError(f"{where}.{how}: got {of!r}, expected numbers above 0")
    return Draw(how, tuple(cast(list[Any], of)))


def _check_turns(arms: Iterable[Arm], seeds: Sequence[int]) -> None:
    """Check that seeds, by which values take turns, use as many of them as they can."""
    for arm in arms:
        for name, value in arm.settings.items():
            if not isinstance(value, Draw) or value.how != IN_TURN:
                continue
            used = {seed % len(value.of) for seed in seeds}
            if len(used) < min(len(value.of), len(seeds)):
                raise ConfigError(
                    f"arms.{arm.name}.{name}: {IN_TURN}: seed s takes value s % {len(value.of)}, "
                    f"and seeds {', '.join(map(str, seeds))} use {len(used)} of "
                    f"{len(value.of)}; choose other seeds"
                )


def _questions(given: Any, arms: Mapping[str, Arm]) -> tuple[Question, ...]:
    """The questions of a file; of one without any, what all arms come to."""
    found: list[Question] = []
    for i, entry in enumerate(_list(given, "questions")):
        where = f"questions[{i}]"
        question = _question(entry, where, arms)
        if not question.slug or question.slug in [other.slug for other in found]:
            raise ConfigError(
                f"{where}.title: got {question.title!r}, expected letters or digits, and another "
                "title than the questions before"
            )
        found.append(question)
    whole = Question("All arms", "accuracy", tuple(Entry(arm, "accuracy") for arm in arms))
    return tuple(found) or (whole,)


def _question(entry: Any, where: str, arms: Mapping[str, Arm]) -> Question:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: got {entry!r}, expected a table [[questions]]")
    table = cast(dict[str, Any], entry)
    fields = ("title", "figure", "arms", "against", "beside", "x", "note")
    _known(table, fields, where, ("title", "arms"))
    figure = _figure(_text(table, "figure", "accuracy", f"{where}."), f"{where}.figure")

    def read(name: Any, at: str) -> Entry:
        arm, _, own = str(name).partition(":")
        if arm not in arms:
            raise ConfigError(
                f"{where}.{at}: unknown arm {arm!r}{did_you_mean(arm, arms)}; expected some of "
                f"{', '.join(arms)}"
            )
        asked = _figure(own, f"{where}.{at}") if own else figure
        if not arms[arm].members and FIGURES[asked].of_members:
            raise ConfigError(
                f"{where}.{at}: got {asked} of {arm}, whose members are not measured; leave out "
                f"members = false there, or ask for accuracy"
            )
        return Entry(arm, asked)

    entries = tuple(read(name, "arms") for name in _list(table["arms"], f"{where}.arms"))
    beside = tuple(
        read(name, "beside") for name in _list(table.get("beside", []), f"{where}.beside")
    )
    if len(set(entries + beside)) < len(entries + beside) or not entries:
        raise ConfigError(
            f"{where}.arms and beside: got {[*table['arms'], *table.get('beside', [])]!r}, "
            "expected each arm once"
        )
    kinds = {entry.figure: FIGURES[entry.figure].share for entry in entries + beside}
    if len(kinds) > 1 and not all(kinds.values()):
        raise ConfigError(
            f"{where}.arms: got figures {', '.join(sorted(kinds))}, expected one of them, or "
            "shares of problems alone, which can be compared"
        )
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
        beside,
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
