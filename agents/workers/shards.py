"""How a generation's work is split: into parts that depend on nothing but what there is to do.

A shard is decoded, or learned from, by itself, in a fixed order. So who does it, and when, makes no
difference to a byte, and neither does how many there are to do it. Only the number of shards does:
in floating point, a reply depends on its neighbours in the batch.
"""

from collections.abc import Sequence

from populora_env.errors import PopuloraError


class ShardError(PopuloraError, ValueError):
    """A number of shards that there cannot be."""


def split_agents(size: int, shards: int) -> list[tuple[int, ...]]:
    """Deal agents out in turn: those of one role, which stand together, go to different shards.

    Args:
        size: Number of agents, N.
        shards: Most parts.

    Returns:
        Agents of each part, in order; no part is empty.
    """
    return [tuple(range(first, size, shards)) for first in range(min(_least(shards), size))]


def split_jobs(
    prompts: Sequence[Sequence[int]], limits: Sequence[int], shards: int
) -> list[tuple[int, ...]]:
    """Split jobs into parts of about as many reply tokens; those of one prompt stay together.

    A prompt is read once however many replies there are to it, so splitting them would cost. Only
    where there are fewer prompts than parts are they split.

    Args:
        prompts: Token ids of each job's prompt.
        limits: Most tokens of each job's reply.
        shards: Most parts.

    Returns:
        Places of the jobs of each part, in order; no part is empty.
    """
    groups: dict[object, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(place)
    if len(groups) < _least(shards):
        groups = {place: [place] for place in range(len(prompts))}
    parts: list[list[int]] = [[] for _ in range(min(shards, len(groups)))]
    loads = [0] * len(parts)
    for places in groups.values():
        least = loads.index(min(loads))
        parts[least] += places
        loads[least] += sum(limits[place] for place in places)
    return [tuple(sorted(part)) for part in parts]


def _least(shards: int) -> int:
    if shards < 1:
        raise ShardError(f"shards: got {shards}, expected at least 1")
    return shards
