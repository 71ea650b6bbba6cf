"""Reading judgements: a preference between two attempts, a score, the verdict of a critique.

One table of named rules for each, from strict to lenient; the first that applies wins, and its
name and the resulting `ReplyStatus` say how the reply was read. Every rule takes time linear in
the text. Only what a reply says outside thoughts (`said.said`) is looked at. One that states
several different judgements, or one out of range, cannot be read.
The rules for scores and verdicts are here, those for preferences in `preferences`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from populora_env.reading.numerals import parse_number, plain_text
from populora_env.reading.preferences import (
    CLAUSE,
    VERDICT,
    exact_preference,
    first_preference,
    last_preference,
    only_preference,
    stated_preference,
)
from populora_env.reading.said import (
    JUDGEMENT_LIMIT,
    boxes,
    fielded,
    last_match,
    line_after,
    said,
    tagged,
    unmarked,
    without_markup,
)
from populora_env.records import Preference, ReplyStatus

TOP_SCORE = 10

Value = TypeVar("Value")


class JudgementRule(StrEnum):
    """Names of the reading rules."""

    EXACT = "exact"  # the reply is nothing but the judgement
    BEGINS = "begins"  # it begins with the judgement, and a mark or a new line follows
    STATED = "stated"  # what follows the last "Verdict:", for scores also "Score:"
    ENDS = "ends"  # its last line is nothing but the judgement
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
    """
    return _read(text, PREFERENCE_RULES)


def read_score(text: str) -> JudgementReading[float]:
    """Return the score that a reply gives.

    Returns:
        A value in [0, 1], a tenth of the score; a number below 0 or above `TOP_SCORE` is not a
        score.
    """
    return _read(text, SCORE_RULES)


def read_verdict(text: str) -> JudgementReading[bool]:
    """Return whether a critique finds an attempt correct.

    ``not correct`` is ``incorrect``; a critique that ends in no verdict and mentions both cannot
    be read.
    """
    return _read(text, VERDICT_RULES)


def _read(text: str, rules: Sequence[_Rule[Value]]) -> JudgementReading[Value]:
    if not text.strip():
        return JudgementReading(None, None, ReplyStatus.EMPTY)
    window = said(text)
    part = _wrapped(window)
    plain = without_markup(window)
    if part is not None:
        value = rules[0][2](without_markup(part))
        value = rules[1][2]("Verdict: " + without_markup(part)) if value is None else value
        if value is not None:
            return JudgementReading(value, JudgementRule.STATED, ReplyStatus.OK)
    for name, strict, rule in rules:
        value = rule(plain)
        if value is not None:
            status = ReplyStatus.OK if strict else ReplyStatus.LENIENT
            return JudgementReading(value, name, status)
    return JudgementReading(None, None, ReplyStatus.UNREADABLE)


_TAGS = (
    "verdict", "score", "rating", "grade", "judge?ment", "preference", "winner", "choice", "answer",
    "decision", "final_verdict", "result",
)  # fmt: skip
_KEYS = (*_TAGS, "preferred", "better", "best", "better_attempt", "correct", "is_correct")


_UPRIGHT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]{0,200})\}")


def _wrapped(text: str) -> str | None:
    """Return what the reply marks as its judgement by a box, double brackets, a tag or JSON."""
    text = _UPRIGHT.sub(r"\1", text)
    boxed = boxes(text)
    if boxed and VERDICT.search(text, boxed[-1][0]) is None:
        return f"[[{boxed[-1][1]}]]"
    return tagged(text, _TAGS) or fielded(text, _KEYS)


# Scores

_SCORE = re.compile(
    r"\b(?:score|rating|verdict|grade)\*{0,3}(?:\s?\([^()\n]{0,40}\))?\*{0,3}"
    r"\s{0,2}(?:is\b|:|=)\*{0,3}\s{0,3}",
    re.IGNORECASE,
)
# A number's digits must not run into others: of "15/10", "5/10" is no score.
_OUT_OF_TEN = re.compile(
    r"(?<![\w.,/+-])(\d{1,3}(?:\.\d{1,9})?) ?(?:/|out of) ?(10{1,2})(?![\d.,/%]*\d)"
)
_SCORING = re.compile(r"\b(?:scor|rat(?:e|ing)|grad|mark|point|giv|deserv)", re.IGNORECASE)
_NUMBERS = re.compile(r"[-+]?\d[\d.,eE+-]{0,60}")


def _in_range(number: str, top: int = TOP_SCORE) -> float | None:
    value = parse_number(number, units=False)
    return None if value is None or not 0 <= value <= top else float(value / top)


def _exact_score(text: str) -> float | None:
    if len(text.strip()) > JUDGEMENT_LIMIT:
        return None
    bare = plain_text(text).strip("*_`\"'()[]{}<> ").rstrip(".!")
    out_of = _OUT_OF_TEN.fullmatch(bare)
    if out_of is not None:
        return _in_range(out_of[1], int(out_of[2]))
    return None if "/" in bare else _in_range(bare)


_BEGINS_SCORE = re.compile(
    r"[\s*_`(\[{\"']{0,9}(\d{1,3}(?:\.\d{1,9})?)(?: ?/ ?10| out of 10)?[*_`)\]}\"']{0,9} ?"
    r"(?:[:;\n]|\.(?!\d)|\((?!\d)|(?:, ?)?(?:because|since|as)\b|(?:-|\u2014|\u2013) (?!\d))"
)


def _first_score(text: str) -> float | None:
    match = _BEGINS_SCORE.match(text)
    return None if match is None else _in_range(match[1])


