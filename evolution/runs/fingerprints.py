"""What a run rests on beside its folder: the base's weights and the problems it was given.

Both are named by paths in its settings, and what lies there may be replaced. Each generation
records their digests, and a run does not go on with others.

Not covered: code. Problems that are made when asked for follow from their spec, which cannot change
in a run, and from the version of the package that makes them, which ``run.toml`` records.
"""

import json
from collections.abc import Iterable, Mapping

import xxhash

from evolution.errors import CheckpointError
from populora_env.records import Problem

_WORDS = {
    "base": "the base model's weights or tokenizer",
    "skeleton": "the base model's shapes or tokenizer",
    "problems": "the training problems",
    "excluded": "the held-out problems",
}


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
