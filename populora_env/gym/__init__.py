"""The arena for one learner: Gymnasium environments in which it meets fixed peers.

`ReasoningSolo` solves and judges, `ReasoningProposer` writes the problems. `register` makes them
known to Gymnasium as ``populora/ReasoningSolo-v0`` and ``populora/ReasoningProposer-v0``. Training
is not covered, nor are peers that learn.
"""

import gymnasium

from populora_env.gym.peers import GuessingPeer, Peer
from populora_env.gym.proposer import ReasoningProposer
from populora_env.gym.solo import LEARNER, ArenaOptions, ReasoningSolo

ENV_ID = "populora/ReasoningSolo-v0"
PROPOSER_ENV_ID = "populora/ReasoningProposer-v0"

__all__ = [
    "ENV_ID",
    "LEARNER",
    "PROPOSER_ENV_ID",
    "ArenaOptions",
    "GuessingPeer",
    "Peer",
    "ReasoningProposer",
    "ReasoningSolo",
    "register",
]


def register() -> None:
    """Make the environments known to ``gymnasium.make``; may be called again."""
    for name, kind in ((ENV_ID, ReasoningSolo), (PROPOSER_ENV_ID, ReasoningProposer)):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"{__name__}:{kind.__name__}")
