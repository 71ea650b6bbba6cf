"""Who acts in the arena: policies, and a population of LoRA adapters on one frozen base model.

`Policy`, `FunctionPolicy` and the other policies without a model need no torch; `LoraPopulation`
and what belongs to it are imported when first used.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from agents.http_policy import HttpPolicy
from agents.measuring.evaluate import AgentScore, EvaluationResult, evaluate
from agents.old_names import NAMES
from agents.policy import (
    FunctionPolicy,
    MixedPolicy,
    Policy,
    PolicyError,
    RandomPolicy,
    Request,
    ScriptedPolicy,
)
from agents.rollout import rollout
from populora_env.moved import OldNames

if TYPE_CHECKING:
    from agents.engine.adapters import Layout, StackedLora
    from agents.learning.advantages import ADVANTAGES
    from agents.learning.learners import LearnerConfig, PolicyGradient, RejectionTuning, Sample
    from agents.learning.rejection import RejectionSource
    from agents.loading.linear import MatmulPrecision
    from agents.loading.models import BaseModel, ModelError, load_base
    from agents.loading.skeleton import load_skeleton
    from agents.population import AdapterError, LoraPopulation
    from agents.vllm.engine import VllmEngine
    from agents.workers.launcher import Workers

_LAZY = {
    "ADVANTAGES": "agents.learning.advantages",
    "AdapterError": "agents.population",
    "BaseModel": "agents.loading.models",
    "Layout": "agents.engine.adapters",
    "LearnerConfig": "agents.learning.learners",
    "LoraPopulation": "agents.population",
    "ModelError": "agents.loading.models",
    "PolicyGradient": "agents.learning.learners",
    "MatmulPrecision": "agents.loading.linear",
    "RejectionSource": "agents.learning.rejection",
    "RejectionTuning": "agents.learning.learners",
    "Sample": "agents.learning.learners",
    "StackedLora": "agents.engine.adapters",
    "VllmEngine": "agents.vllm.engine",
    "Workers": "agents.workers.launcher",
    "load_base": "agents.loading.models",
    "load_skeleton": "agents.loading.skeleton",
}

__all__ = [
    "ADVANTAGES",
    "AdapterError",
    "AgentScore",
    "BaseModel",
    "EvaluationResult",
    "FunctionPolicy",
    "HttpPolicy",
    "Layout",
    "LearnerConfig",
    "LoraPopulation",
    "MatmulPrecision",
    "MixedPolicy",
    "ModelError",
    "Policy",
    "PolicyError",
    "PolicyGradient",
    "RandomPolicy",
    "RejectionSource",
    "RejectionTuning",
    "Request",
    "Sample",
    "ScriptedPolicy",
    "StackedLora",
    "VllmEngine",
    "Workers",
    "evaluate",
    "load_base",
    "load_skeleton",
    "rollout",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        from populora_env.errors import naming_extra

        raise naming_extra(f"agents.{name}", error) from None


def __dir__() -> list[str]:
    return __all__


sys.meta_path.insert(0, OldNames(NAMES))
# Not found as the others are: a module of this name would take the place of the function.
sys.modules["agents.evaluate"] = sys.modules["agents.measuring.evaluate"]
