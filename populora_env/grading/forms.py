r"""Mathematical answers that are settled by their form, without algebra.

`settle` compares what algebra misreads or need not see: words and names (``\text{even}``, where
math-verify multiplies letters, so that ``cat`` equals ``act``), letters of a choice, times of day,
numbers with a base or a unit, percentages (``50\%`` equals ``50``, never ``0.5``), lists of plain
numbers, and pairs whose brackets differ. Conventions are those of the common graders of MATH: a
unit or a base may be left out, and an answer may name its variable (``x = 5``); a bare list has no
order, a tuple has one; ``(1,2)`` is not ``[1,2)`` and not ``\{1,2\}``. Everything else goes to the
worker process.
"""

import re
from fractions import Fraction

from populora_env.grading.units import split_unit, units_agree, without_unit
from populora_env.numerals import parse_number, same_number

_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_WORDS = re.compile(r"(?=.*[A-Za-z])[A-Za-z][A-Za-z ,.'\u2019-]*")
_LABEL = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ,.'\u2019-]*")
_FUNCTIONS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "max", "min", "gcd", "lcm",
     "mod", "det", "abs"]
)  # fmt: skip
_CHOICE = re.compile(r"\(?([A-Z])\)?", re.IGNORECASE)
_CHOSEN = re.compile(
    r"(?:(?:option|choice|answer)\s?:?\s?)?(?:\(([A-Z])\)(?![ ]?[-+*/^]).*"
    r"|([A-Z])\s?[).:](?:\s.*)?|([A-Z]))",
    re.IGNORECASE | re.DOTALL,
)
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})\s?([ap]\.?\s?m\.?)?", re.IGNORECASE)
_BASED = re.compile(r"([0-9A-Fa-f]+)_ ?\{?(?:\\text ?\{)?([0-9]{1,2}|[a-z]{3,12})\}{0,2}")
_SHORT_WORDS = frozenset({"yes", "no", "odd", "all", "one", "two", "six", "ten"})
_NAMED = re.compile(
    r"(?P<name>\\text\{[^{}]*\}|\\?[A-Za-z]+'?(?:_\{?\w+\}?)?(?:\(\w\))?)\s?=(?P<value>[^=<>]*)"
)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_OR = re.compile(r"\\text\s?\{\s?,?\s?(?:or|and)\s?\}|(?<![\\A-Za-z])(?:or|and)(?![A-Za-z])")


_OPEN_ENDED = re.compile(
    r"\\text\s?\{[^{}]*\b(?:or|and)?\s?(?:more|less|fewer|greater|higher|lower|above|below|maybe|"
    r"not|wrong|incorrect)\b[^{}]*\}"
)


def settle(gold: str, answer: str) -> bool | None:
    """Return whether two answers agree, or None if that takes algebra.

    Args:
        gold: The known answer, as `notation.to_latex` writes it.
        answer: The answer to check, likewise.
    """
    if _squeezed(gold) == _squeezed(answer):
        return True
    if _OPEN_ENDED.search(answer) and not _OPEN_ENDED.search(gold):
        return False
    names = [match["name"] for match in map(_NAMED.fullmatch, (gold, answer)) if match]
    if len(names) == 2 and names[0] != names[1] and all(len(name) == 1 for name in names):
        return False
    scale = units_agree(split_unit(gold)[1], split_unit(answer)[1])
    if scale is None:
        return False  # 12 cm are no 12 hours
    expected, given = _number(gold), _number(answer)
    if expected is not None and given is not None:
        return same_number(expected, given * scale)
    if scale != 1:
        return False
    for compare in (_clocks, _choices, _names, _bases):
        settled = compare(gold, answer)
        if settled is not None:
            return settled
    return _lists(gold, answer)


def elements(expression: str) -> list[str]:
    r"""Return the members of a bare list such as ``1, 2`` or ``1 \text{ or } 2``.

    A comma inside brackets or between the thousands of a number separates nothing, and one number
    in several notations is one member.
    """
    if parse_number(expression, units=False) is not None:
        return [expression]
    parts = [part for part in _split(_OR.sub(",", expression)) if part]
    values = {_number(part) for part in parts}
    return parts[:1] if len(values) == 1 and None not in values else parts


def without_estimate(expression: str) -> str:
    r"""Return ``2\sqrt{3}`` of ``2\sqrt{3} \approx 3.46``; ``x \approx 3.46`` stays."""
    exact, sign, _ = expression.partition("\\approx")
    exact = exact.strip()
    return exact if sign and any(char.isdigit() or char == "\\" for char in exact) else expression


def _squeezed(expression: str) -> str:
    return re.sub(r"\s+|\\text\s?\{\s*\}|\.$", "", expression)


def _number(expression: str) -> Fraction | None:
    value = parse_number(expression, units=False)
    if value is None:
        named = _NAMED.fullmatch(expression)
        value = parse_number(without_unit(named["value"] if named else expression), units=False)
    return value


