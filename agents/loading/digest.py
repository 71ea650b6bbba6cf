"""Digest of a base model: whether another process, or another day, has the same one."""

import json
from typing import Any

import torch
import xxhash

from agents.loading.models import BaseModel


def base_digest(base: BaseModel) -> str:
    """Digest of a base's weights as they are in memory, its words and chat template.

    Adapters on it do not count. Weights in 4 bits do not, either: their form depends on the device.
    Empty of a base whose weights are elsewhere.
    """
    if base.is_skeleton:
        return ""
    hasher = xxhash.xxh3_128()
    for parameter in base.model.parameters():
        if parameter.is_floating_point():
            hasher.update(f"{parameter.dtype} {tuple(parameter.shape)}".encode())
            plain = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            hasher.update(plain.numpy().data)
    _read_words(hasher, base)
    return hasher.hexdigest()


def skeleton_digest(base: BaseModel) -> str:
    """Digest of a base's shapes, words and chat template, which is the same without its weights."""
    hasher = xxhash.xxh3_128()
    for parameter in base.model.parameters():
        if parameter.is_floating_point():
            hasher.update(repr(tuple(parameter.shape)).encode())
    _read_words(hasher, base)
    return hasher.hexdigest()


def _read_words(hasher: xxhash.xxh3_128, base: BaseModel) -> None:
    tokenizer: Any = base.tokenizer
    hasher.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    hasher.update(repr(getattr(tokenizer, "chat_template", None)).encode())
