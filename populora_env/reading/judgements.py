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

from populora_env.reading.answers import ANSWER_LIMIT, first_line
from populora_env.reading.numerals import parse_number, plain_text
from populora_env.reading.said import boxes, fielded, said, tagged, without_markup
from populora_env.records import Preference, ReplyStatus

TOP_SCORE = 10
_BARE_LIMIT = 50  # longest reply that can be nothing but a judgement
_MARKS = " \t\n.,:;!?*_`\"'()[]{}<>"

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
    if boxed and _VERDICT.search(text, boxed[-1][0]) is None:
        return f"[[{boxed[-1][1]}]]"
    return tagged(text, _TAGS) or fielded(text, _KEYS)


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

_VERDICT = re.compile(
    r"\b(?:verdict|winner|preference|judge?ment|decision)\*{0,3}(?:\s{0,2}(?:is\b|:|=)|\s[-\u2013\u2014]\s)\*{0,3}\s{0,3}",
    re.IGNORECASE,
)
_NAME = r"(?:(?:[Aa]ttempt|[Rr]esponse|[Aa]ssistant|[Ss]olution|[Oo]ption|[Aa]nswer) )?"
_ONE = rf"(?<!\w)(?:{_NAME}(A|B)|(?:[Aa]ttempt) (a|b))(?!\w)"
_VERY = r"(?:(?:clearly|much|slightly|far|definitely|overall|the|a bit|probably|still|also) ){0,3}"
_PREFERRED = re.compile(
    rf"{_ONE} (?:(?:is|was|looks|seems) {_VERY}(?:better(?: one| attempt)?|best|superior|stronger|"
    r"preferable|preferred|winner)(?! (?:at|in|written|explained|formatted))|wins|won|beats|"
    r"outperforms)\b"
)
_CHOSEN = re.compile(
    r"\b(?i:(?:prefer|choose|pick|select|favou?r|go with|vote for)|(?:better|best|preferred)"
    r"(?: one| attempt| response)? is|(?:winner|answer|choice|vote|preference|decision|pick)"
    rf"(?: is|:)|I(?:'d| would) say|I think it is) [\"'(\[]{{0,2}}{_ONE}(?! (?:or|and)\b|/)"
)
_RIGHT = re.compile(rf"{_ONE} (?:is|was) {_VERY}(?:right|correct)\b")
_TIES = re.compile(
    r"\b(?:tie|tied|draw|equally (?:good|bad|correct|wrong)|"
    r"[Bb]oth (?:attempts |responses )?are (?:equally )?(?:good|right|correct|fine|wrong|equal|"
    r"bad|incorrect)|[Nn]either (?:attempt |one )?is (?:better|good|right|correct))\b",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:not|never|no|nor|hardly|cannot|if|whether|unless|unsure)\b|n't\b", re.IGNORECASE
)
_BLAME = re.compile(
    r"\b(?:not|wrong|incorrect|worse|worst|bad|errors?|mistakes?|mis\w+|flaw\w*|less|avoid|fails?|"
    r"lacks?|but|however)\b|n't\b",
    re.IGNORECASE,
)
_TURNS = re.compile(r"\b(?:but|however|yet)\b", re.IGNORECASE)
_OR_BEFORE = re.compile(r"\bor\s{1,3}(?:an?\s)?$", re.IGNORECASE)
_OR_AFTER = re.compile(r"\s{1,3}or\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[.;!?\n,]|\b(?:but|because|since)\b")
_PREFERENCES = {
    "a": Preference.A,
    "b": Preference.B,
    "tie": Preference.TIE,
    "a tie": Preference.TIE,
    "draw": Preference.TIE,
    "a draw": Preference.TIE,
    "both": Preference.TIE,
    "equal": Preference.TIE,
    **{
        f"{name} {letter}": Preference[letter.upper()]
        for letter in "ab"
        for name in ("attempt", "response", "assistant", "solution", "option", "answer")
    },
    **{f"attempt_{letter}": Preference[letter.upper()] for letter in "ab"},
}
_MARKED = {"c": Preference.TIE, "a=b": Preference.TIE, "b=a": Preference.TIE}
_ORDER = re.compile(
    r"(?:attempt |response )?([ab]) ?(>{1,3}|<{1,3}|=) ?(?:attempt |response )?([ab])"
)


def _exact_preference(text: str) -> Preference | None:
    bare = _bare(text)
    order = _ORDER.fullmatch(bare)
    if order is not None and order[1] != order[3]:
        if order[2] == "=":
            return Preference.TIE
        return _PREFERENCES[order[1] if order[2][0] == ">" else order[3]]
    if text.strip()[:2] == "[[" and bare in _MARKED:
        return _MARKED[bare]
    return _PREFERENCES.get(bare)


def _only_preference(text: str) -> Preference | None:
    """Return what words of preference say; what is blamed or denied is not preferred."""
    found: set[Preference] = set()
    for pattern in (
        (_PREFERRED, _CHOSEN)
        if _BLAME.search(text)
        else (
            _PREFERRED,
            _CHOSEN,
            _RIGHT,
        )
    ):
        for match in pattern.finditer(text):
            before = _CLAUSE.split(text[max(0, match.start() - 200) : match.start()])[-1]
            if _UNSURE.search(before) or _TURNS.search(text, match.end(), match.end() + 400):
                return None
            found.add(_PREFERENCES[(match[1] or match[2]).casefold()])
    if not found:
        for match in _TIES.finditer(text):
            before = _CLAUSE.split(text[max(0, match.start() - 200) : match.start()])[-1]
            turned = _TURNS.search(text, match.end(), match.end() + 400)
            hedged = _OR_BEFORE.search(before) or _OR_AFTER.match(text, match.end())
            if _UNSURE.search(before) or turned or hedged:
                return None
            found.add(Preference.TIE)
    return found.pop() if len(found) == 1 else None


