"""One adapter from many, without the base model: weighted sums of updates from adapter folders.

The sum of K updates is exact at the sum of their ranks and approximated at a smaller rank by
`evolution.lowrank`. How good the approximation is, is measured on what is written: the difference
between it and the exact sum is itself of low rank, so its norm needs no full matrix.

Not covered here: which adapters, and how they are weighted (`evolution.export`).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.population import CONFIG_FILE, WEIGHTS_FILE, AdapterError
from evolution.lowrank import combine

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Adapter:
    """The factors of one adapter.

    Attributes:
        factors: Module path in the base to ``A [r, in]`` and ``B [out, r]``, float32.
        scale: Factor of every product ``B A``.
        base: The base model it was made for, as its settings name it.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    scale: float
    base: str

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max(A.shape[0] for A, _ in self.factors.values())


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a layer's merged update is from the exact weighted sum.

    Attributes:
        error: Frobenius norm of the difference, squared.
        size: Frobenius norm of the exact sum, squared.
        kept: Frobenius norm of the merged update, squared.
    """

    error: float
    size: float
    kept: float

    @property
    def relative(self) -> float:
        """Norm of the difference over norm of the exact sum; 0 where both are."""
        return math.sqrt(self.error / self.size) if self.size else math.sqrt(self.error)


@dataclass(frozen=True, slots=True)
class Merge:
    """A merged adapter and its measured error.

    Attributes:
        adapter: The merged adapter.
        errors: Layer to its error.
    """

    adapter: Adapter
    errors: Mapping[str, LayerError]

    @property
    def relative_error(self) -> float:
        """Relative Frobenius error over all layers together."""
        total = math.fsum(entry.size for entry in self.errors.values())
        error = math.fsum(entry.error for entry in self.errors.values())
        return math.sqrt(error / total) if total else math.sqrt(error)

    @property
    def energy_kept(self) -> float:
        """Squared norm of the merged update over that of the exact sum; 1 if both are 0."""
        total = math.fsum(entry.size for entry in self.errors.values())
        return math.fsum(entry.kept for entry in self.errors.values()) / total if total else 1.0

    @property
    def worst_layer(self) -> str:
        """Layer of the largest relative error, the first of equals."""
        return max(self.errors, key=lambda name: self.errors[name].relative)


def read_factors(folder: str | Path) -> Adapter:
    """Read a PEFT adapter folder as factors of linear layers.

    Raises:
        AdapterError: If the folder cannot be read, or holds more than plain LoRA factors.
    """
    folder = Path(folder)
    try:
        config: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
        scale = float(config["lora_alpha"]) / int(config["r"])
        base = str(config.get("base_model_name_or_path") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise AdapterError(
            f"{folder}: not a readable PEFT adapter folder ({type(error).__name__}: {error}); "
            f"expected {CONFIG_FILE} with r and lora_alpha, and {WEIGHTS_FILE}"
        ) from error
    except ZeroDivisionError as error:
        raise AdapterError(f"{folder}: r is 0, expected at least 1") from error
    for option in ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save"):
        if config.get(option):
            raise AdapterError(f"{folder}: {option} is set, which cannot be merged")
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in sorted(tensors):
        layer = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        if name.endswith(".lora_A.weight"):
            other = tensors.get(f"{_PREFIX}{layer}.lora_B.weight")
            A = tensors[name]
            if other is None or A.ndim != 2 or other.ndim != 2 or A.shape[0] != other.shape[1]:
                raise AdapterError(f"{folder}: {name} has no lora_B of its rank")
            if not (torch.isfinite(A).all() and torch.isfinite(other).all()):
                raise AdapterError(f"{folder}: factors of {layer} are not finite")
            factors[layer] = A.float(), other.float()
    if 2 * len(factors) != len(tensors) or not factors:
        raise AdapterError(
            f"{folder}: holds {len(tensors)} tensors, expected pairs of LoRA factors"
        )
    return Adapter(factors, scale, base)


def write_factors(adapter: Adapter, folder: str | Path) -> Path:
    """Write an adapter as a PEFT folder.

    Raises:
        AdapterError: If a factor is not finite; nothing is written.
        OSError: If the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for layer, pair in adapter.factors.items():
        for letter, factor in zip("AB", pair, strict=True):
            if not torch.isfinite(factor).all():
                raise AdapterError(f"{folder}: factors of {layer} are not finite; not saved")
            tensors[f"{_PREFIX}{layer}.lora_{letter}.weight"] = factor.contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.scale * adapter.rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in adapter.factors}),
        "bias": "none",
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def merge(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rank: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Merge:
    """Weighted sum of adapters' updates at a rank, layer by layer in float32.

    Rounding is about 1e-7 of the largest update, so it is a larger share of a sum that nearly
    cancels; the measured errors say so.

    Args:
        adapters: At least one, all of the same layers.
        weights: One for each.
        rank: Rank of the result; None for the sum of the ranks, where nothing is lost.
        progress: Called with the fraction of the layers done.

    Returns:
        The merged adapter at the first one's scale, and the error measured on its factors.

    Raises:
        AdapterError: If the adapters do not have the same layers and shapes.
        ValueError: If there is not one weight for each adapter, or rank is below 1.
    """
    if not adapters or len(weights) != len(adapters):
        raise ValueError(
            f"weights: got {len(weights)} for {len(adapters)} adapters, expected one for each of "
            "at least one"
        )
    whole = sum(adapter.rank for adapter in adapters)
    rank = whole if rank is None else rank
    if rank < 1:
        raise ValueError(f"rank: got {rank}, expected at least 1")
    first = adapters[0]
    scale = first.scale or 1.0
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    errors: dict[str, LayerError] = {}
    for done, layer in enumerate(first.factors):
        A, B = _stacked(adapters, layer)
        shares = torch.tensor([weights], dtype=torch.float32)
        sizes = torch.tensor([adapter.scale for adapter in adapters])
        everyone = torch.arange(len(adapters))[None]
        new_A, new_B = combine(
            A[None], B[None], sizes, everyone, shares, torch.tensor([scale]), rank
        )
        factors[layer] = new_A[0, 0], new_B[0, 0]
        sized = B.double() * (shares[0].double() * sizes.double())[:, None, None]
        wide = A.double().flatten(0, 1), sized.transpose(0, 1).flatten(1)
        made = new_A[0, 0].double(), new_B[0, 0].double() * scale
        errors[layer] = LayerError(
            _square(torch.cat([wide[0], made[0]]), torch.cat([wide[1], -made[1]], 1)),
            _square(*wide),
            _square(*made),
        )
        if progress is not None:
            progress((done + 1) / len(first.factors))
    return Merge(Adapter(factors, scale, first.base), errors)


def _stacked(adapters: Sequence[Adapter], layer: str) -> tuple[Tensor, Tensor]:
    """``A [K, r, in]`` and ``B [K, out, r]`` of a layer, smaller ranks filled up with zeros."""
    rank = max(adapter.rank for adapter in adapters)
    first_A, first_B = adapters[0].factors[layer]
    A = first_A.new_zeros(len(adapters), rank, first_A.shape[1])
    B = first_B.new_zeros(len(adapters), first_B.shape[0], rank)
    for i, adapter in enumerate(adapters):
        pair = adapter.factors.get(layer)
        fits = (
            pair is not None and pair[0].shape[1] == A.shape[2] and pair[1].shape[0] == B.shape[1]
        )
        if pair is None or not fits or len(adapter.factors) != len(adapters[0].factors):
            raise AdapterError(
                f"adapters: number {i + 1} has other layers or shapes than number 1 (seen at "
                f"{layer}); merge adapters of one base with the same target modules"
            )
        own = pair[0].shape[0]
        A[i, :own], B[i, :, :own] = pair[0], pair[1]
    return A, B


def _square(A: Tensor, B: Tensor) -> float:
    """Squared Frobenius norm of ``B @ A``, by QR, so that small differences keep their digits."""
    R_b = torch.linalg.qr(B, mode="r").R
    R_a = torch.linalg.qr(A.T, mode="r").R
    return float((R_b @ R_a.T).square().sum())
