r"""``populora validate``: grade every known answer of a problem set against itself.

A right answer that is not graded correct costs every agent a reward, so problems are checked
before anything is trained on them. Each answer is stated as ``Answer: X``, and also as
``\boxed{X}`` where it is not a plain number. No model is loaded.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evolution.commands.progress import Bars
from evolution.commands.usage import one_line, parse, writing_to
from evolution.errors import UsageError
from evolution.terminal import PlainConsole
from populora_env.code.checks import read_check
from populora_env.code.sandbox import SandboxError
from populora_env.grading import Grader, WorkerError
from populora_env.problems import ProblemSource, SequenceSource, load_problems
from populora_env.records import AnswerKind, Grade, GradeStatus, Problem
from populora_env.settings import Range

VIRTUAL_LIMIT = 200  # problems looked at in a source that has no end
INVALID = "invalid"  # status of an answer that cannot be read as its own kind
_BOXED = "\\boxed{{{}}}"
_FORMS = {
    AnswerKind.NUMBER: ("Answer: {}",),
    AnswerKind.MATH: ("Answer: {}", _BOXED),
    AnswerKind.TEXT: ("Answer: {}", _BOXED),
    AnswerKind.LITERAL: ("Answer: {}",),
    AnswerKind.CODE: ("{}",),
}


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """Grade every known answer of a problem set against itself, without a model."""

    spec: tyro.conf.Positional[str]
    """Problem spec; see load_problems."""
    split: Literal["train", "test", "all"] = "all"
    """Part of the problems to look at."""
    limit: Annotated[int | None, Range(1)] = None
    """Largest number of problems; by default all, or 200 of a source without end."""
    seed: int = 0
    """Which problems a source without end holds."""
    timeout: Annotated[float, Range(0, above=True)] = 2.0
    """Longest time one mathematical check may take, in seconds."""
    json: str = ""
    """File to write the result to, with every failure."""

    def check(self) -> None:
        """Check what nobody else checks.

        Raises:
            UsageError: On the first value that cannot be used.
        """
        file = Path(self.json).expanduser()
        if self.json and (file.is_dir() or not file.parent.is_dir()):
            raise UsageError(f"json: got {self.json}, expected a file in an existing folder")


@dataclass(frozen=True, slots=True)
class Failure:
    """A known answer that is not graded correct.

    Attributes:
        id: The problem's.
        read_from: File and line, where they are known.
        answer: The known answer.
        kind: What kind of answer it should be.
        reply: How it was stated.
        status: A `GradeStatus`, or ``invalid``.
        reason: What went wrong, in words.
    """

    id: str
    read_from: str
    answer: str
    kind: str
    reply: str
    status: str
    reason: str

    def __str__(self) -> str:
        place = f" ({self.read_from})" if self.read_from else ""
        return one_line(
            f"{self.id}{place}: {_cut(self.answer)} stated as {_cut(self.reply)} is "
            f"{self.status}: {self.reason}"
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 if every known answer is graded correct, else 1."""
    options = parse(ValidateOptions, arguments, prog="populora validate")
    options.check()
    split = None if options.split == "all" else options.split
    source = load_problems(options.spec, split=split, seed=options.seed, limit=options.limit)
    problems = _known(source, options)
    started = time.monotonic()
    failures = _failures(problems, options.timeout)
    valid = len(problems) - len(failures)
    console = PlainConsole()
    for failure in failures:
        console.print(str(failure))
    console.print(f"{valid} of {len(problems)} gold answers validate")
    if options.json:
        result = {
            "spec": options.spec,
            "split": options.split,
            "seed": options.seed,
            "problems": len(problems),
            "valid": valid,
            "seconds": round(time.monotonic() - started, 2),
            "failures": [asdict(failure) for failure in failures],
        }
        with writing_to("json", options.json):
            text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
            Path(options.json).expanduser().write_text(text, encoding="utf-8")
    return 1 if failures else 0


def _known(source: ProblemSource, options: ValidateOptions) -> list[Problem]:
    """Return the problems that have a known answer."""
    endless = options.limit is None and not isinstance(source, SequenceSource)
    problems = list(islice(source, VIRTUAL_LIMIT if endless else None))
    known = [problem for problem in problems if problem.answer is not None]
    if not known:
        raise UsageError(
            f"spec: none of the {len(problems)} problems of {options.spec} has a known answer: "
            "there is nothing to validate"
        )
    return known


def _failures(problems: Sequence[Problem], timeout: float) -> list[Failure]:
    """Grade all answers and show how far it is."""
    failures: list[Failure] = []
    try:
        with Bars(PlainConsole(stderr=True)) as bars, Grader(timeout=timeout) as grader:
            for done, problem in enumerate(problems, 1):
                failure = _failure(problem, grader, timeout)
                if failure is not None:
                    failures.append(failure)
                bars.count("validating", done, len(problems))
    except (WorkerError, SandboxError) as error:
        raise UsageError(str(error)) from error
    return failures


def _failure(problem: Problem, grader: Grader, timeout: float) -> Failure | None:
    """Return the first statement of a problem's answer that is not graded correct."""
    for form in _FORMS[problem.answer_kind]:
        check = read_check(str(problem.answer)) if problem.answer_kind is AnswerKind.CODE else None
        reply = form.format(problem.answer if check is None else check.known)
        try:
            grade = grader.grade(problem, reply)
        except ValueError as error:
            return _told(problem, reply, INVALID, str(error))
        if not grade.correct:
            return _told(problem, reply, grade.status.value, _reason(problem, grade, timeout))
    return None


def _told(problem: Problem, reply: str, status: str, reason: str) -> Failure:
    place = str(problem.metadata.get("read_from", ""))
    answer = str(problem.answer)
    return Failure(problem.id, place, answer, problem.answer_kind.value, reply, status, reason)


def _reason(problem: Problem, grade: Grade, timeout: float) -> str:
    reasons = {
        GradeStatus.NO_ANSWER: "no answer is found in it",
        GradeStatus.UNREADABLE: f"what it states is no answer of kind {problem.answer_kind}",
        GradeStatus.TIMED_OUT: f"the check took over {timeout:g} s, or too much memory",
    }
    return reasons.get(grade.status, f"it is read as {_cut(grade.extracted or '')}")


def _cut(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
