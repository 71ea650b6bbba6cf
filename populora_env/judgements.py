"""Reading judgements: a preference between two attempts, a score, the verdict of a critique.

One table of named rules for each, from strict to lenient; the first that applies wins, and its
name and the resulting `ReplyStatus` say how the reply was read. Every rule takes time linear in
the text. A reply that states several different judgements, or one out of range, cannot be read.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from populora_env.numerals import parse_number, plain_text
from populora_env.records import Preference, ReplyStatus
from populora_env.replies import ANSWER_LIMIT, first_line
from populora_env.said import said

TOP_SCORE = 10
_BARE_LIMIT = 50  # longest reply that can be nothing but a judgement
_MARKS = " \t\n.,:;!?*_`\"'()[]{}<>"

Value = TypeVar("Value")


class JudgementRule(StrEnum):
    """Names of the reading rules."""

    EXACT = "exact"  # the reply is nothing but the judgement
    BEGINS = "begins"  # it begins with the judgement, and a mark or a new line follows
    STATED = "stated"  # what follows the last "Verdict:", for scores also "Score:"
    OUT_OF_TEN = "out_of_ten"  # the last "7/10" or "7 out of 10"
    ONLY_MENTION = "only_mention"  # only one judgement is mentioned


@dataclass(frozen=True, slots=True)
class JudgementReading(Generic[Value]):
    """What a reply states; ``value`` and ``rule`` None if it cannot be read."""

    value: Value | None
    rule: JudgementRule | None
    status: ReplyStatus


_Rule = tuple[JudgementRule, bool, Callable[[str], Value | None]]  # name, strict, reader


def read_preference(text: str) -> JudgementReading[Preference]:
    """Return which of two attempts a reply prefers.

    A lower-case ``a`` inside a sentence is an article, not an attempt. A reply that mentions more
    than one of A, B and tie, such as ``A and B``, cannot be read.

    Args:
        text: The reply. Only what it says outside thoughts (`said.said`) is looked at.
    """
    return _read(text, PREFERENCE_RULES)


def read_score(text: str) -> JudgementReading[float]:
    """Return the score that a reply gives.

    Returns:
        A value in [0, 1], a tenth of the score; a number below 0 or above `TOP_SCORE` is not a
        score.

    Args:
        text: The reply. Only what it says outside thoughts (`said.said`) is looked at.
    """
    return _read(text, SCORE_RULES)


def read_verdict(text: str) -> JudgementReading[bool]:
    """Return whether a critique finds an attempt correct.

    ``not correct`` is ``incorrect``; a critique that ends in no verdict and mentions both cannot
    be read.

    Args:
        text: The reply. Only what it says outside thoughts (`said.said`) is looked at.
    """
    return _read(text, VERDICT_RULES)


def _read(text: str, rules: Sequence[_Rule[Value]]) -> JudgementReading[Value]:
    if not text.strip():
        return JudgementReading(None, None, ReplyStatus.EMPTY)
    window = said(text)
    for name, strict, rule in rules:
        value = rule(window)
        if value is not None:
            status = ReplyStatus.OK if strict else ReplyStatus.LENIENT
            return JudgementReading(value, name, status)
    return JudgementReading(None, None, ReplyStatus.UNREADABLE)


def _bare(text: str) -> str:
    """Return a short text folded and without marks around it; empty if it is long."""
    if len(text.strip()) > _BARE_LIMIT:
        return ""
    return unicodedata.normalize("NFKC", text.strip()).casefold().strip(_MARKS)


def _after(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the line that follows the last match."""
    end = None
    for match in pattern.finditer(text):
        end = match.end()
    return None if end is None else first_line(text[end : end + ANSWER_LIMIT])


# Preferences

_VERDICT = re.compile(r"\bverdict\*{0,3}\s{0,2}(?:is\b|:|=)\*{0,3}\s{0,3}", re.IGNORECASE)
# "A" before another word in lower case is an article, unless that word says something of attempt A.
_SAID = (
    "is|was|has|wins|won|looks|seems|because|since|over|and|or|but|as|than|gives|gets|does|makes|"
    "shows|explains"
)
_MENTION = re.compile(
    rf"(?<!\w)(?:[Aa]\s{{1,2}}(?=tie\b))?"
    rf"((?:(?<=[Aa]ttempt )A|A(?!\s+(?!(?:{_SAID})\b)[a-z])|B)|[Tt]ie|TIE)(?!\w)"
)
_BLAME = re.compile(r"\b(?:not|wrong|incorrect|worse|worst|bad|errors?|mistakes?)\b|n['\u2019]t\b")
_PREFERENCES = {
    "a": Preference.A,
    "b": Preference.B,
    "tie": Preference.TIE,
    "a tie": Preference.TIE,
    "attempt a": Preference.A,
    "attempt b": Preference.B,
}


def _exact_preference(text: str) -> Preference | None:
    return _PREFERENCES.get(_bare(text))


def _only_preference(text: str) -> Preference | None:
    if _BLAME.search(text):  # the one that is mentioned may be the one that is blamed
        return None
    mentioned = {match[1].casefold() for match in _MENTION.finditer(text)}
    return _PREFERENCES[mentioned.pop()] if len(mentioned) == 1 else None


_BEGINS = re.compile(
    r"[\s*_`(\[{\"']{0,9}(?:Attempt )?(A|B|[Tt]ie|TIE)[*_`)\]}\"']{0,9} ?(?:[:.;\n]|because\b)"
)


