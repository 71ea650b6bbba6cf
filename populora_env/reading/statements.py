"""Which number a sentence states.

`numerals` reads a text that is one number; here one number is found in a sentence that says more:
``x = 18``, ``18 - 3 = 15``, ``18 (16 + 2)``, ``$18 every day``. A sentence that offers several
different numbers, such as ``12 or 13`` or ``1, 2, 3, 4``, states none of them, and neither does a
sum left undone. Texts longer than `numerals.WINDOW` are cut. Which sentence of a reply is looked
at is decided in `answers`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from populora_env.reading.numerals import (
    NUMBER_IN_TEXT,
    NUMBER_PATTERN,
    SCALE_WORDS,
    WINDOW,
    is_undone_division,
    last_number,
    parse_number,
    plain_text,
    scaled_letters,
)
from populora_env.reading.said import last_match
from populora_env.reading.units import one_quantity, units_agree


@dataclass(frozen=True, slots=True)
class Statement:
    """What a sentence states.

    Attributes:
        number: The number as written, or None.
        exact: Whether the number, with its unit or as the last side of an equation, is all.
        several: Whether several different numbers are offered.
        undone: Whether it is a sum, product or division that was not worked out.
    """

    number: str | None
    exact: bool = False
    several: bool = False
    undone: bool = False


_MARKS = " \"'*_`$.!?,;:()[]{}"
_HEDGE = re.compile(
    r"(?:(?:it|this|that|the|answer|result|value|is|are|could|can|may|might|would|be|either|both|"
    r"maybe|perhaps|possibly|probably|between|from|around|about|approximately|[a-z] ?(?:=|\bin\b))"
    r"[ :]*){0,8}",
    re.IGNORECASE,
)
_UNIT = r"(?: ?%| ?(?:USD|EUR|GBP)\b|(?: (?!or\b|and\b|to\b)[A-Za-z]+){0,3}\.?)?"
_MAYBE = (
    r"(?:(?:or|and|maybe|perhaps|possibly|even|about|around|else|also|to|rather|it is|it's|no|"
    r"wait|hmm|actually|sorry|i mean|better|instead|correction|scratch that)\b[,.:]? ?"
    r"|[a-z] ?= ?)*"
)
_GAP = re.compile(
    rf"[\"'*_`)}}$]*({_UNIT})[\"'*_`)}}$]* ?"
    rf"(?:(?:[,;|&?/\u2014]|\.{{2,3}}|\\(?:cup|lor|vee)\b) ?{_MAYBE}|"
    rf"\b(?:or|and/or|and|to|vs\.?|versus)(?!\w) ?{_MAYBE})"
    r"[\"'*_`({$]*",
    re.IGNORECASE,
)
_OR_GAP = re.compile(
    rf"[\"'*_`)}}$]*({_UNIT})[\"'*_`)}}$]*,? ?[(\[]?"
    rf"\b(?:or|and/or|vs\.?|versus|maybe|perhaps|possibly)(?!\w),? ?{_MAYBE}[\"'*_`({{$]*",
    re.IGNORECASE,
)
_ASKED_ASIDE = re.compile(
    rf"[0-9][^()?]{{0,40}}\( ?{_MAYBE}[$]?-?{NUMBER_PATTERN}{_UNIT} ?\?", re.I
)
_TAIL = re.compile(rf"{_UNIT}[{re.escape(_MARKS)}]*", re.IGNORECASE)
_TAIL_UNIT = re.compile(rf"({_UNIT})", re.IGNORECASE)
_OPERATOR = r"(?:[-+*/^\u00d7\u00f7]|\\times|\\cdot|\\div|\bx\b)"
_UNDONE = re.compile(
    rf"[\s(]*[-+]?[$€£¥]?[0-9][0-9.,%]*(?:[\s)]*{_OPERATOR}[\s(]*[$€£¥]?[0-9][0-9.,%]*)+[\s).]*"
)
# What may not follow a number that is the answer: it goes on as an expression.
_GOES_ON = re.compile(
    r" ?(?:[*^=≈/+\u00d7\u00f7-](?! ?[A-Za-z])|\\times|\\cdot|\\div|\\pm|x ?[$0-9])|[(:]"
    r"|(?: [A-Za-z]+){1,4} ?[-+*/=\u00d7\u00f7] ?[$0-9(]"
)
# ... a calculation that nobody has done: 2^5, 3 * 4.
_CALCULATED = re.compile(rf" ?{_OPERATOR} ?[({{$]?-?[0-9]")
_CLAUSE = re.compile(r"[,;(]|\. |\b(?:because|since|as|so|which|where)\b", re.IGNORECASE)
_CLOCK = re.compile(r"(?<![0-9:])([0-9]{1,2}):00(?![0-9:])")
# "3 100 gram bags" are three bags.
_SPACED = re.compile(
    r"(?<![0-9.,])(?<![0-9] )"
    r"(?:(?:(?<=[$\u20ac\u00a3\u00a5=])|(?<=[$\u20ac\u00a3\u00a5=] ))[0-9]{1,3}(?: [0-9]{3})+"
    r"|[0-9]{1,3}(?: [0-9]{3})*? 000)(?![0-9.,/]*[0-9]|-[A-Za-z])"
)
_THREE_DIGITS = re.compile(r" [0-9]{3}(?![0-9])")
_OTHER_CLOCK = re.compile(r"(?<![0-9:])[0-9]{1,2}:[0-9]{2}(?![0-9])")
_EQUALS = re.compile(r"[=≈\u2192]|->|\\approx|\\Rightarrow")
# A number with one of these directly before or behind it is a part of a formula: 2^{12}, 12\pi,
# \sqrt{12}, x > 12, 7+12i. "12x more" counts, and so do letters that may be units ("12 m").
_FUNCTION_NAMES = ("sqrt", "log", "ln", "exp", "sin", "cos", "tan", "cot", "sec", "csc")
_FUNCTION = rf"(?:(?:arc)?(?:{'|'.join(_FUNCTION_NAMES)}))"
_CONSTANT = r"(?:[\u03c0\u221e]|\\(?:pi|theta|phi|infty)(?![a-z]))"
_RELATION = (
    r"(?:[<\u2264\u2265\u2260]=?|(?<![=-])>=?|!=|\\(?:[lg]e(?:q|qslant)?|[lg]t|neq?)(?![a-z]))"
)
_SIGN = r"(?:[-+*/^\u00d7\u00f7]|\\cdot|\\times)"
_PART_BEFORE = re.compile(
    rf"(?:(?:(?<![A-Za-z])(?:[b-z] ?|a)|[0-9}}] ?|(?<!\([A-Ha-h])\) ?|{_CONSTANT} ?){_SIGN}"
    rf"|\^|[A-Za-z0-9)}}]_|[\u221a\u00b1]|(?<![A-Za-z])[a-z]\(|{_CONSTANT}|\\[pm][pm](?![a-z])"
    rf"|(?:\\|(?<![A-Za-z])){_FUNCTION}(?:_ ?(?:\{{ ?\w{{1,9}} ?\}}|\w)|\[[^\[\]]{{1,9}}\])?"
    rf"|\\(?:frac|[dt]?binom) ?\{{(?:[^{{}}]{{0,40}}\}} ?\{{)?[^{{}}]{{0,40}}|{_RELATION})"
    r"[ ({$]*[-+]?$"
)
_VARIABLE = r"(?:[abeinqru]|[xyz]{1,3})"
_PART_BEHIND = re.compile(
    rf" ?(?:{_CONSTANT}|\u221a|\\(?:sqrt|log|ln)(?![a-z])|(?!m)[A-Za-z]\^"
    r"|\^(?! ?\{? ?(?:\\circ|\\?text|o\b|st\b|nd\b|rd\b|th\b))|_ ?[{0-9]|![0-9A-Za-z(+*/^-]"
    r"|(?:[-+*\u00d7]|\\cdot|\\times) ?[a-z](?![A-Za-z'\u2019]| [a-z])|/ ?[abeinqruxyz](?![A-Za-z])"
    rf"|{_RELATION} ?[A-Za-z](?![A-Za-z]))"
    rf"|(?:{_VARIABLE}| [xyzi])(?![A-Za-z'\u2019]|\.[a-z]|,? [A-Za-z]{{2}}| ?\(?[$0-9])"
)
_VARIABLE_ALONE = re.compile(rf"[0-9](?:{_VARIABLE}| [xyzi]|! ?(?:\$|\\\)))[\s.$)}}]*$")
_HOLDS_FORMULA = re.compile(r"\\(?:frac|sqrt|pi|pm|log|ln|begin)(?![a-z])|[\u03c0\u221a]")
_INTERVAL = re.compile(r"\\in(?:fty)?(?![a-z])|\\cup(?![a-z])|[\u221e\u2208]")
_TAG = re.compile(r"</?[a-z_]{1,20}>", re.IGNORECASE)


_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
    "eighty ninety"
)
_NUMBER_WORDS: dict[str, int] = dict(
    zip(_WORDS.split(), [*range(20), *range(20, 100, 10)], strict=True)
)
_WORDED = rf"({'|'.join(_NUMBER_WORDS)})(?:[ -]({'|'.join(_WORDS.split()[1:10])}))?"
# "fifteen (15)" and "15 (fifteen)", perhaps with a unit.
_SAID_TWICE = re.compile(
    rf"\W*(?:{_WORDED} \(({NUMBER_PATTERN})\)|({NUMBER_PATTERN}) \({_WORDED}\))"
    r"(?: [a-z]{2,}){0,2}\W*",
    re.IGNORECASE,
)
_OR_WORD = re.compile(
    rf"({NUMBER_PATTERN})[ ,(]+(?:or|vs\.?) (?:maybe |perhaps |possibly )?"
    rf"({'|'.join(_NUMBER_WORDS)})\b"
    r"(?! (?:more|less))",
    re.IGNORECASE,
)
# One quantity in two units: neither number is the answer.
_TWO_UNITS = re.compile(
    r"[0-9] ?(?:(?:feet|foot|ft\.?|')(?:,? and)?,? ?[0-9./ ]+ ?(?:inch(?:es)?|in\b|\"|'')"
    r"|(?:hours?|hrs?|h)(?![A-Za-z])(?:,? and)?,? ?[0-9]+ ?(?:min|m\b)"
    r"|(?:minutes?|mins?|m)(?![A-Za-z])(?:,? and)?,? ?[0-9]+ ?(?:s\b|sec)"
    r"|(?:\u00b0|degrees?\b|deg\b|\^ ?\{? ?\\circ ?\}?) ?(?:and )?[0-9]+ ?(?:'|\u2032|min)"
    r"|[A-Za-z]+ and (?:a|one) (?:half|third|quarter)\b"
    r"|(?:pounds?|lbs?)\b\.?(?:,? and)?,? ?[0-9]+ ?(?:oz|ounces?)\b"
    r"|(?:days?)\b(?:,? and)?,? ?[0-9]+ ?(?:h\b|hours?|hrs?)"
    r"|(?:weeks?)\b(?:,? and)?,? ?[0-9]+ ?days?"
    r"|(?:years?)\b(?:,? and)?,? ?[0-9]+ ?(?:months?|days?)"
    r"|(?:dollars?)\b(?:,? and)?,? ?[0-9]+ ?cents?"
    r"|(?:gallons?)\b(?:,? and)?,? ?[0-9]+ ?(?:quarts?|pints?|cups?)"
    r"|(?:meters?|metres?|m|km|kilometers?)\b(?:,? and)?,? ?[0-9]+ ?(?:cm|centim|m\b|meters?))",
    re.IGNORECASE,
)


_MORE = r"(?:more|less|fewer|greater|larger|smaller|higher|lower|above|below|over|under|up|beyond)"
_LIMIT = (
    r"(?:at (?:the )?(?:least|most)|(?:no |not )?(?:more|less|fewer|greater|larger|smaller|higher|"
    r"lower) than|(?:strictly )?(?:over|under|above|below|exceeding)|up to|(?:a )?"
    r"(?:minimum|maximum) of|[<>]=?|[\u2264\u2265\u2260]|!=|\\(?:l|g)eq?(?:slant)?(?![a-z])|"
    r"\\neq?(?![a-z]))"
)
# "8 or more", "at least 8", "> 8", "8+", "8 \u00b1 1" and "8 \u2260 9" state no number.
_LIMITED = re.compile(
    rf"[{re.escape(_MARKS)}]*{_LIMIT} ?[$(]*-?{NUMBER_PATTERN}(?:{_TAIL.pattern})"
    rf"|[{re.escape(_MARKS)}]*-?{NUMBER_PATTERN}{_UNIT}[\"'*_`)}}$]*,? ?"
    rf"(?:\+[{re.escape(_MARKS)}]*|(?:or|and) (?:even )?{_MORE}(?:{_TAIL.pattern})"
    rf"|at (?:least|most)[{re.escape(_MARKS)}]*"
    r"|(?:\u00b1|\\pm(?![a-z])|\+ ?/ ?-|\u2260|!=|\\neq?(?![a-z])|(?:is )?not equal to).*)",
    re.IGNORECASE,
)

# What a reply denies is no answer: "not 12", "12 is wrong". Only what a denial is next to is
# denied: "not a prime: 12" states 12, and "not 13 but 12" too.
_OPENING = r"[\s\"'*_`({$:]*"
_NOT = (
    r"(?:\b(?:not|never|cannot be|anything (?:but|except)|nothing like|rather than|instead of|"
    r"other than|(?:don['\u2019]t|do not) (?:think|believe) (?:that )?(?:it|this|the answer) is)\b"
    r"|n['\u2019]t(?: be)?\b)(?: equal(?: to)?| be| actually| simply)?"
)
_NUMBERS = rf"{NUMBER_IN_TEXT.pattern}(?:(?:,| ?/| (?:or|nor|and))+ {NUMBER_IN_TEXT.pattern})*"
# "not 5 more" compares, it denies nothing.
_DENIED = re.compile(rf"{_NOT}{_OPENING}{_NUMBERS}(?! (?:more|less|fewer)\b)", re.IGNORECASE)
_REJECTED = re.compile(
    rf"{NUMBER_IN_TEXT.pattern}[\"'*_`)}}$]*(?: [a-z]+)?"
    r"(?:\? ?(?:no|nope)\b(?! (?:more|less|doubt))"
    r"|,? (?:cannot|can['\u2019]t) be (?:the )?(?:correct|right|answer|it)\b"
    r"|(?:,? (?:is|was|would be|seems),?| ?\()"
    r" ?(?:(?:not|n['\u2019]t) (?:the )?(?:correct|right|answer|it)|wrong|incorrect|false"
    r"|(?:much |far )?too (?:large|big|small|high|low|many|few))\b\)?)",
    re.IGNORECASE,
)
_ENDS_DENYING = re.compile(rf"{_NOT}{_OPENING}$", re.IGNORECASE)
_DENIALS = ("no", "nev", "n't", "n\u2019t", "but", "except", "than", "instead", "wrong", "false",
          "incorrect", "can\u2019t", "too")  # fmt: skip


def is_formula(text: str) -> bool:
    """Return whether ``12x``, ``12 y`` or ``$12!$`` is all that a text says."""
    found = _VARIABLE_ALONE.search(text[-60:])
    return found is not None and not text[: -len(found[0])].strip(_MARKS + "\\-+0123456789")


def _part_of_formula(text: str, begin: int, end: int) -> bool:
    """Return whether the number between two places of a text is only a part of a formula."""
    before, behind = text[max(0, begin - 90) : begin], text[end : end + 60]
    if "<" in text:
        before, behind = _TAG.sub(" ", before), _TAG.sub(" ", behind)
    if _PART_BEHIND.match(behind):
        return True
    before = before.rstrip(" $")
    # Behind a word there is nothing to look for, and most numbers stand behind one.
    if before[-2:].isalpha() and "\\" not in before and not before.endswith(_FUNCTION_NAMES):
        return False
    return _PART_BEFORE.search(before) is not None


def read_stated(text: str) -> Statement:
    """Return what a stated answer such as ``x = 18 apples`` states.

    Of an equation, the last side counts. Otherwise a number at the beginning counts unless an
    expression goes on behind it, and failing that the last number.

    Args:
        text: What follows "the answer is", or stands in a box.
    """
    if parse_number(text) is not None:
        return Statement(None, undone=True) if is_undone_division(text) else Statement(text, True)
    if not any(char.isnumeric() for char in text):
        return Statement(None)
    cleaned = _cleaned(text[:WINDOW])
    numbers = list(NUMBER_IN_TEXT.finditer(cleaned))
    if (offered := _offered(cleaned, numbers)) is not None:
        return offered
    if _INTERVAL.search(cleaned):
        return Statement(None, several=True)
    if _TWO_UNITS.search(cleaned) or _ASKED_ASIDE.match(cleaned) or _LIMITED.fullmatch(cleaned):
        return Statement(None, several=True)
    if _UNDONE.fullmatch(cleaned):
        return Statement(None, undone=True)
    first = numbers[0] if numbers else None
    if first is not None and not cleaned[: first.start()].strip(_MARKS):
        rest = cleaned[first.end() :]
        clause = _CLAUSE.split(rest, maxsplit=1)[0]
        if not _EQUALS.search(clause) and _part_of_formula(cleaned, first.start(), first.end()):
            return Statement(None, undone=True)
        if not _GOES_ON.match(rest) and not _EQUALS.search(clause):
            begun = cleaned[: first.end() + len(clause)].strip("$ ")
            # "2 million of them" is two million: the words that follow may scale the number.
            scaled = re.match(rf"{re.escape(first[0])} (?:{SCALE_WORDS})\b", begun)
            return Statement(scaled[0] if scaled else first[0])
    sides = _EQUALS.split(cleaned)
    if len(sides) > 1:
        side = sides[-1].strip()
        if is_formula(side):
            return Statement(None, undone=True)
        if parse_number(side) is not None:
            return Statement(side, True)
        if (found := _leading(side)) is not None:
            return Statement(None, undone=True) if _is_a_part(side, found) else Statement(found[0])
    if _HOLDS_FORMULA.search(NUMBER_IN_TEXT.sub(" ", cleaned)):
        return Statement(None, undone=True)
    return _last_of(_OTHER_CLOCK.sub(" ", cleaned))


def read_last(text: str) -> Statement:
    """Return what the last sentence of a text without any stated answer is about.

    Alternatives are several answers; of an equation that ends the sentence, the last side
    counts; otherwise the last number.
    """
    cleaned = _cleaned(text)
    numbers = list(NUMBER_IN_TEXT.finditer(cleaned))
    if (offered := _offered(cleaned, numbers)) is not None:
        return offered
    side = _EQUALS.split(cleaned)[-1]
    found = None if side is cleaned or re.search(r"[,;]", side) else _leading(side)
    if found is not None:
        if _is_a_part(side, found):
            return Statement(None, undone=True)
        return Statement(last_number(side[: found.end()]) or found[0])
    last = _last_of(_OTHER_CLOCK.sub(" ", cleaned))
    return last if last.number or last.undone else _last_of(cleaned)


def _cleaned(text: str) -> str:
    """Return a text in one form, without what it denies, ``6:00`` as 6 and ``$1 000`` as $1,000."""
    cleaned = scaled_letters(_CLOCK.sub(r"\1", plain_text(without_denied(text))))
    if _THREE_DIGITS.search(cleaned) is None:
        return cleaned
    return _SPACED.sub(lambda match: match[0].replace(" ", ","), cleaned)


def _offered(text: str, numbers: Sequence[re.Match[str]]) -> Statement | None:
    """Return what several numbers of a text come to: one quantity, alternatives, or None."""
    if len(numbers) == 3 and (single := _in_one_unit(text, numbers)) is not None:
        return Statement(single)
    if _or_a_word(text) or (len(numbers) > 1 and _several(text, numbers)):
        return Statement(None, several=True)
    return None


def _leading(side: str) -> re.Match[str] | None:
    """Return the number that a side of an equation begins with."""
    found = NUMBER_IN_TEXT.search(side)
    return None if found is None or side[: found.start()].strip(_MARKS) else found


def _is_a_part(side: str, number: re.Match[str]) -> bool:
    """Return whether a number of a side is only a part of a calculation or a formula."""
    calculated = _CALCULATED.match(side, number.end()) is not None
    return calculated or _part_of_formula(side, number.start(), number.end())


def _last_of(text: str) -> Statement:
    """Return what the last number of a text states: nothing if it is a part of a formula."""
    place = last_match(NUMBER_IN_TEXT, text)
    if place is None:
        return Statement(None)
    if _part_of_formula(text, place.start(), place.end()):
        return Statement(None, undone=True)
    return Statement(last_number(text))


def _scaled(number: re.Match[str]) -> Fraction | None:
    """Return the value of a number with the word behind it: 60 of ``5 dozen``."""
    scale = re.match(rf" (?:{SCALE_WORDS})\b", number.string[number.end() :])
    return parse_number(number[0] + (scale[0] if scale else ""))


def said_twice(text: str) -> tuple[str, bool] | None:
    """Return 15 of ``fifteen (15)``, and whether the word says the same; None of other texts."""
    found = _SAID_TWICE.fullmatch(text) if "(" in text else None
    if found is None:
        return None
    number = found[3] or found[4]
    ten, one = (found[1], found[2]) if found[3] else (found[5], found[6])
    value = _NUMBER_WORDS[ten.casefold()] + (_NUMBER_WORDS[one.casefold()] if one else 0)
    return number, parse_number(number) == value


def _or_a_word(text: str) -> bool:
    """Return whether ``12 or thirteen`` is in the text; ``12 or twelve`` is one number."""
    twice = said_twice(text)
    if twice is not None:
        return not twice[1]
    found = _OR_WORD.search(text)
    return found is not None and parse_number(found[1]) != _NUMBER_WORDS[found[2].casefold()]


def _several(text: str, numbers: Sequence[re.Match[str]]) -> bool:
    """Return whether the numbers are alternatives to each other.

    Either the text is nothing but a list of them, or two neighbours that differ are joined by
    "or"; ``1800 cents or 18 dollars`` says one thing in two units.
    """
    if _TWO_UNITS.search(text, numbers[0].start()) is not None and "=" not in text:
        return True
    values = [_scaled(number) for number in numbers]
    listed = len(set(values)) > 1 and (
        _HEDGE.fullmatch(text[: numbers[0].start()].strip(_MARKS)) is not None
        and _TAIL.fullmatch(text[numbers[-1].end() :]) is not None
    )
    compound = _COMPOUND.search(text, numbers[0].start())
    if compound is not None and "=" not in text:
        known = one_quantity(Fraction(1), compound[1], Fraction(1), compound[2])
        if known is not None and units_agree(compound[1], compound[2]) not in (None, 1):
            return True
    for (left, right), (one, other) in zip(pairwise(numbers), pairwise(values), strict=True):
        gap = text[left.end() : right.start()]
        joined = _OR_GAP.fullmatch(gap)
        if joined is None:
            listed = listed and (gap == " " or _GAP.fullmatch(gap) is not None)
        elif one is not None and other is not None and gap[:1] == "%" and one == 100 * other:
            listed = False  # 20% and 0.2 are one
        elif one != other:
            unit, after = _unit(joined), _unit(_TAIL_UNIT.match(text, right.end()))
            if one is None or other is None or not unit or not after:
                return True
            if not one_quantity(one, unit, other, after):
                return True
            listed = False
    return listed


def _in_one_unit(text: str, numbers: Sequence[re.Match[str]]) -> str | None:
    """Return 160 of ``160 minutes (2 hours and 40 minutes)``; None if the two are not the same."""
    units = [_UNIT_WORD.match(text, number.end()) for number in numbers]
    for single, first, second in ((0, 1, 2), (2, 0, 1)):
        unit, large, small = units[single], units[first], units[second]
        if unit is None or large is None or small is None:
            continue
        if not _COMPOUND_GAP.fullmatch(text, large.end(), numbers[second].start()):
            continue
        whole, *parts = (parse_number(numbers[index][0]) for index in (single, first, second))
        scales = [
            units_agree(unit[1], other[1])
            if one_quantity(Fraction(0), unit[1], Fraction(0), other[1])
            else None
            for other in (large, small)
        ]
        if scales[0] == scales[1]:
            continue
        known = [
            p * s for p, s in zip(parts, scales, strict=True) if p is not None and s is not None
        ]
        if len(known) == len(parts) and whole == sum(known):
            return numbers[single][0]
    return None


_UNIT_WORD = re.compile(r" ?-?([A-Za-z]+)\.?")
_COMPOUND_GAP = re.compile(r",?(?: and)?,? ?")
_COMPOUND = re.compile(r"[0-9] ?([A-Za-z]+)(?:\.|\b)(?:,? and)?,? ?[0-9][0-9./]* ?([A-Za-z]+)")


def _unit(match: re.Match[str] | None) -> str:
    """Return the first word of the unit that was matched, folded; empty if there is none."""
    words = match[1].strip(" .").casefold().split() if match else []
    return words[0] if words else ""


def without_denied(text: str) -> str:
    """Return a text without the numbers that it denies: ``12, not 13`` is ``12,``."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _DENIALS):
        return text
    return _REJECTED.sub(" ", _DENIED.sub(" ", text))


def denies(before: str) -> bool:
    """Return whether what stands before an answer denies it, as in ``it cannot be **12**``."""
    return _ENDS_DENYING.search(before[-60:]) is not None
