"""What settings of a run may be beside each other.

The first that cannot be is named, with what came, what was expected and a way out. Operators by
name say themselves what they take; see `evolution.registry`. Not covered here: what a setting may
be by itself, which stands at its field (`evolution.config.evolving`), and what only a
population's size tells (`EvolutionConfig.resolved`).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agents.engine.jobs import EngineError
from agents.vllm.server import check_address
from evolution.errors import ConfigError, OperatorError
from evolution.exchange.exploiting import adapted
from evolution.exchange.gate import GATES
from evolution.exchange.step import EXCHANGES
from evolution.fitness.attempts import MINIMAL_CRITERIA
from evolution.fitness.diversity import KERNELS
from evolution.fitness.rules import FITNESSES
from evolution.fitness.scaling import SCALES, SCHEDULES
from evolution.loggers.named import read_loggers
from populora_env.episodes.arguments import read_forms
from populora_env.episodes.rewards import RewardWeights
from populora_env.reading.forms import FORMS

if TYPE_CHECKING:
    from evolution.config.evolving import EvolutionConfig
    from evolution.config.run import RunConfig

ENGINES = ("local", "vllm")
"""What may generate, by name."""
GUARDS = ("off", "note", "act")
"""What the guard may do, by name."""


OUT_OF_ROWS = ("dare", "ties", "from_scratch", "svd")
"""Crossovers and mutations whose children read what no parent does."""


def check_together(config: "EvolutionConfig") -> None:
    """Check operators by name, how agents judge, and what settings ask of each other.

    Raises:
        ConfigError: On the first that cannot be.
    """
    if config.fitness_memory == 1:
        raise ConfigError("fitness_memory: got 1, expected less, or fitness never changes")
    try:
        config.operators()
        exchange = EXCHANGES.read_one(config.exchange)
        GATES.read_one(config.gate)
        FITNESSES.read(config.fitness)()
        SCALES.read_one(config.fitness_scale)
        KERNELS.read_several(config.diversity)
        MINIMAL_CRITERIA.read_one(config.diversity_bar)
        schedule = SCHEDULES.read(config.diversity_schedule)
        forms = read_forms(config.evaluation)
        RewardWeights.preset(config.rewards)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if exchange is not None:
        _check_exchange(config, exchange.name, exchange.parameters)
    if schedule.name == "target" and config.diversity_weight <= 0:
        raise ConfigError(
            f"diversity_weight: got {config.diversity_weight:g}, expected above 0: "
            "diversity_schedule target multiplies it"
        )
    if config.islands > 1 and config.migrants > config.elites:
        raise ConfigError(
            f"migrants: got {config.migrants}, expected at most elites = {config.elites}, the "
            "fittest that are there to be copied"
        )
    rate_range(config.learning_rates)
    if config.learn_from == "population" and config.learner != "policy-gradient":
        raise ConfigError(
            f"learn_from: got 'population' with learner = {config.learner}, expected "
            "policy-gradient; rejection has rejection_source"
        )
    if config.rows == "shared":
        _check_rows(config)
    _check_self_play(config)
    if config.revise and not any(FORMS[form].written for form in forms):
        raise ConfigError(
            f"revise: needs critiques; got evaluation {config.evaluation!r}, expected one with "
            "critique"
        )
    if config.judged_problems > config.problems_per_generation:
        raise ConfigError(
            f"judged_problems: got {config.judged_problems}, expected at most "
            f"problems_per_generation = {config.problems_per_generation}"
        )


def _check_exchange(config: "EvolutionConfig", name: str, parameters: Mapping[str, Any]) -> None:
    """Check what an exchange asks of the learner and the gate, and names in its brackets."""
    if name == "evolution_strategy" and config.gate != "none":
        raise ConfigError(
            f"gate: got {config.gate!r} with exchange = {config.exchange}, expected none: whoever "
            "stays has a perturbation of before, and the mean is lost"
        )
    if name == "exploit_explore" and "adapt" in parameters:
        try:
            changed = adapted(str(parameters["adapt"]))
        except ValueError as error:
            raise ConfigError(f"exchange: {error}") from error
        if "kl" in changed and not config.kl:
            raise ConfigError("kl: got 0 with adapt = kl, expected above 0: a factor changes it")
    learns = config.learner != "none"
    if name == "evolution_strategy" and learns:
        raise ConfigError(
            f"exchange: got {config.exchange!r} with learner = {config.learner}, expected a run "
            "without one, since every member is the mean plus a perturbation; set learner = none"
        )
    if name in ("average", "towards_start", "exploit_explore") and not learns:
        raise ConfigError(
            f"exchange: got {config.exchange!r} with learner = none, expected members that learn "
            "between exchanges; set a learner, or exchange = crossover or evolution_strategy"
        )


def _check_rows(config: "EvolutionConfig") -> None:
    """Check that nothing makes children that shared rows cannot hold."""
    operators = config.operators()
    named = (("crossover", (operators.crossover,), "weighted_average"),
             ("mutations", operators.mutations, "gaussian"))  # fmt: skip
    for setting, uses, instead in named:
        for use in uses:
            if use.name in OUT_OF_ROWS:
                raise ConfigError(
                    f"rows: got shared with {setting} = {use.name}, whose children need rows of "
                    f"their own; set {setting} = {instead}, or rows = own"
                )


def rate_range(text: str) -> tuple[float, float] | None:
    """The least and the greatest learning rate that a text such as 3e-5..3e-3 names; None of "".

    Raises:
        ConfigError: If it is no such range.
    """
    if not text.strip():
        return None
    try:
        least, most = map(float, text.split(".."))
    except ValueError:
        least, most = math.nan, math.nan
    if not 0 < least <= most <= 1:
        raise ConfigError(
            f"learning_rates: got {text[:40]!r}, expected a range above 0, up to 1, the least "
            "first, such as 3e-5..3e-3; leave it out for one rate of all"
        )
    return least, most


def check_server(config: "RunConfig") -> None:
    """Check that an engine that is a server has an address and a folder.

    Raises:
        ConfigError: If it does not.
    """
    if config.engine != "vllm":
        return
    for name, value, expected in (
        ("server", config.server, "the address of a vLLM server, such as http://localhost:8000"),
        ("adapter_folder", config.adapter_folder, "a folder that the server sees, too"),
    ):
        if not value:
            raise ConfigError(f"{name}: got none with engine = vllm, expected {expected}")
    try:
        check_address(config.server)
    except EngineError as error:
        raise ConfigError(str(error)) from None


def check_log(config: "RunConfig") -> None:
    """Check that loggers by name exist.

    Raises:
        ConfigError: If one does not.
    """
    try:
        read_loggers(config.log)
    except OperatorError as error:
        raise ConfigError(str(error)) from error


def _check_self_play(config: "EvolutionConfig") -> None:
    """Check what goes with agents that write the problems."""
    proposers = config.proposers
    whole = isinstance(proposers, int) and not isinstance(proposers, bool) and proposers >= 0
    if not whole and proposers != "all":
        raise ConfigError(f"proposers: got {proposers!r}, expected an integer >= 0, or all")
    if not proposers:
        if config.solvers is not None:
            raise ConfigError(
                f"solvers: got {config.solvers}, expected none without proposers; set proposers = "
                "4, or leave it out"
            )
        return
    if config.islands > 1:
        raise ConfigError(
            f"islands: got {config.islands} with proposers = {proposers}, expected 1: the roles "
            "are islands of their own"
        )
    if config.fitness_scale != "none":
        raise ConfigError(
            f"fitness_scale: got {config.fitness_scale!r} with proposers = {proposers}, expected "
            "none: proposers and solvers are paid on scales of their own"
        )
