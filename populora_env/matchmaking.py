"""Who judges whom.

A balanced random design: every agent judges equally many pairs, every attempt is judged equally
often and never by its author, and no judge meets a pair again while others remain. Matching by
rating is not covered.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

MIN_AGENTS = 3  # a judge needs two attempts that are not its own


def assign_comparisons(
    agents: Sequence[str], per_agent: int, rng: np.random.Generator
) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of authors that each agent judges.

    The agents sit in a circle in random order, and in each slot all judge the attempts the same
    two steps away from their own. So each attempt is judged exactly ``2 * per_agent`` times.

    Args:
        agents: Names of the agents, all different.
        per_agent: Number of pairs each agent judges, at least 0.
        rng: Source of the random order.

    Returns:
        Judge to its pairs ``(first_author, second_author)``, one a slot; empty lists for fewer
        than `MIN_AGENTS` agents.

    Raises:
        ValueError: If ``per_agent`` is negative, or two agents have the same name.
    """
    if per_agent < 0:
        raise ValueError(f"per_agent must be at least 0, got {per_agent}")
    if len(set(agents)) != len(agents):
        raise ValueError(f"agents must have different names, got {list(agents)}")
    pairs: dict[str, list[tuple[str, str]]] = {agent: [] for agent in agents}
    count = len(agents)
    if count < MIN_AGENTS:
        return pairs
    circle = [agents[int(position)] for position in rng.permutation(count)]
    steps = list(combinations(range(1, count), 2))
    order: list[int] = []
    for slot in range(per_agent):
        if slot % len(steps) == 0:
            order = [int(entry) for entry in rng.permutation(len(steps))]
        near, far = steps[order[slot % len(steps)]]
        for seat, judge in enumerate(circle):
            pair = (circle[(seat + near) % count], circle[(seat + far) % count])
            pairs[judge].append(pair if rng.random() < 0.5 else (pair[1], pair[0]))
    return pairs
