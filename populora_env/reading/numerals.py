r"""Exact numbers in text.

Reads a plain number as people and language models write it (``1,234``, ``10 000``, ``-0.50``,
``3/4``, ``1 1/2``, ``\frac{3}{4}``, ``$18``, ``18 dollars``, ``2 million``, ``1.2e3``,
``1.2 \times 10^3``, full-width and other Unicode digits) into an exact fraction. Units are
dropped, and a percent sign is a unit like any other: ``50%`` equals ``50``, never ``0.5``. Work
and memory are bounded whatever the text: a number of more than `MAX_DIGITS` digits, or with an
exponent beyond `MAX_EXPONENT`, is not read. Expressions to be worked out (``2+3``, ``\sqrt{2}``)
and numbers in words (``eighteen``) are not covered; which of several numbers a sentence is about
is decided in `statements`.
"""

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 300
MAX_EXPONENT = 300
WINDOW = 1_000  # longest text that is looked at, in characters

_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUPERSCRIPT_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
# What NFKC would merge with the digit before it: "10²" is not "102", "3½" is not "31/2".
_BEFORE_NFKC = {
    code: f" {unicodedata.normalize('NFKC', chr(code))}"
    for code in (0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F))
}
# Minus signs and dashes, slashes, and the Arabic separators of thousands and decimals.
_AFTER_NFKC: dict[int, str] = {
    **dict.fromkeys(map(ord, "\u2212\u2010\u2012\u2013"), "-"),
    **dict.fromkeys(map(ord, "\u2044\u2215"), "/"),
    0x66C: ",",
    0x66B: ".",
}
_RAISED = re.compile(r"<sup>([+\u2212-]?[0-9]+)</sup>")
_SPACES = re.compile(r"(?:\s|\\[,!;:> ]|\\q?quad(?![A-Za-z])|~)+")
_THOUSANDS_MARK = re.compile(r"(?<=[0-9]),\\! ?(?=[0-9]{3})")  # "10,\!080"
_SPACED_MARKS = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[()\[\]]|\*\*|__|`")
_WORDED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s?\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac ?(?:\{([^{}]*)\}|([0-9])) ?(?:\{([^{}]*)\}|([0-9]))")
_POWER_OF_TEN = re.compile(
    r"(?<=[0-9]) ?(?:\u00d7|\\times|times|\\cdot|[*xX·⋅]) ?\{?10\}? ?"
    r"(?:\^|\*\*|to the(?: power(?: of)?)?) ?"
    r"(?:\{ ?([+-]?[0-9]{1,5}) ?\}|\(([+-]?[0-9]{1,5})\)|([+-]?[0-9]{1,5}))"
)
# "10^5" alone; what "2 + " or "2^" stands before is a part of something else, and "10^2" may be
# ten of a square unit.
_BARE_POWER = re.compile(
    r"(?<![\w.)}\]*^/+\u00d7\u00b7\u22c5-])(?<![*^/+\u00d7-] )10 ?(?:\^|\*\*) ?"
    r"(?:\{ ?(-[0-9]{1,5}|[3-9]|[0-9]{2,5}) ?\}|(-[0-9]{1,5}|[3-9]|[0-9]{2,5}))"
    r"(?![0-9.]| ?[*^/+\u00d7-])"
)
_READ_ON = re.compile(r"\.\.\.|\b10 to the ")
_PLAIN_ASCII = re.compile(r"[0-9A-Za-z ,.$%:;!?'\"()=+/*-]*")

# Thousands in threes, or as in India: the last three, then twos.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_SCIENTIFIC = rf"{_DECIMAL}(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?"
NUMBER_PATTERN = (
    rf"(?:\\frac ?\{{ ?-?{_DECIMAL} ?\}} ?\{{ ?{_DECIMAL} ?\}}"
    rf"|[0-9]+ \\frac ?\{{ ?[0-9]+ ?\}} ?\{{ ?[0-9]+ ?\}}"
    rf"|[0-9]+ [0-9]+ ?/ ?[0-9]+|{_DECIMAL} ?/ ?{_DECIMAL}|{_SCIENTIFIC})"
)
NUMBER_IN_TEXT = re.compile(rf"(?:(?<![\w)\]}}.%])[-+])?(?:[$€£¥] ?-?)?{NUMBER_PATTERN}")
_GROUPS = re.compile(
    r"(?<![0-9.,'_\u2019A-Za-z])[0-9]{1,3}(?:(?:\.[0-9]{3}){2,}(?:,[0-9]{1,2})?"
    r"|(?:['\u2019][0-9]{3})+|(?:_[0-9]{3})+)(?![0-9.,'_\u2019]*[0-9])"
)
_SUFFIXES = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}
# Of "5m" without a currency the letter may be metres.
_SUFFIXED = re.compile(
    r"((?<![A-Za-z0-9.,])[$€£¥] ?-?[0-9][0-9.,]*)(?: ?([kKmMbBtT])|(mm|MM|mn|bn|Bn|tn))"
    r"(?![A-Za-z0-9^])"
)
_LETTER_SUFFIX = re.compile(r"((?<![A-Za-z0-9.,_])-?[0-9][0-9.,]*)([kKMB])(?![A-Za-z0-9^/])")
_AND_A_HALF = re.compile(r"(?<![0-9.,/])([0-9]+) and (?:a|one) half\b")
_AND_A_PART = re.compile(r"(?<![0-9.,/] )(?<![0-9.,/])([0-9]+) and ([0-9]+/[0-9]+)(?![0-9/.,])")
_COMBINING = re.compile("[\u0304\u0305\u033f\u0307]")
_OVERLINED = re.compile("((?:[0-9][\u0304\u0305\u033f\u0307])+)")
_DOTTED = re.compile(
    r"\\dot ?(?:\{ ?([0-9]) ?\}|([0-9]))(?:([0-9]*)\\dot ?(?:\{ ?([0-9]) ?\}|([0-9])))?"
)
# What states no one number, or denies it.
_ALTERNATIVE = re.compile(
    r"\b(?:or|vs|versus|and an? (?:half|third|quarter)|(?:is|was|would be) (?:not|wrong|incorrect|"
    r"false|(?:much |far )?too)|isn['\u2019]t|cannot be|can['\u2019]t be)\b"
)
_PERIOD = r"\\(?:overline|bar|overbar|dot) ?(?:\{ ?([0-9]+) ?\}|([0-9]))"
_PERIODIC = re.compile(
    rf"(?<![0-9.])([0-9]*)\.([0-9]*)"
    rf"(?:{_PERIOD}(?![0-9])| ?\\[lc]?dots(?![A-Za-z])|\.{{3,}}|…)"
)
_BRACKETED = re.compile(r"([0-9]*)\.([0-9]*)\(([0-9]+)\)")
_ENDS_BRACKETED = re.compile(r"[0-9.]\([0-9]+\)[^0-9A-Za-z]*$")
_PERIODS = re.compile(r"([0-9]*?)(?:([0-9])\2+|([0-9]{2,}?)\3+)")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
_SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "quadrillion": 10**15, "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
SCALE_WORDS = "|".join(_SCALES)
_SCALED_NUMBER = re.compile(rf"[0-9] ?({'|'.join(_SCALES)})s?(?![A-Za-z])", re.IGNORECASE)
_MAY_SCALE = re.compile(rf"{SCALE_WORDS}|[0-9] ?(?:[kKmMbBtT]|[bt]n)", re.IGNORECASE)
_ASKED = r"\b(?:how many|number of|in)(?: [a-z]+)? (?:{})s?\b"
_SCALE = re.compile(rf" ?({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?:negative|minus) (?=[$€£¥]?[0-9.\\])", re.IGNORECASE)
_CURRENCY = r"(?:[$€£¥]|USD|EUR|GBP)"
_UNIT = (
    r"(?:%|°|\^ ?\{? ?\\circ ?\}?|[A-Za-z]{2,}(?:['\u2019]s?|-[A-Za-z]+)?[.]?|(?<=[ /])[A-Za-z])"
    r"(?: ?\^ ?\{?[23]\}?)?"
)
_SCALED = rf"(?: ?({'|'.join(_SCALES)})s?(?![A-Za-z]))?"
_PLAIN = re.compile(rf"([-+]? ?)(?:{_CURRENCY} ?)?([-+]?)({NUMBER_PATTERN})() ?(?:%|{_CURRENCY})?")
_WITH_UNIT = re.compile(
    rf"([-+]? ?)(?:{_CURRENCY} ?)?([-+]?)({NUMBER_PATTERN}){_SCALED} ?(?:{_CURRENCY}|"
    rf"(?: ?-?{_UNIT}(?:[ /-]{_UNIT}){{0,5}})?)",
    re.IGNORECASE,
)
_SIMPLE = re.compile(r"(-?)\$?([0-9]{1,18}|[0-9]{1,3}(?:,[0-9]{3}){1,5})(?:\.0{0,9})?\.?")
_FRACTION = re.compile(r"(?:([0-9]+) )?\\frac ?\{ ?(-?)([^{}]*)\} ?\{([^{}]*)\}")
_DIVISION = re.compile(r"[0-9] ?/ ?[0-9.]|frac")
_MIXED = re.compile(r"([0-9]+) ([0-9]+) ?/ ?([0-9]+)")


def plain_text(text: str) -> str:
    """Return a short text with digits, signs, spaces and LaTeX spacing in one form.

    Unicode is brought to NFKC, all decimal digits to ASCII, runs of white space to one space.
    Texts longer than `WINDOW` characters are cut to their end.
    """
    text = text[-WINDOW:]
    if "<sup>" in text:
        text = _RAISED.sub(r"^\1", text)
    if not text.isascii():
        text = _OVERLINED.sub(lambda match: rf"\overline{{{_COMBINING.sub('', match[1])}}}", text)
        text = _SUPERSCRIPT.sub(lambda match: f"^{match[0].translate(_SUPERSCRIPT_DIGITS)}", text)
        text = text.translate(_BEFORE_NFKC)
        text = unicodedata.normalize("NFKC", text).translate(_AFTER_NFKC)[-WINDOW:]
        text = "".join(
            str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text
        )
    if "\\" in text or "{" in text:
        text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
        text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
        text = _WORDED.sub(r" \1", _THOUSANDS_MARK.sub(",", text))
        text = _SHORT_FRACTION.sub(_written_out, text)
    elif _PLAIN_ASCII.fullmatch(text) and "*" not in text and not _READ_ON.search(text):
        return _grouped(" ".join(text.split()))
    if "." in text:
        text = without_periods(text)
    if "10" in text:
        text = _POWER_OF_TEN.sub(r"e\1\2\3", _SPACES.sub(" ", text))
        text = _BARE_POWER.sub(r"1e\1\2", text)
    text = _SPACES.sub(" ", _SPACED_MARKS.sub(" ", text)).strip()
    return _grouped(text)


def _grouped(text: str) -> str:
    """Return the text with ``1.234.567``, ``1'234`` and ``$5K`` as ``1234567`` and ``$5 thousand``.

    One period between two groups of digits stays what it is in English: a decimal point.
    """
    text = _GROUPS.sub(lambda match: re.sub("[.'_\u2019]", "", match[0]).replace(",", "."), text)
    return _SUFFIXED.sub(
        lambda match: f"{match[1]} {_SUFFIXES[(match[2] or match[3])[0].lower()]}", text
    )


def parse_number(text: str, *, units: bool = True) -> Fraction | None:
    """Return the number that the whole text states, or None if it is not one plain number.

    Args:
        text: Such as ``"$1,234.50"``; a final period and surrounding marks are allowed.
        units: Whether words after the number, as in ``18 dollars``, are allowed. Only then is
            ``2 million`` read.
    """
    if len(text) > WINDOW:
        return None
    text = _BRACKETED.sub(_with_period, text) if _ENDS_BRACKETED.search(text) else text
    # "5!" may be a factorial where words may be variables.
    marks = ".!?,;:" if units else ".,;:"
    cleaned = plain_text(text).strip(" \"'*")
    cleaned = cleaned.rstrip(marks).strip(" \"'")
    if units:
        if _ALTERNATIVE.search(cleaned):
            return None
        cleaned = scaled_letters(cleaned)
    if cleaned[:1] == "(" and cleaned[-1:] == ")":
        cleaned = cleaned[1:-1].strip()
    if cleaned[:1] == "$" and cleaned[-1:] == "$":
        cleaned = cleaned[1:-1].strip()
    cleaned = _SPACED_THOUSANDS.sub(lambda match: match[0].replace(" ", ","), cleaned)
    cleaned = _NEGATIVE.sub("-", cleaned)
    match = (_WITH_UNIT if units else _PLAIN).fullmatch(cleaned)
    match = match or _PLAIN.fullmatch(cleaned)
    if match is None or (match[1].strip() and match[2]):
        return None
    value = _value(match[3])
    if value is None:
        return None
    if match[4]:
        value *= _SCALES[match[4].lower()]
    return -value if "-" in (match[1].strip(), match[2]) else value


def scaled_letters(text: str) -> str:
    """Return the text with ``5K`` as ``5 thousand`` and ``2 and a half`` as ``2 1/2``."""
    if " and " in text:
        text = _AND_A_HALF.sub(r"\1 1/2", text)
        text = _AND_A_PART.sub(r"\1 \2", text)
    return _LETTER_SUFFIX.sub(lambda match: f"{match[1]} {_SUFFIXES[match[2].lower()]}", text)


def scale_of(text: str) -> int:
    """Return by what a word or letter multiplies the number in a text: 12 of ``2 dozen``."""
    if _MAY_SCALE.search(text) is None:
        return 1
    found = _SCALED_NUMBER.search(scaled_letters(plain_text(text)))
    return _SCALES[found[1].lower()] if found is not None else 1


def asks_in(question: str, scale: int) -> bool:
    """Return whether a question counts in a scale: "how many dozen", or kelvin for ``300K``."""
    names = [name for name, value in _SCALES.items() if value == scale]
    asked = _ASKED.format("|".join(names))
    kelvin = scale == 1000 and re.search(r"\bkelvins?\b|\btemperature", question, re.IGNORECASE)
    return bool(kelvin or re.search(asked, question, re.IGNORECASE))


def same_number(left: Fraction, right: Fraction) -> bool:
    """Return whether two numbers are equal by the one policy for decimals.

    A decimal is exact. Only where the other number never ends (1/3), one of at least six decimals
    and five digits that count is as good, if it is that number, rounded or cut there.
    """
    if left == right:
        return True
    for decimal, other in ((left, right), (right, left)):
        places = _places(decimal)
        if places is None or _places(other) is not None:
            continue
        scaled, shown = abs(other) * 10**places, abs(decimal) * 10**places
        return (
            places >= 6
            and shown >= 10**4
            and (decimal < 0) == (other < 0)
            and shown in (scaled.__floor__(), (scaled + Fraction(1, 2)).__floor__())
        )
    return False


def _places(value: Fraction) -> int | None:
    """Return how many decimals a number has; None if it never ends."""
    rest, counts = value.denominator, [0, 0]
    for index, prime in enumerate((2, 5)):
        while rest % prime == 0:
            rest, counts[index] = rest // prime, counts[index] + 1
    return max(counts) if rest == 1 else None


def without_periods(text: str) -> str:
    r"""Return the text with ``0.1\overline{6}`` and ``0.166...`` as ``1/6``; ``3.14...`` stays."""
    text = _DOTTED.sub(
        lambda match: (
            rf"\overline{{{match[1] or match[2]}{match[3] or ''}{match[4] or match[5] or ''}}}"
        ),
        text,
    )
    return _PERIODIC.sub(_with_period, text)


def _with_period(match: re.Match[str]) -> str:
    """Return the fraction that a match of `_PERIODIC` or `_BRACKETED` is."""
    whole, start, *periods = match.groups(default="")
    period = "".join(periods)
    if not period:  # dots: the digits have to show what is repeated
        found = _PERIODS.fullmatch(start) if len(start) <= 60 else None
        if found is None:
            return match[0]
        if found[2] and len(start) > 4 and not start.endswith(3 * found[2]):
            return match[0]  # the 88 of "1.41421356237309504880168872420969807856967188..."
        start, period = found[1], found[2] or found[3]
    if len(whole) + len(start) + len(period) > MAX_DIGITS:
        return match[0]
    value = Fraction(int(whole + start or 0)) + Fraction(int(period), 10 ** len(period) - 1)
    value /= 10 ** len(start)
    return f"{value.numerator}/{value.denominator}" if value.denominator > 1 else str(value)


def canonical_number(text: str, *, units: bool = True) -> str | None:
    """Return the canonical form of the number that the whole text states, or None.

    The same as `parse_number` and `canonical`, and faster for a plain integer.
    """
    simple = _SIMPLE.fullmatch(text)
    if simple is not None:
        number = int(simple[2].replace(",", ""))
        return str(-number if simple[1] else number)
    value = parse_number(text, units=units)
    return None if value is None else canonical(value)


def last_number(text: str) -> str | None:
    """Return the last number in the text as it is written, or None if there is none.

    A hyphen counts as a sign only where nothing it could be subtracted from comes before it.
    """
    found: str | None = None
    cleaned = plain_text(text)
    for match in NUMBER_IN_TEXT.finditer(cleaned):
        scale = _SCALE.match(cleaned, match.end())
        found = match[0] + (f" {scale[1]}" if scale else "")
    return found


def is_undone_division(text: str) -> bool:
    """Return whether the text is a division that comes out whole, such as ``12/4``.

    To write it is to repeat a problem, not to answer it.
    """
    if text.isascii() and not _DIVISION.search(text):
        return False
    value = parse_number(text)
    divided = value is not None and value.denominator == 1
    return divided and _DIVISION.search(plain_text(text)) is not None


def canonical(value: Fraction) -> str:
    """Return the one way to write the number: ``18``, ``-0.5`` or, if it never ends, ``1/3``."""
    places = _places(value)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _written_out(match: re.Match[str]) -> str:
    r"""Return ``\frac12`` as ``\frac{1}{2}``, with a space before it if a whole part is there."""
    top, bottom = match[1] or match[2] or "", match[3] or match[4] or ""
    before = match.string[max(0, match.start() - 1) : match.start()]
    return f"{' ' if before.isdigit() else ''}\\frac{{{top}}}{{{bottom}}}"


def _value(token: str) -> Fraction | None:
    """Return the value of one match of `NUMBER_PATTERN`; None if too large or undefined."""
    if len(token) > MAX_DIGITS and sum(char.isdigit() for char in token) > MAX_DIGITS:
        return None
    token = token.replace(",", "")
    if token.isdigit():
        return Fraction(int(token))
    if fraction := _FRACTION.fullmatch(token):
        value = _quotient(fraction[3], fraction[4])
        value = -value if fraction[2] and value is not None else value
        return value if value is None or not fraction[1] else int(fraction[1]) + value
    if mixed := _MIXED.fullmatch(token):
        part = _quotient(mixed[2], mixed[3])
        return None if part is None else int(mixed[1]) + part
    if "/" in token:
        return _quotient(*token.split("/"))
    mantissa, _, exponent = token.lower().partition("e")
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
        return None
    value = Fraction(mantissa)
    return value * Fraction(10) ** int(exponent) if exponent else value


def _quotient(top: str, bottom: str) -> Fraction | None:
    divisor = Fraction(bottom.strip())
    return Fraction(top.strip()) / divisor if divisor else None
