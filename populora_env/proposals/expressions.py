"""Arithmetic expressions as a kind of task: a proposer writes one, it is worked out exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from populora_env.problems.sources.base import Split, split_of
from populora_env.proposals.arithmetic import Expression, expressions_in, find_expression
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.task import TASKS, NotATask, Task, TaskKind, Told, request_text
from populora_env.reading.numerals import parse_number
from populora_env.records import AnswerKind, Problem
from populora_env.settings import Range, check_fields

OPERATORS = "+-*/"
PROMPT = "State the final answer to the following arithmetic problem: {} ="
# Small models write prose unless told how to begin.
ASK = 'Write a new arithmetic problem with other numbers. Begin your reply with "Problem:".'
SHOWN = 3  # examples in a request
_TRIES = 200  # random expressions until one is in range, and not held out


@dataclass(frozen=True, slots=True)
class ExpressionOptions:
    """What an expression may be.

    Attributes:
        operators: Those it may have, of ``+-*/``.
        digits: Most digits of a number.
        terms: Most numbers.
        depth: Most brackets within each other.
        most: Largest result, and the largest denominator of one, either sign.
        fractions: Whether divisions may leave a fraction; the answer is then exact, as in ``7/2``.
        prompt: What solvers are asked, with ``{}`` for the expression.

    Raises:
        ValueError: If one is out of range; one line.
    """

    operators: str = "+-*"
    digits: Annotated[int, Range(1, 12)] = 2
    terms: Annotated[int, Range(2, 32)] = 4
    depth: Annotated[int, Range(0, 8)] = 2
    most: Annotated[int, Range(100, 10**18)] = 1_000_000
    fractions: bool = False
    prompt: str = PROMPT

    def __post_init__(self) -> None:
        check_fields(self, ValueError)
        if not self.operators or not set(self.operators) <= set(OPERATORS):
            raise ValueError(
                f"operators: got {self.operators!r}, expected some of {OPERATORS!r}, as in '+-*'"
            )
        if self.prompt.count("{}") != 1:
            raise ValueError(
                f"prompt: got {self.prompt!r:.100}, expected a text with {{}} for the expression"
            )


class Expressions(TaskKind):
    """One arithmetic expression.

    Args:
        options: What it may be.
    """

    name = "expressions"

    def __init__(self, options: ExpressionOptions) -> None:
        self.options = options

    def request(self, rng: np.random.Generator, told: Sequence[Told]) -> str:
        """Return what a proposer is asked, with three expressions within range."""
        shown = [f"Problem: {self.example(rng).text} =" for _ in range(SHOWN)]
        return request_text(ASK, shown, told)

    def read(self, reply: str, rng: np.random.Generator) -> Task:
        """Return the first expression of a reply; what the reply says of its value is ignored."""
        del rng
        expression = find_expression(reply)
        if expression is None:
            raise NotATask(ProposalStatus.UNREADABLE, "no arithmetic expression in it")
        return self._task(expression)

    def example(self, rng: np.random.Generator) -> Task:
        """Return a random expression within range, none of the held-out half."""
        for _ in range(_TRIES):
            expression = find_expression(self._random_text(rng))
            if expression is None:
                continue
            try:
                task = self._task(expression)
            except NotATask:
                continue
            if split_of(task.problem) is Split.TRAIN:
                return task
        expression = find_expression(f"6 {self.options.operators[0]} 3")
        assert expression is not None
        return self._task(expression)

    def key_of(self, problem: Problem) -> str | None:
        """Return the normal form of the longest expression of a prompt that has its answer."""
        answer = None if problem.answer is None else parse_number(problem.answer)
        if answer is None:
            return None
        found = [entry for entry in expressions_in(problem.prompt) if entry.value == answer]
        return max(found, key=lambda entry: len(entry.numbers)).key if found else None

    def _task(self, expression: Expression) -> Task:
        options = self.options
        self._check(expression)
        assert expression.value is not None
        operators = expression.operators
        measures: dict[str, float] = {
            "operands": len(expression.numbers),
            "largest": max(expression.numbers),
            "result": float(expression.value),
            **{
                f"share of {sign}": operators.count(sign) / len(operators)
                for sign in OPERATORS
                if sign in options.operators
            },
        }
        problem = Problem.create(
            options.prompt.replace("{}", expression.text),
            str(expression.value),
            AnswerKind.NUMBER,
            f"self-play:{self.name}",
            {"expression": expression.text},
        )
        return Task(problem, expression.text, expression.key, expression.tokens, measures)

    def _check(self, expression: Expression) -> None:
        """Raise NotATask if an expression is out of range, or comes to nothing."""
        options = self.options
        largest = max(expression.numbers)
        other = sorted(set(expression.operators) - set(options.operators))
        for wrong, reason in (
            (
                bool(other),
                f"it has {' and '.join(other)}, allowed are {' '.join(options.operators)}",
            ),
            (len(expression.numbers) > options.terms, f"more than {options.terms} numbers"),
            (largest >= 10**options.digits, f"a number of more than {options.digits} digits"),
            (expression.depth > options.depth, f"brackets more than {options.depth} deep"),
        ):
            if wrong:
                raise NotATask(ProposalStatus.OUT_OF_RANGE, reason)
        value = expression.value
        if value is None:
            raise NotATask(ProposalStatus.NO_ANSWER, "it divides by zero")
        if not (expression.whole or options.fractions):
            raise NotATask(ProposalStatus.NO_ANSWER, "a division leaves a fraction")
        if max(abs(value.numerator), value.denominator) > options.most:
            raise NotATask(ProposalStatus.OUT_OF_RANGE, f"its result is beyond {options.most}")

    def _random_text(self, rng: np.random.Generator) -> str:
        """Return an expression of random shape; a division's left side is made to fit."""
        options = self.options
        count = int(rng.integers(2, options.terms + 1))
        signs = [str(sign) for sign in rng.choice(list(options.operators), count - 1)]
        numbers = [
            int(rng.integers(1, 10 ** int(rng.integers(1, options.digits + 1))))
            for _ in range(count)
        ]
        for at in range(count - 2, -1, -1):
            if signs[at] == "/":
                most = max(1, (10**options.digits - 1) // numbers[at + 1])
                numbers[at] = numbers[at + 1] * int(rng.integers(1, most + 1))
        parts = [str(number) for number in numbers]
        if options.depth and count > 2 and rng.random() < 0.5:
            at = int(rng.integers(count - 1))
            parts[at], parts[at + 1] = f"({parts[at]}", f"{parts[at + 1]})"
        signs.append("")
        return " ".join(f"{part} {sign}" for part, sign in zip(parts, signs, strict=True)).strip()


@TASKS.add("expressions")
def expressions(
    *,
    operators: str = "+-*",
    digits: int = 2,
    terms: int = 4,
    depth: int = 2,
    most: int = 1_000_000,
    fractions: bool = False,
    prompt: str = PROMPT,
) -> TaskKind:
    """Return the kind of task in which an arithmetic expression is written.

    Args:
        operators: See `ExpressionOptions` for all of them.
        digits: Most digits of a number.
        terms: Most numbers.
        depth: Most brackets within each other.
        most: Largest result.
        fractions: Whether divisions may leave a fraction.
        prompt: What solvers are asked.

    Raises:
        ValueError: If one is out of range; one line.
    """
    return Expressions(ExpressionOptions(operators, digits, terms, depth, most, fractions, prompt))
