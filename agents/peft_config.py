"""The settings of a PEFT adapter folder, whoever wrote them; no torch here.

``adapter_config.json`` may come from a stranger: its size, nesting, numbers and the regular
expressions in its patterns are bounded, and whatever is wrong ends in an `AdapterError` of one
line.
"""

import json
import math
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from populora_env.errors import PopuloraError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_MLX_FILE = "adapters.safetensors"
_MOST_BYTES = 4 << 20  # of a config; one that lists every layer of a large model has some 100 kB
_MOST_SHOWN = 100  # characters of a value in a message
_SECONDS = 3  # matching patterns may take
_PLAIN = re.compile(r"[\w-]+", re.ASCII)  # a pattern that only the same name matches

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

# Matches patterns where it can be killed: Python's own matcher can need exponential time and room.
_MATCHER = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
patterns, layers = json.load(sys.stdin)
try:
    made = [re.compile(rf"(.*\\.)?({p})$") for p in patterns]
except Exception as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
else:
    print(json.dumps([next((i for i, p in enumerate(made) if p.match(n)), -1) for n in layers]))
"""


class AdapterError(PopuloraError, ValueError):
    """An adapter that cannot be read, written, or become a member of a population."""


def shown(value: object) -> str:
    """A value of a stranger's for a message: one short line without control characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def check_regular(path: Path) -> None:
    """Refuse what is no regular file: a pipe would never end.

    Raises:
        OSError: If there is no such file, or it is not regular.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path.name} is no regular file")


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of an adapter folder.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no JSON object, or is too large.
    """
    path = folder / CONFIG_FILE
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{CONFIG_FILE} has over {_MOST_BYTES >> 20} MiB")
    try:
        config: object = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"{CONFIG_FILE} is nested too deeply") from None
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} holds no object")
    return cast(dict[str, Any], config)


def folder_hint(folder: Path) -> str:
    """What a folder that holds no PEFT adapter seems to be; empty if there is nothing to say."""
    try:
        if (folder / _MLX_FILE).is_file():
            return (
                f"; {_MLX_FILE} is mlx-lm's own format: convert it to PEFT's, lora_a and lora_b "
                "transposed and named base_model.model.LAYER.lora_A.weight and lora_B.weight"
            )
        if (folder / CONFIG_FILE).is_file():
            return ""
        below = sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG_FILE).is_file())
    except OSError:
        return ""
    if not below:
        return ""
    more = f" ({len(below)} such folders)" if len(below) > 1 else ""
    return f"; an adapter is one level down: did you mean {folder / below[-1]}{more}?"


def refuse(config: Mapping[str, Any]) -> None:
    """Refuse what is more than a plain LoRA adapter of linear layers.

    Raises:
        AdapterError: If an option is set that cannot be stacked.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            f"peft_type is {shown(kind)}, expected 'LORA', the only one that is stacked"
        )
    for option, reason in _REFUSED.items():
        if config.get(option):
            raise AdapterError(f"{option} is set, which cannot be stacked: {reason}")
    if (bias := config.get("bias", "none")) != "none":
        raise AdapterError(f"bias is {shown(bias)}, expected 'none': biases of the base are shared")
    init = config.get("init_lora_weights", True)
    if not any(
        init is plain or (init == plain and isinstance(init, str)) for plain in _PLAIN_INITS
    ):
        raise AdapterError(
            f"init_lora_weights is {shown(init)}, which changes the base's weights, so the "
            "adapter does not fit the unchanged base; have PEFT convert it: save_pretrained with "
            "path_initial_model_for_weight_conversion"
        )


def layer_numbers(
    config: Mapping[str, Any], option: str, patterns: str, layers: Iterable[str]
) -> dict[str, float]:
    """What an option says for each layer: the first pattern that matches it, else the option.

    Raises:
        AdapterError: If it is no finite number, or the patterns cannot be matched.
    """
    layers = list(layers)
    special: object = config.get(patterns) or {}
    if not isinstance(special, dict):
        raise AdapterError(f"{patterns} cannot be read (it is {shown(special)}, no object)")
    values = cast(dict[str, object], special)
    names = list(values)
    chosen = _match(patterns, names, layers) if names else [-1] * len(layers)
    found: dict[str, float] = {}
    for layer, which in zip(layers, chosen, strict=True):
        value, where = config.get(option), option
        if which >= 0:
            value, where = values[names[which]], f"{patterns}[{shown(names[which])}]"
        found[layer] = _number(value, where)
    return found


def _number(value: object, where: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number):
                return number
    except OverflowError:
        pass
    raise AdapterError(f"{CONFIG_FILE}: {where} is {shown(value)}, expected a number")


def _match(option: str, patterns: list[str], layers: list[str]) -> list[int]:
    """Place of the first pattern that matches each layer, as PEFT matches; -1 where none does."""
    if all(_PLAIN.fullmatch(pattern) for pattern in patterns):
        places = {pattern: i for i, pattern in reversed(list(enumerate(patterns)))}
        return [places.get(layer.rpartition(".")[2], -1) for layer in layers]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCHER],
            input=json.dumps([patterns, layers]).encode(),
            capture_output=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
        answer: object = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise AdapterError(
            f"{option} cannot be read (matching its patterns takes over {_SECONDS} s); write the "
            "layers' names without nested repetitions"
        ) from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{option} cannot be read (its patterns cannot be matched)") from error
    if not isinstance(answer, list):
        raise AdapterError(f"{option} cannot be read ({shown(answer)})")
    return cast(list[int], answer)
