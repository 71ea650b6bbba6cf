"""Who judges whom.

Every attempt is judged equally often, every agent judges equally much, and nobody judges its own
attempt unless asked to. Three ways: a balanced random design; all against all; or pairs of
near-equal rating, which tell most about who is better.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import combinations

import numpy as np

WinProbability = Callable[[str, str], float]
_SWEEPS = 20  # Metropolis steps per agent; rating-based pairs are drawn by a Markov chain


class Matchmaking(StrEnum):
    """How judges and attempts are brought together."""

    BALANCED = "balanced"  # a random design, as many tasks as asked for
    ROUND_ROBIN = "round_robin"  # everybody judges everything there is
    RATING = "rating"  # as balanced, but pairs of near-equal rating are likelier


def min_agents(per_task: int, *, self_judging: bool) -> int:
    """Return how many agents it takes for tasks of ``per_task`` attempts each."""
    return per_task if self_judging else per_task + 1


def most_tasks(agents: int, per_task: int, *, self_judging: bool) -> int:
    """Return how many different tasks of ``per_task`` attempts one judge can have."""
    others = agents if self_judging else agents - 1
    return max(others, 0) if per_task == 1 else others * (others - 1) // 2


def assign_attempts(
    agents: Sequence[str], load: int, rng: np.random.Generator, *, self_judging: bool = False
) -> dict[str, list[str]]:
    """Return whose attempt each agent judges, one in each of ``load`` slots.

    The agents sit in a circle in random order, and in each slot all judge the attempt the same
    number of seats away. So each attempt is judged exactly once a slot, and no judge meets an
    attempt again while others remain.

    Args:
        agents: Names of the agents, all different.
        load: Number of attempts each agent judges, at least 0.
        rng: Source of the random order.
        self_judging: Whether an agent may judge its own attempt.

    Returns:
        Judge to authors; empty lists if there are too few agents (see `min_agents`).

    Raises:
        ValueError: If ``load`` is negative, or two agents have the same name.
    """
    tasks = _empty_tasks(agents, load)
    count = len(agents)
    if count < min_agents(1, self_judging=self_judging):
        return {agent: [] for agent in agents}
    circle = [agents[int(position)] for position in rng.permutation(count)]
    steps = list(range(0 if self_judging else 1, count))
    for (step,) in _dealt([(step,) for step in steps], load, rng):
        for seat, judge in enumerate(circle):
            tasks[judge].append((circle[(seat + step) % count],))
    return {judge: [author for (author,) in assigned] for judge, assigned in tasks.items()}


def assign_pairs(
    agents: Sequence[str],
    load: int,
    rng: np.random.Generator,
    *,
    self_judging: bool = False,
    win_probability: WinProbability | None = None,
) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of authors that each agent judges, one in each of ``load`` slots.

    Each attempt is in exactly two pairs a slot. Without ratings, the design is that of
    `assign_attempts`, with two attempts the same two distances away. With ratings, the pairs of a
    slot are the edges of a random cycle through all attempts, drawn with a probability
    proportional to the product of p (1 - p) over its edges, where p is one's chance to win.

    Args:
        agents: Names of the agents, all different.
        load: Number of pairs each agent judges, at least 0.
        rng: Source of the random order.
        self_judging: Whether an agent may judge its own attempt.
        win_probability: Chance that the first of two agents is better, in [0, 1]; None to ignore
            ratings.

    Returns:
        Judge to pairs ``(first_author, second_author)``; empty lists if there are too few agents.

    Raises:
        ValueError: If ``load`` is negative, or two agents have the same name.
    """
    tasks = _empty_tasks(agents, load)
    count = len(agents)
    if count < min_agents(2, self_judging=self_judging):
        return {agent: [] for agent in agents}
    if win_probability is not None and count >= 3:
        for _ in range(load):
            cycle = _close_cycle(agents, win_probability, rng)
            # Of the cycle's edges, the one `offset` seats on; two of them touch the judge.
            offset = int(rng.integers(0, count) if self_judging else rng.integers(1, count - 1))
            for seat, judge in enumerate(cycle):
                edge = seat + offset
                tasks[judge].append((cycle[edge % count], cycle[(edge + 1) % count]))
    else:
        circle = [agents[int(position)] for position in rng.permutation(count)]
        steps = list(combinations(range(0 if self_judging else 1, count), 2))
        for near, far in _dealt(steps, load, rng):
            for seat, judge in enumerate(circle):
                tasks[judge].append((circle[(seat + near) % count], circle[(seat + far) % count]))
    return {
        judge: [(a, b) if rng.random() < 0.5 else (b, a) for a, b in assigned]
        for judge, assigned in tasks.items()
    }


def _empty_tasks(agents: Sequence[str], load: int) -> dict[str, list[tuple[str, ...]]]:
    if load < 0:
        raise ValueError(f"load must be at least 0, got {load}")
    if len(set(agents)) != len(agents):
        raise ValueError(f"agents must have different names, got {list(agents)}")
    return {agent: [] for agent in agents}


def _dealt(
    options: Sequence[tuple[int, ...]], load: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Return ``load`` options in random order, each as often as the others."""
    order: list[int] = []
    while len(order) < load:
        order += [int(entry) for entry in rng.permutation(len(options))]
    return [options[entry] for entry in order[:load]]


def _close_cycle(
    agents: Sequence[str], win_probability: WinProbability, rng: np.random.Generator
) -> list[str]:
    """Return the agents in a circle in which neighbours are likely to be near-equal."""
    count = len(agents)
    weight = np.zeros((count, count))
    for i, j in combinations(range(count), 2):
        p = min(max(win_probability(agents[i], agents[j]), 1e-6), 1 - 1e-6)
        weight[i, j] = weight[j, i] = p * (1 - p)
    cycle = [int(position) for position in rng.permutation(count)]
    if count > 3:  # all cycles through three are the same
        stretches = rng.integers(0, count, (_SWEEPS * count, 2)).tolist()
        chances = rng.random(len(stretches)).tolist()
        for stretch, chance in zip(stretches, chances, strict=True):
            # Turning a stretch around exchanges its two outer edges; accept by Metropolis' rule.
            low, high = sorted(stretch)
            before, first = cycle[low - 1], cycle[low]
            last, after = cycle[high], cycle[(high + 1) % count]
            if low == high or before == last:  # nothing turns, or the whole circle
                continue
            ratio = weight[before, last] * weight[first, after]
            ratio /= weight[before, first] * weight[last, after]
            if chance < ratio:
                cycle[low : high + 1] = cycle[low : high + 1][::-1]
    return [agents[position] for position in cycle]
