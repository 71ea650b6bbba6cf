"""The state of one episode, and the records it ends in.

`Episode` takes the replies of one phase after the other and keeps what becomes of them: attempts
with grades, evaluations, turns, rewards. It knows nothing of spaces and of PettingZoo's protocol,
which are `arena`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from populora_env.grading import Grader
from populora_env.judges import Judge, round_robin
from populora_env.keys import generator
from populora_env.matchmaking import assign_comparisons
from populora_env.prompts import compare_prompt, solve_prompt
from populora_env.records import (
    Attempt,
    Comparison,
    Evaluation,
    Phase,
    Problem,
    ReplyStatus,
    Transcript,
    Turn,
    Verdict,
    storable,
)
from populora_env.replies import AnswerReading, read_answer, read_preference
from populora_env.rewards import (
    Parts,
    RewardPart,
    RewardWeights,
    format_part,
    graded_correctness,
    judging_skill,
    length_part,
    majority_correctness,
    mean,
    standings,
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same in all episodes of an arena."""

    agents: tuple[str, ...]
    comparisons_per_agent: int
    weights: RewardWeights
    max_reply_chars: int
    grader: Grader
    judge: Judge | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one agent gets for one step: how its reply was read, what it earned, and for what."""

    status: ReplyStatus | None
    reward: float
    parts: Parts


class Episode:
    """One problem, solved and judged by all agents.

    Args:
        rules: What is the same in all episodes.
        problem: The problem.
        seed: Decides who judges whom.
    """

    def __init__(self, rules: Rules, problem: Problem, seed: int) -> None:
        self._rules = rules
        self.problem = problem
        self.seed = seed
        self.phase = Phase.SOLVE
        self.round = 0
        self.attempts: dict[str, Attempt] = {}
        self.evaluations: list[Evaluation] = []
        self.judge_failures = 0
        self._turns: list[Turn] = []
        self._shown: dict[str, Verdict] = {}  # each judge's verdict on the first order of its pair
        self._pairs = assign_comparisons(
            rules.agents, rules.comparisons_per_agent, generator("comparisons", seed, problem.id)
        )
        self._rounds = 2 * max(map(len, self._pairs.values()))
        self._solve_rewards: dict[str, float] = {}
        self._transcript: Transcript | None = None
        prompt = solve_prompt(problem)
        self.prompts: dict[str, str] = dict.fromkeys(rules.agents, prompt)

    @property
    def transcript(self) -> Transcript | None:
        """The record of the episode; None until it has ended."""
        return self._transcript

    def advance(self, replies: Mapping[str, str]) -> dict[str, Outcome]:
        """Take one reply from each agent that has a prompt, and move on.

        Returns:
            For every agent, what it gets for this step.
        """
        play = self._solve if self.phase is Phase.SOLVE else self._compare
        outcomes = play(replies)
        if self.round < self._rounds:
            self.phase = Phase.COMPARE
            self.round += 1
            self.prompts = {
                agent: compare_prompt(self._comparison(agent)) for agent in self._rules.agents
            }
            return outcomes
        return self._finish(outcomes)

    def _solve(self, replies: Mapping[str, str]) -> dict[str, Outcome]:
        for agent in self._rules.agents:
            reply = replies[agent]
            reading, text = self._read(reply)
            grade = self._rules.grader.grade_reading(self.problem, reading)
            self.attempts[agent] = Attempt(
                agent, self.problem.id, text, reading.answer, reading.status, grade
            )
        correctness = self._correctness()
        outcomes: dict[str, Outcome] = {}
        for agent, attempt in self.attempts.items():
            parts: Parts = {
                RewardPart.CORRECTNESS.value: correctness[agent],
                RewardPart.FORMAT.value: format_part(attempt.status),
                RewardPart.LENGTH.value: length_part(replies[agent]),
            }
            reward = self._rules.weights.total(parts)
            self._solve_rewards[agent] = reward
            self._add_turn(agent, attempt.text, attempt.status, parts)
            outcomes[agent] = Outcome(attempt.status, reward, parts)
        return outcomes

    def _compare(self, replies: Mapping[str, str]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for agent in self._rules.agents:
            if len(replies[agent]) > self._rules.max_reply_chars:
                verdict = Verdict(None, ReplyStatus.TOO_LONG)
            else:
                reading = read_preference(replies[agent])
                verdict = Verdict(reading.preference, reading.status)
            if self.round % 2:
                self._shown[agent] = verdict
            else:
                pair = self._pairs[agent][self.round // 2 - 1]
                self.evaluations.append(
                    Evaluation.from_verdicts(agent, *pair, self._shown[agent], verdict)
                )
            text = storable(replies[agent][: self._rules.max_reply_chars])
            parts: Parts = {RewardPart.FORMAT.value: format_part(verdict.status)}
            self._add_turn(agent, text, verdict.status, parts)
            outcomes[agent] = Outcome(verdict.status, 0.0, {})
        return outcomes

    def _finish(self, outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
        """Pay out what is known only at the end, and write the transcript."""
        rules = self._rules
        by_peers = [entry for entry in self.evaluations if entry.judge is not None]
        peer = standings(rules.agents, by_peers)
        skills = {
            (evaluation.judge, 2 * slot + order): judging_skill(evaluation, self.attempts)
            for agent in rules.agents
            for slot, evaluation in enumerate(self._judged_by(agent))
            for order in (1, 2)
        }
        turns = [self._settled(turn, peer, skills) for turn in self._turns]
        final: dict[str, Outcome] = {}
        rewards: dict[str, float] = {}
        for agent in rules.agents:
            judged = [turn for turn in turns if turn.agent == agent and turn.round > 0]
            parts: Parts = {RewardPart.PEER.value: peer[agent]}
            if judged:
                for part in (RewardPart.JUDGING.value, RewardPart.FORMAT.value):
                    parts[part] = mean(turn.parts[part] for turn in judged)
            late = rules.weights.total(parts)
            outcome = outcomes[agent]
            if self.phase is Phase.SOLVE:  # nothing to compare: all is paid out in one step
                rewards[agent] = outcome.reward + late
                parts = {**outcome.parts, **parts}
                final[agent] = Outcome(outcome.status, rewards[agent], parts)
            else:
                rewards[agent] = self._solve_rewards[agent] + late
                final[agent] = Outcome(outcome.status, late, parts)
        self._transcript = Transcript(
            problem=self.problem,
            agents=rules.agents,
            attempts=tuple(self.attempts.values()),
            evaluations=tuple(self.evaluations),
            turns=tuple(turns),
            rewards=rewards,
            seed=self.seed,
        )
        self.phase = Phase.DONE
        self.prompts = dict.fromkeys(rules.agents, "")
        return final

    def _settled(
        self,
        turn: Turn,
        peer: Mapping[str, float | None],
        skills: Mapping[tuple[str | None, int], float | None],
    ) -> Turn:
        """Add to a turn the part that is known only at the end."""
        if turn.phase is Phase.SOLVE:
            late: Parts = {RewardPart.PEER.value: peer[turn.agent]}
        else:
            late = {RewardPart.JUDGING.value: skills[turn.agent, turn.round]}
        parts = {**turn.parts, **late}
        return replace(turn, parts=parts, reward=self._rules.weights.total(parts))

    def _add_turn(self, agent: str, text: str, status: ReplyStatus, parts: Parts) -> None:
        prompt = self.prompts[agent]
        self._turns.append(
            Turn(agent, self.phase, self.round, prompt, text, status, 0.0, dict(parts))
        )

    def _judged_by(self, agent: str) -> list[Evaluation]:
        return [evaluation for evaluation in self.evaluations if evaluation.judge == agent]

    def _read(self, reply: str) -> tuple[AnswerReading, str]:
        """Return the final answer of a reply, and the reply as it is stored."""
        limit = self._rules.max_reply_chars
        if len(reply) > limit:
            return AnswerReading(None, None, ReplyStatus.TOO_LONG), storable(reply[:limit])
        text = storable(reply)
        return read_answer(text, self.problem.answer_kind), text

    def _correctness(self) -> dict[str, float | None]:
        """Return each attempt's correctness: known, judged, or by majority."""
        attempts = list(self.attempts.values())
        if self.problem.answer is not None:
            return graded_correctness(attempts)
        if self._rules.judge is None:
            return majority_correctness(attempts)
        evaluations, judgement = round_robin(self._rules.judge, self.problem, attempts)
        self.judge_failures += judgement.failures
        self.evaluations.extend(evaluations)
        return standings(self._rules.agents, evaluations)

    def _comparison(self, agent: str) -> Comparison:
        first, second = self._pairs[agent][(self.round - 1) // 2]
        swapped = self.round % 2 == 0
        if swapped:
            first, second = second, first
        return Comparison(
            self.problem,
            self.attempts[first].text,
            self.attempts[second].text,
            agent,
            first,
            second,
            swapped,
        )
