"""Who acts in the arena: policies, and a population of LoRA adapters on one frozen base model.

`Policy`, `FunctionPolicy` and the other policies without a model need no torch; `LoraPopulation`
and what belongs to it are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from agents.evaluate import AgentScore, EvaluationResult, evaluate
from agents.http_policy import HttpPolicy
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

if TYPE_CHECKING:
    from agents.adapters import Layout, StackedLora
    from agents.learners import LearnerConfig, PolicyGradient, RejectionTuning, Sample
    from agents.models import BaseModel, ModelError, load_base
    from agents.population import AdapterError, LoraPopulation

_LAZY = {
    "AdapterError": "agents.population",
    "BaseModel": "agents.models",
    "Layout": "agents.adapters",
    "LearnerConfig": "agents.learners",
    "LoraPopulation": "agents.population",
    "ModelError": "agents.models",
    "PolicyGradient": "agents.learners",
    "RejectionTuning": "agents.learners",
    "Sample": "agents.learners",
    "StackedLora": "agents.adapters",
    "load_base": "agents.models",
}

__all__ = [
    "AdapterError",
    "AgentScore",
    "BaseModel",
    "EvaluationResult",
    "FunctionPolicy",
    "HttpPolicy",
    "Layout",
    "LearnerConfig",
    "LoraPopulation",
    "MixedPolicy",
    "ModelError",
    "Policy",
    "PolicyError",
    "PolicyGradient",
    "RandomPolicy",
    "RejectionTuning",
    "Request",
    "Sample",
    "ScriptedPolicy",
    "StackedLora",
    "evaluate",
    "load_base",
    "rollout",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
