"""What a run rests on beside its folder: the base's weights and the problems it was given.

Both are named by paths in its settings, and what lies there may be replaced. Each generation
records their digests, and a run does not go on with others.

Not covered: code. Problems that are made when asked for follow from their spec, which cannot change
in a run, and from the version of the package that makes them, which ``run.toml`` records.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import xxhash

from agents.loading.models import BaseModel
from evolution.errors import CheckpointError
from populora_env.records import Problem

_WORDS = {
    "base": "the base model's weights or tokenizer",
    "skeleton": "the base model's shapes or tokenizer",
    "problems": "the training problems",
    "excluded": "the held-out problems",
}


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


def problems_digest(problems: Iterable[Problem]) -> str:
    """Digest of problems in order: what is asked and what is right; empty if there are none."""
    hasher, count = xxhash.xxh3_128(), 0
    for count, problem in enumerate(problems, 1):  # noqa: B007
        row = [problem.prompt, problem.answer, problem.answer_kind]
        hasher.update(json.dumps(row).encode())
    return hasher.hexdigest() if count else ""


def check_same(before: Mapping[str, str], now: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Refuse to go on with anything but what a run was played with.

    Args:
        before: Digests in the run's state; what was not recorded, or is empty, is not compared.
        now: Digests of what it would go on with.
        names: What the user calls each, for the message.

    Raises:
        CheckpointError: If one differs.
    """
    for key, digest in now.items():
        if digest and before.get(key) and before[key] != digest:
            raise CheckpointError(
                f"resume: {_WORDS[key]} ({names[key]}) are not those that the run was played with: "
                f"got digest {digest[:12]}, expected {str(before[key])[:12]}; restore them, or "
                "start a new run"
            )
