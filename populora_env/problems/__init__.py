"""Where problems come from."""

from populora_env.problems.loading import as_source, load_problems
from populora_env.problems.sources.base import (
    ProblemSource,
    ProblemSpecError,
    SequenceSource,
    Split,
    check_disjoint,
    split_of,
)
from populora_env.problems.sources.own import SOURCES

__all__ = [
    "SOURCES",
    "ProblemSource",
    "ProblemSpecError",
    "SequenceSource",
    "Split",
    "as_source",
    "check_disjoint",
    "load_problems",
    "split_of",
]
