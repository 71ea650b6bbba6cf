"""What each setting of a run may be, by itself and beside the others.

The first that is out of range is named, with what came, what was expected and a way out. Operators
by name say themselves what they take; see `evolution.registry`.

Not covered here: what only a population's size tells (`evolution.config.EvolutionConfig.resolved`).
"""

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from agents.learning.advantages import ADVANTAGES
from evolution.errors import ConfigError, OperatorError
from evolution.fitness.attempts import BARS
from evolution.fitness.diversity import MEASURES
from evolution.fitness.rules import FITNESSES, make_rule
from evolution.fitness.scaling import SCALES, SCHEDULES
from populora_env.episodes.arguments import read_forms
from populora_env.episodes.rewards import RewardWeights
from populora_env.records import Phase

if TYPE_CHECKING:
    from evolution.config import EvolutionConfig, RunConfig

_DTYPES = ("float32", "bfloat16", "float16")  # agents.loading.models.DTYPES, without its torch
_COUNTS = {
    "seed": 0, "problems_per_generation": 1, "judged_problems": 0, "solve_tokens": 1,
    "judge_tokens": 1, "critique_tokens": 1, "judge_load": 1, "evolve_every": 1, "offspring": 0,
    "elites": 0, "parents": 1, "islands": 1, "migrate_every": 1, "migrants": 1,
    "confirm_problems": 0,
    "keep_generations": 1, "keep_every": 0, "epochs": 1, "minibatches": 1, "rejection_replies": 1,
    "tokens_per_batch": 1,
}  # fmt: skip
_RANGES = {
    "spread": (0.0, 10.0), "diversity_weight": (-1e6, 1e6), "fitness_memory": (0.0, 1.0),
    "confirm_confidence": (0.0, 10.0),
    "mutation": (0.0, 10.0), "learning_rate": (0.0, 1.0), "sample_fraction": (0.0, 1.0),
    "negative_weight": (0.0, 1.0), "temperature": (0.0, 10.0), "clip_low": (0.0, 1.0),
    "clip_high": (0.0, 1e6), "kl": (0.0, 1e6),
}  # fmt: skip


def check_evolution(config: "EvolutionConfig") -> None:
    """Check what an `EvolutionConfig` says.

    Raises:
        ConfigError: On the first value out of range.
    """
    _check_kinds(config)
    _check_ranges(config)
    _check_breeding(config)
    _check_learning(config)
    _check_judging(config)


def check_run(config: "RunConfig") -> None:
    """Check what a `RunConfig` says beside what an `EvolutionConfig` does.

    Raises:
        ConfigError: On the first value out of range.
    """
    for name, least in {
        "size": 1, "rank": 1, "max_rows": 1, "held_out": 0, "generations": 1,
        "held_out_every": 0,
    }.items():  # fmt: skip
        _check_count(name, getattr(config, name), least)
    if config.alpha is not None:
        _check_number("alpha", config.alpha, "above 0, up to 1e6", 0 < config.alpha <= 1e6)
    _check_number("dropout", config.dropout, "from 0, below 1", 0 <= config.dropout < 1)
    _check_number("top_p", config.top_p, "above 0, up to 1", 0 < config.top_p <= 1)
    if config.adapter_dtype not in (None, *_DTYPES):
        raise ConfigError(
            f"adapter_dtype: got {config.adapter_dtype!r}, expected one of {', '.join(_DTYPES)}"
        )
    if not config.max_minutes >= 0:
        raise ConfigError(f"max_minutes: got {config.max_minutes!r}, expected a number >= 0")


def _check_kinds(config: "EvolutionConfig") -> None:
    """Check that texts, numbers and switches are that, which TOML files may get wrong."""
    for field in fields(config):
        value: Any = getattr(config, field.name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (isinstance(field.default, float) or field.name == "alpha") and not number:
            if value is None and field.default is None:
                continue
            raise ConfigError(f"{field.name}: got {value!r}, expected a number")
        if isinstance(field.default, str) and not isinstance(value, str):
            raise ConfigError(f"{field.name}: got {value!r}, expected text")
        if isinstance(field.default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{field.name}: got {value!r}, expected true or false")


def _check_ranges(config: "EvolutionConfig") -> None:
    """Check numbers; those whose default is None may be left open."""
    left_open = {field.name for field in fields(config) if field.default is None}
    for name, least in _COUNTS.items():
        value = getattr(config, name)
        if value is None and name in left_open:
            continue
        _check_count(name, value, least)
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if value is None and name in left_open:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{name}: got {value!r}, expected a finite number")
        if not low <= value <= high:
            raise ConfigError(f"{name}: got {value!r}, expected {low} to {high}")
    if config.fitness_memory == 1:
        raise ConfigError("fitness_memory: got 1, expected less, or fitness never changes")


def _check_breeding(config: "EvolutionConfig") -> None:
    """Check operators by name, how fitness is made, and islands."""
    try:
        config.operators()
    except OperatorError as error:
        raise ConfigError(str(error)) from error
    _check_fitness(config)
    if config.islands > 1 and config.migrants > config.elites:
        raise ConfigError(
            f"migrants: got {config.migrants}, expected at most elites = {config.elites}, the "
            "fittest that are there to be copied"
        )


def _check_fitness(config: "EvolutionConfig") -> None:
    try:
        make_rule(FITNESSES.read(config.fitness))
        SCALES.read_one(config.fitness_scale)
        MEASURES.read_several(config.diversity)
        BARS.read_one(config.diversity_bar)
        schedule = SCHEDULES.read(config.diversity_schedule)
    except OperatorError as error:
        raise ConfigError(str(error)) from error
    if schedule.name == "target" and config.diversity_weight <= 0:
        raise ConfigError(
            f"diversity_weight: got {config.diversity_weight:g}, expected above 0: "
            "diversity_schedule target multiplies it"
        )


def _check_learning(config: "EvolutionConfig") -> None:
    _check_choice(config, "learner")
    if config.advantage not in ADVANTAGES:
        raise ConfigError(
            f"advantage: got {config.advantage!r}, expected one of {', '.join(ADVANTAGES)}"
        )
    _check_choice(config, "rejection_source")
    _check_choice(config, "child_optimizer")


def _check_judging(config: "EvolutionConfig") -> None:
    try:
        forms = read_forms(config.evaluation)
        RewardWeights.preset(config.rewards)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _check_choice(config, "matchmaking")
    if config.revise and Phase.CRITIQUE not in forms:
        raise ConfigError(
            f"revise: needs critiques; got evaluation {config.evaluation!r}, expected one with "
            "critique"
        )
    if config.judged_problems > config.problems_per_generation:
        raise ConfigError(
            f"judged_problems: got {config.judged_problems}, expected at most "
            f"problems_per_generation = {config.problems_per_generation}"
        )


def _check_choice(config: "EvolutionConfig", name: str) -> None:
    """Check that a setting is one of the enumeration that its default is of."""
    kind: Any = next(type(field.default) for field in fields(config) if field.name == name)
    if getattr(config, name) not in set(kind):
        raise ConfigError(
            f"{name}: got {getattr(config, name)!r}, expected one of {', '.join(kind)}"
        )


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name}: got {value!r}, expected an integer >= {least}")


def _check_number(name: str, value: float, expected: str, fits: bool) -> None:
    if not fits:
        raise ConfigError(f"{name}: got {value!r}, expected a number {expected}")
