r"""Mathematical answers that are settled by their form, without algebra.

`settle` compares what algebra misreads or need not see: words, choices, dates and the like
(`words`), sets of numbers (`sets`), numbers with a unit, percentages (``50\%`` equals ``50``, never
``0.5``), lists of plain numbers, and pairs whose brackets differ. Conventions are those of the
common graders of MATH: a unit or a base may be left out, and an answer may name its variable
(``x = 5``); a bare list has no order but counts its members, a tuple has an order; ``(1,2)`` is not
``[1,2)`` and not ``\{1,2\}``. Everything else goes to the worker process.
"""

import re
from fractions import Fraction

from populora_env.grading import words
from populora_env.grading.sets import same_set
from populora_env.reading.numerals import SCALE_WORDS, parse_number, same_number
from populora_env.reading.units import split_unit, units_agree, without_unit

_NAMED = re.compile(
    r"(?P<name>\\text\{[^{}]*\}|\\?[A-Za-z]+'?(?:_\{?\w+\}?)?(?:\(\w\))?)\s?=(?P<value>[^=<>]*)"
)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_OR = re.compile(r"\\text\s?\{\s?,?\s?(?:or|and)\s?\}|(?<![\\A-Za-z])(?:or|and)(?![A-Za-z])")
_ONLY_OR = re.compile(r"\\text\s?\{\s?,?\s?or\s?\}|(?<![\\A-Za-z])or(?![A-Za-z])")
_OPEN_ENDED = re.compile(
    r"\\text\s?\{[^{}]*\b(?:or|and)?\s?(?:more|less|fewer|greater|higher|lower|above|below|maybe|"
    r"not|wrong|incorrect)\b[^{}]*\}"
)
_DECIMALS = re.compile(r"[0-9]\.([0-9]+)")
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+")
_VARIABLE_LAST = re.compile(r"((?:(?!\\(?:le|ge|ne|approx|to)(?![a-zA-Z]))[^=<>,])+)=\s*([a-zA-Z])")
_COMMAND = re.compile(r"\\[A-Za-z]+\s?(?:\{[A-Za-z ]*\})?|(?<![A-Za-z])[ei](?![A-Za-z])")
_LETTER = re.compile(r"[A-Za-z]")
_BOTH_SIGNS = re.compile(r"\\pm(?![A-Za-z])\s?")
_SCALED = re.compile(
    rf"(-?[0-9][0-9.,]*)\s?(?:\\text\s?\{{\s*)?((?:{SCALE_WORDS})s?)(?![a-z])"
    r"(?:\s[a-z ]*)?(?:\s*\})?(?:\s?\\text\s?\{[^{}]*\})?"
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
    shown, estimated, estimate = answer.partition("\\approx")
    if estimated and None not in (_number(shown.strip()), _number(estimate.strip())):
        return False  # `without_estimate` has left it: 5 is not about 6
    as_sets = same_set(gold, answer)
    if as_sets is not None:
        return as_sets
    as_dates = words.dates(gold, answer)
    if as_dates is not None:
        return as_dates
    scale = units_agree(split_unit(gold)[1], split_unit(answer)[1])
    if scale is None:
        return False  # 12 cm are no 12 hours
    expected, given = _number(gold), _number(answer)
    if expected is not None and given is not None:
        return same_number(expected, given * scale)
    if scale != 1:
        return False
    for compare in (words.clocks, words.choices, words.names, words.bases):
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
    written = len({_squeezed(part) for part in parts})
    once = written == len(parts) or (written == 1 and _ONLY_OR.search(expression))  # not "5, 5"
    return parts[:1] if len(values) == 1 and None not in values and once else parts


def both_signs(expression: str) -> str:
    r"""Return ``1 + x, 1 - x`` of ``1 \pm x``; inside a tuple or with two such signs it stays."""
    if "\\pm" not in expression:
        expression = re.sub(r"\\mp(?![A-Za-z])", r"\\pm", expression)
    if "\\pm" not in expression or "\\mp" in expression:
        return expression
    outer = expression.strip(" .")
    if outer.startswith("\\{") and outer.endswith("\\}"):
        inside = both_signs(outer[2:-2])
        return expression if inside == outer[2:-2] else rf"\{{{inside}\}}"
    parts = list[str]()
    for part in _split(_OR.sub(",", expression)):
        signs = list(_BOTH_SIGNS.finditer(part))
        if len(signs) != 1 or (part[:1] in "([" and _bracketed(part)[0]):
            parts.append(part)
            continue
        before, after = part[: signs[0].start()], part[signs[0].end() :]
        begins = not before.strip() or before.rstrip()[-1:] in "=({"
        parts += [f"{before}{'' if begins else '+'}{after}", f"{before}-{after}"]
    return ", ".join(parts)


def sides(expression: str) -> list[str]:
    r"""Return what a chain such as ``2+3 = 5`` says to be equal; the expression alone if it names.

    Only a chain without variables is one: ``x = 5`` and ``y = 2x`` are answers.
    """
    parts = list[str]()
    for part in expression.split("="):
        if parts and parts[-1].count("{") > parts[-1].count("}"):  # the index of a sum
            parts[-1] += f"={part}"
        else:
            parts.append(part)
    parts = [part.strip() for part in parts]
    if len(parts) > 2 and _VARIABLE.fullmatch(parts[0]):
        parts = parts[1:]
    plain = all(part and not _LETTER.search(_COMMAND.sub(" ", part)) for part in parts)
    return parts if len(parts) > 1 and plain else [expression]


def variable_first(expression: str) -> str:
    """Return ``x = 5`` of ``5 = x``; other expressions as they are."""
    found = _VARIABLE_LAST.fullmatch(expression.strip())
    if found is None or _VARIABLE.fullmatch(found[1].strip()):
        return expression
    return f"{found[2]} = {found[1].strip()}"


def members(expression: str) -> list[str] | None:
    """Return the members of a bare list of two or more in which one is written twice, or None."""
    if _bracketed(expression)[0]:
        return None
    parts = elements(expression)
    twice = len({_squeezed(part) for part in parts}) < len(parts)
    return parts if len(parts) > 1 and twice else None


def without_estimate(expression: str) -> str:
    r"""Return ``2\sqrt{3}`` of ``2\sqrt{3} \approx 3.46``; ``x \approx 3.46`` stays.

    So does ``5 \approx 6``, which is no estimate: that would be 5, rounded.
    """
    exact, sign, shown = expression.partition("\\approx")
    exact = exact.strip()
    if not sign or not any(char.isdigit() or char == "\\" for char in exact):
        return expression
    value, estimate = _number(exact.rpartition("=")[2].strip()), _number(shown.strip())
    if value is not None and estimate is not None:
        decimals = _DECIMALS.search(shown)
        places = 10 ** len(decimals[1]) if decimals else 1
        if value.denominator == 1 and value != estimate:
            return expression
        if abs(value - estimate) >= Fraction(1, places):
            return expression
    return exact


def _squeezed(expression: str) -> str:
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])|\\text\s?\{\s*\}|\.$", "", expression)


def _number(expression: str) -> Fraction | None:
    value = parse_number(expression, units=False)
    scaled = _SCALED.fullmatch(expression) if value is None else None
    if scaled is not None:
        value = parse_number(f"{scaled[1]} {scaled[2]}")
    if value is None:
        named = _NAMED.fullmatch(expression)
        value = parse_number(without_unit(named["value"] if named else expression), units=False)
    return value


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
    if "{" in (opened, began):
        numbers, shown = sorted(set(numbers)), sorted(set(shown))
    elif opened != "(":
        numbers, shown = sorted(numbers), sorted(shown)
    return len(numbers) == len(shown) and all(map(same_number, numbers, shown))


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
