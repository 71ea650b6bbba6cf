"""Both ways between this package and Hugging Face TRL, which is not imported here.

TRL's trainers take reward functions, called with lists by keyword, and TRL users have pairwise
judges, ``judge(prompts, completions, shuffle_order)`` (TRL itself dropped the class in 2026).
`RewardFunction` and `ToTrlJudge` give them our grader and judges; `FromTrlReward` and
`FromTrlJudge` make our judges of theirs.

Prompts and completions may be texts or chats, lists of messages such as
``{"role": "user", "content": "..."}``. Not covered: asynchronous reward functions, and rewards
that need ``completion_ids`` or the trainer.
"""

import inspect
import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from populora_env.grading import Grader
from populora_env.judges import Judge, ask
from populora_env.judges.builtin import better
from populora_env.keys import generator
from populora_env.reading.answers import canonical_answer, read_answer
from populora_env.records import AnswerKind, Comparison, Preference, Problem, ReplyStatus, Verdict
from populora_env.storage import storable

__all__ = ["FromTrlJudge", "FromTrlReward", "RewardFunction", "ToTrlJudge", "TrlJudge"]

Message: TypeAlias = dict[str, Any]
TextOrChat: TypeAlias = str | Sequence[Message]

_FAILED = Verdict(None, ReplyStatus.FAILED)
_NOT_THE_MODEL = frozenset(["tool", "function", "user", "system", "developer", "environment"])


class TrlJudge(Protocol):
    """A pairwise judge as TRL's users know it."""

    def judge(
        self, prompts: list[str], completions: list[list[str]], shuffle_order: bool = True
    ) -> list[int]:
        """Return for each pair the index of the better completion, or -1."""
        ...


