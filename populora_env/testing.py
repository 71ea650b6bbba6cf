"""Checks for environments of this project and for those derived from it.

PettingZoo's own seed test compares two environments for one step; `check_episode_determinism`
compares whole episodes. Checks of policies, judges and problem sources are not written yet.
"""

from collections.abc import Callable, Mapping
from typing import Any

from populora_env.arena import ReasoningArena

Act = Callable[[str, Mapping[str, Any]], str]  # (agent, observation) -> reply


def check_episode_determinism(
    make_env: Callable[[], ReasoningArena],
    policy: Act,
    episodes: int = 3,
    seed: int = 42,
    max_steps: int = 1_000,
) -> None:
    """Check that two arenas with the same seed and replies play the same episodes.

    Both are reset with ``seed``, then continue without one. All that any agent observes, earns
    and is told in any step is compared, and at the end of each episode the transcript.

    Args:
        make_env: Returns a new arena each time; both are closed at the end.
        policy: Returns an agent's reply to an observation; has to be deterministic itself.
        episodes: Number of episodes, at least 1.
        seed: Seed of the first reset.
        max_steps: Largest number of steps of an episode.

    Raises:
        AssertionError: On the first difference, naming the episode, the step and the place, or if
            an episode does not end.
    """
    left, right = make_env(), make_env()
    try:
        for episode in range(episodes):
            _same_episode(left, right, policy, seed if episode == 0 else None, episode, max_steps)
    finally:
        left.close()
        right.close()


def _same_episode(
    left: ReasoningArena,
    right: ReasoningArena,
    policy: Act,
    seed: int | None,
    episode: int,
    max_steps: int,
) -> None:
    ours, theirs = left.reset(seed=seed), right.reset(seed=seed)
    names = ("observations", "infos")
    _same(dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True)),
          f"episode {episode}, reset")  # fmt: skip
    observations = ours[0]
    names = ("observations", "rewards", "terminations", "truncations", "infos")
    for step in range(max_steps):
        _same(left.agents, right.agents, f"episode {episode}, step {step}: agents")
        if not left.agents:
            break
        actions = {agent: policy(agent, observations[agent]) for agent in left.agents}
        mine, other = left.step(actions), right.step(dict(actions))
        _same(dict(zip(names, mine, strict=True)), dict(zip(names, other, strict=True)),
              f"episode {episode}, step {step}")  # fmt: skip
        observations = mine[0]
    else:
        raise AssertionError(f"episode {episode} has not ended after {max_steps} steps")
    _same(
        left.transcript.to_dict(),
        right.transcript.to_dict(),
        f"episode {episode}, transcript",
    )


def _same(left: Any, right: Any, place: str) -> None:
    """Raise an AssertionError that names the first place where two values differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        if list(left) != list(right):
            raise AssertionError(f"{place}: keys differ: {list(left)} and {list(right)}")
        for key in left:
            _same(left[key], right[key], f"{place}.{key}")
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            raise AssertionError(f"{place}: lengths differ: {len(left)} and {len(right)}")
        for position, (ours, theirs) in enumerate(zip(left, right, strict=True)):
            _same(ours, theirs, f"{place}[{position}]")
    elif type(left) is not type(right) or bool(left != right):
        raise AssertionError(f"{place} differs: {left!r:.200} and {right!r:.200}")
