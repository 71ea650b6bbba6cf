"""What happened in an episode, as frozen records.

Every stage of the arena reads and writes these: problems, attempts, comparisons and verdicts,
turns, and the transcript of a whole episode, which turns into JSON and back. Records hold data
and say what it means; how replies are read, graded, matched and rewarded lives elsewhere
(`reading`, `grading`, `episodes`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from populora_env.errors import check_member
from populora_env.proposals.record import Proposal
from populora_env.storage import NEVER, UNLESS_EMPTY, plain, read_record


class Phase(StrEnum):
    """What an agent is asked to do."""

    SOLVE = "solve"
    SCORE = "score"
    COMPARE = "compare"
    CRITIQUE = "critique"
    REVISE = "revise"
    PROPOSE = "propose"
    DONE = "done"


class AnswerKind(StrEnum):
    """How the answer of a problem is compared with a reply."""

    NUMBER = "number"  # one exact number
    MATH = "math"  # a mathematical expression, up to equivalence
    TEXT = "text"  # a text, up to case, spacing and a final period
    LITERAL = "literal"  # a plain value of Python, such as [1, 'a'], by its value
    CODE = "code"  # a call or a function, checked by running it: `code.checks.CodeCheck`


class GradeStatus(StrEnum):
    """How a grade came about."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # the reply holds no final answer
    SEVERAL = "several"  # several different answers were offered as the final one
    UNREADABLE = "unreadable"  # a final answer was given, but not one of the kind asked for
    TIMED_OUT = "timed_out"  # the check was stopped for its time or memory
    UNGRADED = "ungraded"  # the problem has no known answer, or no reply came


class ReplyStatus(StrEnum):
    """How a reply could be read."""

    OK = "ok"  # by a strict rule
    LENIENT = "lenient"  # by a lenient rule only
    EMPTY = "empty"  # nothing but white space
    NO_ANSWER = "no_answer"  # no final answer found
    SEVERAL = "several"  # several different final answers, such as "12 or 13"
    UNREADABLE = "unreadable"  # what was asked for is not there, or stated in several ways
    TOO_LONG = "too_long"  # over the length limit: cut for storage and not read
    FAILED = "failed"  # no reply: whoever was asked raised, hung, or returned something else


