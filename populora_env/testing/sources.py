"""Whether a source of problems of your own keeps what a source promises."""

import json
from collections.abc import Sequence
from typing import Any

from populora_env.grading import Grader, opened
from populora_env.keys import generator
from populora_env.problems import ProblemSource, check_disjoint
from populora_env.reading.answers import canonical_answer
from populora_env.records import Problem
from populora_env.testing.conformance import ConformanceError, require, told, unharmed


def check_problem_source(
    source: ProblemSource,
    other: ProblemSource | None = None,
    *,
    samples: int = 100,
    seed: int = 0,
    grader: Grader | None = None,
) -> None:
    """Check a source of problems, or two that must not share a problem.

    A source has to

    - have a length of at least 1, and a ``spec`` of one line;
    - return the same `Problem` for the same index, in whatever order it is asked;
    - raise IndexError outside 0 <= index < length;
    - give problems the id that `Problem.create` gives them, and metadata that JSON can hold;
    - know answers that can be read as their answer kind, so that ``Answer: X`` is graded correct;
    - share no problem with ``other``.

    Items are sampled: a fault in one of many may be missed.

    Args:
        source: The source, such as a training split.
        other: Another one, such as the test split; checked in the same way.
        samples: Number of items looked at in each source, at least 2; all, if there are no more.
        seed: Decides which items are drawn; the first and the last are always among them.
        grader: Used and left open; None to make one.

    Raises:
        ConformanceError: If a promise is broken.
        ValueError: If ``samples`` is out of range.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    with opened(grader) as used:
        found = [
            _sampled(entry, samples, seed, used) for entry in (source, other) if entry is not None
        ]
    if other is not None:
        try:
            check_disjoint(*found)
        except ValueError as error:
            raise ConformanceError(f"source and other must share no problem: {error}") from error


def _sampled(source: ProblemSource, samples: int, seed: int, grader: Grader) -> list[Problem]:
    """Return the problems looked at, once they are what they should be."""
    name = type(source).__name__
    require(
        isinstance(source, ProblemSource),  # pyright: ignore[reportUnnecessaryIsInstance]
        f"source must be a ProblemSource, got {name}: wrap a list in SequenceSource",
    )
    spec: Any = getattr(source, "spec", None)
    require(
        isinstance(spec, str) and bool(spec.strip()) and len(spec.splitlines()) == 1,
        f"{name}.spec must be one line that says what the source holds, got {spec!r:.100}",
    )
    length = unharmed(lambda: len(source), f"len({name})")
    require(length >= 1, f"len({name}) must be at least 1, got {length}")
    indices = _indices(length, samples, seed)
    problems = [_item(source, index, name) for index in indices]
    for index, problem in zip(indices, problems, strict=True):
        _check_problem(problem, f"{name}[{index}]", grader)
    for index, problem in zip(indices[::-1], problems[::-1], strict=True):
        again = _item(source, index, name)
        require(
            problem == again,
            f"{name}[{index}] must be the same problem each time, got {problem!r:.200}, "
            f"then {again!r:.200}",
        )
    for index in (-1, length, length + 1_000_000):
        _check_out_of_range(source, index, f"{name}[{index}]")
    return problems


def _indices(length: int, samples: int, seed: int) -> Sequence[int]:
    if length <= samples:
        return range(length)
    drawn = generator("check problem source", seed).integers(length, size=samples - 2)
    return [0, *(int(index) for index in drawn), length - 1]


def _item(source: ProblemSource, index: int, name: str) -> Problem:
    place = f"{name}[{index}]"
    item: Any = unharmed(lambda: source[index], f"{place} must be a Problem")
    require(isinstance(item, Problem), f"{place} must be a Problem, got {type(item).__name__}")
    return item


def _check_out_of_range(source: ProblemSource, index: int, place: str) -> None:
    try:
        item = source[index]
    except IndexError:
        return
    except Exception as error:
        raise ConformanceError(
            f"{place} is out of range and must raise IndexError, it raised {told(error)}"
        ) from error
    raise ConformanceError(f"{place} is out of range and must raise IndexError, got {item!r:.100}")


def _check_problem(problem: Problem, place: str, grader: Grader) -> None:
    made = unharmed(
        lambda: Problem.create(problem.prompt, problem.answer, problem.answer_kind),
        f"{place} must hold what Problem.create accepts",
    )
    require(
        problem.id == made.id,
        f"{place}.id must be the hash of its content that Problem.create gives, {made.id}, "
        f"got {problem.id!r:.100}",
    )
    unharmed(
        lambda: json.dumps(dict(problem.metadata), allow_nan=False),
        f"{place}.metadata must be something that JSON can hold",
    )
    answer = problem.answer
    if answer is None:
        return
    require(
        canonical_answer(answer, made.answer_kind) is not None,
        f"{place}.answer must be a {made.answer_kind}, got {answer!r:.100}: correct it, or set "
        "another answer_kind",
    )
    grade = unharmed(
        lambda: grader.grade(problem, f"Answer: {answer}"), f"{place} must be gradable"
    )
    require(
        grade.correct is True,
        f"{place}: its own answer must be graded correct when stated as 'Answer: X', got "
        f"{grade.status}, read {grade.extracted!r:.80} of {answer!r:.80}",
    )
