"""PEFT adapter folders: what is written, and what of anyone's adapters can be read.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT's
``save_pretrained`` leaves them; PEFT, lm-eval and vLLM read what is written here. Any plain LoRA
adapter of linear layers is read: rsLoRA, ranks and alphas per layer, a subset of the layers. What
changes more than the product ``B A`` beside a linear layer is refused, by one line that says why.
Nothing is ever unpickled.

Not covered here: whether an adapter fits a population (`agents.population`).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLE_FILE = "adapter_model.bin"
_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"base_model\.model\.(?P<layer>.+)\.lora_(?P<letter>[AB])(\.(?P<adapter>[^.]+))?\.weight"
)
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    f"s.save_file(torch.load('{_PICKLE_FILE}', weights_only=True), '{WEIGHTS_FILE}')\""
)

_SMALLEST = 1e-30  # of an alpha: far inside what float32 holds

# Options of PEFT's LoraConfig that make an adapter more than B A beside linear layers.
_REFUSED = {
    "modules_to_save": "it replaces whole modules of the base",
    "use_dora": "DoRA rescales the base's weights",
    "lora_bias": "its factors have biases",
    "trainable_token_indices": "it changes embeddings",
    "fan_in_fan_out": "it is for layers that store their weights transposed",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it adapts parameters that are not linear layers",
    "alora_invocation_tokens": "it is switched on by tokens of the prompt",
    "use_qalora": "it pools its input",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it changes the base's weights",
    "monteclora_config": "its factors are random",
}
# Initialisations that leave the base as it is; others subtract from its weights.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
# What a tensor's name says about an adapter that cannot be read.
_REFUSED_NAMES = {
    "lora_embedding_": "it adapts embeddings",
    "lora_magnitude_vector": "DoRA rescales the base's weights",
    ".lora_A.bias": "its factors have biases",
    ".lora_B.bias": "its factors have biases",
    "modules_to_save": "it replaces whole modules of the base",
    ".base_layer.": "it adapts the output layer or embeddings",
}


class AdapterError(ValueError):
    """An adapter that cannot be read, written, or become a member of a population."""


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """A LoRA adapter as it was read.

    Attributes:
        rank: The largest rank of its layers.
        alpha: Numerator of the one scale ``alpha / rank`` that holds for all its layers. Where
            layers had scales of their own, the rest is in ``B``.
        base: The base model it names; empty if it names none.
        factors: ``A [r, in]`` and ``B [out, r]`` by module path of the base; r may be smaller than
            the rank.
    """

    rank: int
    alpha: float
    base: str
    factors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def targets(self) -> tuple[str, ...]:
        """Last parts of the names of the layers it adapts, sorted."""
        return tuple(sorted({name.rpartition(".")[2] for name in self.factors}))


def write_adapter(
    folder: str | Path,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    *,
    alpha: float,
    dropout: float,
    base: str,
) -> Path:
    """Write an adapter of one rank as PEFT does.

    Args:
        folder: Made if it does not exist; an adapter in it is replaced.
        factors: ``A [r, in]`` and ``B [out, r]`` by module path of the base, at least one.
        alpha: Numerator of the scale.
        dropout: What it is trained with; for the record.
        base: The base model to name: a folder or a hub id.

    Raises:
        AdapterError: If a factor is not finite; nothing is written.
        OSError: If the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, pair in factors.items():
        for letter, factor in zip("AB", pair, strict=True):
            if not torch.isfinite(factor).all():
                raise AdapterError(f"{folder}: factors of {name} are not finite; not saved")
            tensors[f"{_PREFIX}{name}.lora_{letter}.weight"] = factor.contiguous()
    config: dict[str, Any] = {
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": next(iter(factors.values()))[0].shape[0],
        "revision": None,
        "target_modules": sorted({name.rpartition(".")[2] for name in factors}),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def read_adapter(folder: str | Path) -> PeftAdapter:
    """Read a PEFT adapter folder, whoever wrote it.

    Raises:
        AdapterError: If the folder cannot be read, or holds more than a plain LoRA adapter.
    """
    folder = Path(folder)
    try:
        return _read(folder)
    except AdapterError as error:
        raise AdapterError(f"{folder}: {error}") from error.__cause__


def _read(folder: Path) -> PeftAdapter:
    try:
        config: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG_FILE} holds no object")
        if (folder / _PICKLE_FILE).exists() and not (folder / WEIGHTS_FILE).exists():
            raise AdapterError(
                f"{_PICKLE_FILE} is a pickle, which is not opened here; if you trust it, run there "
                f"{_CONVERT}"
            )
        tensors = load_file(folder / WEIGHTS_FILE)
    except AdapterError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(
            f"not a readable PEFT adapter folder ({error}); expected {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}"
        ) from error
    _refuse(config)
    factors = _factors(tensors)
    scales = _scales(config, {name: A.shape[0] for name, (A, _) in factors.items()})
    # The scale of the whole adapter is the largest, so that no factor grows.
    whole = max(abs(scale) for scale in scales.values()) or 1.0
    for name, scale in scales.items():
        A, B = factors[name]
        if scale != whole:
            factors[name] = A, B.float() * (scale / whole)
    rank = max(A.shape[0] for A, _ in factors.values())
    alpha = whole * rank
    if not _SMALLEST <= alpha <= 1 / _SMALLEST:
        raise AdapterError(f"{CONFIG_FILE}: lora_alpha makes alpha {alpha:g}, which is not usable")
    return PeftAdapter(rank, alpha, str(config.get("base_model_name_or_path") or ""), factors)


