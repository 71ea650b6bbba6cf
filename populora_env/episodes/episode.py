"""The state of one episode, and the records it ends in.

`Episode` takes the replies of one phase after the other and keeps what becomes of them: attempts
with grades, evaluations, assessments, turns. It knows nothing of spaces and of PettingZoo's
protocol, which are `arena`'s; what is paid at the end is worked out in `settlement`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from populora_env.episodes.labels import Labeller
from populora_env.episodes.matchmaking import WinProbability, assign_attempts, assign_pairs
from populora_env.episodes.rewards import (
    Parts,
    RewardPart,
    RewardWeights,
    format_part,
    length_part,
    signed_part,
)
from populora_env.episodes.settlement import settle
from populora_env.grading import Grader
from populora_env.judges import Judge
from populora_env.keys import generator
from populora_env.prompts import revise_prompt, solve_prompt
from populora_env.reading.answers import AnswerReading, read_answer
from populora_env.reading.forms import FORMS
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
    Verdict,
)
from populora_env.storage import storable


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same in all episodes of an arena.

    Attributes:
        agents: Names of the agents.
        load: How many tasks each agent has in each form of evaluation, in the order of play.
        revise: Whether agents answer again after the critiques.
        self_judging: Whether agents may judge their own attempts.
        weights: What each part of a reward counts.
        max_reply_chars: A longer reply is not read.
        grader: Grades attempts.
        judge: Judge from outside, if any.
    """

    agents: tuple[str, ...]
    load: Mapping[Phase, int]
    revise: bool
    self_judging: bool
    weights: RewardWeights
    max_reply_chars: int
    grader: Grader
    judge: Judge | None

    def schedule(self) -> list[tuple[Phase, int]]:
        """Return the rounds after solve: phase and number within it. A pair takes two rounds."""
        rounds = [
            (form, number)
            for form, load in self.load.items()
            for number in range(load * FORMS[form].orders)
        ]
        return rounds + [(Phase.REVISE, 0)] * self.revise


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
        win_probability: Chance that the first of two agents is better, for matching pairs; None
            to match them without it.

    Attributes:
        transcript: The record of the episode; None until it has ended.
    """

    def __init__(
        self,
        rules: Rules,
        problem: Problem,
        seed: int,
        win_probability: WinProbability | None = None,
    ) -> None:
        self._rules = rules
        self.problem = problem
        self.seed = seed
        self.phase = Phase.SOLVE
        self.round = 0
        self.attempts: dict[str, Attempt] = {}
        self.revisions: dict[str, Attempt] = {}
        self.evaluations: list[Evaluation] = []
        self.assessments: list[Assessment] = []
        self._labeller = Labeller(rules.weights.labels, problem, rules.judge, rules.grader)
        self._schedule = rules.schedule()
        self._turns: list[Turn] = []
        self._judged: dict[tuple[str, int], Evaluation | Assessment] = {}
        self._shown: dict[str, Verdict] = {}  # each judge's verdict on the first order of its pair
        self._tasks: dict[Phase, Mapping[str, list[tuple[str, ...]]]] = {}
        for form, load in rules.load.items():
            rng = generator("matchmaking", form.value, seed, problem.id)
            own = rules.self_judging
            if FORMS[form].pairs:
                pairs = assign_pairs(
                    rules.agents, load, rng, self_judging=own, win_probability=win_probability
                )
                self._tasks[form] = {judge: [*listed] for judge, listed in pairs.items()}
            else:
                authors = assign_attempts(rules.agents, load, rng, self_judging=own)
                self._tasks[form] = {
                    judge: [(author,) for author in listed] for judge, listed in authors.items()
                }
        self._solve_rewards: dict[str, float] = {}
        self.transcript: Transcript | None = None
        self.prompts: dict[str, str] = dict.fromkeys(rules.agents, solve_prompt(problem))

    @property
    def asked(self) -> frozenset[str]:
        """Who has a task now: everybody, until the end."""
        return frozenset() if self.phase is Phase.DONE else frozenset(self._rules.agents)

    @property
    def judge_failures(self) -> int:
        """Number of verdicts that the outside judge failed to give so far."""
        return self._labeller.failures

    def advance(self, replies: Mapping[str, str]) -> dict[str, Outcome]:
        """Take one reply from each agent, and move on.

        Returns:
            For every agent, what it gets for this step.
        """
        outcomes: dict[str, Outcome]
        if self.phase is Phase.SOLVE:
            outcomes = self._solve(replies)
        else:
            outcomes = {agent: self._later(agent, replies[agent]) for agent in self._rules.agents}
        if self.round < len(self._schedule):
            self.phase, _ = self._schedule[self.round]
            self.round += 1
            self.prompts = {agent: self._prompt(agent) for agent in self._rules.agents}
            return outcomes
        return self._finish(outcomes)

    def _solve(self, replies: Mapping[str, str]) -> dict[str, Outcome]:
        for agent in self._rules.agents:
            self.attempts[agent] = self._attempt(agent, replies[agent])
        correctness = self._labeller.first(list(self.attempts.values()))
        outcomes: dict[str, Outcome] = {}
        for agent, attempt in self.attempts.items():
            parts: Parts = {
                RewardPart.CORRECTNESS.value: correctness[agent],
                **self._signed(correctness[agent], attempt.status),
                **_paid_at_once(replies[agent], attempt.status),
            }
            reward = self._rules.weights.total(parts)
            self._solve_rewards[agent] = reward
            self._add_turn(agent, attempt.text, attempt.status, parts, reply_id(replies[agent]))
            outcomes[agent] = Outcome(attempt.status, reward, parts)
        return outcomes

    def _signed(self, correctness: float | None, status: ReplyStatus) -> Parts:
        """Return the part that pays right, wrong and unread attempts, where it is asked for."""
        if not self._rules.weights.signed:
            return {}
        return {RewardPart.SIGNED.value: signed_part(correctness, status)}

    def _later(self, agent: str, reply: str) -> Outcome:
        """Read a judgement or a revision; it is paid at the end."""
        text = storable(reply[: self._rules.max_reply_chars])
        if self.phase is Phase.REVISE:
            revision = self._attempt(agent, reply)
            status = revision.status
            # What holds no answer does not take back the answer that was given before.
            kept = self.attempts[agent] if revision.answer is None else revision
            self.revisions[agent] = kept
        elif FORMS[self.phase].pairs:
            status = self._compare(agent, reply)
        else:
            (author,) = self._task(agent)
            found, status = self._judgement(reply)
            value = None if found is None else float(found)
            entry = Assessment(agent, author, self.phase, value, text, status)
            self.assessments.append(entry)
            self._judged[agent, self.round] = entry
        self._add_turn(agent, text, status, _paid_at_once(reply, status), reply_id(reply))
        return Outcome(status, 0.0, {})

    def _compare(self, agent: str, reply: str) -> ReplyStatus:
        verdict = Verdict(*self._judgement(reply))
        if self._swapped:
            first, second = self._task(agent)
            entry = Evaluation.from_verdicts(agent, first, second, self._shown[agent], verdict)
            self.evaluations.append(entry)
            self._judged[agent, self.round - 1] = self._judged[agent, self.round] = entry
        else:
            self._shown[agent] = verdict
        return verdict.status

    def _finish(self, outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
        """Pay out what is known only at the end, and write the transcript."""
        rules = self._rules
        attempts = tuple(self.attempts.values())
        revisions = tuple(self.revisions.values())
        settlement = settle(
            self._turns,
            self._judged,
            attempts,
            revisions,
            self._labeller,
            rules.weights,
            self_judging=rules.self_judging,
        )
        final: dict[str, Outcome] = {}
        rewards: dict[str, float] = {}
        for agent, parts in settlement.parts.items():
            late = rules.weights.total(parts)
            rewards[agent] = self._solve_rewards[agent] + late
            if self.phase is Phase.SOLVE:  # nothing follows: all is paid out in one step
                known = {name: value for name, value in parts.items() if value is not None}
                merged = {**parts, **outcomes[agent].parts, **known}
                final[agent] = Outcome(outcomes[agent].status, rewards[agent], merged)
            else:
                final[agent] = Outcome(outcomes[agent].status, late, parts)
        self.evaluations.extend(self._labeller.evaluations)
        self.transcript = Transcript(
            problem=self.problem,
            agents=rules.agents,
            attempts=attempts,
            evaluations=tuple(self.evaluations),
            turns=settlement.turns,
            rewards=rewards,
            seed=self.seed,
            assessments=tuple(self.assessments),
            revisions=revisions,
            judge_failures=self._labeller.failures,
            judge_error=self._labeller.error,
        )
        self.phase = Phase.DONE
        self.prompts = dict.fromkeys(rules.agents, "")
        return final

    def _attempt(self, agent: str, reply: str) -> Attempt:
        """Read and grade an attempt."""
        text = storable(reply[: self._rules.max_reply_chars])
        unread = self._unread(reply)
        if unread is not None:
            reading = AnswerReading(None, None, unread)
        else:
            reading = read_answer(text, self.problem.answer_kind)
        grade = self._rules.grader.grade_reading(self.problem, reading)
        return Attempt(agent, self.problem.id, text, reading.answer, reading.status, grade)

    def _judgement(self, reply: str) -> tuple[Any, ReplyStatus]:
        """Return the value that a reply gives in this phase's form, and how it could be read."""
        if (unread := self._unread(reply)) is not None:
            return None, unread
        reading = FORMS[self.phase].read(reply)
        return reading.value, reading.status

    def _unread(self, reply: str) -> ReplyStatus | None:
        """Return why a reply is not read at all; None if it is read."""
        if isinstance(reply, NoReply):
            return ReplyStatus.FAILED
        return ReplyStatus.TOO_LONG if len(reply) > self._rules.max_reply_chars else None

    def _add_turn(
        self, agent: str, text: str, status: ReplyStatus, parts: Parts, known_as: str
    ) -> None:
        prompt = self.prompts[agent]
        self._turns.append(
            Turn(agent, self.phase, self.round, prompt, text, status, 0.0, dict(parts), known_as)
        )

    @property
    def _swapped(self) -> bool:
        """Whether this round shows the pairs of the round before in the other order."""
        form = FORMS.get(self.phase)
        return form is not None and form.pairs and self._schedule[self.round - 1][1] % 2 == 1

    def _task(self, agent: str) -> tuple[str, ...]:
        """Return whose attempts the agent judges in this round."""
        number = self._schedule[self.round - 1][1]
        return self._tasks[self.phase][agent][number // FORMS[self.phase].orders]

    def _prompt(self, agent: str) -> str:
        """Return what the agent is shown in this round."""
        if self.phase is Phase.REVISE:
            said = [
                entry.text
                for entry in self.assessments
                if FORMS[entry.form].written and entry.author == agent and entry.text.strip()
            ]
            return revise_prompt(self.problem, self.attempts[agent].text, said)
        texts = [self.attempts[author].text for author in self._task(agent)]
        return FORMS[self.phase].prompt(self.problem, texts[::-1] if self._swapped else texts)


def _paid_at_once(reply: str, status: ReplyStatus) -> Parts:
    came = status is not ReplyStatus.FAILED
    return {
        RewardPart.FORMAT.value: format_part(status) if came else None,
        RewardPart.LENGTH.value: length_part(reply) if came else None,
    }
