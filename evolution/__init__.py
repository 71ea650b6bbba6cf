"""The outer loop: fitness with diversity, selection, crossover, mutation, learning, runs.

Names are imported when first used: commands that need no model do not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolution.branching import branch
    from evolution.checkpoint import CheckpointError
    from evolution.config import ConfigError, EvolutionConfig, Learner, RunConfig
    from evolution.lineage import Individual
    from evolution.loggers import CallbackLogger, ConsoleLogger, JsonlLogger, Logger
    from evolution.manager import EvolutionManager
    from evolution.results import EpisodePlan, GenerationResult
    from evolution.tensorboard import TensorBoardLogger

_LAZY = {
    "CallbackLogger": "evolution.loggers",
    "CheckpointError": "evolution.checkpoint",
    "ConfigError": "evolution.config",
    "ConsoleLogger": "evolution.loggers",
    "EpisodePlan": "evolution.results",
    "EvolutionConfig": "evolution.config",
    "EvolutionManager": "evolution.manager",
    "GenerationResult": "evolution.results",
    "Individual": "evolution.lineage",
    "JsonlLogger": "evolution.loggers",
    "Learner": "evolution.config",
    "Logger": "evolution.loggers",
    "RunConfig": "evolution.config",
    "TensorBoardLogger": "evolution.tensorboard",
    "branch": "evolution.branching",
}

__all__ = [
    "CallbackLogger",
    "CheckpointError",
    "ConfigError",
    "ConsoleLogger",
    "EpisodePlan",
    "EvolutionConfig",
    "EvolutionManager",
    "GenerationResult",
    "Individual",
    "JsonlLogger",
    "Learner",
    "Logger",
    "RunConfig",
    "TensorBoardLogger",
    "branch",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'evolution' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
