"""An episode that begins with a proposal: one agent writes the problem, others solve it.

The proposer alone has a task at first. What it wrote ends the episode if it is not valid; if it
is, the solvers that are matched with it try that problem, see `tries`. Nothing in `episode` knows
of proposals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from populora_env.episodes.episode import Outcome, Rules
from populora_env.episodes.matchmaking import WinProbability
from populora_env.episodes.rewards import Parts, RewardPart, length_part, proposal_parts
from populora_env.episodes.roles import Roles
from populora_env.episodes.tries import RepeatedEpisode
from populora_env.keys import generator
from populora_env.proposals.record import Proposal, ProposalStatus
from populora_env.proposals.source import SelfPlaySource
from populora_env.ratings import Ratings
from populora_env.reading.no_reply import NoReply
from populora_env.reading.reply_ids import reply_id
from populora_env.records import (
    Assessment,
    Attempt,
    Evaluation,
    Phase,
    Problem,
    ReplyStatus,
    Transcript,
    Turn,
)
from populora_env.storage import storable

_IDLE = Outcome(None, 0.0, {})
_AS_REPLY = {
    ProposalStatus.VALID: ReplyStatus.OK,
    ProposalStatus.EMPTY: ReplyStatus.EMPTY,
    ProposalStatus.TOO_LONG: ReplyStatus.TOO_LONG,
    ProposalStatus.FAILED: ReplyStatus.FAILED,
}


class ProposingEpisode:
    """One proposal, and what became of it.

    Args:
        rules: What is the same in all episodes; its load is that of the solvers.
        roles: Who proposes and who solves.
        source: Makes the request and verifies the proposal.
        request: An item of the source.
        seed: Decides who solves and who judges whom.
        ratings: By role, for who meets whom.
        win_probability: For matching pairs of attempts; None to match them without it.

    Attributes:
        proposer: Who proposes.
        request: What it is asked.
        solvers: Who solves; empty until the proposal is valid.
        proposal: What became of it; None before it was made.
        transcript: The record of the episode; None until it has ended.
    """

    def __init__(
        self,
        rules: Rules,
        roles: Roles,
        source: SelfPlaySource,
        request: Problem,
        seed: int,
        ratings: Ratings,
        win_probability: WinProbability | None = None,
    ) -> None:
        self._rules, self._roles, self._source = rules, roles, source
        self._ratings, self._win_probability = ratings, win_probability
        self._request = request
        self.seed = seed
        self.proposer = roles.proposers[source.number_of(request) % len(roles.proposers)]
        self.proposal: Proposal | None = None
        self.transcript: Transcript | None = None
        self.request = source.request(request, self.proposer)
        self.solvers: tuple[str, ...] = ()
        self._solving: RepeatedEpisode | None = None
        self._turn: Turn | None = None

    @property
    def problem(self) -> Problem:
        """The problem that was proposed; the request, before there is one."""
        return self._request if self._solving is None else self._solving.problem

    @property
    def phase(self) -> Phase:
        """What is asked for now."""
        if self.transcript is not None:
            return Phase.DONE
        return Phase.PROPOSE if self._solving is None else self._solving.phase

    @property
    def round(self) -> int:
        """0 for the proposal, then 1, 2, ..."""
        return 0 if self._solving is None else 1 + self._solving.round

    @property
    def prompts(self) -> dict[str, str]:
        """What each agent is to answer now; empty for those who wait."""
        waiting = dict.fromkeys(self._rules.agents, "")
        if self.phase is Phase.PROPOSE:
            return {**waiting, self.proposer: self.request}
        return waiting if self._solving is None else {**waiting, **self._solving.prompts}

    @property
    def asked(self) -> frozenset[str]:
        """Who has a task now."""
        if self.phase is Phase.PROPOSE:
            return frozenset((self.proposer,))
        return frozenset() if self._solving is None else self._solving.asked

    @property
    def attempts(self) -> dict[str, Attempt]:
        """Attempts of the try that is judged, or of the last one so far, by agent."""
        return {} if self._solving is None else self._solving.attempts

    @property
    def revisions(self) -> dict[str, Attempt]:
        """Revised attempts, by agent."""
        return {} if self._solving is None else self._solving.revisions

    @property
    def evaluations(self) -> list[Evaluation]:
        """Judged pairs so far."""
        return [] if self._solving is None else self._solving.evaluations

    @property
    def assessments(self) -> list[Assessment]:
        """Scores and critiques so far."""
        return [] if self._solving is None else self._solving.assessments

    @property
    def judge_failures(self) -> int:
        """Number of verdicts that the outside judge failed to give so far."""
        return 0 if self._solving is None else self._solving.judge_failures

    def advance(self, replies: Mapping[str, str]) -> dict[str, Outcome]:
        """Take one reply from each agent; those of agents that have no task are not looked at.

        Returns:
            For every agent, what it gets for this step.
        """
        outcomes = dict.fromkeys(self._rules.agents, _IDLE)
        if self.phase is Phase.PROPOSE:
            outcomes[self.proposer] = self._propose(replies[self.proposer])
            return outcomes
        solving = self._solving
        assert solving is not None
        solved = self.phase is Phase.SOLVE and not solving.repeats
        outcomes |= solving.advance({agent: replies[agent] for agent in solving.asked})
        if solved:
            own, paid = outcomes[self.proposer], self._pay_proposer(solving.tried)
            outcomes[self.proposer] = Outcome(
                own.status, own.reward + paid.reward, {**own.parts, **paid.parts}
            )
        if solving.transcript is not None:
            self._finish()
        return outcomes

    def _propose(self, reply: str) -> Outcome:
        """Verify a proposal, and begin what follows."""
        limit = self._rules.max_reply_chars
        unread = None
        if isinstance(reply, NoReply):
            unread = ProposalStatus.FAILED
        elif len(reply) > limit:
            unread = ProposalStatus.TOO_LONG
        proposal, problem = self._source.verify(self._request, self.proposer, reply, unread)
        self.proposal = proposal
        status = _AS_REPLY.get(proposal.status, ReplyStatus.UNREADABLE)
        parts: Parts = {
            **proposal_parts(proposal),
            RewardPart.LENGTH.value: length_part(reply),
        }
        reward = self._rules.weights.total(parts)
        text = storable(reply[:limit])
        self._turn = Turn(
            self.proposer, Phase.PROPOSE, 0, self.request, text, status, reward, parts,
            reply_id(reply),
        )  # fmt: skip
        if problem is None:
            self._finish()
        else:
            self._begin(problem)
        return Outcome(status, reward, parts)

    def _begin(self, problem: Problem) -> None:
        rng = generator("solvers", self.seed, self._request.id)
        self.solvers = self._roles.match(self.proposer, self._ratings, rng)
        rules = replace(self._rules, agents=self.solvers)
        self._solving = RepeatedEpisode(
            rules, problem, self.seed, self._roles.tries, self._win_probability
        )

    def _pay_proposer(self, attempts: Sequence[Attempt]) -> Outcome:
        """Pay what the solvers' attempts say about the proposal, once all are made."""
        assert self.proposal is not None
        assert self._turn is not None
        known = [attempt.correct for attempt in attempts if attempt.correct is not None]
        rate = sum(known) / len(known) if known else None
        self.proposal = replace(self.proposal, solve_rate=rate)
        gain = self._source.progress(sorted({attempt.agent for attempt in attempts}))
        parts = proposal_parts(self.proposal, gain)
        late = {name: value for name, value in parts.items() if name not in self._turn.parts}
        reward = self._rules.weights.total(late)
        self._turn = replace(
            self._turn, parts={**self._turn.parts, **late}, reward=self._turn.reward + reward
        )
        return Outcome(None, reward, late)

    def _finish(self) -> None:
        """Write the transcript: the proposal, and all tries at it."""
        assert self._turn is not None
        agents, own = self._rules.agents, self._turn
        if self._solving is None:
            self.transcript = Transcript(
                self._request, agents, (), (), (own,), {own.agent: own.reward}, self.seed,
                proposal=self.proposal,
            )  # fmt: skip
            return
        tried = self._solving.record(own)
        self.transcript = replace(
            tried,
            agents=agents,
            rewards={agent: tried.rewards[agent] for agent in agents if agent in tried.rewards},
            proposal=self.proposal,
        )