def _out_of_ten(text: str) -> float | None:
    found = last_match(_OUT_OF_TEN, text)
    return None if found is None else _in_range(found[1], int(found[2]))


def _only_score(text: str) -> float | None:
    if _SCORING.search(text) is None:  # the one number may be an answer to the problem
        return None
    numbers = {match[0].rstrip(".,eE+-") for match in _NUMBERS.finditer(text)}
    return _in_range(numbers.pop()) if len(numbers) == 1 and "/" not in text else None


def _stated_score(text: str) -> float | None:
    line = line_after(_SCORE, text)
    if line is None:
        return None
    exact = _exact_score(line)
    exact = _first_score(line) if exact is None and "/" not in line else exact
    return exact if exact is not None else _out_of_ten(line)


# Verdicts of critiques

_WORDS = {"correct": True, "right": True, "incorrect": False, "wrong": False,
          "true": True, "false": False}  # fmt: skip
# Only as what is said *of* something: "the correct answer is 7" is no verdict.
_FINDING = re.compile(
    r"\b(?:is|are|was|were|looks|seems|it's|that's)(n't)?\s+(not\s+)?"
    r"(?:(?:entirely|completely|fully|quite|indeed|all|absolutely|definitely|clearly|perfectly|"
    r"also|simply|just|actually)\s+)?(correct|incorrect|right|wrong)\b",
    re.IGNORECASE,
)
_FOUND = re.compile(
    r"(not\s+)?(correct|incorrect|right|wrong)\b(?=\s*$|\s*[.,;:!\u2013\u2014(\"']|\s+(?:because|since|as)\b)",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:nothing|not|never|none|neither|no(?! (?:it|this|that|the)\b))\b|n't\b", re.IGNORECASE
)
_DOUBTED = re.compile(r"\b(?:if|whether|unless|sure|unsure|unclear|cannot|tell)\b", re.IGNORECASE)
_A_PART = re.compile(
    r"\b(?:the|first|second|third|this) (?:\w+ )?(?:step|part|line|setup|approach|method|formula)\b"
    r"|\bstep \d",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?\n]")
_RESTRICTS = re.compile(
    r"\b(?:except|apart from|aside from|other than|but|however|although|though|"
    r"only (?:if|when|for))\b",
    re.IGNORECASE,
)
_FLAWS = re.compile(
    r"\b(?:wrong|incorrect|error|mistake|but|however)\b",
    re.IGNORECASE,
)
# The prompt's own last line, and whatever else names both.
_CHOICE = re.compile(
    r"\bverdict(?: is\b|:)[\s\"'\[(]{0,4}(?:in)?correct[\"']{0,2}\s{0,2}(?:/|\||,|or\b)\s{0,2}"
    r"[\"']?(?:verdict: ?)?(?:in)?correct\b[\"'\])]{0,3}",
    re.IGNORECASE,
)


def _exact_verdict(text: str) -> bool | None:
    bare = "" if text.rstrip()[-1:] == "?" else unmarked(text)
    return (not _WORDS[bare[4:]]) if bare[:4] == "not " and bare[4:] in _WORDS else _WORDS.get(bare)


def _only_verdict(text: str) -> bool | None:
    if VERDICT.search(_CHOICE.sub(" ", text)):  # what is stated is read there, or not at all
        return None
    found: set[bool] = set()
    partly = False
    for match in _FINDING.finditer(text):
        clause = CLAUSE.split(text[max(0, match.start() - 200) : match.start()])[-1]
        denied = len(_DENIED.findall(clause)) + bool(match[1]) + bool(match[2])
        asked = text[match.end() : match.end() + 2].lstrip()[:1] == "?"
        if asked or denied > 1 or _DOUBTED.search(clause):
            return None
        value = _WORDS[match[3].casefold()] is not bool(denied)
        sentence = _SENTENCE.split(text[match.end() : match.end() + 200])[0]
        if value and _RESTRICTS.search(sentence):
            return None
        if value and not denied and _A_PART.search(clause):
            partly = True  # a part of it that is right says nothing about the whole
        else:
            found.add(value)
    return found.pop() if len(found) == 1 and not partly else None


def _stated_verdict(text: str) -> bool | None:
    line = line_after(VERDICT, _CHOICE.sub(" ", text))
    if line is None:
        return None
    begins = _FOUND.match(line.lstrip("\"' "))
    if begins is None:
        exact = _exact_verdict(line)
        return _only_verdict(line) if exact is None else exact
    value = _WORDS[begins[2].casefold()] is not bool(begins[1])
    # "correct, but the final answer is wrong" says both.
    rest = line[line.index(begins[0]) + len(begins[0]) :]
    if rest.lstrip()[:1] == "?":
        return None
    flawed = any(
        not _DENIED.search(CLAUSE.split(rest[: flaw.start()])[-1])
        for flaw in _FLAWS.finditer(rest[:400])
    )
    return None if value and flawed else value


def _last_verdict(text: str) -> bool | None:
    return _exact_verdict(text.strip().rpartition("\n")[2])


PREFERENCE_RULES: Sequence[_Rule[Preference]] = (
    (JudgementRule.EXACT, True, exact_preference),
    (JudgementRule.STATED, True, stated_preference),
    (JudgementRule.BEGINS, True, first_preference),
    (JudgementRule.ENDS, False, last_preference),
    (JudgementRule.ONLY_MENTION, False, only_preference),
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
    (JudgementRule.ENDS, False, _last_verdict),
    (JudgementRule.ONLY_MENTION, False, _only_verdict),
)
