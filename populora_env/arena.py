"""The arena: N agents solve the same problem and judge each other's attempts.

`ReasoningArena` is a PettingZoo parallel environment. One episode is one problem: a round in
which all agents solve it; rounds in which they score, compare and criticise each other's attempts,
as asked for; and a round in which they may answer again. What happens inside an episode is in
`episode`, what is shown in `prompts`, what is paid in `rewards`, which arguments are legal in
`arguments`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
from gymnasium import spaces
from pettingzoo import ParallelEnv

from populora_env.episodes.arguments import read_actions, read_options, read_rules, read_seed
from populora_env.episodes.episode import Episode, Outcome
from populora_env.episodes.matchmaking import Matchmaking
from populora_env.episodes.observations import (
    AnyEpisode,
    Observation,
    observation_space,
    observe,
    read_state,
    state_space,
)
from populora_env.episodes.proposing import ProposingEpisode
from populora_env.episodes.rendering import print_news, render_episode
from populora_env.episodes.rewards import RewardWeights
from populora_env.episodes.roles import read_roles, role_games
from populora_env.episodes.tries import RepeatedEpisode
from populora_env.errors import PopuloraError, at_least_one, check_is_a
from populora_env.grading import Grader
from populora_env.judges import Judge
from populora_env.keys import derive_seed
from populora_env.problems import ProblemSource, as_source
from populora_env.problems.sources.adaptive import AdaptiveSource
from populora_env.proposals.source import SelfPlaySource
from populora_env.ratings import Ratings
from populora_env.records import Phase, Problem, Transcript
from populora_env.spaces import UnicodeText


class ArenaError(PopuloraError, RuntimeError):
    """A call that the arena cannot serve in its present state."""


class ReasoningArena(ParallelEnv[str, Observation, str | None]):
    """Agents ``agent_0`` to ``agent_{N-1}`` solve one problem an episode and judge attempts.

    An observation is a dictionary: ``prompt`` (the text to answer, empty if there is nothing to
    do), ``phase`` (a `Phase`, as text), ``round`` (0 for the first) and ``has_task`` (0 or 1). An
    action is a text, and every text is legal; how it could be read is in ``infos[agent]``:
    ``phase`` (of the action), ``status`` (a `ReplyStatus`, as text) and ``parts`` (what the
    reward of this step is the weighted sum of; None is unknown). After a proposal, all are told
    ``proposal`` (a `ProposalStatus`, as text) and ``reason`` (why it is not valid; it ends the
    episode then).

    A form of evaluation is left out where there are too few agents for it: judging attempts takes
    2, comparing them 3, and one less with ``self_judging``.

    Args:
        problems: A spec for `load_problems`, a `ProblemSource`, or a sequence of `Problem`.
        num_agents: Number of agents, at least 1.
        evaluation: ``"score"``, ``"compare"``, ``"critique"``, several joined by ``+`` or in a
            sequence, or ``"none"``.
        judge: Decides correctness where a problem has no known answer; None for the majority.
        seed: Seed of the sequence of problems and of who judges whom. What a spec's problems are
            depends on it as well, and stays so whatever seed `reset` is given.
        render_mode: ``"ansi"`` (`render` returns the episode as text), ``"human"`` (it is printed
            as it goes) or None.
        judge_load: Number of attempts (for compare: of pairs) that each agent judges in each form
            of evaluation, at least 1; or a mapping from form to number.
        revise: Whether agents answer again after reading the critiques of their attempt.
        matchmaking: A `Matchmaking`: ``"balanced"``, ``"rating"`` or ``"round_robin"``, which sets
            the load itself.
        ratings: What ``"rating"`` matches by, never changed; None for the arena's own, which
            follow its episodes and begin anew with each seed.
        self_judging: Whether agents may meet their own attempts; peers' opinions alone count.
        rewards: Weights of the parts of a reward, or the name of a preset in `REWARD_PRESETS`.
        judge_timeout: Longest time ``judge`` may take over a call, in seconds; None for no limit.
        grader: Used and left open; None for one of the arena's own, closed with it.
        max_reply_chars: A longer reply is cut for storage and not read, at least 1.
        proposers: How many agents, from the first on, write the problems in turn while the others
            solve them; ``"all"`` for agents that do both; 0 where problems are given. Proposals
            take ``problems="self-play:..."``.
        solvers: How many solve a proposal, matched with its author by ratings; None for all.
        tries: How often each agent answers the problem (of a proposal, each solver), at least 1;
            the last try is what is judged.

    Raises:
        ProblemSpecError: If ``problems`` is a spec that cannot be met.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "name": "reasoning_arena_v0",
        "render_modes": ["ansi", "human"],
        "is_parallelizable": True,
        "render_fps": 1,
    }

    def __init__(
        self,
        problems: str | ProblemSource | Sequence[Problem] = "procedural:chain_sum",
        num_agents: int = 4,
        evaluation: str | Sequence[str] = "compare",
        judge: Judge | None = None,
        seed: int = 0,
        render_mode: str | None = None,
        *,
        judge_load: int | Mapping[str, int] = 1,
        revise: bool = False,
        matchmaking: str = Matchmaking.BALANCED,
        ratings: Ratings | None = None,
        self_judging: bool = False,
        rewards: RewardWeights | str = "default",
        judge_timeout: float | None = 30.0,
        grader: Grader | None = None,
        max_reply_chars: int = 100_000,
        proposers: int | str = 0,
        solvers: int | None = None,
        tries: int = 1,
    ) -> None:
        num_agents = at_least_one("num_agents", num_agents)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'ansi', 'human' or None, got {render_mode!r}")
        if ratings is not None:
            check_is_a("ratings", ratings, Ratings, "Ratings or None")
        self.render_mode = render_mode
        self.possible_agents = [f"agent_{number}" for number in range(num_agents)]
        self.agents: list[str] = []
        self._roles = read_roles(self.possible_agents, proposers, solvers, tries)
        self._tries = at_least_one("tries", tries)
        self._owns_grader = grader is None
        self._rules = read_rules(
            self.possible_agents,
            num_agents if self._roles is None else self._roles.matched,
            evaluation=evaluation,
            judge=judge,
            judge_load=judge_load,
            revise=revise,
            matchmaking=matchmaking,
            self_judging=self_judging,
            rewards=rewards,
            judge_timeout=judge_timeout,
            grader=grader,
            max_reply_chars=max_reply_chars,
        )
        self._seed = read_seed(seed)
        self._source = as_source(problems, seed=self._seed)
        self._owns_source = not isinstance(problems, ProblemSource)
        if isinstance(self._source, SelfPlaySource) != (self._roles is not None):
            raise ValueError(
                f"proposers: got {proposers!r} with problems {self._source.spec[:60]!r}; proposals "
                "need both: problems='self-play:...' and proposers of at least 1, or 'all'"
            )
        self._by_rating = matchmaking == Matchmaking.RATING
        self._ratings, self._owns_ratings = ratings or Ratings(), ratings is None
        rounds = len(self._rules.schedule()) + self._tries - (self._roles is None)
        self._observation_spaces = {
            agent: observation_space(rounds) for agent in self.possible_agents
        }
        self._action_spaces = {agent: UnicodeText() for agent in self.possible_agents}
        self.state_space = state_space(self.possible_agents, rounds)
        self._episode: AnyEpisode | None = None
        self._episodes = 0
        self._told: set[str] = set()

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Return the space of an agent's observations, the same object each time."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return the space of an agent's replies, the same object each time."""
        return self._action_spaces[agent]

    @property
    def transcript(self) -> Transcript:
        """The record of the episode that has just ended.

        Raises:
            ArenaError: If no episode has ended since the last reset.
        """
        if self._episode is None or self._episode.transcript is None:
            raise ArenaError("transcript is available once the episode has ended: step until then")
        return self._episode.transcript

    @property
    def repeats(self) -> int:
        """How many more rounds ask just what this one asks, whatever is answered.

        These are further tries at a given problem: whoever plays may answer them all at once, and
        step through them after.
        """
        return self._episode.repeats if isinstance(self._episode, RepeatedEpisode) else 0

    @property
    def judge_failures(self) -> int:
        """Number of verdicts that ``judge`` failed to give in this episode."""
        return 0 if self._episode is None else self._episode.judge_failures

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Begin an episode.

        Args:
            seed: Restarts the sequence of episodes with this seed; None continues it.
            options: ``{"problem": Problem}`` sets the problem of this episode; without it, one is
                drawn from the source. Other options are ignored, unless they can only be meant
                for it.

        Returns:
            Observations and infos of all agents.

        Raises:
            TypeError: If the seed is not an integer, ``options`` not a mapping, or
                ``options["problem"]`` not a `Problem`.
            ValueError: If an option is a misspelt ``problem``.
        """
        given = read_options(options)
        if seed is not None:
            self._seed = read_seed(seed)
            self._episodes = 0
            if self._owns_ratings:
                self._ratings = Ratings()
            if self._owns_source and isinstance(self._source, AdaptiveSource):
                self._source.restart()
        number, self._episodes = self._episodes, self._episodes + 1
        episode_seed = self._seed if number == 0 else derive_seed("episode", self._seed, number)
        problem = given.get("problem")
        if problem is None:
            problem = self._source[derive_seed("problem", episode_seed) % len(self._source)]
        elif not isinstance(problem, Problem):
            raise TypeError(
                f"options['problem'] must be a Problem, got {type(problem).__name__}: "
                "make one with Problem.create(prompt, answer)"
            )
        self._episode = self._begin(problem, episode_seed)
        self.agents = list(self.possible_agents)
        self._told = set()
        self._tell(self._episode)
        infos: dict[str, dict[str, Any]] = {
            agent: {"phase": None, "status": None, "parts": {}} for agent in self.agents
        }
        return observe(self._episode, self.agents), infos

    def step(
        self, actions: Mapping[str, str | None]
    ) -> tuple[
        dict[str, Observation],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Take one reply from every agent.

        Args:
            actions: Agent to reply; `no_reply.NoReply` for one that failed to reply.

        Returns:
            Observations, rewards, terminations, truncations and infos of all agents. After the
            end, an empty ``actions`` gives five empty dictionaries.

        Raises:
            ArenaError: Before the first reset, or after the end of the episode.
            ValueError: If an agent is missing or unknown.
            TypeError: If a reply is not a string.
        """
        episode = self._episode
        if episode is None:
            raise ArenaError("step was called before reset: call reset first")
        if not self.agents:
            if not actions:
                return {}, {}, {}, {}, {}
            raise ArenaError("step was called after the end of the episode: call reset first")
        phase = episode.phase
        outcomes = episode.advance(read_actions(actions, self.agents))
        proposed = _proposed(episode) if phase is Phase.PROPOSE else {}
        ended = episode.phase is Phase.DONE
        self._tell(episode)
        result = (
            observe(episode, self.agents),
            {agent: outcome.reward for agent, outcome in outcomes.items()},
            dict.fromkeys(self.agents, ended),
            dict.fromkeys(self.agents, False),
            {agent: {**_info(phase, outcome), **proposed} for agent, outcome in outcomes.items()},
        )
        if ended:
            self.agents = []
            self._learn(self.transcript)
        return result

    def _begin(self, problem: Problem, seed: int) -> AnyEpisode:
        chance = self._ratings.win_probability if self._by_rating else None
        if self._roles is None:
            if self._tries > 1:
                return RepeatedEpisode(self._rules, problem, seed, self._tries, chance)
            return Episode(self._rules, problem, seed, chance)
        assert isinstance(self._source, SelfPlaySource)
        if not self._source.is_request(problem):
            raise ValueError(
                f"options['problem'] must be a request of {self._source.spec[:60]!r}, one of its "
                f"items, got problem {problem.id}"
            )
        return ProposingEpisode(
            self._rules, self._roles, self._source, problem, seed, self._ratings, chance
        )

    def _learn(self, transcript: Transcript) -> None:
        """Let the arena's own ratings and its own source follow what was played."""
        if self._owns_ratings:
            if self._by_rating:
                self._ratings.update(transcript.evaluations)
            self._ratings.update(role_games([transcript]))
        if self._owns_source and isinstance(self._source, AdaptiveSource):
            self._source.observe([transcript])

    def render(self) -> str | None:
        """Return the episode so far as text, in render mode ``"ansi"``; else None.

        In mode ``"human"`` it has been printed as it went.

        Raises:
            ArenaError: Before the first reset.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("render was called without a render_mode: set it to 'ansi'")
            return None
        if self._episode is None:
            raise ArenaError("render was called before reset: call reset first")
        return render_episode(self._episode) if self.render_mode == "ansi" else None

    def state(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return all that there is to know of the episode, for a critic in training.

        No agent is shown this: it holds the known answer and everybody's attempts. It is in
        ``state_space``; see `observations.state_space`.

        Raises:
            ArenaError: Before the first reset.
        """
        if self._episode is None:
            raise ArenaError("state was called before reset: call reset first")
        return read_state(self._episode, self.possible_agents)

    def _tell(self, episode: AnyEpisode) -> None:
        """Print what is new in the episode, for human eyes."""
        if self.render_mode == "human":
            print_news(episode, self._told)

    def close(self) -> None:
        """End what runs for the arena's own grader and its own source. May be called twice."""
        if self._owns_grader:
            self._rules.grader.close()
        if self._owns_source:
            self._source.close()


def _info(phase: Phase, outcome: Outcome) -> dict[str, Any]:
    status = None if outcome.status is None else outcome.status.value
    return {"phase": phase.value, "status": status, "parts": dict(outcome.parts)}


def _proposed(episode: AnyEpisode) -> dict[str, Any]:
    """Return what all agents are told of a proposal that was just made."""
    proposal = episode.proposal if isinstance(episode, ProposingEpisode) else None
    if proposal is None:
        return {}
    return {"proposal": proposal.status.value, "reason": proposal.reason}
