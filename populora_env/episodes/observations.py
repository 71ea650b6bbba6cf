"""Observations: what each agent is shown of an episode."""

from collections.abc import Iterable
from typing import Any

from gymnasium import spaces

from populora_env.episodes.episode import Episode
from populora_env.records import Phase
from populora_env.spaces import UnicodeText

Observation = dict[str, Any]


def observation_space(rounds: int) -> spaces.Dict:
    """Return the space of one agent's observations.

    Args:
        rounds: Number of rounds of an episode.
    """
    return spaces.Dict(
        {
            "prompt": UnicodeText(),
            "phase": UnicodeText(max_length=16),
            "round": spaces.Discrete(rounds + 1),
            "has_task": spaces.Discrete(2),
        }
    )


def observe(episode: Episode, agents: Iterable[str]) -> dict[str, Observation]:
    """Return what each of these agents is shown now."""
    return {
        agent: {
            "prompt": episode.prompts[agent],
            "phase": episode.phase.value,
            "round": episode.round,
            "has_task": int(episode.phase is not Phase.DONE),
        }
        for agent in agents
    }
