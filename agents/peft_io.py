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
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import pad

from agents.peft_config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterError,
    check_regular,
    folder_hint,
    layer_numbers,
    read_config,
    refuse,
    shown,
)
from agents.plain_files import refuse_holes

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "AdapterError",
    "PeftAdapter",
    "layers_of",
    "read_adapter",
    "write_adapter",
]

_PICKLE_FILE = "adapter_model.bin"
_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"base_model\.model\.(?P<layer>.+)\.lora_(?P<letter>[AB])(\.(?P<adapter>[^.]+))?\.weight"
)
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    f"s.save_file(torch.load('{_PICKLE_FILE}', weights_only=True), '{WEIGHTS_FILE}')\""
)

_MOST_HEADER = 16 << 20  # bytes; 90,000 factors of a large mixture of experts have 13 million
_MOST_NAME = 500  # characters of a tensor's name
_SMALLEST = 1e-30  # of an alpha: far inside what float32 holds

# What a tensor's name says about an adapter that cannot be read.
_REFUSED_NAMES = {
    "lora_embedding_": "it adapts embeddings",
    "lora_magnitude_vector": "DoRA rescales the base's weights",
    ".lora_A.bias": "its factors have biases",
    ".lora_B.bias": "its factors have biases",
    "modules_to_save": "it replaces whole modules of the base",
    ".base_layer.": "it adapts the output layer or embeddings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftAdapter:
    """A LoRA adapter outside a population: as it was read, or is to be written.

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

    @property
    def scale(self) -> float:
        """Factor of every product ``B A``."""
        return self.alpha / self.rank

    def write(self, folder: str | Path, *, dropout: float = 0.0) -> Path:
        """Write it as a PEFT adapter folder; see `write_adapter`."""
        return write_adapter(
            folder, self.factors, alpha=self.alpha, dropout=dropout, base=self.base
        )


def write_adapter(
    folder: str | Path,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    *,
    alpha: float,
    dropout: float,
    base: str,
) -> Path:
    """Write an adapter as PEFT does, at one rank: smaller factors are filled up with zeros.

    Args:
        folder: Made if it does not exist; an adapter in it is replaced.
        factors: ``A [r, in]`` and ``B [out, r]`` by module path of the base, at least one.
        alpha: Numerator of the scale; its denominator is the largest rank.
        dropout: What it is trained with; for the record.
        base: The base model to name: a folder or a hub id.

    Raises:
        AdapterError: If a factor is not finite; nothing is written.
        OSError: If the folder cannot be written.
    """
    rank = max(A.shape[0] for A, _ in factors.values())
    tensors: dict[str, Tensor] = {}
    for name, (A, B) in factors.items():
        if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
            raise AdapterError(f"{folder}: factors of {name} are not finite; not saved")
        missing = rank - A.shape[0]
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = pad(A, (0, 0, 0, missing)).contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = pad(B, (0, missing)).contiguous()
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
        "r": rank,
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
        said = "".join(c if c.isprintable() else "?" for c in str(error))  # may quote the files
        raise AdapterError(f"{folder}: {said}") from error.__cause__


def layers_of(adapters: Sequence[PeftAdapter]) -> tuple[str, ...]:
    """Module paths of all layers that some of the adapters adapt, in order of appearance."""
    return tuple(dict.fromkeys(name for adapter in adapters for name in adapter.factors))


def _read(folder: Path) -> PeftAdapter:
    try:
        config = read_config(folder)
        if "peft_type" not in config and (hint := folder_hint(folder)):
            raise AdapterError(f"not a PEFT adapter folder{hint}")
        refuse(config)
        if (folder / _PICKLE_FILE).exists() and not (folder / WEIGHTS_FILE).exists():
            raise AdapterError(
                f"{_PICKLE_FILE} is a pickle, which is not opened here; if you trust it, run there "
                f"{_CONVERT}"
            )
        _check_names(_header_names(folder / WEIGHTS_FILE))
        tensors = load_file(folder / WEIGHTS_FILE)
    except AdapterError:
        raise
    except (  # the last five are what safetensors raises for types and sizes it does not know
        OSError, ValueError, SafetensorError,
        KeyError, TypeError, AttributeError, RuntimeError, MemoryError,
    ) as error:  # fmt: skip
        raise AdapterError(
            f"not a readable PEFT adapter folder ({' '.join(str(error).split())[:300]}); expected "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}{folder_hint(folder)}"
        ) from error
    factors = _factors(tensors)
    _check_targets(config, factors)
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
    base = str(config.get("base_model_name_or_path") or "")
    return PeftAdapter(rank=rank, alpha=alpha, base=base, factors=factors)


def _check_targets(config: Mapping[str, Any], layers: Iterable[str]) -> None:
    """Refuse factors of a layer that the settings do not name: PEFT leaves them out.

    Only lists are looked at: regular expressions are their author's, and may take for ever. Where
    a list holds paths, the last parts of some have to fit: PEFT lists the layers of small models
    so, and whether a path is right is said where the base is known.
    """
    wanted, unwanted = (
        cast(list[object], named) if isinstance(named, list) else []
        for named in (config.get("target_modules"), config.get("exclude_modules"))
    )
    layers = list(layers)
    kinds = [str(name).rpartition(".")[2] for name in wanted]
    unnamed = [n for n in layers if wanted and not _is_named(n, kinds)]
    if kinds != wanted and len(unnamed) < len(layers):
        unnamed = []
    left_out = {
        "target_modules": unnamed,
        "exclude_modules": [n for n in layers if _is_named(n, unwanted)],
        "layers_to_transform": _beside_layers(config, layers),
    }
    for option, outside in left_out.items():
        if outside:
            more = f" and {len(outside) - 1} more layers" if len(outside) > 1 else ""
            given = config[option]
            names = ", ".join(sorted(map(str, given if isinstance(given, list) else [given])))[:100]
            raise AdapterError(
                f"{WEIGHTS_FILE} has factors of {outside[0]}{more}, but {option} of {CONFIG_FILE} "
                f"are {names}, so that PEFT leaves them out; expected the two files of one adapter"
            )


def _beside_layers(config: Mapping[str, Any], layers: Iterable[str]) -> list[str]:
    """Layers whose numbers are not among ``layers_to_transform``, as PEFT counts them."""
    given = config.get("layers_to_transform")
    if given is None or given == []:
        return []
    wanted = cast(list[object], given) if isinstance(given, list) else [given]
    found = config.get("layers_pattern") or r"[^.]*"
    patterns = [found] if isinstance(found, str) else cast(list[str], found)
    if not all(re.fullmatch(r"\w+|\[\^\.\]\*", pattern) for pattern in patterns):
        return []  # regular expressions are their author's
    number = re.compile(rf".*\.(?:{'|'.join(patterns)})\.(\d+)\.")
    matches = {layer: number.match(f".{layer}") for layer in layers}
    return [n for n, match in matches.items() if match is None or int(match[1]) not in wanted]


def _is_named(layer: str, names: Iterable[object]) -> bool:
    """Whether a list names a layer, by its path or the end of it, as PEFT reads such lists."""
    return any(f".{layer}".endswith(f".{name}") for name in names)


def _header_names(path: Path) -> list[str]:
    """Names of the tensors in a file, by its header, whose size is bounded.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the header is too long or is none, or the file is mostly holes.
    """
    check_regular(path)
    with path.open("rb") as file:
        refuse_holes(file.fileno(), path.name)
        start = file.read(8)
        if len(start) < 8 or struct.unpack("<Q", start)[0] > _MOST_HEADER:
            raise ValueError(f"{WEIGHTS_FILE} has no header of at most {_MOST_HEADER >> 20} MiB")
        try:
            header: object = json.loads(file.read(struct.unpack("<Q", start)[0]))
        except RecursionError:
            raise ValueError(f"the header of {WEIGHTS_FILE} is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError(f"the header of {WEIGHTS_FILE} is no object")
    return [name for name in cast(dict[str, Any], header) if name != "__metadata__"]


def _check_names(names: Iterable[str]) -> None:
    """Refuse tensors that are no factors, before room is taken for a great many of them."""
    if bad := [name for name in names if not _FACTOR.fullmatch(name)]:
        telling = ((k, why) for part, why in _REFUSED_NAMES.items() for k in bad if part in k)
        key, why = next(telling, (bad[0], "it is no factor of a linear layer"))
        raise AdapterError(f"{_plain(key)} cannot be stacked: {why}")


def _factors(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Check shapes and values of factors, whose names are checked, and sort them by layer."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = cast(re.Match[str], _FACTOR.fullmatch(key))
        pair = found.setdefault(match["layer"], {})
        if len(key) > _MOST_NAME or not key.isprintable():
            raise AdapterError(f"{_plain(key)} is no name of a layer")
        if match["letter"] in pair:
            raise AdapterError(f"{key}: {match['layer']} has two adapters, expected one")
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise AdapterError(f"{key}: got {tensor.dtype}, expected 16, 32 or 64 bit floats")
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{key} holds values that are not finite")
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
            if not torch.isfinite(tensor).all():
                raise AdapterError(f"{key} holds values beyond 32 bit floats")
        pair[match["letter"]] = tensor
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, pair in found.items():
        if missing := {"A", "B"} - pair.keys():
            raise AdapterError(f"{layer} has no lora_{missing.pop()}")
        A, B = pair["A"], pair["B"]
        if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1] or not A.numel() or not B.numel():
            raise AdapterError(
                f"{layer}: lora_A {tuple(A.shape)} and lora_B {tuple(B.shape)} are no factors of "
                "a linear layer, expected (r, in) and (out, r)"
            )
        # A population is made as wide as the largest rank; 8 MB of a rank of a million for a layer
        # of one input would have it take terabytes. Beyond the layer's size a rank adds nothing.
        if A.shape[0] > max(A.shape[1], B.shape[0]):
            raise AdapterError(
                f"{layer}: rank {A.shape[0]} is above its {A.shape[1]} inputs and {B.shape[0]} "
                "outputs, which no layer needs"
            )
        factors[layer] = A, B
    if not factors:
        raise AdapterError(f"{WEIGHTS_FILE} holds no factors")
    return factors


def _plain(name: str) -> str:
    """A tensor's name as a message may show it."""
    return name if len(name) <= _MOST_NAME and name.isprintable() else shown(name)


def _scales(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """The scale of each layer, by PEFT's rules; ``ranks`` are those of the stored factors."""
    said = layer_numbers(config, "r", "rank_pattern", ranks)
    alphas = layer_numbers(config, "lora_alpha", "alpha_pattern", ranks)
    scales: dict[str, float] = {}
    for layer, rank in ranks.items():
        if said[layer] != rank:
            raise AdapterError(f"{layer} has rank {rank}, but {CONFIG_FILE} says {said[layer]:g}")
        scales[layer] = alphas[layer] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return scales
