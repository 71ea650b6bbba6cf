"""Functions as a kind of task: the three of Absolute Zero (arXiv 2505.03335).

A proposer writes a function ``f`` and a call of it. From it comes one of three problems: what the
call returns (deduction), a call that returns the same (abduction), or the function from examples
(induction). What agents wrote runs in `code.sandbox` and nowhere else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from populora_env.code.checks import FUNCTION, INPUT, CodeCheck
from populora_env.code.literals import arguments_text
from populora_env.code.replies import calls_in, functions_in, lines_of, stated_input
from populora_env.code.sandbox import RunStatus, Sandbox, SandboxError, check_installed
from populora_env.code.trees import NoProgramError, Program, read_program
from populora_env.proposals.function_bank import BANK
from populora_env.proposals.mutated import derived
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.task import TASKS, NotATask, Task, TaskKind, Told, request_text
from populora_env.reading.numerals import canonical_number
from populora_env.reading.said import said
from populora_env.records import AnswerKind, Problem
from populora_env.settings import Range, check_fields

OUTPUT = "output"
PROBLEMS = (OUTPUT, INPUT, FUNCTION)
# Small models write prose unless told how to begin.
ASK = (
    "Write a new short Python function f and one call of it, like the examples. "
    'Begin your reply with "def f(".'
)
SHOWN = 3  # functions in a request
HIDDEN = 3  # examples that a function must also meet
_DERIVED = 12  # inputs that are tried
_ARGUMENTS = 300  # characters of a call's arguments
_STATUS = {
    RunStatus.RAISED: ProposalStatus.NO_ANSWER,
    RunStatus.NOT_PLAIN: ProposalStatus.NO_ANSWER,
    RunStatus.UNSUPPORTED: ProposalStatus.UNREADABLE,
    RunStatus.EXHAUSTED: ProposalStatus.TIMED_OUT,
    RunStatus.UNSTABLE: ProposalStatus.UNSTABLE,
}


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """What a function may be, and what is asked of it.

    Attributes:
        kind: ``output``, ``input`` or ``function``; several joined by ``|`` take turns by chance.
        lines: Most lines of a function, without comments.
        shown: Examples that a problem of kind ``function`` shows.
        seconds: Longest time that one call may take.

    Raises:
        ValueError: If one is out of range; one line.
    """

    kind: str = OUTPUT
    lines: Annotated[int, Range(2, 40)] = 20
    shown: Annotated[int, Range(2, 8)] = 3
    seconds: Annotated[float, Range(0, 60, above=True)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self, ValueError)
        if not self.kinds or not set(self.kinds) <= set(PROBLEMS):
            raise ValueError(
                f"kind: got {self.kind!r:.100}, expected one of {', '.join(PROBLEMS)}, or several "
                "joined by |, as in 'output|input'"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of problems, in the order in which they were named."""
        return tuple(part.strip() for part in self.kind.split("|"))


