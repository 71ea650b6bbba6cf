"""Whether an environment of your own keeps what a parallel environment with texts promises.

This goes with PettingZoo's ``parallel_api_test``, which knows nothing of texts and looks at one
step only where seeds are concerned.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from populora_env.keys import derive_seed
from populora_env.testing.conformance import (
    STRANGE_TEXTS,
    ConformanceError,
    require,
    unharmed,
)
from populora_env.testing.episodes import RESET, STEP, play_alike

Env = ParallelEnv[str, Any, Any]

ORDINARY_TEXTS = (
    "2", "Answer: 3", "So I get 4.", "A", "B", "tie", "7/10", "10", "Verdict: correct",
    "That is wrong.\nVerdict: incorrect", "", "I do not know.",
)  # fmt: skip


def check_parallel_env(
    make_env: Callable[[], Env],
    *,
    replies: Sequence[str] = ORDINARY_TEXTS,
    strange: Mapping[str, str] = STRANGE_TEXTS,
    episodes: int = 3,
    seed: int = 42,
    max_steps: int = 1_000,
) -> None:
    """Check a PettingZoo parallel environment whose actions are texts.

    It has to

    - name its agents, and return the same space object for an agent each time;
    - return observations within their spaces, the first and the last included;
    - return dictionaries with an entry for each agent that acted: finite rewards, true or false
      for the end, a dictionary of infos;
    - drop an agent from ``agents`` when it has ended, so that none is left at the end;
    - take every text as an action, and any options at reset;
    - refuse steps before the first reset and after the end, and actions of too few or unknown
      agents, by raising;
    - play the same episodes with the same seed and replies, whatever was played before.

    Args:
        make_env: Returns a new environment each time; all are closed at the end.
        replies: Texts that the episodes of the last check are played with, at least one.
        strange: Name to text; action spaces have to contain each, and an episode is played with it.
        episodes: Number of episodes that are compared, at least 1.
        seed: For all resets with a seed.
        max_steps: Largest number of steps of an episode.

    Raises:
        ConformanceError: If a promise is broken.
    """
    env, fresh = make_env(), make_env()
    try:
        agents = _agents(env)
        _check_spaces(env, agents, strange)
        _check_refusal(env, dict.fromkeys(agents, "A"), "step before the first reset")
        unharmed(
            lambda: env.reset(seed=seed, options={"no such option": 1}),
            "reset must not refuse options that it does not know",
        )
        _check_wrong_agents(env, agents)
        for name, text in strange.items():
            _play(env, lambda _agent, text=text: text, f"with {name} from all", max_steps)
        listed = list(strange.values()) or list(replies)
        _play(
            env,
            lambda agent: listed[agents.index(agent) % len(listed)],
            "with a different text from each",
            max_steps,
        )
        _check_refusal(env, dict.fromkeys(agents, "A"), "step after the end of the episode")
        _check_seeds(env, fresh, replies, episodes, seed, max_steps)
    finally:
        env.close()
        fresh.close()


def _agents(env: Env) -> list[str]:
    agents: Any = getattr(env, "possible_agents", None)
    require(
        isinstance(agents, list)
        and bool(agents)
        and all(isinstance(agent, str) for agent in agents)
        and len(set(agents)) == len(agents),
        f"possible_agents must be a list of different names, got {agents!r:.200}",
    )
    return list(agents)


def _check_spaces(env: Env, agents: Sequence[str], strange: Mapping[str, str]) -> None:
    for agent in agents:
        for kind in ("observation_space", "action_space"):
            space = getattr(env, kind)
            first: Any = unharmed(lambda space=space, agent=agent: space(agent), kind)
            require(
                space(agent) is first,
                f"{kind}({agent!r}) must return the same object each time, got two",
            )
        for name, text in strange.items():
            require(
                env.action_space(agent).contains(text),
                f"action_space({agent!r}) must contain every text, but not {name}: "
                "populora_env.UnicodeText does",
            )


def _check_refusal(env: Env, actions: dict[str, str], what: str) -> None:
    try:
        returned = env.step(actions)
    except Exception:
        return
    raise ConformanceError(f"{what} must raise, got {returned!r:.100}")


def _check_wrong_agents(env: Env, agents: Sequence[str]) -> None:
    texts = dict.fromkeys(agents, "A")
    _begin(env, "reset")
    _check_refusal(env, dict.fromkeys(agents[1:], "A"), f"step without {agents[0]}")
    _begin(env, "reset")
    _check_refusal(env, {**texts, "nobody": "A"}, "step with an unknown agent")


def _begin(env: Env, place: str) -> dict[str, Any]:
    """Reset and return the observations, once they are what they should be."""
    returned: Any = unharmed(env.reset, place)
    shape = f"{place} must return the dictionaries (observations, infos)"
    require(isinstance(returned, tuple) and len(returned) == 2, f"{shape}, got {returned!r:.100}")
    acting = list(env.agents)
    require(
        set(acting) <= set(env.possible_agents) and bool(acting),
        f"{place} must leave names of possible_agents in agents, got {acting!r:.200}",
    )
    for name, values in zip(RESET, returned, strict=True):
        _check_keys(values, acting, f"{place}: {name}")
    _check_observations(env, returned[0], place)
    return returned[0]


def _play(env: Env, act: Callable[[str], str], how: str, max_steps: int) -> None:
    """Play one episode and check what comes back in each step."""
    _begin(env, f"reset of an episode {how}")
    for step in range(max_steps):
        acting = list(env.agents)
        if not acting:
            return
        place = f"step {step} of an episode {how}"
        actions = {agent: act(agent) for agent in acting}
        returned: Any = unharmed(
            lambda actions=actions: env.step(actions), f"{place}: any text is a legal action"
        )
        _check_step(env, returned, acting, place)
    require(not env.agents, f"an episode {how} must end within {max_steps} steps, it has not")


def _check_step(env: Env, returned: Any, acting: list[str], place: str) -> None:
    require(
        isinstance(returned, tuple) and len(returned) == len(STEP),
        f"{place} must return the five dictionaries {', '.join(STEP)}, got {returned!r:.100}",
    )
    for name, values in zip(STEP, returned, strict=True):
        _check_keys(values, acting, f"{place}: {name}")
    observations, rewards, terminations, truncations, infos = returned
    _check_observations(env, observations, place)
    for agent in acting:
        reward = rewards[agent]
        require(
            isinstance(reward, int | float | np.integer | np.floating)
            and not isinstance(reward, bool)
            and math.isfinite(reward),
            f"{place}: the reward of {agent} must be a finite number, got {reward!r:.100}",
        )
        for name, ends in (("termination", terminations), ("truncation", truncations)):
            require(
                isinstance(ends[agent], bool | np.bool_),
                f"{place}: the {name} of {agent} must be True or False, got {ends[agent]!r:.100}",
            )
        require(
            isinstance(infos[agent], dict),
            f"{place}: the info of {agent} must be a dictionary, got {infos[agent]!r:.100}",
        )
    left = [agent for agent in acting if not (terminations[agent] or truncations[agent])]
    require(
        sorted(env.agents) == sorted(left),
        f"{place} must leave exactly those in agents who have not ended, {left}, "
        f"got {env.agents!r:.200}",
    )


def _check_keys(values: Any, agents: list[str], place: str) -> None:
    require(isinstance(values, dict), f"{place} must be a dictionary, got {values!r:.100}")
    require(
        set(values) == set(agents),
        f"{place} must have an entry for each of {agents!r:.200}, got {list(values)!r:.200}",
    )


def _check_observations(env: Env, observations: Mapping[str, Any], place: str) -> None:
    for agent, seen in observations.items():
        require(
            env.observation_space(agent).contains(seen),
            f"{place}: the observation of {agent} must be in its space, got {seen!r:.200}",
        )


def _check_seeds(
    used: Env, fresh: Env, replies: Sequence[str], episodes: int, seed: int, max_steps: int
) -> None:
    for episode in range(episodes):
        place = f"played twice with the same seed: episode {episode}"
        count = itertools.count()

        def act(agent: str, _seen: Any, episode: int = episode, count: Any = count) -> str:
            return replies[derive_seed("reply", agent, episode, next(count)) % len(replies)]

        first = seed if episode == 0 else None
        unharmed(
            lambda act=act, first=first, place=place: play_alike(
                used, fresh, act, first, place, max_steps
            ),
            place,
        )
