"""Observations, what each agent is shown of an episode, and states, which no agent is shown."""

from collections.abc import Iterable, Sequence
from typing import Any

from gymnasium import spaces

from populora_env.episodes.episode import Episode
from populora_env.episodes.proposing import ProposingEpisode
from populora_env.episodes.tries import RepeatedEpisode
from populora_env.spaces import UnicodeText

Observation = dict[str, Any]
AnyEpisode = Episode | RepeatedEpisode | ProposingEpisode


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


def observe(episode: AnyEpisode, agents: Iterable[str]) -> dict[str, Observation]:
    """Return what each of these agents is shown now."""
    prompts, asked = episode.prompts, episode.asked
    return {
        agent: {
            "prompt": prompts[agent],
            "phase": episode.phase.value,
            "round": episode.round,
            "has_task": int(agent in asked),
        }
        for agent in agents
    }


def state_space(agents: Sequence[str], rounds: int) -> spaces.Dict:
    """Return the space of states, for a central critic.

    A state is a dictionary: ``phase`` (a `Phase`, as text), ``round`` (0 for the first),
    ``problem`` (the request, before one is proposed) and ``answer`` (the known one, empty if there
    is none), and by agent, as texts that are empty
    where there is nothing yet: ``prompts`` (what each is to answer now), ``attempts`` and
    ``revisions``.

    Args:
        agents: Their names.
        rounds: Number of rounds of an episode.
    """

    def texts() -> spaces.Dict:
        return spaces.Dict({agent: UnicodeText() for agent in agents})

    return spaces.Dict(
        {
            "phase": UnicodeText(max_length=16),
            "round": spaces.Discrete(rounds + 1),
            "problem": UnicodeText(),
            "answer": UnicodeText(),
            "prompts": texts(),
            "attempts": texts(),
            "revisions": texts(),
        }
    )


def read_state(episode: AnyEpisode, agents: Sequence[str]) -> dict[str, Any]:
    """Return the state of an episode."""
    attempts, revisions, prompts = episode.attempts, episode.revisions, episode.prompts
    return {
        "phase": episode.phase.value,
        "round": episode.round,
        "problem": episode.problem.prompt,
        "answer": episode.problem.answer or "",
        "prompts": {agent: prompts[agent] for agent in agents},
        "attempts": {agent: attempts[agent].text if agent in attempts else "" for agent in agents},
        "revisions": {
            agent: revisions[agent].text if agent in revisions else "" for agent in agents
        },
    }
