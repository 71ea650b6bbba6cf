"""Models converted for other engines, kept in the project's cache by what they were made of.

A conversion takes from seconds to minutes, so it is done once. Its folder is named by the content
of the model, the tool and the tool's version, and the precision: another model under the same name,
or another version of the tool, gets a folder of its own. One that was broken off leaves none.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agents.loading.models import cache_folder
from agents.plain_files import whole_folder


def content_key(model: Any, tokenizer: Any) -> str:
    """Hash of a model's settings, all its weights, and its tokenizer's vocabulary, 16 hex digits.

    Args:
        model: A Transformers model on any device.
        tokenizer: Its tokenizer.
    """
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).flatten().numpy())
    return digest.hexdigest()[:16]


def folder_name(model: str, key: str, tool: str, version: str, precision: str) -> str:
    """Name of the folder of a converted model.

    Args:
        model: What the user calls it; only for people who look into the cache.
        key: Its `content_key`.
        tool: That converts it.
        version: The tool's.
        precision: Of the converted weights.
    """
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", Path(model).name).strip("-.")[:60] or "model"
    version = re.sub(r"[^A-Za-z0-9.]+", "-", version)
    return f"{stem}-{key}-{tool}-{version}-{precision}"


def converted(name: str, convert: Callable[[Path], None]) -> Path:
    """The folder of a converted model, made on first use, whole or not at all.

    Args:
        name: From `folder_name`.
        convert: Fills the empty folder that it is given.

    Raises:
        OSError: If it cannot be written.
    """
    target = cache_folder() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_folder(target, shared=True) as work:
            convert(work)
    except OSError:
        if not target.is_dir():  # else another process finished the same conversion first
            raise
    return target
