"""Judges from outside the population.

`Judge` is the protocol; `ask` calls one and turns whatever goes wrong into abstentions that are
counted. `TimedJudge` puts a limit on how long a judge may take.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

from populora_env.errors import check_seconds
from populora_env.judges.awaiting import FAULTS, last_error_of, said, settled
from populora_env.records import Attempt, Comparison, Evaluation, Problem, ReplyStatus, Verdict


@runtime_checkable
class Judge(Protocol):
    """Anything that says which of two attempts is better."""

    def judge(self, comparisons: Sequence[Comparison]) -> Sequence[Verdict]:
        """Return one verdict for each comparison, in order; a verdict may abstain."""
        ...


class TimedJudge:
    """A judge that raises instead of taking too long.

    The judge runs in a thread of its own. A thread cannot be ended from outside: one that hangs
    is left behind, and until it comes back the judge is not asked again and fails at once. A call
    that never lets go of the interpreter, such as a runaway regular expression, cannot be timed
    at all: keep such work in a process of its own.

    Args:
        judge: Does the judging.
        timeout: Longest time one call may take, in seconds, above 0.

    Raises:
        TypeError: If ``judge`` is no judge.
        ValueError: If ``timeout`` is out of range.
    """

    def __init__(self, judge: Judge, timeout: float) -> None:
        check_seconds("timeout", timeout)
        if not isinstance(judge, Judge):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"judge must have a method judge(comparisons), got {type(judge).__name__}"
            )
        self._judge = judge
        self._timeout = timeout
        self._hanging: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hanging": None}  # a thread is not copied

    @property
    def last_error(self) -> str | None:
        """Why the judge inside says that it failed last; None if it does not say."""
        return last_error_of(self._judge)

    def judge(self, comparisons: Sequence[Comparison]) -> Sequence[Verdict]:
        """Ask the judge.

        Raises:
            TimeoutError: If it takes too long, or an earlier call still does.
            Exception: Whatever the judge raises, or what it returns as it is gone through.
        """
        if self._hanging is not None and self._hanging.is_alive():
            raise TimeoutError("an earlier call has not come back")
        came: list[list[Verdict]] = []
        failed: list[BaseException] = []

        def call() -> None:
            try:
                came.append(list(settled(self._judge.judge(comparisons))))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=call, name="judge", daemon=True)
        thread.start()
        thread.join(self._timeout)
        if failed:
            raise failed[0]
        if not came:
            self._hanging = thread
            raise TimeoutError(f"no verdicts after {self._timeout:g} s")
        return came[0]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What asking a judge gave.

    Attributes:
        verdicts: One for each comparison; abstentions where the judge failed.
        failures: Number of verdicts that were missing, no `Verdict`, or of a judge that failed,
            such as one whose server is down; those that stand although a member of a panel failed
            are counted too (``Verdict.failed`` says how many members).
        error: What went wrong first, in one line; None if nothing did.
    """

    verdicts: tuple[Verdict, ...]
    failures: int = 0
    error: str | None = None


def ask(judge: Judge, comparisons: Sequence[Comparison]) -> Judgement:
    """Ask a judge, without letting it stop the episode.

    A judge that raises, or returns anything but one entry for each comparison, abstains from all;
    an entry that is no `Verdict` is one abstention. An abstention with `ReplyStatus.FAILED` is a
    failure too, for the reason that the judge's ``last_error`` gives, if it has one; so is a
    verdict of a panel without the vote of a member that failed, but it keeps its preference.
    """
    asked = len(comparisons)
    if not asked:
        return Judgement(())
    try:
        returned: list[Any] = list(settled(judge.judge(list(comparisons))))
    except FAULTS as error:
        return _all_failed(asked, f"judge raised {said(error)}")
    if len(returned) != asked:
        return _all_failed(asked, f"judge must return {asked} verdicts, got {len(returned)}")
    error = None
    verdicts: list[Verdict] = []
    failures = 0
    for entry in returned:
        if isinstance(entry, Verdict):
            verdicts.append(entry)
            missing = entry.preference is None and entry.status is ReplyStatus.FAILED
            if missing or entry.failed:
                failures += 1
                error = error or f"judge failed: {last_error_of(judge) or 'it gave no reason'}"
            continue
        failures += 1
        error = error or f"judge must return Verdict objects, got {type(entry).__name__}"
        verdicts.append(Verdict(None, ReplyStatus.FAILED))
    return Judgement(tuple(verdicts), failures, error)


def round_robin(
    judge: Judge, problem: Problem, attempts: Sequence[Attempt]
) -> tuple[list[Evaluation], Judgement]:
    """Have a judge compare every pair of attempts, in both orders; see `in_both_orders`."""
    return in_both_orders(judge, problem, list(combinations(attempts, 2)))


def in_both_orders(
    judge: Judge, problem: Problem, pairs: Sequence[tuple[Attempt, Attempt]]
) -> tuple[list[Evaluation], Judgement]:
    """Have a judge compare the two attempts of each pair, in both orders.

    Returns:
        One evaluation for each pair, with ``judge`` None, and how asking went.
    """
    comparisons = [
        Comparison(problem, one.text, two.text, None, one.agent, two.agent, swapped)
        for first, second in pairs
        for one, two, swapped in ((first, second, False), (second, first, True))
    ]
    judgement = ask(judge, comparisons)
    shown, back = judgement.verdicts[::2], judgement.verdicts[1::2]
    evaluations = [
        Evaluation.from_verdicts(None, first.agent, second.agent, *verdicts)
        for (first, second), *verdicts in zip(pairs, shown, back, strict=True)
    ]
    return evaluations, judgement


def _all_failed(count: int, error: str) -> Judgement:
    return Judgement((Verdict(None, ReplyStatus.FAILED),) * count, count, error)
