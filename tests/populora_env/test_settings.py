"""What settings are made of: ranges and choices at fields, checked and converted from there."""

import importlib
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import pytest

from evolution.cli import COMMANDS
from populora_env.settings import OneOf, Range, Registry, check_fields, field_rules


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


NAMES = Registry("names", {"a": 1})


@dataclass(frozen=True, slots=True)
class Options:
    size: Annotated[int, Range(1)] = 8
    room: Annotated[int | None, Range(2)] = None
    share: Annotated[float, Range(0, 1)] = 0.5
    scale: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    drop: Annotated[float, Range(0, 1, below=True)] = 0.0
    wait: Annotated[float, Range(0, above=True)] = 1.0
    minutes: Annotated[float, Range(0, finite=False)] = 0.0
    any_number: float = 0.0
    whole: int = 0
    colour: Colour = Colour.RED
    other: Colour | None = None
    name: Annotated[str, OneOf(NAMES)] = "a"
    text: str = ""
    switch: bool = False
    way: Literal["x", "y"] = "x"
    several: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("size", 0, "got 0, expected an integer >= 1"),
        ("size", True, "got True, expected an integer >= 1"),
        ("size", 2.0, "got 2.0, expected an integer >= 1"),
        ("size", None, "got None, expected an integer >= 1"),
        ("room", 1, "got 1, expected an integer >= 2"),
        ("whole", "1", "got '1', expected an integer"),
        ("share", 1.5, "got 1.5, expected 0 to 1"),
        ("share", math.nan, "got nan, expected a finite number"),
        ("share", "half", "got 'half', expected a number"),
        ("scale", 0, "got 0, expected a number above 0, up to 1e6"),
        ("scale", math.nan, "got nan, expected a number above 0, up to 1e6"),
        ("drop", 1.0, "got 1.0, expected a number from 0, below 1"),
        ("wait", math.inf, "got inf, expected a finite number > 0"),
        ("wait", 0, "got 0, expected a finite number > 0"),
        ("minutes", -1, "got -1, expected a number >= 0"),
        ("any_number", False, "got False, expected a number"),
        ("colour", "green", "got 'green', expected one of red, blue"),
        ("colour", 1, "got 1, expected text"),
        ("other", "green", "got 'green', expected one of red, blue"),
        ("name", "b", "got 'b', expected one of a"),
        ("name", None, "got None, expected text"),
        ("text", 1, "got 1, expected text"),
        ("switch", "False", "got 'False', expected true or false"),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(name, value, said):
    with pytest.raises(KeyError) as caught:
        check_fields(Options(**{name: value}), KeyError)
    assert caught.value.args == (f"{name}: {said}",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 1), ("room", None), ("room", 2), ("share", 0), ("share", 1), ("scale", 1e6),
        ("drop", 0), ("minutes", math.inf), ("any_number", math.nan), ("other", None),
        ("way", "nobody checks"), ("several", "nor this"),
    ],
)  # fmt: skip
def test_what_is_allowed_stays_as_it_is(name, value):
    options = Options(**{name: value})
    check_fields(options, ValueError)
    assert getattr(options, name) is value


def test_texts_become_members_of_enumerations():
    options = Options(colour="blue", other="red")
    check_fields(options, ValueError)
    assert options.colour is Colour.BLUE
    assert options.other is Colour.RED


def test_a_name_that_was_added_is_allowed():
    with pytest.raises(ValueError, match="name: got 'late'"):
        check_fields(Options(name="late"), ValueError)
    NAMES.add("late")(2)
    check_fields(Options(name="late"), ValueError)
    del NAMES["late"]


def test_rules_are_those_of_the_annotations():
    rules = field_rules(Options)
    assert rules["room"].limit == Range(2)
    assert (rules["room"].kind, rules["room"].optional) == (int, True)
    assert rules["way"].kind is rules["several"].kind is None


def test_every_number_of_a_run_and_of_a_command_has_a_range():
    open_ends = {}
    for command, (_, module, name) in COMMANDS.items():
        rules = field_rules(getattr(importlib.import_module(module), name))
        open_ends[command] = {
            name for name, rule in rules.items() if rule.kind in (int, float) and not rule.limit
        }
    assert {command: names for command, names in open_ends.items() if names} == {
        "play": {"seed"}, "validate": {"seed"},
    }  # fmt: skip
