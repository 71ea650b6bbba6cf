"""The arena of PopuLoRA: agents answer reasoning problems and judge each other's attempts.

`parallel_env` is the place to start. Importing this package registers
``populora/ReasoningArena-v0`` with PettingZoo, for both of its interfaces. Language models,
adapters and evolution are in the packages ``agents`` and ``evolution``.
"""

from typing import Any

import pettingzoo
from pettingzoo.utils.conversions import parallel_to_aec, parallel_to_aec_wrapper

from populora_env.arena import ArenaError, ReasoningArena
from populora_env.grading import Grader
from populora_env.judges import Judge
from populora_env.problems import ProblemSource, ProblemSpecError, check_disjoint, load_problems
from populora_env.records import (
    AnswerKind,
    Attempt,
    Comparison,
    Evaluation,
    Grade,
    GradeStatus,
    Phase,
    Preference,
    Problem,
    ReplyStatus,
    Transcript,
    Turn,
    Verdict,
)
from populora_env.rewards import RewardWeights
from populora_env.spaces import UnicodeText

__version__ = "0.1.0"

ENV_ID = "populora/ReasoningArena-v0"

__all__ = [
    "ENV_ID",
    "AnswerKind",
    "ArenaError",
    "Attempt",
    "Comparison",
    "Evaluation",
    "Grade",
    "GradeStatus",
    "Grader",
    "Judge",
    "Phase",
    "Preference",
    "Problem",
    "ProblemSource",
    "ProblemSpecError",
    "ReasoningArena",
    "ReplyStatus",
    "RewardWeights",
    "Transcript",
    "Turn",
    "UnicodeText",
    "Verdict",
    "__version__",
    "check_disjoint",
    "env",
    "load_problems",
    "parallel_env",
    "raw_env",
]


def parallel_env(*args: Any, **kwargs: Any) -> ReasoningArena:
    """Return the arena, where all agents act at once; arguments as for `ReasoningArena`."""
    return ReasoningArena(*args, **kwargs)


def raw_env(*args: Any, **kwargs: Any) -> "pettingzoo.AECEnv[Any, Any, Any]":
    """Return the arena with agents acting in turn, without checks of the order of calls."""
    return parallel_to_aec_wrapper(ReasoningArena(*args, **kwargs))


def env(*args: Any, **kwargs: Any) -> "pettingzoo.AECEnv[Any, Any, Any]":
    """Return the arena with agents acting in turn, in PettingZoo's order-enforcing wrapper."""
    return parallel_to_aec(ReasoningArena(*args, **kwargs))


def _register() -> None:
    if ENV_ID not in pettingzoo.parallel_registry:
        pettingzoo.register("parallel", ENV_ID, entry_point=f"{__name__}:parallel_env")
    if ENV_ID not in pettingzoo.aec_registry:
        pettingzoo.register("aec", ENV_ID, entry_point=f"{__name__}:env")


_register()
