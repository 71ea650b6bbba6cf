"""The arena for one learner that writes problems for fixed solvers."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from populora_env.arena import Observation
from populora_env.gym.peers import Peer
from populora_env.gym.solo import ArenaOptions, ReasoningSolo, with_options_of_the_arena
from populora_env.judges import Judge
from populora_env.problems import ProblemSource
from populora_env.prompts import REPLY_TOKENS
from populora_env.records import Phase, Problem

_DEFAULTS: ArenaOptions = {"proposers": 1, "tries": 4, "rewards": "learnability"}


class ReasoningProposer(ReasoningSolo):
    """A learner, ``agent_0``, writes problems, and is paid by how fixed solvers fare with them.

    An episode is one proposal: one step, after which it has ended. The observation is the request;
    every text is a legal action. The info of the step holds ``proposal`` (a `ProposalStatus`, as
    text), ``reason`` (why it is not valid), ``solve_rate`` (None if nobody tried) and ``parts`` (of
    the reward), beside those of `ReasoningSolo`.

    Args:
        problems: A spec of self-play, or its source.
        num_agents: Number of agents, the learner included, at least 2.
        evaluation: Forms in which the solvers judge each other, joined by ``+``, or ``"none"``.
        judge: Decides correctness where a problem has no known answer.
        seed: Seed of the requests and of the solvers' own.
        render_mode: ``"ansi"``, ``"human"`` or None.
        peers: Who solves, as for `ReasoningSolo`; None for `GuessingPeer`.
        limits: Length of the solvers' replies by phase, in tokens.
        **arena: Further arguments of `ReasoningArena`; ``proposers`` is 1, ``tries`` is 4 and
            ``rewards`` ``"learnability"`` unless they are given.

    Raises:
        ProblemSpecError: If ``problems`` is a spec that cannot be met.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """

    @with_options_of_the_arena(**_DEFAULTS)
    def __init__(
        self,
        problems: str | ProblemSource | Sequence[Problem] = "self-play:expressions",
        num_agents: int = 4,
        evaluation: str | Sequence[str] = "none",
        judge: Judge | None = None,
        seed: int = 0,
        render_mode: str | None = None,
        *,
        peers: Peer | Sequence[Peer] | None = None,
        limits: Mapping[Phase, int] = REPLY_TOKENS,
        **arena: Unpack[ArenaOptions],
    ) -> None:
        chosen: ArenaOptions = {**_DEFAULTS, **arena}
        if chosen.get("proposers") != 1:
            raise ValueError(
                f"proposers must be 1, the learner, got {chosen.get('proposers')!r}: where others "
                "write problems as well, use ReasoningArena"
            )
        super().__init__(
            problems, num_agents, evaluation, judge, seed, render_mode, peers=peers, limits=limits,
            **chosen,
        )  # fmt: skip

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take the proposal, let the solvers play, and return what it earned.

        Returns:
            Observation, reward, True (an episode is one step), False, and info.

        Raises:
            ArenaError: Before the first reset, or after the end of the episode.
            TypeError: If the proposal is not a string.
        """
        seen, reward, ended, cut, info = super().step(action)
        parts = dict(info["parts"])
        while not ended:
            seen, late, ended, cut, told = super().step("")
            reward += late
            parts |= told["parts"]
            failed = {name: told[name] for name in ("peer_failures", "peer_error")}
            info |= failed
        proposal = self.transcript.proposal
        rate = None if proposal is None else proposal.solve_rate
        return seen, reward, ended, cut, {**info, "parts": parts, "solve_rate": rate}