class FromTrlJudge:
    """A `Judge` from a TRL pairwise judge.

    It is called with ``shuffle_order=False``, because the arena shows both orders itself. A result
    other than 0 or 1 is an abstention with `ReplyStatus.FAILED`.

    Args:
        judge: Has ``judge(prompts, completions, shuffle_order)``.

    Raises:
        TypeError: If ``judge`` has no such method.
    """

    def __init__(self, judge: TrlJudge) -> None:
        self._judge = _with_judge(judge)

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Return one verdict for each index that came back; `judges.ask` checks their number.

        Whatever the TRL judge raises is passed on; `judges.ask` makes abstentions of it.
        """
        returned = self._judge.judge(
            [storable(comparison.problem.prompt) for comparison in comparisons],
            [[storable(entry.first), storable(entry.second)] for entry in comparisons],
            shuffle_order=False,
        )
        return [_from_index(index) for index in returned]


class ToTrlJudge:
    """A TRL pairwise judge from a `Judge`.

    Args:
        judge: Asked through `judges.ask`: one that raises gives -1 for every pair.
        seed: Key of the order in which ``shuffle_order`` shows a pair. The same pair is always
            shown in the same order.

    Attributes:
        failures: Number of verdicts that the judge failed to give, so far.
        last_error: What it did wrong latest, in one line; None if nothing.

    Raises:
        TypeError: If ``judge`` has no method ``judge``.
    """

    def __init__(self, judge: Judge, *, seed: int = 0) -> None:
        self._judge, self._seed = _with_judge(judge), seed
        self.failures = 0
        self.last_error: str | None = None

    def judge(
        self,
        prompts: Sequence[TextOrChat],
        completions: Sequence[Sequence[TextOrChat]],
        shuffle_order: bool = True,
    ) -> list[int]:
        """Say which of each two completions is better.

        Args:
            prompts: One for each pair; a chat of several messages is shown with their roles.
            completions: Pairs; of a chat, the last message counts.
            shuffle_order: Whether some pairs are shown in reversed order, against position bias.

        Returns:
            For each pair 0 or 1, the index of the better completion, or -1 for a tie, an
            abstention or a failure.

        Raises:
            TypeError: If a prompt or a completion is neither a text nor a chat.
            ValueError: If there is not one pair of completions for each prompt.
        """
        if len(prompts) != len(completions):
            raise ValueError(
                f"completions must be one pair for each of {len(prompts)} prompts, got "
                f"{len(completions)}"
            )
        comparisons: list[Comparison] = []
        turned: list[bool] = []
        for prompt, pair in zip(prompts, completions, strict=True):
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(f"completions must be pairs, got {len(pair)} for one prompt")
            problem = Problem.create(_asked(prompt), answer_kind=AnswerKind.TEXT)
            first, second = (_said("completions", entry) for entry in pair)
            turned.append(shuffle_order and self._is_turned(problem, first, second))
            if turned[-1]:
                first, second = second, first
            comparisons.append(Comparison(problem, first, second))
        judgement = ask(self._judge, comparisons)
        self.failures += judgement.failures
        self.last_error = judgement.error or self.last_error
        return [
            _to_index(verdict.preference, was_turned)
            for verdict, was_turned in zip(judgement.verdicts, turned, strict=True)
        ]

    def _is_turned(self, problem: Problem, first: str, second: str) -> bool:
        key = ("order for a TRL judge", self._seed, problem.id, first, second)
        return bool(generator(*key).integers(2))


class RewardFunction:
    """Our grader as a TRL reward function; a context manager that ends the grader it made.

    Args:
        grader: None makes one.
        answer_column: Column of the data set that holds the known answers: texts, numbers, worked
            solutions that end in ``#### 18`` or a box, or None where no answer is known.
        answer_kind: How a completion is compared with its answer.
        right: Reward of a correct completion.
        wrong: Reward of any other.

    Raises:
        ValueError: If ``answer_kind`` is none of `AnswerKind`, or a reward is not finite.
    """

    def __init__(
        self,
        grader: Grader | None = None,
        *,
        answer_column: str = "answer",
        answer_kind: AnswerKind | str = AnswerKind.NUMBER,
        right: float = 1.0,
        wrong: float = 0.0,
    ) -> None:
        self._kind = Problem.create("", None, answer_kind).answer_kind  # checks it
        for name, reward in (("right", right), ("wrong", wrong)):
            if not math.isfinite(reward):
                raise ValueError(f"{name} must be a finite reward, got {reward}: use None answers")
        self._column, self._right, self._wrong = answer_column, right, wrong
        self._owned = grader is None
        self._grader = Grader() if grader is None else grader
        self.__name__ = "correctness"  # what trainers call it in their logs

    def __call__(
        self,
        prompts: Sequence[TextOrChat] | None = None,
        completions: Sequence[TextOrChat] = (),
        **columns: Any,
    ) -> list[float | None]:
        """Grade a batch of completions.

        Args:
            prompts: What was asked, texts or chats: it says in which units a number is wanted.
                None for not known.
            completions: Texts or chats, of which the last message counts.
            **columns: The columns of the data set, a list each, as long as ``completions``;
                whatever else a trainer passes is ignored.

        Returns:
            One reward for each completion; None where no answer is known.

        Raises:
            TypeError: If a completion is neither a text nor a chat, or an answer neither a text
                nor a number.
            ValueError: If the column of answers is missing or of another length, or an answer is
                not of the kind it should be.
        """
        answers = columns.get(self._column)
        if answers is None:
            came = ", ".join(
                sorted(name for name, value in columns.items() if isinstance(value, list))
            )
            raise ValueError(
                f"the column {self._column!r} is missing, the columns are: {came or 'none'}; "
                "set answer_column"
            )
        if len(answers) != len(completions):
            raise ValueError(
                f"the column {self._column!r} must hold {len(completions)} answers, one for each "
                f"completion, got {len(answers)}"
            )
        known = [self._answer(i, answer) for i, answer in enumerate(answers)]
        asked = [""] * len(known) if prompts is None else [_asked(prompt) for prompt in prompts]
        if len(asked) != len(completions):
            raise ValueError(
                f"prompts must hold {len(completions)} prompts, one for each completion, got "
                f"{len(asked)}"
            )
        pairs = [
            (Problem.create(prompt, answer, self._kind), _said("completions", completion))
            for prompt, answer, completion in zip(asked, known, completions, strict=True)
        ]
        grades = self._grader.grade_many(pairs)
        rewards = {True: self._right, False: self._wrong, None: None}
        return [rewards[grade.correct] for grade in grades]

    def close(self) -> None:
        """End the grader, if it was made here. May be called twice."""
        if self._owned:
            self._grader.close()

    def __enter__(self) -> "RewardFunction":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _answer(self, row: int, value: Any) -> str | None:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None  # tables write NaN where a number is missing
        if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
            raise TypeError(
                f"the column {self._column!r} must hold texts, numbers or None, got "
                f"{type(value).__name__} in row {row}"
            )
        answer = str(value)
        known = canonical_answer(answer, self._kind) is not None
        if not known or "####" in answer or "\\boxed" in answer:
            worked = read_answer(answer, self._kind)  # a worked solution, as GSM8K's answers are
            if worked.status is ReplyStatus.OK:
                return worked.answer
        if not known:
            raise ValueError(
                f"the column {self._column!r} must hold answers of the kind {self._kind.value}, "
                f"got {answer[:80]!r} in row {row}: correct it, write None, or set answer_kind"
            )
        return answer


class FromTrlReward:
    """A `Judge` from a TRL reward function: the attempt with the higher reward is better.

    Equal rewards are a tie. A reward that is None, NaN or no number is an abstention with
    `ReplyStatus.FAILED`. Each attempt of a problem is scored once in a batch.

    Args:
        function: Called with ``prompts``, ``completions`` and the column of answers, by keyword.
        answer_column: Name under which it gets the problems' answers, None where unknown; TRL's
            own ``accuracy_reward`` calls it ``solution``. None passes no answers.
        chat: Whether the function gets chats, as some of TRL's own need, instead of texts.

    Raises:
        TypeError: If ``function`` cannot be called, or is asynchronous.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[float | None]],
        *,
        answer_column: str | None = "answer",
        chat: bool = False,
    ) -> None:
        called = getattr(function, "__call__", None)  # noqa: B004
        if called is None:
            raise TypeError(f"function must be callable, got {type(function).__name__}")
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
            raise TypeError("function must not be asynchronous: wrap it in asyncio.run")
        self._function, self._column, self._chat = function, answer_column, chat

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Return one verdict for each comparison, in order.

        Whatever the function raises is passed on; `judges.ask` makes abstentions of it.

        Raises:
            ValueError: If the function does not return one reward for each completion.
        """
        rows = {
            (entry.problem, text): None
            for entry in comparisons
            for text in (entry.first, entry.second)
        }
        columns: dict[str, list[Any]] = {
            "prompts": [self._shown("user", problem.prompt) for problem, _ in rows],
            "completions": [self._shown("assistant", text) for _, text in rows],
        }
        if self._column is not None:
            columns[self._column] = [problem.answer for problem, _ in rows]
        returned = list(self._function(**columns))
        if len(returned) != len(rows):
            raise ValueError(f"the function must return {len(rows)} rewards, got {len(returned)}")
        rewards = dict(zip(rows, map(_reward, returned), strict=True))
        return [
            _higher(rewards[entry.problem, entry.first], rewards[entry.problem, entry.second])
            for entry in comparisons
        ]

    def _shown(self, role: str, text: str) -> str | list[Message]:
        return [{"role": role, "content": storable(text)}] if self._chat else storable(text)


def _with_judge(judge: Any) -> Any:
    if not callable(getattr(judge, "judge", None)):
        raise TypeError(f"judge must have a method judge, got {type(judge).__name__}")
    return judge


def _said(name: str, entry: Any) -> str:
    """Return a text, or what the last message of a chat says.

    A completion whose last message is a tool's, or anyone's but the model's, says nothing.
    """
    if isinstance(entry, str):
        return storable(entry)
    if not (isinstance(entry, list | tuple) and all(isinstance(part, dict) for part in entry)):
        raise TypeError(f"{name} must be texts or lists of messages, got {type(entry).__name__}")
    if not entry or (name == "completions" and entry[-1].get("role") in _NOT_THE_MODEL):
        return ""
    return _content(entry[-1])


def _asked(prompt: Any) -> str:
    """Return a prompt as one text, with the roles where a chat has several messages."""
    last = _said("prompts", prompt)
    if isinstance(prompt, str) or len(prompt) < 2:
        return last
    return "\n\n".join(f"{part.get('role')}: {_said('prompts', [part])}" for part in prompt)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # parts, of which some may be images
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "\n".join(part for part in parts if isinstance(part, str))
    return storable(content) if isinstance(content, str) else ""


def _from_index(index: Any) -> Verdict:
    if isinstance(index, bool):
        return _FAILED
    try:
        place = operator.index(index)  # NumPy's integers too
    except TypeError:
        return _FAILED
    return {0: Verdict(Preference.A), 1: Verdict(Preference.B)}.get(place, _FAILED)


def _to_index(preference: Preference | None, turned: bool) -> int:
    shown = {Preference.A: 0, Preference.B: 1}.get(preference) if preference else None
    return -1 if shown is None else int(shown != turned)


def _reward(value: Any) -> float | None:
    try:
        reward = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, str) or math.isnan(reward) else reward


def _higher(first: float | None, second: float | None) -> Verdict:
    if first is None or second is None:
        return _FAILED
    return Verdict(better(first, second))
