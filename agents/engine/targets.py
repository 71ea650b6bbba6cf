"""Which linear layers of a model carry adapters, and which of them read one input.

PEFT rewrites the adapters of some mixtures of experts as it loads them: it takes certain names of
layers for those of experts, which Transformers 5 keeps fused. An ordinary layer of such a name (of
a dense block, or of shared experts) then loses its adapter without a word. Adapters of such layers
play and learn here, but are not saved.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import torch
import transformers.conversion_mapping as conversions
from torch import Tensor, nn

# Sibling projections that read the same input and so share one down-projection.
_SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

_EXPERT = re.compile(r"(^|\.)(local_)?experts\.\d+\.")  # one of several, each with its own tokens

# Names that PEFT takes for experts' by the kind of checkpoint that Transformers converts; the
# tables of both are compared in the tests.
_EXPERT_NAMES = {
    "mixtral": frozenset({"gate", "w1", "w2", "w3"}),
    "qwen2_moe": frozenset({"gate", "gate_proj", "up_proj", "down_proj"}),
}


def rewritten_names(model_type: str) -> frozenset[str]:
    """Last parts of names of layers whose adapters PEFT rewrites in models of a type."""
    table: dict[str, str] = getattr(conversions, "_MODEL_TO_CONVERSION_PATTERN", {})
    converted = "mixtral" if model_type == "mixtral" else table.get(model_type, "")
    return _EXPERT_NAMES.get(converted, frozenset())


def check_names(model: Any, layers: Iterable[str]) -> None:
    """Check that plain PEFT puts adapters of these layers where they belong.

    Args:
        model: The base.
        layers: Module paths.

    Raises:
        ValueError: If it takes one of them for another layer.
    """
    kind = str(getattr(getattr(model, "config", None), "model_type", None))
    last = {name.rpartition(".")[2] for name in layers}
    if misread := sorted(last & rewritten_names(kind)):
        rest = "+".join(sorted(last.difference(misread)))
        raise ValueError(
            f"targets: got {', '.join(misread)}, which PEFT takes for experts' layers in a model "
            f"of type {kind}, so that it would misread what is saved; expected other layers"
            + f", such as {rest}"
            * bool(rest)
        )


def target_linears(model: nn.Module, targets: str | tuple[str, ...]) -> dict[str, nn.Linear]:
    """Layers to adapt by module path, in the model's order.

    Args:
        model: A causal language model of Transformers that carries no adapters.
        targets: ``"all-linear"`` (every linear layer but the output layer and those that compute
            more than a product, as some routers of experts do), or module paths, whole
            or their last parts, several or joined by ``+``: ``q_proj+v_proj``,
            ``("self_attn.q_proj",)``.

    Raises:
        ValueError: If one of them matches nothing, a layer is one of several experts', or the model
            already carries adapters.
    """
    head = _output_layer(model)
    wanted = (
        None
        if targets == "all-linear"
        else set(targets.split("+") if isinstance(targets, str) else targets)
    )
    linears = matching(model, wanted)
    if wanted and linears:
        unmet = [w for w in sorted(wanted) if not any(_is_wanted(name, {w}) for name in linears)]
        targets = unmet[0] if unmet else targets
        linears = {} if unmet else linears
    if inside := [name for name in linears if _EXPERT.search(name)]:
        lost = {name.rpartition(".")[2] for name in inside}
        rest = sorted({name.rpartition(".")[2] for name in linears} - lost)
        raise ValueError(
            f"targets: got {inside[0]} and {len(inside) - 1} more layers of single experts, which "
            "see some tokens of a batch without their rows, so that an agent's own cannot be told; "
            "expected other layers" + f", such as {'+'.join(rest)}" * bool(rest)
        )
    if not linears:
        few = repr(targets if isinstance(targets, str) else targets[:3])
        more = (
            "" if isinstance(targets, str) or len(targets) <= 3 else f" and {len(targets) - 3} more"
        )
        what = f"targets: {few}{more} matches no linear layer of the model"
        inner = [m for m in model.modules() if m is not head and hasattr(m, "weight")]
        if not any(isinstance(module, nn.Linear) for module in inner):
            kinds = {type(m).__name__ for m in inner if getattr(m, "weight", None) is not None}
            raise ValueError(
                f"{what}, which has none but its output layer (it has {', '.join(sorted(kinds))}; "
                "GPT-2's Conv1D is a matrix stored the other way round); expected a model such as "
                "Llama, Mistral, Qwen2, Qwen3 or Gemma"
            )
        named = (n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head)
        raise ValueError(f"{what}, whose layers are named like {next(named)!r}")
    return linears


def matching(model: nn.Module, wanted: Collection[str] | None) -> dict[str, nn.Linear]:
    """Layers that can carry adapters and match some of these module paths, or any for None.

    Args:
        model: As `target_linears` takes it.
        wanted: Whole module paths or their last parts; some may match nothing.

    Raises:
        ValueError: If the model already carries adapters.
    """
    head = _output_layer(model)
    linears: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if getattr(module, "carries_stacked_adapters", False):
            raise ValueError("model: it already carries stacked adapters; detach them first")
        if hasattr(module, "lora_A"):
            raise ValueError(f"model: {name} carries adapters of PEFT; unload() them first")
        if _is_plain(module) and module is not head and _is_wanted(name, wanted):
            linears[name] = cast(nn.Linear, module)
    return linears


def _is_plain(module: nn.Module) -> bool:
    """Whether a module gives ``W x + b`` and nothing else, as routers of some models do not."""
    kind = type(module)
    if not isinstance(module, nn.Linear) or not kind.__module__.startswith("transformers.models."):
        return isinstance(module, nn.Linear)
    weight = module.weight
    x = torch.linspace(-1, 1, 2 * module.in_features, device=weight.device, dtype=weight.dtype)
    x = x.view(1, 2, -1)
    with torch.inference_mode():
        try:
            given: object = module(x)
        except Exception:  # it wants another input, and may say so in any way
            return False
        plain = nn.functional.linear(x, weight, module.bias)
        return (
            isinstance(given, Tensor)
            and given.shape == plain.shape
            and bool(torch.allclose(given, plain, rtol=1e-2, atol=1e-2))
        )


def why_no_place(model: nn.Module, layer: str) -> str:
    """Why a layer that an adapter names is none that carries adapters in a model.

    Args:
        model: The base, with stacked adapters attached or without.
        layer: Module path, as the adapter names it.
    """
    modules = dict(model.named_modules())
    module = modules.get(layer)
    if module is not None and module is _output_layer(model):
        return "it is the output layer, which carries no adapters here"
    if isinstance(module, nn.Linear):
        return "it is no target of the population; make it with targets that include it"
    if module is not None:
        return f"in this base it is a {type(module).__name__}, no linear layer"
    carriers = {n for n, m in modules.items() if getattr(m, "carries_stacked_adapters", False)}
    linears = (
        name for name, m in modules.items()
        if name in carriers
        or (isinstance(m, nn.Linear) and name.rpartition(".")[0] not in carriers)
    )  # fmt: skip
    nearest, common = _nearest(layer, linears)
    found, expected = (name.split(".")[: -common or None] for name in (layer, nearest))
    if common and not any(part.isdigit() for part in found + expected):
        there, here = (".".join([*parts, ""]) for parts in (found, expected))
        return (
            f"this base has it under another prefix, as {nearest!r}: the adapter's names begin "
            f"with {there!r}, expected {here!r}; rename its tensors"
        )
    return (
        f"this base has no such layer (its own are named like {nearest!r}), so the adapter is for "
        "another base"
    )


def _nearest(layer: str, names: Iterable[str]) -> tuple[str, int]:
    """The first name that ends in most of the same parts, and how many those are."""
    best, most = "", -1
    parts = layer.split(".")[::-1]
    for name in names:
        pairs = zip(parts, name.split(".")[::-1], strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if common is None:  # one is the other's end
            common = min(len(parts), name.count(".") + 1)
        if common > most:
            best, most = name, common
    return best, most


def _output_layer(model: Any) -> Any:
    get_head: Any = getattr(model, "get_output_embeddings", None)
    return get_head() if get_head is not None else None


def _is_wanted(name: str, wanted: Collection[str] | None) -> bool:
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