_BEGINS = re.compile(
    r"[\s_(\[{\"']{0,9}(?:(?:Attempt|Response) )?(A|B|[Tt]ie|TIE)[_)\]}\"']{0,9} ?"
    r"(?:([:])|[.;\n]|,? ?(?:because|since|as)\b|, (?:and )?not (?:[Aa]ttempt )?[AB]\b|"
    r"(?: - |\u2014|\u2013|\())"
)
_LABEL = re.compile(r"(?<!\w)[AB]\s?:")
_BLAMES = re.compile(r"[^.\n]{0,60}(?:\bwrong|incorrect|error|mistake|worse)", re.IGNORECASE)


def _first_preference(text: str) -> Preference | None:
    match = _BEGINS.match(text)
    if match is None:
        return None
    # "A: wrong. B: right." lists what each is.
    if match[2] and (_LABEL.search(text, match.end()) or _BLAMES.match(text[match.end() :][:200])):
        return None
    value = _PREFERENCES[match[1].casefold()]
    return None if _says_another(text[match.end() :], value) else value


def _says_another(text: str, value: Preference) -> bool:
    """Whether a line is nothing but another preference than one that was found."""
    others = (_exact_preference(line) for line in text[:ANSWER_LIMIT].splitlines())
    return any(other not in (None, value) for other in others)


_LEADS = re.compile(
    rf"{_NAME}(A|B|[Tt]ie|TIE)(?!\w)(?=\s*$|[.;:!]|,? (?:because|since|as|is (?:\w+ )?better)\b)"
)


def _stated_preference(text: str) -> Preference | None:
    line = _after(_VERDICT, text)
    if line is None:
        return None
    leads = _LEADS.match(line.lstrip("\"' "))
    exact = _exact_preference(line)
    if exact is not None:
        return exact
    return _only_preference(line) if leads is None else _PREFERENCES[leads[1].casefold()]


def _last_preference(text: str) -> Preference | None:
    """Return the preference that stands alone on the last line."""
    lines, _, last = text.strip().rpartition("\n")
    value = _exact_preference(last)
    return None if value is None or _says_another(lines, value) else value


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


def _in_range(number: str) -> float | None:
    value = parse_number(number, units=False)
    return None if value is None or not 0 <= value <= TOP_SCORE else float(value / TOP_SCORE)


def _exact_score(text: str) -> float | None:
    if len(text.strip()) > _BARE_LIMIT:
        return None
    bare = plain_text(text).strip("*_`\"'()[]{}<> ").rstrip(".!")
    out_of = _OUT_OF_TEN.fullmatch(bare)
    if out_of is not None:
        return _share(out_of)
    return None if "/" in bare else _in_range(bare)


def _share(match: re.Match[str]) -> float | None:
    value = _in_range(match[1]) if match[2] == "10" else None
    if match[2] == "100":
        of_hundred = parse_number(match[1], units=False)
        value = None if of_hundred is None or of_hundred > 100 else float(of_hundred / 100)
    return value


_BEGINS_SCORE = re.compile(
    r"[\s*_`(\[{\"']{0,9}(\d{1,3}(?:\.\d{1,9})?)(?: ?/ ?10| out of 10)?[*_`)\]}\"']{0,9} ?"
    r"(?:[:;\n]|\.(?!\d)|\((?!\d)|(?:, ?)?(?:because|since|as)\b|(?:-|\u2014|\u2013) (?!\d))"
)


def _first_score(text: str) -> float | None:
    match = _BEGINS_SCORE.match(text)
    return None if match is None else _in_range(match[1])


def _out_of_ten(text: str) -> float | None:
    found = None
    for match in _OUT_OF_TEN.finditer(text):
        found = match
    return None if found is None else _share(found)


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
    bare = _bare(text)
    return (not _WORDS[bare[4:]]) if bare[:4] == "not " and bare[4:] in _WORDS else _WORDS.get(bare)


def _only_verdict(text: str) -> bool | None:
    if _VERDICT.search(_CHOICE.sub(" ", text)):  # what is stated is read there, or not at all
        return None
    found: set[bool] = set()
    partly = False
    for match in _FINDING.finditer(text):
        clause = _CLAUSE.split(text[max(0, match.start() - 200) : match.start()])[-1]
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
    line = _after(_VERDICT, _CHOICE.sub(" ", text))
    if line is None:
        return None
    begins = _FOUND.match(line.lstrip("\"' "))
    if begins is None:
        exact = _exact_verdict(line)
        return _only_verdict(line) if exact is None else exact
    value = _WORDS[begins[2].casefold()] is not bool(begins[1])
    # "correct, but the final answer is wrong" says both.
    rest = line[line.index(begins[0]) + len(begins[0]) :]
    flawed = any(
        not _DENIED.search(_CLAUSE.split(rest[: flaw.start()])[-1])
        for flaw in _FLAWS.finditer(rest[:400])
    )
    return None if value and flawed else value


def _last_verdict(text: str) -> bool | None:
    return _exact_verdict(text.strip().rpartition("\n")[2])


PREFERENCE_RULES: Sequence[_Rule[Preference]] = (
    (JudgementRule.EXACT, True, _exact_preference),
    (JudgementRule.STATED, True, _stated_preference),
    (JudgementRule.BEGINS, True, _first_preference),
    (JudgementRule.ENDS, False, _last_preference),
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
    (JudgementRule.ENDS, False, _last_verdict),
    (JudgementRule.ONLY_MENTION, False, _only_verdict),
)