def _refuse(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"peft_type is {kind!r}, expected 'LORA', the only one that is stacked")
    for option, reason in _REFUSED.items():
        if config.get(option):
            raise AdapterError(f"{option} is set, which cannot be stacked: {reason}")
    if (bias := config.get("bias", "none")) != "none":
        raise AdapterError(f"bias is {bias!r}, expected 'none': biases of the base are shared")
    if (init := config.get("init_lora_weights", True)) not in _PLAIN_INITS:
        raise AdapterError(
            f"init_lora_weights is {init!r}, which changes the base's weights, so the adapter does "
            "not fit the unchanged base; have PEFT convert it: save_pretrained with "
            "path_initial_model_for_weight_conversion"
        )


def _factors(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Check names and shapes and sort factors by layer."""
    if bad := [key for key in tensors if not _FACTOR.fullmatch(key)]:
        telling = ((k, why) for part, why in _REFUSED_NAMES.items() for k in bad if part in k)
        key, why = next(telling, (bad[0], "it is no factor of a linear layer"))
        raise AdapterError(f"{key} cannot be stacked: {why}")
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = cast(re.Match[str], _FACTOR.fullmatch(key))
        pair = found.setdefault(match["layer"], {})
        if match["letter"] in pair:
            raise AdapterError(f"{key}: {match['layer']} has two adapters, expected one")
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise AdapterError(f"{key}: got {tensor.dtype}, expected 16, 32 or 64 bit floats")
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{key} holds values that are not finite")
        pair[match["letter"]] = tensor
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, pair in found.items():
        if missing := {"A", "B"} - pair.keys():
            raise AdapterError(f"{layer} has no lora_{missing.pop()}")
        A, B = pair["A"], pair["B"]
        if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1] or not A.shape[0]:
            raise AdapterError(
                f"{layer}: lora_A {tuple(A.shape)} and lora_B {tuple(B.shape)} are no factors of "
                "a linear layer, expected (r, in) and (out, r)"
            )
        factors[layer] = A, B
    if not factors:
        raise AdapterError(f"{WEIGHTS_FILE} holds no factors")
    return factors


def _scales(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """The scale of each layer, by PEFT's rules; ``ranks`` are those of the stored factors."""
    scales: dict[str, float] = {}
    for layer, rank in ranks.items():
        said = _number(config, "r", "rank_pattern", layer)
        alpha = _number(config, "lora_alpha", "alpha_pattern", layer)
        if said != rank:
            raise AdapterError(f"{layer} has rank {rank}, but {CONFIG_FILE} says {said:g}")
        scales[layer] = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return scales


def _number(config: Mapping[str, Any], option: str, patterns: str, layer: str) -> float:
    """What an option says for a layer: the first pattern that matches it, else the option."""
    value, where = config.get(option), option
    try:
        for pattern, special in (config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                value, where = special, f"{patterns}[{pattern!r}]"
                break
    except (AttributeError, re.error) as error:
        raise AdapterError(f"{patterns} cannot be read ({error})") from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterError(f"{CONFIG_FILE}: {where} is {value!r}, expected a number")
    return float(value)
