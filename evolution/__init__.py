"""The outer loop: fitness with diversity, selection, crossover, mutation, learning, runs."""

from evolution.checkpoint import CheckpointError
from evolution.config import ConfigError, EvolutionConfig, Learner, RunConfig
from evolution.lineage import Individual
from evolution.loggers import Logger, TensorBoardLogger
from evolution.manager import EpisodePlan, EvolutionManager, GenerationResult

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
]
