"""The state of an episode: what a central critic may see, and no agent does."""

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces

from populora_env.episodes.episode import Episode
from populora_env.spaces import UnicodeText


def state_space(agents: Sequence[str], rounds: int) -> spaces.Dict:
    """Return the space of states.

    A state is a dictionary: ``phase`` (a `Phase`, as text), ``round`` (0 for solve), ``problem``
    and ``answer`` (the known one, empty if there is none), and by agent, as texts that are empty
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


def read_state(episode: Episode, agents: Sequence[str]) -> dict[str, Any]:
    """Return the state of an episode."""
    attempts, revisions = episode.attempts, episode.revisions
    return {
        "phase": episode.phase.value,
        "round": episode.round,
        "problem": episode.problem.prompt,
        "answer": episode.problem.answer or "",
        "prompts": {agent: episode.prompts[agent] for agent in agents},
        "attempts": {agent: attempts[agent].text if agent in attempts else "" for agent in agents},
        "revisions": {
            agent: revisions[agent].text if agent in revisions else "" for agent in agents
        },
    }
