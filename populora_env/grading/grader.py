"""Grading replies.

A reply's final answer is read by `reading.answers`; numbers, texts and what `forms` settles are
compared in this process, exactly and in bounded time. The other mathematical expressions go to a
worker process, started when the first of them comes and killed when one takes too long. Code that
a reply holds runs in a sandbox (`code.sandbox`). Answers
that have many right forms (a puzzle with several solutions) are compared with the one known form
and no other.
"""

import os
import queue
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from populora_env.code.checks import check_answer, read_check, same_code
from populora_env.code.literals import same_texts
from populora_env.code.sandbox import RunStatus, Sandbox
from populora_env.errors import at_least_one, check_is_a, check_seconds
from populora_env.grading import words
from populora_env.grading.forms import (
    both_signs,
    elements,
    members,
    settle,
    sides,
    variable_first,
    without_estimate,
)
from populora_env.grading.notation import to_latex
from populora_env.grading.sets import as_union
from populora_env.grading.worker import MathWorker, Outcome
from populora_env.reading.answers import ANSWER_LIMIT, AnswerReading, canonical_answer, read_answer
from populora_env.reading.numerals import asks_in, parse_number, same_number
from populora_env.reading.units import in_radians, without_unit
from populora_env.records import AnswerKind, Grade, GradeStatus, Problem, ReplyStatus

_UNANSWERED = {
    ReplyStatus.UNREADABLE: GradeStatus.UNREADABLE,
    ReplyStatus.SEVERAL: GradeStatus.SEVERAL,
}
_INCONCLUSIVE = {
    Outcome.EXHAUSTED: GradeStatus.TIMED_OUT,
    Outcome.UNREADABLE: GradeStatus.UNREADABLE,
}
_RUN = {
    RunStatus.DONE: GradeStatus.CORRECT,
    RunStatus.UNSUPPORTED: GradeStatus.UNREADABLE,
    RunStatus.EXHAUSTED: GradeStatus.TIMED_OUT,
}
_LONGEST_MATCH = 8
_MEASURED = re.compile(r"\\text|%|\\circ")  # the sides of a chain may be in several units
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_canonical_gold = lru_cache(4096)(canonical_answer)


