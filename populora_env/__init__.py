"""The arena of PopuLoRA: agents answer reasoning problems and judge each other's attempts.

`parallel_env` is the place to start. Importing this package registers
``populora/ReasoningArena-v0`` with PettingZoo, for both of its interfaces, and
``populora/ReasoningSolo-v0`` with Gymnasium. Built-in judges are in ``populora_env.judges``,
adapters to and from TRL in ``populora_env.trl``, checks of your own parts in
``populora_env.testing``. Language models, adapters and evolution are in the packages ``agents``
and ``evolution``.
"""

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pettingzoo
from pettingzoo.utils.conversions import parallel_to_aec, parallel_to_aec_wrapper

from populora_env import gym
from populora_env.arena import ArenaError, ReasoningArena
from populora_env.episodes.matchmaking import Matchmaking
from populora_env.episodes.rewards import REWARD_PRESETS, Labels, RewardPart, RewardWeights
from populora_env.errors import PopuloraError
from populora_env.grading import Grader
from populora_env.judges import Judge
from populora_env.moved import OldNames
from populora_env.moved.names import NAMES
from populora_env.problems import (
    SOURCES,
    ProblemSource,
    ProblemSpecError,
    check_disjoint,
    load_problems,
)
from populora_env.problems.drawing.strategies import CURRICULA, LevelStrategy
from populora_env.problems.sources.adaptive import AdaptiveSource
from populora_env.proposals.record import Proposal, ProposalStatus
from populora_env.proposals.source import SelfPlaySource
from populora_env.proposals.task import TASKS, NotATask, Task, TaskKind, TextTask
from populora_env.ratings import BradleyTerry, Ratings, bradley_terry
from populora_env.records import (
    AnswerKind,
    Assessment,
    Attempt,
    Comparison,
    Evaluation,
    Grade,
    GradeStatus,
    Phase,
    Preference,
    Problem,
    ReplyStatus,
    Request,
    Transcript,
    Turn,
    Verdict,
)
from populora_env.settings import Registry
from populora_env.spaces import UnicodeText

P = ParamSpec("P")
T = TypeVar("T")

__version__ = "0.1.0"

ENV_ID = "populora/ReasoningArena-v0"
"""The arena's id in PettingZoo's registries."""

__all__ = [
    "CURRICULA",
    "ENV_ID",
    "REWARD_PRESETS",
    "SOURCES",
    "TASKS",
    "AdaptiveSource",
    "AnswerKind",
    "ArenaError",
    "Assessment",
    "Attempt",
    "BradleyTerry",
    "Comparison",
    "Evaluation",
    "Grade",
    "GradeStatus",
    "Grader",
    "Judge",
    "Labels",
    "LevelStrategy",
    "Matchmaking",
    "NotATask",
    "Phase",
    "PopuloraError",
    "Preference",
    "Problem",
    "ProblemSource",
    "ProblemSpecError",
    "Proposal",
    "ProposalStatus",
    "Ratings",
    "ReasoningArena",
    "Registry",
    "ReplyStatus",
    "Request",
    "RewardPart",
    "RewardWeights",
    "SelfPlaySource",
    "Task",
    "TaskKind",
    "TextTask",
    "Transcript",
    "Turn",
    "UnicodeText",
    "Verdict",
    "__version__",
    "bradley_terry",
    "check_disjoint",
    "env",
    "load_problems",
    "parallel_env",
    "raw_env",
]


def _takes_what(
    arena: Callable[P, ReasoningArena],
) -> Callable[[Callable[[ReasoningArena], T]], Callable[P, T]]:
    """Make of a function of an arena one of the arena's own arguments, for readers and checkers."""

    def around(function: Callable[[ReasoningArena], T]) -> Callable[P, T]:
        @wraps(function)
        def made(*args: P.args, **kwargs: P.kwargs) -> T:
            return function(arena(*args, **kwargs))

        returned = inspect.signature(function).return_annotation
        signature = inspect.signature(arena).replace(return_annotation=returned)
        made.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        return made

    return around


@_takes_what(ReasoningArena)
def parallel_env(arena: ReasoningArena) -> ReasoningArena:
    """Return the arena, where all agents act at once; arguments as for `ReasoningArena`."""
    return arena


@_takes_what(ReasoningArena)
def raw_env(arena: ReasoningArena) -> "pettingzoo.AECEnv[Any, Any, Any]":
    """Return the arena with agents acting in turn, without checks of the order of calls."""
    return parallel_to_aec_wrapper(arena)


@_takes_what(ReasoningArena)
def env(arena: ReasoningArena) -> "pettingzoo.AECEnv[Any, Any, Any]":
    """Return the arena with agents acting in turn, in PettingZoo's order-enforcing wrapper."""
    return parallel_to_aec(arena)


def __dir__() -> list[str]:
    return __all__


def _register() -> None:
    if ENV_ID not in pettingzoo.parallel_registry:
        pettingzoo.register("parallel", ENV_ID, entry_point=f"{__name__}:parallel_env")
    if ENV_ID not in pettingzoo.aec_registry:
        pettingzoo.register("aec", ENV_ID, entry_point=f"{__name__}:env")


_register()
gym.register()


sys.meta_path.insert(0, OldNames(NAMES))
