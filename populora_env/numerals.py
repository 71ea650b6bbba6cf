r"""Exact numbers in text.

Reads a plain number as people and language models write it (``1,234``, ``-0.50``, ``3/4``,
``1 1/2``, ``\frac{3}{4}``, ``$18``, ``18 dollars``, ``1.2e3``, ``1.2 \times 10^3``, full-width
and other Unicode digits) into an exact fraction. Units are dropped, and a percent sign is a unit
like any other: ``50%`` equals ``50``, never ``0.5``. Work and memory are bounded whatever the
text: a number of more than `MAX_DIGITS` digits, or with an exponent beyond `MAX_EXPONENT`, is not
read. Expressions to be worked out (``2+3``, ``\sqrt{2}``) are not covered.
"""

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 300
MAX_EXPONENT = 300
WINDOW = 1_000  # longest text that is looked at, in characters

_SUPERSCRIPTS = {ord(sup): f"^{digit}" for digit, sup in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_VULGAR = {code: f" {unicodedata.normalize('NFKC', chr(code))}" for code in (0xBC, 0xBD, 0xBE)} | {
    code: f" {unicodedata.normalize('NFKC', chr(code))}" for code in range(0x2150, 0x215F)
}
# What NFKC would merge with the digit before it: "10²" is not "102", "3½" is not "31/2".
_BEFORE_NFKC = _SUPERSCRIPTS | _VULGAR
# Minus signs and dashes, slashes, and the Arabic separators of thousands and decimals.
_AFTER_NFKC: dict[int, str] = {
    **dict.fromkeys(map(ord, "\u2212\u2010\u2012\u2013"), "-"),
    **dict.fromkeys(map(ord, "\u2044\u2215"), "/"),
    0x66C: ",",
    0x66B: ".",
}
_SPACES = re.compile(r"\s+|\\[,!;: ]|~")
_SPACED_MARKS = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[()\[\]]|\*\*|__|`")
_WORDED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s?\{([^{}]*)\}")
_POWER_OF_TEN = re.compile(
    r" ?(?:\u00d7|\\times|\\cdot|\*) ?10 ?(?:\^|\*\*) ?\{? ?([+-]?[0-9]{1,5}) ?\}?"
)

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_SCIENTIFIC = rf"{_DECIMAL}(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?"
_NUMBER = (
    rf"(?:\\frac ?\{{ ?-?{_DECIMAL} ?\}} ?\{{ ?{_DECIMAL} ?\}}"
    rf"|[0-9]+ [0-9]+ ?/ ?[0-9]+|{_DECIMAL} ?/ ?{_DECIMAL}|{_SCIENTIFIC})"
)
_IN_TEXT = re.compile(rf"(?:(?<![\w)\]}}.])[-+])?(?:[$€£¥] ?)?{_NUMBER}")
_CURRENCY = r"(?:[$€£¥]|USD|EUR|GBP)"
_UNIT = r"(?:%|°|\^ ?\{? ?\\circ ?\}?|[A-Za-z]{2,}[.]?|(?<=[ /])[A-Za-z])(?: ?\^ ?\{?[23]\}?)?"
_PLAIN = re.compile(rf"([-+]? ?){_CURRENCY}? ?([-+]?)({_NUMBER}) ?(?:%|{_CURRENCY})?")
_WITH_UNIT = re.compile(
    rf"([-+]? ?){_CURRENCY}? ?([-+]?)({_NUMBER})(?: ?{_UNIT}(?:[ /]{_UNIT}){{0,5}})?"
)
_FRACTION = re.compile(r"\\frac ?\{ ?(-?)([^{}]*)\} ?\{([^{}]*)\}")
_MIXED = re.compile(r"([0-9]+) ([0-9]+) ?/ ?([0-9]+)")


def plain_text(text: str) -> str:
    """Return a short text with digits, signs, spaces and LaTeX spacing in one form.

    Unicode is brought to NFKC, all decimal digits to ASCII, runs of white space to one space.
    Texts longer than `WINDOW` characters are cut to their end.
    """
    text = text[-WINDOW:].translate(_BEFORE_NFKC)
    text = unicodedata.normalize("NFKC", text).translate(_AFTER_NFKC)[-WINDOW:]
    if not text.isascii():
        text = "".join(
            str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text
        )
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _SPACED_MARKS.sub(" ", _WORDED.sub(r" \1", text))
    return _POWER_OF_TEN.sub(r"e\1", _SPACES.sub(" ", text)).strip()


def parse_number(text: str, *, units: bool = True) -> Fraction | None:
    """Return the number that the whole text states, or None if it is not one plain number.

    Args:
        text: Such as ``"$1,234.50"``; a final period and surrounding marks are allowed.
        units: Whether words after the number, as in ``18 dollars``, are allowed.
    """
    if len(text) > WINDOW:
        return None
    cleaned = plain_text(text).strip(" \"'").rstrip(".!?,;:").strip(" \"'")
    if cleaned[:1] == "(" and cleaned[-1:] == ")":
        cleaned = cleaned[1:-1].strip()
    if cleaned[:1] == "$" and cleaned[-1:] == "$":
        cleaned = cleaned[1:-1].strip()
    match = (_WITH_UNIT if units else _PLAIN).fullmatch(cleaned)
    match = match or _PLAIN.fullmatch(cleaned)
    if match is None or (match[1].strip() and match[2]):
        return None
    value = _value(match[3])
    negative = "-" in (match[1].strip(), match[2])
    return -value if negative and value is not None else value


def last_number(text: str) -> str | None:
    """Return the last number in the text as it is written, or None if there is none.

    A hyphen counts as a sign only where nothing it could be subtracted from comes before it.
    """
    found = None
    for match in _IN_TEXT.finditer(plain_text(text)):
        found = match[0]
    return found


def read_stated(text: str) -> tuple[str | None, bool]:
    """Find the number that a stated answer such as ``x = 18 apples`` is about.

    Args:
        text: What follows "the answer is", or stands in a box.

    Returns:
        The number as written, or None if there is none; and whether it is all that the text
        states. Of an equation, the last side counts. Otherwise a leading number that no
        operator follows counts, and failing that the last number.
    """
    side = re.split("[=≈]", text)[-1]
    if parse_number(side) is not None:
        return side, True
    leading = re.match(rf"[-+]?(?:[$€£¥] ?)?{_NUMBER}(?! ?[-+*/^\u00d7(\\])", plain_text(side))
    if leading is not None and len(side) <= WINDOW:
        return leading[0], False
    return last_number(text), False


def is_undone_division(text: str) -> bool:
    """Return whether the text is a division that comes out whole, such as ``12/4``.

    To write it is to repeat a problem, not to answer it.
    """
    value = parse_number(text)
    return value is not None and value.denominator == 1 and ("/" in text or "\\frac" in text)


def canonical(value: Fraction) -> str:
    """Return the one way to write the number: ``18``, ``-0.5`` or, if it never ends, ``1/3``."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _value(token: str) -> Fraction | None:
    """Return the value of one match of ``_NUMBER``; None if it is too large or undefined."""
    if sum(char.isdigit() for char in token) > MAX_DIGITS:
        return None
    token = token.replace(",", "")
    if fraction := _FRACTION.fullmatch(token):
        value = _quotient(fraction[2], fraction[3])
        return -value if fraction[1] and value is not None else value
    if mixed := _MIXED.fullmatch(token):
        part = _quotient(mixed[2], mixed[3])
        return None if part is None else int(mixed[1]) + part
    if "/" in token:
        return _quotient(*token.split("/"))
    mantissa, _, exponent = token.lower().partition("e")
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _quotient(top: str, bottom: str) -> Fraction | None:
    divisor = Fraction(bottom.strip())
    return Fraction(top.strip()) / divisor if divisor else None