def _plain_words(expression: str, pattern: re.Pattern[str] = _WORDS) -> str | None:
    """Return the words of an expression that is nothing but words, folded; None otherwise."""
    bare = _TEXT.sub(r" \1 ", expression).strip(" .")
    if not pattern.fullmatch(bare):
        return None
    folded = " ".join(bare.casefold().split())
    return None if folded in _FUNCTIONS else folded.removeprefix("the ")


def _names(gold: str, answer: str) -> bool | None:
    pattern = _LABEL if _TEXT.fullmatch(gold.strip()) else _WORDS
    words = _plain_words(gold, pattern)
    if words is None:
        return None
    longest = max(map(len, re.findall("[a-z]+", words)))
    if "\\text" not in gold and longest < 4 and words not in _SHORT_WORDS:
        return None  # a few letters are a product of variables
    given = _plain_words(answer, pattern)
    if given is None:
        # "Evelyn (the second)" or a sentence is no name; a list of names may be in another order.
        return False if "," not in words else None
    if "," in words:
        return sorted(map(str.strip, words.split(","))) == sorted(map(str.strip, given.split(",")))
    return words == given


def _choices(gold: str, answer: str) -> bool | None:
    right = _CHOICE.fullmatch(_TEXT.sub(r"\1", gold).strip())
    if right is None:
        return None
    wrapped = "\\text" in gold or "(" in gold
    if not wrapped and not right[1].isupper():
        return None  # a variable
    chosen = _CHOSEN.fullmatch(_TEXT.sub(r"\1", answer).strip())
    offered = {letter.upper() for letter in re.findall(r"\(([A-Za-z])\)", answer)}
    offered |= {letter for letter in re.findall(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])", answer)}
    if wrapped and len(offered) > 1:
        return False  # "(A) or (B)" chooses nothing
    if chosen is None:
        return False if wrapped else None
    letter = chosen[1] or chosen[2] or chosen[3]
    return letter.upper() == right[1].upper() if wrapped else letter == right[1]


def _clocks(gold: str, answer: str) -> bool | None:
    right = _CLOCK.fullmatch(_TEXT.sub(r"\1", gold).strip())
    if right is None or (right[3] is None and not _is_clock(right)):
        return None
    given = _CLOCK.fullmatch(_TEXT.sub(r"\1", answer).strip())
    if given is None:
        return None if right[3] is None else False
    same = (int(right[1]), right[2]) == (int(given[1]), given[2])
    halves = {match[3][0].lower() for match in (right, given) if match[3]}
    return same and len(halves) < 2


def _is_clock(match: re.Match[str]) -> bool:
    """Return whether it cannot be a ratio such as 3:20: its minutes begin with zero."""
    return match[2][0] == "0"


def _bases(gold: str, answer: str) -> bool | None:
    right = _BASED.fullmatch(gold.strip())
    given = _BASED.fullmatch(answer.strip())
    if right is None and given is None:
        return None
    digits = (right[1] if right else gold).replace(" ", "").casefold()
    shown = (given[1] if given else answer).replace(" ", "").casefold()
    if right is None and not digits.isalnum():
        return None
    if right is not None and given is not None and right[2] != given[2]:
        return False if right[2].isdigit() and given[2].isdigit() else digits == shown
    return digits == shown


def _lists(gold: str, answer: str) -> bool | None:
    """Compare lists of plain numbers, and the brackets of any; see the module."""
    opened, closed, inside = _bracketed(gold)
    began, ended, content = _bracketed(answer)
    expected, given = _split(inside), _split(content)
    if len(expected) < 2 and not opened:
        return None
    if len(expected) > 1 and len(given) > 1 and opened and began:
        if (opened, closed) != (began, ended):
            return False
        if len(expected) != len(given) and opened != "{":
            return False
    if opened == "[" or closed == "]" or began == "[" or ended == "]":
        return None
    left, right = [_number(part) for part in expected], [_number(part) for part in given]
    numbers = [value for value in left if value is not None]
    shown = [value for value in right if value is not None]
    if len(numbers) < len(left) or len(shown) < len(right) or len(left) < 2:
        return None
    if opened == "(":
        return numbers == shown
    if "{" in (opened, began):
        return set(numbers) == set(shown)
    return sorted(numbers) == sorted(shown)


def _bracketed(expression: str) -> tuple[str, str, str]:
    """Return the brackets around the whole expression, or empty ones, and what is inside."""
    bare = expression.replace("\\{", "{").replace("\\}", "}").strip(" .")
    named = _NAMED.fullmatch(bare)
    bare = named["value"].strip() if named else bare
    if len(bare) < 2 or bare[0] not in _PAIRS or bare[-1] not in ")]}":
        return "", "", _OR.sub(",", bare)
    depth = 0
    for position, char in enumerate(bare):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and position < len(bare) - 1:
            return "", "", _OR.sub(",", bare)
    return bare[0], bare[-1], bare[1:-1]


def _split(inside: str) -> list[str]:
    """Return the parts between commas outside brackets, stripped."""
    parts, depth, begin = list[str](), 0, 0
    for position, char in enumerate(inside):
        depth += (char in "([{") - (char in ")]}")
        if char in ",;" and depth == 0:
            parts.append(inside[begin:position].strip())
            begin = position + 1
    return [*parts, inside[begin:].strip()]
