"""A base without weights: what a population's process needs where others generate and learn.

Its model is on PyTorch's meta device. It says the shapes of the adapters, which live on the CPU,
and its tokenizer makes prompts; nothing can be decoded or learned with it.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from agents.loading.checks import ModelError, check_size, stored_bytes
from agents.loading.files import EMBEDDED, first_line, locate
from agents.loading.models import DTYPES, BaseModel, check_dtype, check_replies, freeze
from agents.loading.quiet import no_bars


def load_skeleton(
    name: str = EMBEDDED, *, dtype: str = "float32", load_in_4bit: bool = False
) -> BaseModel:
    """Load the tokenizer of a base model, and its shapes in the place of its weights.

    What needs no weights is checked as `agents.loading.models.load_base` does.

    Args:
        name: As `load_base` takes it.
        dtype: Of the weights, wherever they are: ``float32``, ``bfloat16`` or ``float16``. Adapters
            have it if nothing else is said.
        load_in_4bit: Whether the linear layers are kept in 4 bits there; adapters are float32 then.

    Raises:
        ModelError: If the model is missing, unreadable or of a kind that cannot be decoded by
            `load_base`, or dtype is unknown.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(f"model: got {name!r}, expected text: 'embedded', a hub id or a path")
    check_dtype(dtype)
    path = locate(name)
    try:
        with no_bars():
            # A model's own code is never run, nor is there a question whether it may.
            config: Any = AutoConfig.from_pretrained(path, trust_remote_code=False)
            if (stored := stored_bytes(path)) is not None:
                check_size(config, stored, name)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            packed = load_in_4bit or getattr(config, "quantization_config", None) is not None
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(
                    config, dtype=DTYPES[dtype], trust_remote_code=False
                )
            with suppress(OSError):  # without one, the model's own settings say what ends a reply
                model.generation_config = GenerationConfig.from_pretrained(path)
            if packed:
                _pack(model)
            base = freeze(model, tokenizer, name=name, path=path)
            check_replies(base)
            return base
    except ModelError:
        raise
    # Files of strangers fail in any way: readers raise KeyError, ValueError, OSError ...
    except Exception as error:
        raise ModelError(
            f"model: {name!r} could not be loaded ({first_line(error)}); expected 'embedded', a "
            "hub id, a folder with config.json and weights, or a .gguf file"
        ) from error


def _pack(model: Any) -> None:
    """Have linear layers say that their weights are stored as whole numbers."""
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            whole = torch.empty_like(module.weight, dtype=torch.uint8)
            module.weight = nn.Parameter(whole, requires_grad=False)