class Preference(StrEnum):
    """Which of two attempts is better."""

    A = "A"
    B = "B"
    TIE = "tie"

    @property
    def mirrored(self) -> "Preference":
        """The same preference when the two attempts change places."""
        swap = {Preference.A: Preference.B, Preference.B: Preference.A}
        return swap.get(self, Preference.TIE)

    @property
    def points(self) -> float:
        """What the first of the two gets: 1 for A, 1/2 for a tie, 0 for B."""
        return {Preference.A: 1.0, Preference.B: 0.0}.get(self, 0.5)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        id: Content hash, 16 hexadecimal characters (`Problem.create` computes it).
        prompt: The problem as the agents read it.
        answer: The known answer, or None.
        answer_kind: How replies are compared with the answer.
        source: Where the problem comes from, such as ``procedural:chain_sum``.
        metadata: Anything else worth keeping, JSON-like.
    """

    id: str
    prompt: str
    answer: str | None
    answer_kind: AnswerKind = AnswerKind.NUMBER
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @classmethod
    def create(
        cls,
        prompt: str,
        answer: str | None = None,
        answer_kind: AnswerKind | str = AnswerKind.NUMBER,
        source: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> "Problem":
        """Return a problem whose id is the hash of its prompt, answer and answer kind.

        Raises:
            TypeError: If ``prompt`` is not a string, or ``answer`` neither a string nor None.
            ValueError: If ``answer_kind`` is none of `AnswerKind`.
        """
        if not isinstance(prompt, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"prompt must be a string, got {type(prompt).__name__}")
        if answer is not None and not isinstance(answer, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"answer must be a string or None, got {type(answer).__name__}: write str(answer)"
            )
        kind = check_member("answer_kind", answer_kind, AnswerKind)
        content = json.dumps([prompt, answer, kind.value])
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return cls(digest, prompt, answer, kind, source, dict(metadata or {}))


@dataclass(frozen=True, slots=True)
class Request:
    """A text for a policy to answer.

    Attributes:
        agent: Who is asked, ``agent_0`` and so on.
        phase: What is asked for.
        prompt: The text, as the arena shows it.
        max_new_tokens: Length limit of the reply, for policies that count tokens.
        seed: Seed of every random draw the reply needs.
        stop: Texts at which a policy may end the reply, as whoever asked cuts it there.
    """

    agent: str
    phase: Phase
    prompt: str
    max_new_tokens: int = 64
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grade:
    """The outcome of checking one reply against one problem.

    Attributes:
        correct: Whether the reply is right; None where the problem has no known answer.
        extracted: The final answer in canonical form, or None where none was read.
        status: How the grade came about.
        seconds: Wall-clock time of the check. Not part of equality nor of `Transcript.to_dict`,
            so that two runs with the same seed compare equal.
        rule: Name of the rule that found the answer (`reading.answers.Rule`), or None.
        strict: Whether the reply is right by strict rules alone, which implies ``correct``; None
            where ``correct`` is.
    """

    correct: bool | None
    extracted: str | None
    status: GradeStatus
    seconds: float = field(default=0.0, compare=False, metadata=NEVER)
    rule: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One agent's reply to the problem, as stored, with its final answer and grade."""

    agent: str
    problem_id: str
    text: str
    answer: str | None
    status: ReplyStatus
    grade: Grade | None = None

    @property
    def correct(self) -> bool | None:
        """Whether it is right; None where that is not known."""
        return None if self.grade is None else self.grade.correct


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two attempts as shown to a judge, the first as A and the second as B.

    Attributes:
        problem: The problem both attempts are about.
        first: Text of the attempt shown as A.
        second: Text of the attempt shown as B.
        judge: The agent that judges; None for a judge outside the population.
        first_author: Author of the attempt shown as A; judges that read it can cheat.
        second_author: Author of the attempt shown as B.
        swapped: Whether this is the second showing of a pair, in reversed order.
    """

    problem: Problem
    first: str
    second: str
    judge: str | None = None
    first_author: str | None = None
    second_author: str | None = None
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's reply to one comparison; ``preference`` None means that it abstained.

    Attributes:
        preference: Which attempt is better, or None.
        status: How the reply could be read.
        failed: How many of those whose votes it stands for failed to give one; not compared, since
            verdicts that say the same are equal.

    Raises:
        ValueError: If ``preference`` is neither None nor one of `Preference` (``"A"`` will do),
            or ``status`` is none of `ReplyStatus`.
    """

    preference: Preference | None
    status: ReplyStatus = ReplyStatus.OK
    failed: int = field(default=0, compare=False, metadata=UNLESS_EMPTY)

    def __post_init__(self) -> None:
        try:
            if self.preference is not None:
                object.__setattr__(self, "preference", Preference(self.preference))
        except ValueError:
            raise ValueError(
                f"preference must be 'A', 'B', 'tie' or None, got {self.preference!r}"
            ) from None
        object.__setattr__(self, "status", check_member("status", self.status, ReplyStatus))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One judge's verdicts on one pair of attempts, shown in both orders.

    Attributes:
        judge: The agent that judged; None for a judge outside the population.
        first_author: Shown as A in the first order and as B in the second.
        second_author: The other author.
        verdicts: The two verdicts as given, each in the order in which it was shown.
        preference: The result, where A means ``first_author``. A win needs both orders to agree;
            two readable verdicts that differ are a tie; None if either could not be read.
        flipped: Whether the two readable verdicts differ.
    """

    judge: str | None
    first_author: str
    second_author: str
    verdicts: tuple[Verdict, Verdict]
    preference: Preference | None
    flipped: bool

    @classmethod
    def from_verdicts(
        cls, judge: str | None, first_author: str, second_author: str, shown: Verdict, back: Verdict
    ) -> "Evaluation":
        """Combine the verdict on (first, second) with the one on (second, first)."""
        preference, flipped = None, False
        if shown.preference is not None and back.preference is not None:
            flipped = shown.preference is not back.preference.mirrored
            preference = Preference.TIE if flipped else shown.preference
        return cls(judge, first_author, second_author, (shown, back), preference, flipped)


@dataclass(frozen=True, slots=True)
class Assessment:
    """One judge's opinion of one attempt: a score, or a critique and its verdict.

    Attributes:
        judge: The agent that judged.
        author: Whose attempt it is about.
        form: `Phase.SCORE` or `Phase.CRITIQUE`.
        value: In [0, 1]: a tenth of the score, or 1 for ``correct`` and 0 for ``incorrect``; None
            if the judge abstained or its reply could not be read.
        text: The reply, as stored.
        status: How the reply could be read.
    """

    judge: str
    author: str
    form: Phase
    value: float | None
    text: str
    status: ReplyStatus


@dataclass(frozen=True, slots=True)
class Turn:
    """One action of one agent and what this very reply earned.

    Attributes:
        agent: Who acted.
        phase: What it was asked to do.
        round: 0 for the first, solve or propose, then 1, 2, ... for what follows.
        prompt: The text it was shown.
        reply: The text it answered, as stored.
        status: How the reply could be read.
        reward: Weighted sum of the known parts.
        parts: Part name to value; None is unknown and left out of the sum. The skill shown on a
            pair is credited to both of its turns, one for each order.
        reply_id: Id by which whoever gave the reply knows it; empty if there is none. It holds
            while the process lasts, and is neither compared nor stored.
    """

    agent: str
    phase: Phase
    round: int
    prompt: str
    reply: str
    status: ReplyStatus
    reward: float
    parts: Mapping[str, float | None] = field(hash=False)
    reply_id: str = field(default="", compare=False, metadata=NEVER)


@dataclass(frozen=True, slots=True)
class Transcript:
    """One whole episode.

    Attributes:
        problem: The problem of the episode; the request, if its proposal was not valid.
        agents: All agents, in order.
        attempts: One for each agent, in the same order. Of a proposal, one for each solver and
            try, the tries one after the other; none if it was not valid.
        evaluations: All judged pairs.
        turns: All actions, by round, then by agent.
        rewards: Agent to its return over the episode; agents that had no part in it are left out.
        seed: With the same problem and replies, ``reset(seed=seed)`` plays the same episode.
        assessments: All scores and critiques.
        revisions: One attempt for each agent after revising, in order; empty if none revised.
        judge_failures: Number of verdicts that the outside judge, or a member of it, did not give.
        judge_error: What it did wrong first, in one line; None if nothing.
        proposal: What became of the proposal, where an agent wrote the problem.
    """

    problem: Problem
    agents: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    evaluations: tuple[Evaluation, ...]
    turns: tuple[Turn, ...]
    rewards: Mapping[str, float] = field(hash=False)
    seed: int
    assessments: tuple[Assessment, ...] = ()
    revisions: tuple[Attempt, ...] = ()
    judge_failures: int = 0
    judge_error: str | None = None
    proposal: Proposal | None = field(default=None, metadata=UNLESS_EMPTY)

    @property
    def final_attempts(self) -> tuple[Attempt, ...]:
        """Each agent's last word: its revision if there was one, else its attempts, all tries."""
        return self.revisions or self.attempts

    def to_dict(self) -> dict[str, Any]:
        """Return the transcript as plain JSON types that any JSON writer can store as UTF-8."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Transcript":
        """Read back what `to_dict` wrote; entries of other names are ignored.

        Raises:
            ValueError: If an entry is missing or not of its type, or an unknown value is found.
        """
        try:
            known = {
                entry.name: data[entry.name]
                for entry in fields(cls)
                if entry.name in data or entry.metadata != UNLESS_EMPTY
            }
            return read_record(cls, known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"data is not a stored transcript: {type(error).__name__}: {error}"
            ) from error