class Grader:
    """Grades replies; a context manager that ends its worker processes.

    May be used from several threads at once, and in forked children. Copies and pickles hold the
    arguments; their workers start when needed.

    Args:
        workers: Largest number of worker processes; at least 1.
        timeout: Longest time one mathematical check, or one call of a function, may take, in
            seconds, above 0. What is on the edge of it may be graded differently on a slower
            machine.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, workers: int = 1, timeout: float = 2.0) -> None:
        workers = at_least_one("workers", workers)
        check_seconds("timeout", timeout)
        self._size = workers
        self._timeout = timeout
        self._closed = False
        self._sandbox = Sandbox(timeout)
        self._forked = threading.Lock()  # held only while a forked child makes its own workers
        self._make_workers()

    def __getstate__(self) -> dict[str, Any]:
        return {"workers": self._size, "timeout": self._timeout, "closed": self._closed}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the arguments; the copy's workers start when it needs them."""
        Grader.__init__(self, state["workers"], state["timeout"])
        self._closed = state["closed"]

    def grade(self, problem: Problem, reply: str) -> Grade:
        """Grade one reply.

        Args:
            problem: The problem; without a known answer, the grade holds only what was read.
            reply: Any text.

        Raises:
            TypeError: If the problem is no `Problem`, or the reply no string.
            ValueError: If the problem's own answer is not of its kind.
            WorkerError: If a worker process is needed and does not start.
            SandboxError: If code has to be run, and the sandbox is missing or does not start.
        """
        check_is_a("problem", problem, Problem, "a Problem (see Problem.create)")
        check_is_a("reply", reply, str, "a string")
        return self.grade_reading(problem, read_answer(reply, problem.answer_kind))

    def grade_reading(self, problem: Problem, reading: AnswerReading) -> Grade:
        """Grade an answer that has been read already; see `grade`."""
        start = time.perf_counter()
        status = self._status(problem, reading)
        correct = strict = None
        if status is not GradeStatus.UNGRADED:
            correct = status is GradeStatus.CORRECT
            strict = correct and reading.status is ReplyStatus.OK
        seconds = time.perf_counter() - start
        return Grade(correct, reading.answer, status, seconds, reading.rule, strict)

    def same(self, first: str, second: str, kind: AnswerKind) -> GradeStatus:
        """Compare two answers that were read from replies, as if the first were the known one.

        Args:
            first: An answer in canonical form, as in `Grade.extracted`.
            second: Another.
            kind: How they are compared.

        Returns:
            CORRECT if they are equal in value, WRONG if not, and TIMED_OUT, UNREADABLE or
            SEVERAL where that cannot be said.

        Raises:
            WorkerError: If a worker process is needed and does not start.
        """
        if kind is AnswerKind.CODE:
            return GradeStatus.CORRECT if same_code(first, second) else GradeStatus.WRONG
        gold, answer = canonical_answer(first, kind), canonical_answer(second, kind)
        if gold is None or answer is None:
            return GradeStatus.UNREADABLE
        problem = Problem("", "", first, kind)
        return self._status(problem, AnswerReading(answer, None, ReplyStatus.OK))

    def grade_many(self, pairs: Iterable[tuple[Problem, str]]) -> list[Grade]:
        """Grade several replies, with all workers at once; see `grade`.

        Returns:
            One grade for each pair, in their order.
        """
        listed = list(pairs)
        if self._size == 1 or not any(
            problem.answer_kind is AnswerKind.MATH for problem, _ in listed
        ):
            return [self.grade(problem, reply) for problem, reply in listed]
        with ThreadPoolExecutor(self._size) as threads:
            return list(threads.map(self.grade, *zip(*listed, strict=True)))

    def close(self) -> None:
        """End the worker processes, after the checks that are under way. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._sandbox.close()
        pool = self._own_workers()
        workers = [pool.get() for _ in range(self._size)]
        for worker in workers:
            worker.close()
            pool.put(worker)

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _status(self, problem: Problem, reading: AnswerReading) -> GradeStatus:
        if problem.answer is None or reading.status is ReplyStatus.FAILED:
            return GradeStatus.UNGRADED
        gold = _canonical_gold(problem.answer, problem.answer_kind)
        if gold is None:
            raise ValueError(
                f"the answer of problem {problem.id} must be a {problem.answer_kind}, got "
                f"{problem.answer[:80]!r}: correct it, or set another answer_kind"
            )
        if reading.answer is None:
            return _UNANSWERED.get(reading.status, GradeStatus.NO_ANSWER)
        if problem.answer_kind is AnswerKind.CODE:
            return self._run(problem.answer, reading)
        if problem.answer_kind is AnswerKind.LITERAL:
            same = same_texts(gold, reading.answer)
            return GradeStatus.CORRECT if same else GradeStatus.WRONG
        if gold == reading.answer:
            return GradeStatus.CORRECT
        if problem.answer_kind is AnswerKind.TEXT:
            return _chosen(gold, reading.answer)
        if problem.answer_kind is AnswerKind.NUMBER:
            same = _same(gold, reading.answer) or (
                reading.scale != 1
                and asks_in(problem.prompt, reading.scale)
                and _same(gold, reading.answer, reading.scale)
            )
            return GradeStatus.CORRECT if same else GradeStatus.WRONG
        return self._check(problem.answer, gold, reading.written or reading.answer)

    def _run(self, gold: str, reading: AnswerReading) -> GradeStatus:
        """Grade what a reply to a problem of code says, by running it."""
        if self._closed:
            raise RuntimeError("the grader is closed: make a new Grader")
        check = read_check(gold)
        if check is None:  # the answer of another reply, as `same` compares
            return GradeStatus.UNREADABLE
        status = check_answer(check, (reading.answer, reading.written), self._sandbox)
        return _RUN.get(status, GradeStatus.WRONG)

    def _check(self, written: str, gold: str, answer: str) -> GradeStatus:
        known, given = parse_number(gold, units=False), parse_number(answer, units=False)
        if known is not None and given is not None:
            return GradeStatus.CORRECT if same_number(known, given) else GradeStatus.WRONG
        if max(len(gold), len(answer)) >= ANSWER_LIMIT or _UNPRINTABLE.search(answer):
            return GradeStatus.UNREADABLE
        # Of "\\$5" the canonical form has lost what it counts.
        gold, answer = to_latex(gold if known is None else written), to_latex(answer)
        answer = without_estimate(words.without_label(gold, answer))
        gold, answer = in_radians(variable_first(gold), variable_first(answer))
        gold, answer = both_signs(gold), both_signs(answer)
        status = self._compare(gold, answer)
        if status is GradeStatus.WRONG:
            hedged = words.is_choice(gold) and len(words.offered(answer)) > 1
            if hedged or (len(elements(answer)) > 1 and len(elements(gold)) == 1):
                return GradeStatus.SEVERAL
        return status

    def _compare(self, gold: str, answer: str) -> GradeStatus:
        """Compare two answers in LaTeX; CORRECT, WRONG or why that is not known."""
        equal = settle(gold, answer)
        if equal is not None:
            return GradeStatus.CORRECT if equal else GradeStatus.WRONG
        chain = sides(answer)
        if len(chain) > 1 and len(sides(gold)) == 1:  # "6 = 5" is wrong, whatever the gold
            status = self._compare(gold, chain[-1])
            if status is not GradeStatus.CORRECT or _MEASURED.search(answer):
                return status
            wrong = any(self._compare(gold, side) is GradeStatus.WRONG for side in chain[:-1])
            return GradeStatus.WRONG if wrong else GradeStatus.CORRECT
        known, given = elements(gold), elements(answer)
        if members(gold) is not None or members(answer) is not None:
            return self._match(known, given)
        if words.variables_differ(gold, answer):
            return GradeStatus.WRONG
        gold, answer = as_union(gold, answer)
        outcome = self._ask_worker(without_unit(gold), without_unit(answer))
        if outcome in _INCONCLUSIVE:
            return _INCONCLUSIVE[outcome]
        return GradeStatus.CORRECT if outcome is Outcome.EQUAL else GradeStatus.WRONG

    def _match(self, known: list[str], given: list[str]) -> GradeStatus:
        """Compare two lists in which a member is written twice: by their counts."""
        if len(known) != len(given) or len(known) > _LONGEST_MATCH:
            return GradeStatus.WRONG
        left = list(given)
        for member in known:
            alike = (one for one in left if self._compare(member, one) is GradeStatus.CORRECT)
            found = next(alike, None)
            if found is None:
                return GradeStatus.WRONG
            left.remove(found)
        return GradeStatus.CORRECT

    def _ask_worker(self, gold: str, answer: str) -> Outcome:
        pool = self._own_workers()
        worker = pool.get()
        try:
            if self._closed:
                raise RuntimeError("the grader is closed: make a new Grader")
            return worker.check(gold, answer)
        except BaseException:
            worker.close()  # an interrupted worker's next line would answer the wrong question
            raise
        finally:
            pool.put(worker)

    def _make_workers(self) -> None:
        self._workers: queue.LifoQueue[MathWorker] = queue.LifoQueue()
        for _ in range(self._size):
            self._workers.put(MathWorker(self._timeout))
        self._process_id = os.getpid()

    def _own_workers(self) -> "queue.LifoQueue[MathWorker]":
        """Return the workers of this process: a forked child makes its own.

        The parent's may be in use by threads that the child does not have, and so may the locks
        of their queue.
        """
        if self._process_id != os.getpid():
            with self._forked:
                if self._process_id != os.getpid():
                    for worker in list(self._workers.queue):
                        worker.close()  # closes the child's copies of pipes, and ends nothing
                    self._make_workers()
        return self._workers


def opened(grader: Grader | None) -> AbstractContextManager[Grader]:
    """Return a block for a grader that stays open, or without one for one closed at the end."""
    return Grader() if grader is None else nullcontext(grader)


def _same(gold: str, answer: str, scale: int = 1) -> bool:
    """Return whether two numbers in canonical form are equal, the second divided by a scale."""
    if scale == 1 and gold.lstrip("-").isdigit() and answer.lstrip("-").isdigit():
        return gold == answer
    known, given = parse_number(gold), parse_number(answer)
    return known is not None and given is not None and same_number(known, given / scale)


def _chosen(gold: str, answer: str) -> GradeStatus:
    """Grade a text that is not the known one word for word: the letter of a choice may be."""
    right = words.chosen_text(gold, answer)
    if right is None:
        return GradeStatus.SEVERAL if words.is_letter(gold) else GradeStatus.WRONG
    return GradeStatus.CORRECT if right else GradeStatus.WRONG
