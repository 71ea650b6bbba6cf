r"""From the rows of a user's own file to problems.

Columns are found by their usual names or mapped by option. An answer may be a number, a text, a
rationale that ends in ``#### 18``, or a solution with its answer in ``\boxed{}``.
"""

import math
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from populora_env.problems.files.bounds import listed
from populora_env.problems.files.reading import Row, WrittenFloat, described, read_rows
from populora_env.problems.sources.base import ProblemSpecError
from populora_env.reading.answers import canonical_answer
from populora_env.reading.numerals import MAX_DIGITS, canonical, parse_number
from populora_env.records import AnswerKind, Problem
from populora_env.settings import did_you_mean
from populora_env.storage import plain, storable

PROMPT_COLUMNS = ("prompt", "question", "problem")
ANSWER_COLUMNS = ("answer", "solution")
OPTIONS = ("prompt", "answer", "kind", "id")
HASHES = "####"
_PLAIN_NUMBER = re.compile(r"[-+]?[0-9][0-9,_]*(?:\.[0-9]*)?")
_BRACES = re.compile(r"\\[{}\\]|[{}]")


def problems_of_file(path: str, options: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of a file, in its order.

    Args:
        path: See `files.read_rows`.
        options: ``prompt`` and ``answer``: names of columns, or of values inside them
            (``reward_model.ground_truth``); ``answer`` None where no answer is known. ``kind``:
            an answer kind; by default number if all answers are plain numbers, else math.
            ``id``: a column that must not repeat itself. All other columns are kept as metadata.

    Raises:
        ProblemSpecError: If the file or an option cannot be used, a row lacks a column or holds
            a value of another kind, or a problem is there twice, with another answer or other
            white space included.

    Warns:
        UserWarning: If a few answers that are no plain numbers make a file mathematical, or
            questions that differ in their letters' case have different answers.
    """
    _check_options(path, options)
    rows = read_rows(path)
    prompt = options.get("prompt") or _usual(rows[0], PROMPT_COLUMNS, "prompt")
    answer: str | None = None
    if "answer" not in options:
        answer = _usual(rows[0], ANSWER_COLUMNS, "answer")
    elif options["answer"] is not None:
        answer = options["answer"]
    kind = options.get("kind")
    stated = [None if answer is None else _answer(row, answer, kind) for row in rows]
    if kind is None:
        kind = _kind_of(rows, stated)
    key = options.get("id")
    problems = [
        _problem(row, prompt, answer, text, AnswerKind(kind))
        for row, text in zip(rows, stated, strict=True)
    ]
    if key is not None:
        _refuse_repeats(rows, [_key(row, key) for row in rows], f"column {key!r} holds", "again")
    refuse_repeated(rows, problems)
    _refuse_two_answers(rows, problems)
    return problems


def prompt_key(prompt: str) -> str:
    """Return what is the same for prompts that differ in white space or Unicode form only."""
    return " ".join(unicodedata.normalize("NFC", prompt).split())


def refuse_repeated(rows: Sequence[Row], problems: Sequence[Problem]) -> None:
    """Refuse rows that are the same problem.

    Raises:
        ProblemSpecError: If two have the same prompt and answer; both places are named.
    """
    _refuse_repeats(rows, [problem.id for problem in problems], "problem", "is there again")


def place_of(problem: Problem) -> str:
    """Return where a problem was read; of one made by a function, what it says of itself."""
    return str(problem.metadata.get("read_from", problem.source or problem.id))


def warn_of_case(pairs: Sequence[tuple[Problem, Problem]]) -> None:
    """Warn of questions that differ in their letters' case only, and have different answers.

    That is no error: a question may be about `x` and `X`.

    Args:
        pairs: Each with the one that was read first.
    """
    if not pairs:
        return
    first, other = pairs[0]
    more = f" ({len(pairs) - 1} more are like it)" if len(pairs) > 1 else ""
    warnings.warn(
        f"{place_of(other)}: question {described(other.prompt)} differs from that at "
        f"{place_of(first)} in its letters' case only, but its answer is "
        f"{described(other.answer)} instead of {described(first.answer)}{more}: remove one, "
        "unless the case means something",
        stacklevel=2,
    )


def checked_answer(row: Row, column: str, text: str, kind: AnswerKind) -> str:
    """Return a known answer that can be read as its kind.

    Raises:
        ProblemSpecError: If it cannot.
    """
    if canonical_answer(text, kind) is None:
        raise ProblemSpecError(
            f"{row.place}: column {column!r} must hold an answer of kind {kind}, got "
            f"{described(text)}: correct it, or set another kind"
        )
    return text


def after_hashes(text: str) -> str:
    """Return what follows the last ``####``, stripped."""
    return text.rpartition(HASHES)[2].strip()


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{}`` or ``\fbox{}``, or None if there is none.

    ``\boxed 3`` boxes what comes before the next dollar sign, as MATH's own reader has it.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].partition("box")[2].removeprefix("ed")
    if not rest.lstrip().startswith("{"):
        return rest.partition("$")[0].strip() or None
    depth = 0
    begin = rest.index("{") + 1
    for match in _BRACES.finditer(rest):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth and match[0] == "}":
            return rest[begin : match.start()].strip() or None
    return None


def _check_options(path: str, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name not in OPTIONS:
            raise ProblemSpecError(
                f"{path}: unknown option {name!r}, expected {', '.join(OPTIONS)}"
                f"{did_you_mean(name, OPTIONS)}"
            )
        if name == "kind" and value not in set(AnswerKind):
            raise ProblemSpecError(
                f"{path}: kind must be one of {', '.join(AnswerKind)}, got {value!r}"
            )
        if not isinstance(value, str) and not (name == "answer" and value is None):
            raise ProblemSpecError(
                f"{path}: option {name} must be the name of a column, got {value!r}: put a name "
                "that is no word in quotes"
            )


def _usual(row: Row, names: Sequence[str], option: str) -> str:
    """Return the first of the usual names that is a column."""
    for name in names:
        if name in row.values:
            return name
    found = listed(row.values)
    if len(row.values) == 1 and (mark := _other_mark(next(iter(row.values)))):
        raise ProblemSpecError(
            f"{row.place}: the header {found} has its names parted by {mark!r}, expected ',': save "
            "the file with commas"
        )
    unknown = "; answer=none if no answer is known" if option == "answer" else ""
    raise ProblemSpecError(
        f"{row.place}: column {' or '.join(map(repr, names))} is missing, found {found}: "
        f"say which it is, as in 'FILE({option}=COLUMN)'{unknown}"
    )


def _other_mark(header: str) -> str:
    """What parts the names of a header where it is no comma; empty if nothing does."""
    return next((mark for mark in (";", "\t", "|") if mark in header), "")


def _answer(row: Row, column: str, kind: str | None) -> str:
    """Return a row's answer as a text."""
    value = row.get(column)
    text: str | None = None
    if isinstance(value, str):
        row.check_text(column, value)
        text = _stated(storable(value), column, kind)
        if kind != AnswerKind.TEXT:
            row.check_text(column, value if text == value.strip() else text or "", answer=True)
            _check_digits(row, column, text or "")
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        digits = str(value)
        if isinstance(value, WrittenFloat) and math.isfinite(value):
            digits = value.digits
        if kind == AnswerKind.TEXT:
            return digits
        _check_digits(row, column, digits)
        number = parse_number(digits, units=False)
        text = None if number is None else canonical(number)
    if text:
        return text if kind is None else checked_answer(row, column, text, AnswerKind(kind))
    wanted = "a text with its answer in \\boxed{}" if column == "solution" else "a text or a number"
    hint = "; answer=none if no answer is known" if described(value) == "nothing" else ""
    raise ProblemSpecError(
        f"{row.place}: column {column!r} must hold {wanted}, got {described(value)}{hint}"
    )


def _check_digits(row: Row, column: str, text: str) -> None:
    """Refuse a number that is too long to be read, which is no other kind of answer either."""
    digits = _PLAIN_NUMBER.fullmatch(text)
    if digits is not None and sum(map(str.isdigit, text)) > MAX_DIGITS:
        raise ProblemSpecError(
            f"{row.place}: column {column!r} holds a number of {sum(map(str.isdigit, text))} "
            f"digits, expected at most {MAX_DIGITS}: shorten it, or set kind=text"
        )


def _kind_of(rows: Sequence[Row], stated: Sequence[str | None]) -> AnswerKind:
    """Return the kind of all answers: numbers if every one is a plain number, else mathematics."""
    known = [(row, text) for row, text in zip(rows, stated, strict=True) if text is not None]
    others = [(row, text) for row, text in known if parse_number(text, units=False) is None]
    if not others:
        return AnswerKind.NUMBER
    if 2 * len(others) < len(known):  # one stray "N/A" decides how all the numbers are compared
        row, text = others[0]
        warnings.warn(
            f"{row.place}: the answer {described(text)} is no plain number, as {len(others)} of "
            f"{len(known)} are not, so all of the file is of kind math: correct it, or say which "
            "kind is meant, as in (kind=math)",
            stacklevel=2,
        )
    return AnswerKind.MATH


def _refuse_two_answers(rows: Sequence[Row], problems: Sequence[Problem]) -> None:
    """Refuse a question that is there again in other white space or with another answer."""
    first: dict[str, int] = {}
    in_any_case: dict[str, int] = {}
    doubtful: list[tuple[Problem, Problem]] = []
    for at, problem in enumerate(problems):
        key = prompt_key(problem.prompt)
        alike = in_any_case.setdefault(key.casefold(), at)
        if problems[alike].answer != problem.answer:
            doubtful.append((problems[alike], problem))
        other = first.setdefault(key, at)
        if other != at:
            before = problems[other].answer
            how = (
                "but for its white space or Unicode form"
                if before == problem.answer
                else f"with the answer {described(problem.answer)} instead of {described(before)}"
            )
            raise ProblemSpecError(
                f"{rows[at].place}: question {described(problem.prompt)} is there again {how}, "
                f"first at {rows[other].place}: remove one"
            )
    warn_of_case(doubtful)


def _stated(text: str, column: str, kind: str | None) -> str | None:
    """Return the answer that a text states, without its rationale."""
    if kind == AnswerKind.TEXT:
        return text.strip()
    if HASHES in text:
        return after_hashes(text)
    boxed = last_boxed(text)
    return boxed if column == "solution" else boxed or text.strip()


def _problem(
    row: Row, prompt: str, answer: str | None, stated: str | None, kind: AnswerKind
) -> Problem:
    # White space at the ends is seen by nobody but the content hash, which decides the split.
    text = row.text(prompt).strip()
    if stated is not None and answer is not None:
        checked_answer(row, answer, stated, kind)
    others = {name: value for name, value in row.values.items() if name not in (prompt, answer)}
    given = None if answer is None else row.get(answer)
    if given != stated and isinstance(given, str):
        others.setdefault("solution", given)  # the rationale that led to the answer
    metadata = plain(others) | {"read_from": row.read_from}
    return Problem.create(text, stated, kind, f"file:{Path(row.file).name}", metadata)


def _key(row: Row, column: str) -> Any:
    value = row.get(column)
    if value is None or isinstance(value, list | dict):
        raise ProblemSpecError(
            f"{row.place}: column {column!r} must hold an id, got {described(value)}"
        )
    return value


def _refuse_repeats(rows: Sequence[Row], keys: Sequence[Any], what: str, again: str) -> None:
    first: dict[Any, Row] = {}
    for row, key in zip(rows, keys, strict=True):
        other = first.setdefault(key, row)
        if other is not row:
            raise ProblemSpecError(
                f"{row.place}: {what} {described(key)} {again}, first at {other.place}: remove one"
            )
