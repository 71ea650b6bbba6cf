"""How a generation's work is split: into parts that depend on nothing but what there is to do.

A shard is decoded, or learned from, by itself, in a fixed order. So who does it, and when, makes no
difference to a byte, and neither does how many there are to do it. Only the number of shards does,
and the number of threads: in floating point, a reply depends on its neighbours in the batch, and a
sum on who adds up what.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch

from populora_env.errors import PopuloraError


class ShardError(PopuloraError, ValueError):
    """A number of shards that there cannot be."""


def split_agents(loads: Sequence[int], shards: int) -> list[tuple[int, ...]]:
    """Split agents into parts of about the same load, the heaviest first to the lightest part.

    Args:
        loads: What each agent has to do, such as tokens to learn from, ``[N]``; 0 for nothing.
        shards: Most parts.

    Returns:
        Agents of each part, in order; those without a load are in none, and no part is empty.
    """
    busy = [agent for agent in range(len(loads)) if loads[agent]]
    busy.sort(key=lambda agent: -loads[agent])
    return _dealt([([agent], loads[agent]) for agent in busy], _least(shards))


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
    tokens = [(places, sum(limits[place] for place in places)) for places in groups.values()]
    return _dealt(tokens, shards)


def _dealt(groups: Sequence[tuple[Sequence[int], int]], shards: int) -> list[tuple[int, ...]]:
    """Give each group, in turn, to the part that holds least.

    Args:
        groups: What stays together, and its load.
        shards: Most parts; no part is empty.
    """
    parts: list[list[int]] = [[] for _ in range(min(shards, len(groups)))]
    held = [0] * len(parts)
    for members, load in groups:
        least = held.index(min(held))
        parts[least] += members
        held[least] += load
    return [tuple(sorted(part)) for part in parts]


def _least(shards: int) -> int:
    if shards < 1:
        raise ShardError(f"shards: got {shards}, expected at least 1")
    return shards


def shard_threads(threads: int, shards: int) -> int:
    """CPU threads for a shard: so many, or an equal share of those that PyTorch takes here.

    Args:
        threads: How many; 0 for a share.
        shards: Number of shards.
    """
    return threads or max(torch.get_num_threads() // _least(shards), 1)


@contextmanager
def limited(threads: int) -> Generator[None, None, None]:
    """Have PyTorch take so many threads inside the block; 0 leaves them as they are."""
    before = torch.get_num_threads()
    if threads and threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