class Functions(TaskKind):
    """One function and a call of it.

    Args:
        options: What it may be.

    Raises:
        SandboxError: If the extra ``code`` is not installed.
    """

    name = "functions"

    def __init__(self, options: FunctionOptions) -> None:
        check_installed()
        self.options = options
        self._sandbox = Sandbox(options.seconds)

    def request(self, rng: np.random.Generator, told: Sequence[Told]) -> str:
        """Return what a proposer is asked, with three functions of ours."""
        chosen = rng.choice(len(BANK), SHOWN, replace=False)
        return request_text(ASK, ["\n".join(BANK[int(at)]) for at in chosen], told)

    def read(self, reply: str, rng: np.random.Generator) -> Task:
        """Return the function of a reply and its first call, as a problem that the rng chooses.

        What the reply says of the result is ignored.
        """
        program, calls = _proposed(said(reply))
        kind = self.options.kinds[int(rng.integers(len(self.options.kinds)))]
        self._check(program)
        if not calls:
            raise NotATask(ProposalStatus.UNREADABLE, "no call of f with plain values in it")
        if not program.takes(len(calls[0])):
            raise NotATask(ProposalStatus.NO_ANSWER, "the call has another number of arguments")
        if len(arguments_text(calls[0])) > _ARGUMENTS:
            raise NotATask(ProposalStatus.OUT_OF_RANGE, "its arguments are too long")
        return self._task(kind, program, calls, rng)

    def example(self, rng: np.random.Generator) -> Task:
        """Return a task made of one of our functions."""
        return self.read("\n".join(BANK[int(rng.integers(len(BANK)))]), rng)

    def key_of(self, problem: Problem) -> str | None:
        """Return the normal form of a problem whose metadata hold its function and its input."""
        about = problem.metadata
        kind, source, arguments = (about.get(name) for name in ("problem", "code", "input"))
        if kind not in PROBLEMS or not (isinstance(source, str) and isinstance(arguments, str)):
            return None
        try:
            return _key(kind, read_program(source), arguments)
        except NoProgramError:
            return None

    def close(self) -> None:
        """End the process in which functions run."""
        self._sandbox.close()

    def _check(self, program: Program) -> None:
        """Raise NotATask if a function is none that a task may be of."""
        lines = self.options.lines
        for wrong, reason in (
            (bool(program.refused), program.refused),
            (program.measures["lines"] > lines, f"it has more than {lines} lines"),
            (not program.parameters, "it has no arguments"),
            (bool(program.unused), f"it does not use its argument {(*program.unused, '')[0]:.40}"),
        ):
            if wrong:
                raise NotATask(ProposalStatus.OUT_OF_RANGE, reason)

    def _value(self, program: Program, arguments: str) -> str:
        """Return the value of a call, which two runs agree on."""
        run = self._sandbox.run(program.source, arguments, twice=True)
        if run.value is None:
            raise NotATask(_STATUS[run.status], run.reason)
        return run.value

    def _task(
        self,
        kind: str,
        program: Program,
        calls: Sequence[tuple[Any, ...]],
        rng: np.random.Generator,
    ) -> Task:
        arguments = arguments_text(calls[0])
        try:
            value = self._value(program, arguments)
            others = [entry for entry in calls[1:] if program.takes(len(entry))]
            tried = [*others, *derived(calls[0], rng, _DERIVED)]
            examples = self._examples(program, (arguments, value), tried, kind == FUNCTION)
        except SandboxError as error:
            raise NotATask(ProposalStatus.FAILED, str(error)) from error
        prompt, answer, answer_kind = self._problem(kind, program, examples)
        about = {"problem": kind, "code": program.source, "input": arguments, "output": value}
        problem = Problem.create(prompt, answer, answer_kind, f"self-play:{self.name}", about)
        line = " ".join(f"{program.source} f({arguments})".split())
        tokens = tuple(re.findall(r"\w+|[^\w\s]", f"{program.normal} f({arguments})"))
        return Task(problem, line, _key(kind, program, arguments), tokens, program.measures)

    def _examples(
        self,
        program: Program,
        given: tuple[str, str],
        tried: Sequence[tuple[Any, ...]],
        every: bool,
    ) -> list[tuple[str, str]]:
        """Return the given example and others, the second with another value.

        Args:
            program: The function.
            given: Arguments and value of the proposer's call.
            tried: Arguments of others.
            every: Whether all that a problem from examples takes are needed; else one will do.
        """
        wanted = self.options.shown + HIDDEN if every else 2
        found: list[tuple[str, str]] = []
        other = False
        for values in tried:
            arguments = arguments_text(values)
            if (len(found) + 1 >= wanted and other) or len(arguments) > _ARGUMENTS:
                continue
            run = self._sandbox.run(program.source, arguments, twice=every)
            if run.status is RunStatus.EXHAUSTED and "long" in run.reason:
                break  # one is enough waiting
            if run.value is None or arguments in {given[0], *(entry[0] for entry in found)}:
                other = other or (run.status is RunStatus.RAISED and not every)
                continue
            if run.value != given[1] and not other:
                other = True
                found.insert(0, (arguments, run.value))
            else:
                found.append((arguments, run.value))
        if not other:
            raise NotATask(ProposalStatus.OUT_OF_RANGE, "its result is the same for every input")
        if every and len(found) + 1 < self.options.shown + 1:
            raise NotATask(ProposalStatus.NO_ANSWER, "too few inputs near the call have a result")
        return [given, *found][:wanted]

    def _problem(
        self, kind: str, program: Program, examples: Sequence[tuple[str, str]]
    ) -> tuple[str, str, AnswerKind]:
        """Return prompt, answer and kind of answer of a problem."""
        (arguments, value), shown = examples[0], self.options.shown
        block = f"```python\n{program.source}\n```"
        if kind == OUTPUT:
            plain = re.fullmatch(r"-?\d+(\.\d{1,5})?", value) is not None
            number = plain and canonical_number(value) is not None  # none of hundreds of digits
            what = AnswerKind.NUMBER if number else AnswerKind.LITERAL
            return f"{block}\nWhat does f({arguments}) return?", value, what
        if kind == INPUT:
            check = CodeCheck(INPUT, program.source, value, known=f"f({arguments})")
            prompt = f"{block}\nWrite a call of f that returns {value}, such as f(...)."
            return prompt, check.text(), AnswerKind.CODE
        check = CodeCheck(FUNCTION, examples=tuple(examples), known=program.source)
        lines = "\n".join(f"f({given}) returns {result}" for given, result in examples[:shown])
        prompt = f"Write a Python function f for which\n{lines}"
        return prompt, check.text(), AnswerKind.CODE


def _proposed(text: str) -> tuple[Program, list[tuple[Any, ...]]]:
    """Return the function of a reply that is called first, and the inputs of its calls."""
    lines = lines_of(text)
    blocks = functions_in(lines)
    if not blocks:
        raise NotATask(ProposalStatus.UNREADABLE, "no Python function in it")
    calls = calls_in(lines, blocks, {"f", *(block.name for block in blocks)})
    for call in calls:  # is of the last function before it
        before = [block for block in blocks if block.end <= call.line]
        if before and before[-1].program.takes(len(call.values)):
            more = [other.values for other in calls if other.line > call.line]
            return before[-1].program, [call.values, *more]
    for block in blocks:
        fit = [call.values for call in calls if block.program.takes(len(call.values))]
        if fit:
            return block.program, fit
    if calls:
        raise NotATask(ProposalStatus.NO_ANSWER, "the call has another number of arguments")
    stated = stated_input(text)
    return blocks[0].program, [] if stated is None else [stated]


def _key(kind: str, program: Program, arguments: str) -> str:
    return f"{kind} {program.digest} f({arguments})"


@TASKS.add("functions")
def functions(
    *, kind: str = OUTPUT, lines: int = 20, shown: int = 3, seconds: float = 1.0
) -> TaskKind:
    """Return the kind of task in which a Python function and a call of it are written.

    Args:
        kind: What solvers are asked: ``output``, ``input`` or ``function``, or several with ``|``.
        lines: Most lines of a function.
        shown: Examples that a problem of kind ``function`` shows.
        seconds: Longest time that one call may take.

    Raises:
        ValueError: If one is out of range, or the extra ``code`` is not installed; one line.
    """
    options = FunctionOptions(kind, lines, shown, seconds)
    try:
        return Functions(options)
    except SandboxError as error:
        raise ValueError(str(error)) from None