def _first_preference(text: str) -> Preference | None:
    match = _BEGINS.match(text)
    return None if match is None else _PREFERENCES[match[1].casefold()]


def _stated_preference(text: str) -> Preference | None:
    line = _after(_VERDICT, text)
    return None if line is None else _exact_preference(line) or _only_preference(line)


# Scores

_SCORE = re.compile(
    r"\b(?:score|rating|verdict|grade)\*{0,3}\s{0,2}(?:is\b|:|=)\*{0,3}\s{0,3}", re.IGNORECASE
)
# A number's digits must not run into others: of "15/10", "5/10" is no score.
_OUT_OF_TEN = re.compile(r"(?<![\w.,/+-])(\d{1,3}(?:\.\d{1,9})?) ?(?:/|out of) ?10(?![\d.,/%]*\d)")
_SCORING = re.compile(r"\b(?:scor|rat(?:e|ing)|grad|mark|point|giv|deserv)", re.IGNORECASE)
_NUMBERS = re.compile(r"[-+]?\d[\d.,eE+-]{0,60}")


def _in_range(number: str) -> float | None:
    value = parse_number(number, units=False)
    return None if value is None or not 0 <= value <= TOP_SCORE else float(value / TOP_SCORE)


def _exact_score(text: str) -> float | None:
    if len(text.strip()) > _BARE_LIMIT:
        return None
    bare = plain_text(text).strip("*_`\"'()[]{}<> ").rstrip(".!")
    out_of = _OUT_OF_TEN.fullmatch(bare)
    return _in_range(out_of[1] if out_of else bare) if "/" not in bare or out_of else None


_BEGINS_SCORE = re.compile(
    r"[\s*_`(\[{\"']{0,9}(\d{1,3}(?:\.\d{1,9})?)(?: ?/ ?10| out of 10)?[*_`)\]}\"']{0,9} ?"
    r"(?:[:;\n]|\.(?!\d)|(?:, )?because\b)"
)


def _first_score(text: str) -> float | None:
    match = _BEGINS_SCORE.match(text)
    return None if match is None else _in_range(match[1])


def _out_of_ten(text: str) -> float | None:
    found = None
    for match in _OUT_OF_TEN.finditer(text):
        found = match[1]
    return None if found is None else _in_range(found)


def _only_score(text: str) -> float | None:
    if _SCORING.search(text) is None:  # the one number may be an answer to the problem
        return None
    numbers = {match[0].rstrip(".,eE+-") for match in _NUMBERS.finditer(text)}
    return _in_range(numbers.pop()) if len(numbers) == 1 and "/" not in text else None


def _stated_score(text: str) -> float | None:
    line = _after(_SCORE, text)
    if line is None:
        return None
    exact = _exact_score(line)
    return exact if exact is not None else _out_of_ten(line)


# Verdicts of critiques

_WORDS = {"correct": True, "right": True, "incorrect": False, "wrong": False}
# Only as what is said *of* something: "the correct answer is 7" is no verdict.
_FINDING = re.compile(
    r"\b(?:is|are|was|were|looks|seems|it['\u2019]s|that['\u2019]s)(n['\u2019]t)?\s+(not\s+)?"
    r"(?:(?!(?:the|an?|your)\b)\w+\s+)?(correct|incorrect|right|wrong)\b",
    re.IGNORECASE,
)
_FOUND = re.compile(r"(not\s+)?(correct|incorrect|right|wrong)\b(?!\s+(?:or|and)\b)", re.IGNORECASE)


def _exact_verdict(text: str) -> bool | None:
    bare = _bare(text)
    return (not _WORDS[bare[4:]]) if bare[:4] == "not " and bare[4:] in _WORDS else _WORDS.get(bare)


def _only_verdict(text: str) -> bool | None:
    found = {
        _WORDS[match[3].casefold()] is not bool(match[1] or match[2])
        for match in _FINDING.finditer(text)
    }
    return found.pop() if len(found) == 1 else None


def _stated_verdict(text: str) -> bool | None:
    line = _after(_VERDICT, text)
    if line is None:
        return None
    begins = _FOUND.match(line.lstrip("*_`\"' "))
    if begins is not None:
        return _WORDS[begins[2].casefold()] is not bool(begins[1])
    return _only_verdict(line)


PREFERENCE_RULES: Sequence[_Rule[Preference]] = (
    (JudgementRule.EXACT, True, _exact_preference),
    (JudgementRule.STATED, True, _stated_preference),
    (JudgementRule.BEGINS, True, _first_preference),
    (JudgementRule.ONLY_MENTION, False, _only_preference),
)
SCORE_RULES: Sequence[_Rule[float]] = (
    (JudgementRule.EXACT, True, _exact_score),
    (JudgementRule.STATED, True, _stated_score),
    (JudgementRule.BEGINS, True, _first_score),
    (JudgementRule.OUT_OF_TEN, False, _out_of_ten),
    (JudgementRule.ONLY_MENTION, False, _only_score),
)
VERDICT_RULES: Sequence[_Rule[bool]] = (
    (JudgementRule.EXACT, True, _exact_verdict),
    (JudgementRule.STATED, True, _stated_verdict),
    (JudgementRule.ONLY_MENTION, False, _only_verdict),
)
