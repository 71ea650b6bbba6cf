"""The arena for one learner that solves and judges among fixed peers.

`ReasoningSolo` plays ``agent_0`` by the actions it is given and all other agents by ``peers``. All
rules are those of `arena.ReasoningArena`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, TypeVar, Unpack

import gymnasium

from populora_env.arena import ArenaError, Observation, ReasoningArena
from populora_env.episodes.rewards import RewardWeights
from populora_env.grading import Grader
from populora_env.gym.peers import Peer, each_peer
from populora_env.judges import Judge
from populora_env.judges.awaiting import FAULTS, last_error_of, said, settled
from populora_env.keys import derive_seed
from populora_env.problems import ProblemSource
from populora_env.prompts import REPLY_TOKENS
from populora_env.ratings import Ratings
from populora_env.reading.no_reply import NoReply, failures_of, marked
from populora_env.records import Phase, Problem, Request, Transcript

LEARNER = "agent_0"

F = TypeVar("F", bound=Callable[..., None])


class ArenaOptions(TypedDict, total=False):
    """The keyword-only arguments of `ReasoningArena`, for type checkers; a test compares them."""

    judge_load: int | Mapping[str, int]
    revise: bool
    matchmaking: str
    ratings: Ratings | None
    self_judging: bool
    rewards: RewardWeights | str
    judge_timeout: float | None
    grader: Grader | None
    max_reply_chars: int
    proposers: int | str
    solvers: int | None
    tries: int


def with_options_of_the_arena(**own: Any) -> Callable[[F], F]:
    """Show readers the arena's own arguments, with their defaults, in the place of ``**arena``.

    Args:
        **own: Defaults of those that are others here.
    """

    def shown(init: F) -> F:
        first = list(inspect.signature(init).parameters.values())[:-1]
        arena = inspect.signature(ReasoningArena).parameters.values()
        options = [
            entry.replace(default=own.get(entry.name, entry.default))
            for entry in arena
            if entry.kind is entry.KEYWORD_ONLY
        ]
        signature = inspect.Signature([*first, *options], return_annotation=None)
        init.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        return init

    return shown


class ReasoningSolo(gymnasium.Env[Observation, str]):
    """A learner, ``agent_0``, solves problems and judges attempts among fixed peers.

    One step is one round of all agents. Observations, actions, rewards and infos are those of
    ``agent_0`` in `ReasoningArena`, and every text is a legal action. Infos also hold
    ``peer_failures`` (replies that peers have failed to give in this episode; each became an empty
    text) and ``peer_error`` (what went wrong last, in one line, or None).

    Args:
        problems: As for `ReasoningArena`, like all arguments that are not named here.
        num_agents: Number of agents, the learner included, at least 1.
        evaluation: Forms of evaluation, joined by ``+``, or ``"none"``.
        judge: Decides correctness where a problem has no known answer.
        seed: Seed of the sequence of problems, of who judges whom, and of the peers' requests.
        render_mode: ``"ansi"``, ``"human"`` or None.
        peers: Who plays the other agents: a function of the prompt, an object with
            ``act(requests)`` (both may be ``async``), or a sequence of ``num_agents - 1`` of
            these, from ``agent_1`` on. An object that plays several agents is asked once a
            round, for all of them. None for `GuessingPeer`.
        limits: Length of the peers' replies by phase, in tokens; `REPLY_TOKENS` for phases not
            named. Only policies that count tokens heed it.
        **arena: Further arguments of `ReasoningArena`, such as ``revise`` or ``rewards``.

    Raises:
        ProblemSpecError: If ``problems`` is a spec that cannot be met.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "render_modes": ["ansi", "human"],
        "render_fps": 1,
    }

    @with_options_of_the_arena()
    def __init__(
        self,
        problems: str | ProblemSource | Sequence[Problem] = "procedural:chain_sum",
        num_agents: int = 4,
        evaluation: str | Sequence[str] = "compare",
        judge: Judge | None = None,
        seed: int = 0,
        render_mode: str | None = None,
        *,
        peers: Peer | Sequence[Peer] | None = None,
        limits: Mapping[Phase, int] = REPLY_TOKENS,
        **arena: Unpack[ArenaOptions],
    ) -> None:
        self._arena = ReasoningArena(
            problems, num_agents, evaluation, judge, seed, render_mode, **arena
        )
        self.render_mode = render_mode
        self.observation_space = self._arena.observation_space(LEARNER)
        self.action_space = self._arena.action_space(LEARNER)
        others = [agent for agent in self._arena.possible_agents if agent != LEARNER]
        self._peers = dict(zip(others, each_peer(peers, len(others)), strict=True))
        self._limits = {**REPLY_TOKENS, **limits}
        self._seed = seed.__index__()
        self._episodes = 0
        self._seen: dict[str, Observation] = {}
        self._failures = 0
        self._error: str | None = None

    @property
    def transcript(self) -> Transcript:
        """The record of the episode that has just ended, with all agents in it.

        Raises:
            ArenaError: If no episode has ended since the last reset.
        """
        return self._arena.transcript

    @property
    def peer_failures(self) -> int:
        """Number of replies that peers have failed to give in this episode."""
        return self._failures

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Restarts the sequence of episodes with this seed; None continues it.
            options: ``{"problem": Problem}`` sets the problem of this episode; other options are
                ignored.

        Returns:
            Observation and info of the learner.

        Raises:
            TypeError: If the seed is not an integer, or ``options["problem"]`` not a `Problem`.
        """
        self._seen, infos = self._arena.reset(seed, options)
        # Nothing is drawn from Gymnasium's own generator, which takes no negative seed.
        super().reset(seed=None if seed is None else seed.__index__() % 2**64)
        if seed is not None:
            self._seed, self._episodes = seed.__index__(), 0
        self._episodes += 1
        self._failures, self._error = 0, None
        return self._seen[LEARNER], self._told(infos)

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take the learner's reply, and with it one from every peer.

        Returns:
            Observation, reward, whether the episode has ended, False (episodes are never cut
            short) and info of the learner.

        Raises:
            ArenaError: Before the first reset, or after the end of the episode.
            TypeError: If the reply is not a string.
        """
        if not self._seen:
            raise ArenaError("step was called before reset: call reset first")
        if not self._arena.agents:
            raise ArenaError("step was called after the end of the episode: call reset first")
        if not isinstance(action, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"action must be a string, got {type(action).__name__}: "
                "a learner with nothing to say answers with an empty string"
            )
        replies = {LEARNER: action, **self._peer_replies()}
        self._seen, rewards, terminated, truncated, infos = self._arena.step(replies)
        return (
            self._seen[LEARNER],
            rewards[LEARNER],
            terminated[LEARNER],
            truncated[LEARNER],
            self._told(infos),
        )

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the episode so far as text, in render mode ``"ansi"``; else None.

        In mode ``"human"`` it has been printed as it went.

        Raises:
            ArenaError: Before the first reset.
        """
        return self._arena.render()

    def close(self) -> None:
        """End the worker processes of the arena's own grader. May be called twice."""
        self._arena.close()

    def _told(self, infos: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        failed = {"peer_failures": self._failures, "peer_error": self._error}
        return {**infos[LEARNER], **failed}

    def _peer_replies(self) -> dict[str, str]:
        """Ask the peers, each object once; whatever goes wrong becomes a `NoReply`."""
        batches: dict[int, tuple[Peer, list[Request]]] = {}
        replies: dict[str, str] = {}
        for agent, peer in self._peers.items():
            if not self._seen[agent]["has_task"]:
                replies[agent] = ""
                continue
            batches.setdefault(id(peer), (peer, []))[1].append(self._request(agent))
        for peer, requests in batches.values():
            for request, reply in zip(requests, self._asked(peer, requests), strict=True):
                if isinstance(reply, str):
                    replies[request.agent] = reply
                    continue
                if reply is not _NO_REPLY:
                    self._fail(request.agent, f"expected a str, got {type(reply).__name__}")
                self._failures += 1
                replies[request.agent] = NoReply()
        return replies

    def _asked(self, peer: Peer, requests: list[Request]) -> list[Any]:
        if not callable(getattr(peer, "act", None)):
            return [self._called(peer, request) for request in requests]
        policy: Any = peer
        names = ", ".join(request.agent for request in requests)
        try:
            failed = failures_of(policy)
            returned: Any = settled(policy.act(list(requests)))
            failed = min(failures_of(policy) - failed, len(requests))
            if failed > 0:  # a server's, say, that came back as empty texts
                self._failures += failed
                self._fail(names, str(last_error_of(policy)))
            if isinstance(returned, str):  # a sequence, too, but of characters
                raise TypeError("act must return a sequence of texts, got a single str")
            replies: list[Any] = list(returned)
        except FAULTS as error:
            self._fail(names, said(error))
            return [_NO_REPLY] * len(requests)
        if len(replies) != len(requests):
            self._fail(names, f"expected {len(requests)} replies, got {len(replies)}")
            return [_NO_REPLY] * len(requests)
        return marked(replies, failed)

    def _called(self, peer: Any, request: Request) -> Any:
        try:
            return settled(peer(request.prompt))
        except FAULTS as error:
            self._fail(request.agent, said(error))
            return _NO_REPLY

    def _fail(self, who: str, what: str) -> None:
        self._error = f"{who}: {what}"

    def _request(self, agent: str) -> Request:
        seen = self._seen[agent]
        phase = Phase(seen["phase"])
        # The prompt is no part of the key: what the learner writes must not redraw its peers.
        key = ("peer", self._seed, self._episodes, agent, phase.value, int(seen["round"]))
        return Request(agent, phase, seen["prompt"], self._limits[phase], derive_seed(*key))


_NO_REPLY = object()  # stands for a reply whose failure has been noted already
