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
    from evolution.loggers import Logger, TensorBoardLogger
    from evolution.manager import EvolutionManager
    from evolution.results import EpisodePlan, GenerationResult

_LAZY = {
    "CheckpointError": "evolution.checkpoint",
    "ConfigError": "evolution.config",
    "EpisodePlan": "evolution.results",
    "EvolutionConfig": "evolution.config",
    "EvolutionManager": "evolution.manager",
    "GenerationResult": "evolution.results",
    "Individual": "evolution.lineage",
    "Learner": "evolution.config",
    "Logger": "evolution.loggers",
    "RunConfig": "evolution.config",
    "TensorBoardLogger": "evolution.loggers",
    "branch": "evolution.branching",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "EpisodePlan",
    "EvolutionConfig",
    "EvolutionManager",
    "GenerationResult",
    "Individual",
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
