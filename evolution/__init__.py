"""The outer loop: fitness with diversity, selection, crossover, mutation, learning, runs.

Names are imported when first used: commands that need no model do not wait for torch.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from evolution.old_names import NAMES

if TYPE_CHECKING:
    from evolution.config import ChildOptimizer, EvolutionConfig, Learner, RunConfig
    from evolution.errors import CheckpointError, ConfigError
    from evolution.exchange.gate import GATES
    from evolution.exchange.step import EXCHANGES, Exchanged, ExchangeStep
    from evolution.fitness.attempts import MINIMAL_CRITERIA
    from evolution.fitness.descriptors import DESCRIPTORS
    from evolution.fitness.diversity import EMBEDDERS, KERNELS
    from evolution.fitness.rules import FITNESSES
    from evolution.fitness.scaling import SCALES, SCHEDULES
    from evolution.fitness.strategies import CLASSIFIERS
    from evolution.individuals.lineage import Individual
    from evolution.loggers.base import CallbackLogger, ConsoleLogger, JsonlLogger, Logger
    from evolution.loggers.named import LOGGERS
    from evolution.loggers.tensorboard import TensorBoardLogger
    from evolution.loggers.trackers import TrackioLogger, WandbLogger
    from evolution.lowrank.anatomy import Anatomy
    from evolution.manager import EvolutionManager
    from evolution.operators.crossover import CROSSOVERS
    from evolution.operators.mutation_weights import MUTATIONS
    from evolution.operators.selection import SELECTIONS
    from evolution.reporting.anatomy.reading import anatomy
    from evolution.results import EpisodePlan, GenerationResult
    from evolution.runs.branching import branch

_LAZY = {
    "Anatomy": "evolution.lowrank.anatomy",
    "MINIMAL_CRITERIA": "evolution.fitness.attempts",
    "CLASSIFIERS": "evolution.fitness.strategies",
    "CROSSOVERS": "evolution.operators.crossover",
    "EXCHANGES": "evolution.exchange",
    "ExchangeStep": "evolution.exchange.step",
    "Exchanged": "evolution.exchange.step",
    "GATES": "evolution.exchange.gate",
    "CallbackLogger": "evolution.loggers.base",
    "CheckpointError": "evolution.errors",
    "ChildOptimizer": "evolution.config",
    "ConfigError": "evolution.errors",
    "ConsoleLogger": "evolution.loggers.base",
    "DESCRIPTORS": "evolution.fitness.descriptors",
    "EMBEDDERS": "evolution.fitness.diversity",
    "EpisodePlan": "evolution.results",
    "EvolutionConfig": "evolution.config",
    "EvolutionManager": "evolution.manager",
    "FITNESSES": "evolution.fitness.rules",
    "GenerationResult": "evolution.results",
    "Individual": "evolution.individuals.lineage",
    "JsonlLogger": "evolution.loggers.base",
    "Learner": "evolution.config",
    "Logger": "evolution.loggers.base",
    "KERNELS": "evolution.fitness.diversity",
    "LOGGERS": "evolution.loggers.named",
    "MUTATIONS": "evolution.operators.mutation_weights",
    "RunConfig": "evolution.config",
    "SCALES": "evolution.fitness.scaling",
    "SCHEDULES": "evolution.fitness.scaling",
    "SELECTIONS": "evolution.operators.selection",
    "TensorBoardLogger": "evolution.loggers.tensorboard",
    "TrackioLogger": "evolution.loggers.trackers",
    "WandbLogger": "evolution.loggers.trackers",
    "anatomy": "evolution.reporting.anatomy.reading",
    "branch": "evolution.runs.branching",
}

__all__ = [
    "CLASSIFIERS",
    "CROSSOVERS",
    "DESCRIPTORS",
    "EMBEDDERS",
    "EXCHANGES",
    "FITNESSES",
    "GATES",
    "KERNELS",
    "LOGGERS",
    "MINIMAL_CRITERIA",
    "MUTATIONS",
    "SCALES",
    "SCHEDULES",
    "SELECTIONS",
    "Anatomy",
    "CallbackLogger",
    "CheckpointError",
    "ChildOptimizer",
    "ConfigError",
    "ConsoleLogger",
    "EpisodePlan",
    "EvolutionConfig",
    "EvolutionManager",
    "ExchangeStep",
    "Exchanged",
    "GenerationResult",
    "Individual",
    "JsonlLogger",
    "Learner",
    "Logger",
    "RunConfig",
    "TensorBoardLogger",
    "TrackioLogger",
    "WandbLogger",
    "anatomy",
    "branch",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'evolution' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        from populora_env.errors import naming_extra

        raise naming_extra(f"evolution.{name}", error) from None


def __dir__() -> list[str]:
    return __all__


class _OldNames:
    """`populora_env.moved.OldNames`, which is imported only for a name that needs it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in NAMES:
            return None
        from populora_env.moved import OldNames

        return OldNames(NAMES).find_spec(fullname, path, target)


sys.meta_path.insert(0, _OldNames())  # pyright: ignore[reportArgumentType]
