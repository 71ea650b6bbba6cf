"""Whether two environments with the same seed play the same episodes.

PettingZoo's own seed test compares two environments for one step; here all steps of whole episodes
are compared.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pettingzoo import ParallelEnv

from populora_env.arena import ReasoningArena
from populora_env.testing.conformance import ConformanceError, require_same

Act = Callable[[str, Mapping[str, Any]], str]  # (agent, observation) -> reply

RESET = ("observations", "infos")
STEP = ("observations", "rewards", "terminations", "truncations", "infos")


def check_episode_determinism(
    make_env: Callable[[], ReasoningArena],
    policy: Act,
    *,
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
        ConformanceError: On the first difference, naming the episode, the step and the place, or
            if an episode does not end.
    """
    left, right = make_env(), make_env()
    try:
        for episode in range(episodes):
            place = f"episode {episode}"
            play_alike(left, right, policy, seed if episode == 0 else None, place, max_steps)
            ours, theirs = left.transcript.to_dict(), right.transcript.to_dict()
            require_same(ours, theirs, f"{place}, transcript")
    finally:
        left.close()
        right.close()


def play_alike(
    left: ParallelEnv[str, Any, Any],
    right: ParallelEnv[str, Any, Any],
    act: Act,
    seed: int | None,
    place: str,
    max_steps: int,
) -> None:
    """Play one episode in two environments, with the same replies, and compare every step.

    Args:
        left: Its observations are the ones that ``act`` is shown.
        right: The other environment.
        act: Returns an agent's reply to an observation.
        seed: For resetting both.
        place: What the episode is called in messages.
        max_steps: Largest number of steps.

    Raises:
        ConformanceError: On the first difference, or if the episode does not end.
    """
    ours, theirs = left.reset(seed=seed), right.reset(seed=seed)
    require_same(_named(RESET, ours), _named(RESET, theirs), f"{place}, reset")
    observations = ours[0]
    for step in range(max_steps):
        require_same(list(left.agents), list(right.agents), f"{place}, step {step}: agents")
        if not left.agents:
            return
        actions = {agent: act(agent, observations[agent]) for agent in left.agents}
        mine, other = left.step(dict(actions)), right.step(dict(actions))
        require_same(_named(STEP, mine), _named(STEP, other), f"{place}, step {step}")
        observations = mine[0]
    if left.agents:
        raise ConformanceError(f"{place} has not ended after {max_steps} steps")


def _named(names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))
