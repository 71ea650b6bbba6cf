r"""Reading the final answer of a reply.

A table of named rules from strict to lenient; the first that applies wins, and its name and the
resulting `ReplyStatus` say how the reply was read. Every rule takes time linear in the text.
Where in a reply an answer may stand is in `candidates`, what a number's sentence states in
`statements`, whether an answer is right in `grading`; thoughts, end marks and wrappers are taken
off in `said`, judgements are read in `judgements`, and the rules of other projects are in
`extraction`.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from populora_env.code.checks import read_check
from populora_env.code.literals import LIMIT, read_literal, written
from populora_env.code.replies import code_answer
from populora_env.reading.candidates import (
    NAME,
    after_hashes,
    after_phrase,
    bare_formula,
    bare_number,
    bold_number,
    bold_words,
    boxed,
    last_line,
    last_math,
    last_number_of_math,
    last_number_stated,
    marked_part,
    stated_of_name,
)
from populora_env.reading.numerals import (
    canonical_number,
    is_undone_division,
    plain_text,
    scale_of,
)
from populora_env.reading.said import ANSWER_LIMIT, said, trimmed, without_approval
from populora_env.reading.said import first_line as first_line  # was defined here
from populora_env.reading.statements import is_formula, read_stated, said_twice
from populora_env.records import AnswerKind, ReplyStatus


class Rule(StrEnum):
    r"""Names of the reading rules."""

    BOXED = "boxed"  # the last \boxed{...}, or the last boxes if only commas are between them
    HASHES = "hashes"  # what follows the last #### that is no heading
    PHRASE = "phrase"  # what follows the last "Answer:", "The answer is" or "A:"
    BARE = "bare"  # the reply is nothing but the number or formula
    TAGGED = "tagged"  # the reply's <answer>...</answer>, or the field "answer" of its JSON
    BOLD = "bold"  # the last **number** in the last line that has one, or its only **words**
    LAST_MATH = "last_math"  # the last $...$
    LAST_NUMBER = "last_number"  # the number that the last sentence with one is about
    LAST_LINE = "last_line"
    CODE = "code"  # a function, or a call that stands by itself


@dataclass(frozen=True, slots=True)
class AnswerReading:
    r"""The final answer of a reply, in canonical form; ``answer`` and ``rule`` None if none.

    ``scale`` says by what a word or letter behind the number (``2 dozen``, ``300K``) multiplied
    it: where the question counts in dozens, 2 is meant. ``written`` is the answer as it was
    written where the canonical form has lost what may count, as of ``\$0.50`` and ``1.732050``;
    of a reply that holds both a function and a call, the one that is not the answer.
    """

    answer: str | None
    rule: Rule | None
    status: ReplyStatus
    scale: int = 1
    written: str | None = None


@dataclass(frozen=True, slots=True)
class _AnswerRule:
    name: Rule
    strict: bool
    kinds: frozenset[AnswerKind]
    find: Callable[[str], str | None]


_INLINE = re.compile(r"\$((?:\\.|[^$\\])+)\$|\\\(((?:(?!\\\)).)+)\\\)")
_WORDED = re.compile(
    r"\s*\$?\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s?\{([^{}]*)\}\.?\$?\s*|\$([^$]+)\$"
)
_EMPHASIS = re.compile(r"<(b|i|u|em|strong|mark)>([^<>]*)</\1>")
_CHOICE_LETTER = re.compile(r"\([A-Z]\)|[A-Z]\)")
# Dollars, and zeros that end six decimals or more.
_KEPT = re.compile(r"-?\\\$ ?-?[0-9][0-9.,]*|-?[0-9]*\.[0-9]{5,}0")
_NO_ANSWER = frozenset(
    [
        "none", "n/a", "na", "nan", "null", "unknown", "undefined", "invalid", "[invalid]", "?",
        "no answer", "no solution", "not enough information", "cannot be determined",
        "can't be determined", "i don't know", "i do not know",
    ]
)  # fmt: skip
_MARKER = re.compile(r"####|\\boxed|\banswer\*{0,3}\s{0,2}(?:is\b|:)", re.IGNORECASE)
_NEXT_QUESTION = re.compile(
    r"\n\s{0,9}(?:\*{0,2}(?:Question|Problem|Q)(?: ?[0-9]{1,4})?\*{0,2}:|### Instruction)"
)
_FENCES = re.compile(r"^[ ]{0,9}```[\w+-]{0,20}[ ]*$", re.MULTILINE)
_ANNOTATION = re.compile(r"<<[^<>\n]{0,200}?=?([^<>=\n]{0,60})>>(?=([-$.]{0,2}[0-9])?)")


def relevant_text(text: str) -> str:
    """Return the part of a reply in which its answer is looked for.

    That is what it says outside thoughts (`said.said`), up to the next question that it asks
    itself after having stated an answer. Calculator annotations such as ``<<16-3=13>>`` become
    the result that they hold, unless it follows them.
    """
    text = said(text)
    if "<<" in text:
        text = _ANNOTATION.sub(lambda match: "" if match[2] else match[1], text)
    asks = any(word in text for word in ("Q", "Problem", "### Instruction"))
    marker = _MARKER.search(text) if asks else None
    if marker is not None:
        following = _NEXT_QUESTION.search(text, marker.end())
        if following is not None:
            text = text[: following.start()]
    return text


_ALL = frozenset(AnswerKind)
_NUMBER, _MATH = frozenset({AnswerKind.NUMBER}), frozenset({AnswerKind.MATH})
_STATED_RULES = (
    _AnswerRule(Rule.BOXED, True, _ALL, boxed),
    _AnswerRule(Rule.HASHES, True, _ALL, after_hashes),
    _AnswerRule(Rule.PHRASE, True, _ALL, after_phrase),
    _AnswerRule(Rule.BARE, True, _NUMBER, bare_number),
    _AnswerRule(Rule.BARE, True, _MATH, bare_formula),
)
_FALLBACKS = (
    _AnswerRule(Rule.BOLD, False, _NUMBER, bold_number),
    _AnswerRule(Rule.BOLD, False, _ALL - _NUMBER, bold_words),
    _AnswerRule(Rule.LAST_MATH, False, _MATH, last_math),
    _AnswerRule(Rule.LAST_NUMBER, False, _NUMBER, last_number_stated),
    _AnswerRule(Rule.LAST_NUMBER, False, _MATH, last_number_of_math),
    _AnswerRule(Rule.LAST_LINE, False, frozenset({AnswerKind.TEXT, AnswerKind.LITERAL}), last_line),
)
ANSWER_RULES = (*_STATED_RULES, *_FALLBACKS)
# Where the reply says which part of it is the answer, that part is all that counts.
_WRAPPED_RULES = (
    *_STATED_RULES,
    _AnswerRule(Rule.TAGGED, True, _ALL, str.strip),
    *_FALLBACKS,
)


def read_answer(text: str, kind: AnswerKind) -> AnswerReading:
    """Return the final answer of a reply.

    A rule applies if it finds an answer of the right kind; a number is read from what a strict
    rule found even if words surround it, which makes the reading lenient. ``12/4`` or ``16 - 3``
    is a problem left undone, not a number. What a strict rule finds to be several numbers, a
    problem left undone or a refusal such as ``#### None`` ends the search: nothing more lenient
    can be what the reply means. A corrected answer reads as the last one.

    Args:
        text: The reply. Only its `relevant_text` is looked at.
        kind: What the answer has to be.

    Returns:
        The answer in canonical form (see `canonical_answer`), the rule that found it, and OK for
        a strict reading, LENIENT for another. Without an answer EMPTY, NO_ANSWER, SEVERAL where
        several different numbers are offered, or UNREADABLE where all that was found is not of
        the kind asked for. Whether a mathematical answer is several ones depends on the known
        answer, so that is decided in grading.
    """
    if not text.strip():
        return AnswerReading(None, None, ReplyStatus.EMPTY)
    if kind is AnswerKind.CODE:
        answer, other = code_answer(said(text))
        if answer is None:
            return AnswerReading(None, None, ReplyStatus.NO_ANSWER)
        return AnswerReading(answer, Rule.CODE, ReplyStatus.OK, written=other)
    window = relevant_text(text)
    if kind is AnswerKind.LITERAL:
        window = _FENCES.sub("", window)
    wrapped = marked_part(window)
    window = window if wrapped is None else wrapped
    found = False
    for rule in ANSWER_RULES if wrapped is None else _WRAPPED_RULES:
        if kind not in rule.kinds:
            continue
        candidate = rule.find(window)
        if candidate and not candidate.isascii() and (kind in _NUMBER or kind in _MATH):
            candidate = without_approval(candidate)
        if not candidate:
            continue
        found = True
        exact = True
        if kind is AnswerKind.NUMBER:
            short = canonical_number(candidate) or canonical_number(trimmed(candidate))
            if candidate[-1] in "abeinqruxyz!$)}. ":
                factorial = rule.name is Rule.BOXED and candidate.rstrip(" .")[-1:] == "!"
                if factorial or is_formula(candidate):
                    return AnswerReading(None, None, ReplyStatus.UNREADABLE)
            if short is not None and not is_undone_division(candidate):
                status = ReplyStatus.OK if rule.strict else ReplyStatus.LENIENT
                return AnswerReading(short, rule.name, status, scale_of(candidate))
            stated = read_stated(candidate)
            if stated.several:
                return AnswerReading(None, None, ReplyStatus.SEVERAL)
            if stated.undone and rule.strict:
                return AnswerReading(None, None, ReplyStatus.UNREADABLE)
            if rule.strict and _is_refusal(candidate):
                return AnswerReading(None, None, ReplyStatus.NO_ANSWER)
            if stated.number is None or is_undone_division(stated.number):
                continue
            candidate, exact = stated.number, stated.exact
        elif kind is AnswerKind.MATH and rule.name in (Rule.HASHES, Rule.PHRASE, Rule.TAGGED):
            candidate = _formula(candidate)
        answer = canonical_answer(candidate, kind)
        if answer is not None:
            status = ReplyStatus.OK if rule.strict and exact else ReplyStatus.LENIENT
            scale = scale_of(candidate) if kind is AnswerKind.NUMBER else 1
            bare = candidate.strip(" .")
            kept = kind is AnswerKind.MATH and _KEPT.fullmatch(bare) is not None
            return AnswerReading(answer, rule.name, status, scale, bare if kept else None)
    return AnswerReading(None, None, ReplyStatus.UNREADABLE if found else ReplyStatus.NO_ANSWER)


def canonical_answer(text: str, kind: AnswerKind) -> str | None:
    """Return the one way to write an answer, or None if it is not of its kind.

    Numbers are exact (`numerals.canonical`). Texts are brought to NFKC and lower case, with runs
    of white space as one space and no final period. Plain values are written as Python writes
    them; words without quotes are a text. Functions are without comments, calls are ``f(...)``.
    Mathematical expressions that are plain numbers are written as such; others are only stripped.
    """
    if kind is AnswerKind.CODE:
        return text if read_check(text) is not None else code_answer(text)[0]
    if kind is AnswerKind.LITERAL:
        return _literal(text)
    if kind is AnswerKind.TEXT:
        folded = unicodedata.normalize("NFKC", text[:ANSWER_LIMIT]).casefold()
        for _ in range(4):  # each may be around the other: **\text{paris}.**
            before = folded
            folded = _EMPHASIS.sub(r"\2", folded)
            wrapped = _WORDED.fullmatch(folded)
            folded = " ".join((wrapped[1] or wrapped[2] if wrapped else folded).split())
            folded = folded.strip("*_`\"'\u201c\u201d\u2018\u2019 ").rstrip(". ")
            if folded == before:
                break
        return folded or None
    number = canonical_number(text, units=kind is AnswerKind.NUMBER)
    if number is not None or kind is AnswerKind.NUMBER:
        return number
    twice = said_twice(plain_text(text)) if "(" in text else None
    if twice is not None and twice[1]:
        return canonical_number(twice[0])
    for _ in range(4):
        before = text
        text = trimmed(text.strip().strip("$*"))
        if text == before:
            break
    return text or None


def _literal(text: str) -> str | None:
    """Return the plain value that a text writes, or its words as a text."""
    for _ in range(4):
        text = text.strip().strip("`$").strip()
        try:
            return written(read_literal(text))
        except ValueError:
            shorter = text.rstrip(".;").removeprefix("**").removesuffix("**").strip()
            if shorter == text:
                break
            text = shorter
    plain = text and len(text) <= LIMIT and "\n" not in text and text.isprintable()
    return repr(text) if plain else None


def _is_refusal(text: str) -> bool:
    return text.strip(" .*_`\"'$").casefold() in _NO_ANSWER


def _formula(text: str) -> str:
    r"""Return the formula of a sentence such as ``the value of $x$ is $5$``; the text if none.

    Formulas that begin the sentence and are joined by commas or "and" are one list; otherwise
    one that begins it counts, and failing that the last.
    """
    found = list(_INLINE.finditer(text))
    if not found:
        return text
    formulas = [match[1] or match[2] for match in found]
    last = found[0] if not text[: found[0].start()].strip(" *_:") else found[-1]
    if NAME.fullmatch(last[1] or last[2]):
        behind = text[last.end() :]
        stated = stated_of_name(text[: last.start()], behind)
        if stated is not None:
            return stated
    before = text[: found[0].start()].strip(" *_:")
    if _CHOICE_LETTER.fullmatch(before):
        return f"{before} {formulas[0]}"  # "(C) $12$": the grader knows which of the two is asked
    if before:
        return formulas[-1]
    joined = [formulas[0]]
    for left, right in pairwise(found):
        if not re.fullmatch(r"\s*(?:,|;|and|or|, and|, or)\s*", text[left.end() : right.start()]):
            break
        joined.append(right[1] or right[2])
    return ", ".join(joined)
