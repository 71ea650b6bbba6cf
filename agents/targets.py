"""Which linear layers of a model carry adapters, and which of them read one input."""

from collections.abc import Sequence
from typing import Any

from torch import nn

# Sibling projections that read the same input and so share one down-projection.
_SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def target_linears(model: nn.Module, targets: str | tuple[str, ...]) -> dict[str, nn.Linear]:
    """Layers to adapt by module path, in the model's order.

    Args:
        model: A causal language model of Transformers that carries no adapters.
        targets: ``"all-linear"`` (every linear layer but the output layer), or module paths, whole
            or their last parts: ``q_proj``, ``self_attn.q_proj``.

    Raises:
        ValueError: If nothing matches, or the model already carries adapters.
    """
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    linears: dict[str, nn.Linear] = {}
    wanted = (
        None if targets == "all-linear" else {targets} if isinstance(targets, str) else {*targets}
    )
    for name, module in model.named_modules():
        if getattr(module, "carries_stacked_adapters", False):
            raise ValueError("model: it already carries stacked adapters; detach them first")
        if hasattr(module, "lora_A"):
            raise ValueError(f"model: {name} carries adapters of PEFT; unload() them first")
        if isinstance(module, nn.Linear) and module is not head and _is_wanted(name, wanted):
            linears[name] = module
    if not linears:
        few = repr(targets if isinstance(targets, str) else targets[:3])
        more = (
            "" if isinstance(targets, str) or len(targets) <= 3 else f" and {len(targets) - 3} more"
        )
        raise ValueError(f"targets: {few}{more} matches no linear layer of the model")
    return linears


def _is_wanted(name: str, wanted: set[str] | None) -> bool:
    """Whether a module path, or what follows one of its dots, is wanted; all are if None."""
    if wanted is None:
        return True
    parts = name.split(".")
    return any(".".join(parts[i:]) in wanted for i in range(len(parts)))


def group_by_input(names: Sequence[str]) -> list[list[str]]:
    """Put sibling projections that read the same input together, in forward order."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        family = next((f for f in _SHARED_INPUT if last in f), (last,))
        groups.setdefault((parent, family), []).append(name)
    return list(groups.values())


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a path of the model."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, last, module)
