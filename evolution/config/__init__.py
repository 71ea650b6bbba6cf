"""Settings of a run.

A TOML file, a preset and command-line flags all set the fields of one dataclass. Not covered here:
files of settings (`evolution.runs.settings_files`).
"""

from evolution.config.evolving import (
    BreedingOperators,
    ChildOptimizer,
    EvolutionConfig,
    Learner,
    Rows,
    Settings,
)
from evolution.config.run import RunConfig

__all__ = [
    "BreedingOperators",
    "ChildOptimizer",
    "EvolutionConfig",
    "Learner",
    "Rows",
    "RunConfig",
    "Settings",
]
