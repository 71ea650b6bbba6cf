"""Several tries at one problem: an episode of each, one after the other, as one record.

All tries but the last are attempts alone; the last is judged, criticised and revised as the rules
say. Each is labelled by itself: a majority is that of one try's attempts.
"""

from collections.abc import Mapping
from dataclasses import replace

from populora_env.episodes.episode import Episode, Outcome, Rules
from populora_env.episodes.matchmaking import WinProbability
from populora_env.keys import derive_seed
from populora_env.records import (
    Assessment,
    Attempt,
    Evaluation,
    Phase,
    Problem,
    Transcript,
    Turn,
)


class RepeatedEpisode:
    """One problem, answered several times by all agents.

    Args:
        rules: What is the same in all episodes; those of the last try.
        problem: The problem.
        seed: Decides who judges whom.
        tries: How often each agent answers, at least 1.
        win_probability: For matching pairs of attempts; None to match them without it.

    Attributes:
        transcript: The record of all tries; None until the last has ended.
    """

    def __init__(
        self,
        rules: Rules,
        problem: Problem,
        seed: int,
        tries: int,
        win_probability: WinProbability | None = None,
    ) -> None:
        self._rules = rules
        self.problem, self.seed = problem, seed
        bare = replace(rules, load={}, revise=False)
        episodes = [
            Episode(bare, problem, derive_seed("try", seed, number)) for number in range(tries - 1)
        ]
        episodes.append(Episode(rules, problem, seed, win_probability))
        self._played, self._coming = episodes[:1], episodes[1:]
        self.transcript: Transcript | None = None

    @property
    def _episode(self) -> Episode:
        return self._played[-1]

    @property
    def phase(self) -> Phase:
        """What is asked for now."""
        return self._episode.phase

    @property
    def round(self) -> int:
        """0 for the first try, then 1, 2, ..."""
        return len(self._played) - 1 + self._episode.round

    @property
    def repeats(self) -> int:
        """How many more rounds ask just what this one asks: the tries to come."""
        return len(self._coming)

    @property
    def prompts(self) -> dict[str, str]:
        """What each agent is to answer now."""
        return self._episode.prompts

    @property
    def asked(self) -> frozenset[str]:
        """Who has a task now: everybody, until the end."""
        return self._episode.asked

    @property
    def tried(self) -> tuple[Attempt, ...]:
        """All attempts so far, the tries one after the other."""
        return tuple(a for episode in self._played for a in episode.attempts.values())

    @property
    def attempts(self) -> dict[str, Attempt]:
        """Attempts of the try that is judged, or of the last one so far, by agent."""
        return self._episode.attempts

    @property
    def revisions(self) -> dict[str, Attempt]:
        """Revised attempts, by agent."""
        return self._episode.revisions

    @property
    def evaluations(self) -> list[Evaluation]:
        """Judged pairs so far."""
        return self._episode.evaluations

    @property
    def assessments(self) -> list[Assessment]:
        """Scores and critiques so far."""
        return self._episode.assessments

    @property
    def judge_failures(self) -> int:
        """Number of verdicts that the outside judge failed to give so far."""
        return sum(episode.judge_failures for episode in self._played)

    def advance(self, replies: Mapping[str, str]) -> dict[str, Outcome]:
        """Take one reply from each agent, and move on.

        Returns:
            For every agent, what it gets for this step.
        """
        outcomes = self._episode.advance(replies)
        if self._episode.transcript is not None:
            if self._coming:
                self._played.append(self._coming.pop(0))
            else:
                self.transcript = self.record()
        return outcomes

    def record(self, before: Turn | None = None) -> Transcript:
        """The transcript of the tries that have ended, those of all of them as one.

        Args:
            before: What went before the first try, if anything: it takes round 0.
        """
        played = [episode.transcript for episode in self._played if episode.transcript]
        turns = [] if before is None else [before]
        rewards = {} if before is None else {before.agent: before.reward}
        for number, transcript in enumerate(played, len(turns)):
            turns += [replace(turn, round=turn.round + number) for turn in transcript.turns]
            for agent, reward in transcript.rewards.items():
                rewards[agent] = rewards.get(agent, 0.0) + reward
        return Transcript(
            problem=self.problem,
            agents=self._rules.agents,
            attempts=tuple(attempt for entry in played for attempt in entry.attempts),
            evaluations=tuple(entry for one in played for entry in one.evaluations),
            turns=tuple(turns),
            rewards=rewards,
            seed=self.seed,
            assessments=tuple(entry for one in played for entry in one.assessments),
            revisions=played[-1].revisions if played else (),
            judge_failures=sum(entry.judge_failures for entry in played),
            judge_error=next((entry.judge_error for entry in played if entry.judge_error), None),
        )
