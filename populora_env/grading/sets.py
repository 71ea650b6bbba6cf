r"""Intervals and inequalities in one form.

`same_set` reads ``x < 3 \text{ or } x > 3``, ``2 \le x < 5``, ``]2,5[``, ``[2,5)``, ``x \ne 3``,
``\{x \mid x > 2\}``, ``\mathbb{R}`` and unions of those, and compares the sets of numbers that they
are. A pair such as ``(2,5)`` is an interval only if the other answer is one for certain. Ends that
are no plain numbers (``\sqrt{2}``) are left to algebra: `as_union` writes both answers with
brackets. Inequalities of more than one variable, or of more than a bare variable, are not covered.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from populora_env.reading.numerals import parse_number, same_number

_OR = re.compile(r"\\text\s?\{\s?,?\s?or\s?\}|(?<![\\A-Za-z])or(?![A-Za-z])|\\lor\b|\\vee\b|\u2228")
_AND = re.compile(
    r"\\text\s?\{\s?,?\s?and\s?\}|(?<![\\A-Za-z])and(?![A-Za-z])|\\land\b|\\wedge\b|\u2227|\\cap\b"
)
_VARIABLE = r"(?:[A-Za-z]|\\(?:theta|alpha|beta|lambda|phi|omega))"
_SIGN = re.compile(r"(\\leq?(?![A-Za-z])|\\geq?(?![A-Za-z])|\\neq?(?![A-Za-z])|[<>])")
_SIGNS = {"\\le": "<=", "\\leq": "<=", "\\ge": ">=", "\\geq": ">=", "\\ne": "!=", "\\neq": "!="}
_MEMBER = re.compile(rf"({_VARIABLE})\s?\\in(?![A-Za-z])\s*(.*)", re.DOTALL)
_BUILDER = re.compile(
    rf"\\\{{\s*({_VARIABLE})(?:\s?\\in\s?(?:\\mathbb\s?\{{?\s?R\s?\}}?|\\text\s?\{{R\}}|R))?"
    r"\s*(?:\\mid|\\vert|\||:|\\colon)\s*(.*?)\\\}",
    re.DOTALL,
)
_REALS = re.compile(
    r"\\mathbb\s?\{?\s?R\s?\}?|\\text\s?\{\s?(?:all )?(?:real numbers|reals)\s?\}"
    r"|all real(?: number)?s|\u211d"
)
_HALF = re.compile(
    r"\\mathbb\s?\{?\s?R\s?\}?\s?(?:_\s?\{?\s?(\\[gl]eq?(?![a-z])|[<>])\s?0\s?\}?"
    r"|(?P<zero>_\s?\{?\s?0\s?\}?\s?)?\^\s?\{?\s?(?P<sign>[+-])\s?\}?"
    r"(?P<null>\s?_\s?\{?\s?0\s?\}?)?)"
    r"|(?:\\text\s?\{\s?)?(?:all )?(?P<words>non-?negative|non-?positive|positive|negative) "
    r"(?:real numbers|reals)(?:\s?\})?"
)
_EXCEPT = re.compile(
    r"(?:\\text\s?\{\s?)?(?:all )?(?:real numbers|reals),? (?:except|other than|but)(?: for)?"
    r"(?: (?:zero|(-?[0-9.]+)))?\s?\}?\s?(?:[a-z]\s?=\s?)?([^{}A-Za-z=]*)"
)
_IN_REALS = re.compile(rf"({_VARIABLE})\s?\\in\s?{_REALS.pattern.split('|')[0]}\s?,\s?(?=.*\1)")
_WITHOUT = re.compile(
    r"(.*?)(?:\\setminus|\\backslash|(?<=[})R])\s?[-\\]\s?(?=\\\{))\s*\\\{(.*)\\\}"
)
_ABSOLUTE = re.compile(rf"\|\s?({_VARIABLE})\s?([-+]\s?[0-9./]+)?\s?\|")
_ENDLESS = re.compile(r"([-+]?)\s?\\infty")
_UNEQUAL = re.compile(rf"({_VARIABLE})\s?\\neq?(?![A-Za-z])[^<>]*")
_NOT_IN = re.compile(rf"({_VARIABLE})\s?\\(?:notin|not\s?\\in)(?![A-Za-z])\s*\\\{{([^{{}}]*)\\\}}")
_LETTERS = re.compile(r"[A-Za-z]")
_COMMANDS = re.compile(
    r"\\(?:sqrt|frac|pi|infty|text|cdot|ln|log)(?![A-Za-z])|(?<![A-Za-z])e(?![A-Za-z])"
)


@dataclass(frozen=True, slots=True)
class _Interval:
    """The numbers between two ends, as LaTeX; ``left`` and ``right``: whether each is in it."""

    low: str
    left: bool
    high: str
    right: bool

    def __str__(self) -> str:
        return f"{'[' if self.left else '('}{self.low},{self.high}{']' if self.right else ')'}"


@dataclass(frozen=True, slots=True)
class _Set:
    """A union of intervals, and the variable that it was written with, if any."""

    parts: tuple[_Interval, ...]
    variable: str | None = None


def same_set(gold: str, answer: str) -> bool | None:
    """Return whether two answers are the same set of numbers; None if that is not certain.

    Args:
        gold: The known answer, as `notation.to_latex` writes it.
        answer: The answer to check, likewise.
    """
    known, given = _sets(gold, answer)
    if known is None or given is None:
        return None
    if None not in (known.variable, given.variable) and known.variable != given.variable:
        return False
    left, right = _merged(known.parts), _merged(given.parts)
    if left is None or right is None:
        return None
    return left == right or (len(left) == len(right) and all(map(_same_interval, left, right)))


def as_union(gold: str, answer: str) -> tuple[str, str]:
    r"""Return both answers as ``(a,b) \cup [c,d)`` if both are sets, else as they are."""
    known, given = _sets(gold, answer)
    if known is None or given is None:
        return gold, answer
    return r" \cup ".join(map(str, known.parts)), r" \cup ".join(map(str, given.parts))


def _sets(gold: str, answer: str) -> tuple[_Set | None, _Set | None]:
    gold, answer = (_NOT_IN.sub(r"\1 \\ne \2", side) for side in (gold, answer))
    if not (_is_certain(gold) or _is_certain(answer)):
        return None, None
    commas = "\\cup" in gold or _SIGN.search(gold) is not None
    return _read(gold, commas), _read(answer, commas)


def _is_certain(text: str) -> bool:
    """Return whether it can be nothing but a set of numbers."""
    bare = text.strip(" .")
    pair = re.fullmatch(r"([(\[\]])[^()\[\],;]*([,;])[^()\[\],;]*([)\]\[])", bare)
    if pair is not None:
        plain = (pair[1], pair[3]) in (("(", ")"), ("[", "]"))
        return not plain or "\\infty" in bare or (pair[1], pair[2]) == ("[", ";")
    return bool(
        _SIGN.search(bare)
        or "\\cup" in bare
        or "\\setminus" in bare
        or _REALS.search(bare)
        or _HALF.fullmatch(bare)
    )


def _read(text: str, commas: bool = False) -> _Set | None:
    """Return the set that a text writes; ``commas``: whether they may join intervals."""
    text = re.sub(r"\\[lr]?vert(?![A-Za-z])", "|", text).strip(" .")
    if len(text) > 400:
        return None
    if _REALS.fullmatch(text):
        return _Set((_Interval("-\\infty", False, "\\infty", False),))
    half = _HALF.fullmatch(text)
    if half is not None:
        sign, words = half[1] or "", half["words"] or ""
        below = sign[:2] in ("<", "\\l") or half["sign"] == "-" or "pos" not in (words or "pos")
        below = below != words.startswith("non")
        closed = bool(sign[:1] == "\\" or half["zero"] or half["null"] or words[:3] == "non")
        ends = ("-\\infty", False, "0", closed) if below else ("0", closed, "\\infty", False)
        return _Set((_Interval(*ends),))
    apart = _EXCEPT.fullmatch(text)
    if apart is not None:
        return _less(_read("\\mathbb{R}"), apart[1] or apart[2].strip() or "0")
    text = _IN_REALS.sub("", text)
    built = _BUILDER.fullmatch(text)
    if built is not None:
        inner = _read(built[2])
        same = inner is not None and inner.variable in (None, built[1])
        return _Set(inner.parts) if inner is not None and same else None
    member = _MEMBER.fullmatch(text)
    if member is not None:
        inner = _read(member[2], commas)
        return _Set(inner.parts, member[1]) if inner is not None else None
    without = _WITHOUT.fullmatch(text)
    if without is not None:
        return _less(_read(without[1]), without[2])
    if _SIGN.search(text):
        return _relations(text)
    if _OR.search(text) and "\\cup" in text:
        return None  # one answer or the other
    union = _OR.sub("|", re.sub(r"\\cup(?![A-Za-z])", "|", text))
    if commas:
        union = re.sub(r"(?<=[)\]])\s?(?:,|\\text\s?\{\s?and\s?\})\s?(?=[(\[])", "|", union)
    parts = [_interval(part.strip()) for part in union.split("|")]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or ("\\cup" not in text and _overlap(found)):
        return None
    return _Set(tuple(found))


def _overlap(parts: list[_Interval]) -> bool:
    """Return whether alternatives have numbers in common: then they are several answers."""
    merged = _merged(tuple(parts))
    return merged is not None and len(merged) < len(parts)


def _interval(text: str) -> _Interval | None:
    point = re.fullmatch(r"\\\{([^{}]*)\\\}", text)
    if point is not None and _is_end(point[1]) and "," not in point[1]:
        return _Interval(point[1].strip(), True, point[1].strip(), True)
    if len(text) < 5 or text[0] not in "([]" or text[-1] not in ")][":
        return None
    inside = text[1:-1]
    cut = ";" if ";" in inside else ","
    ends = [end.strip() for end in inside.split(cut)]
    if len(ends) != 2 or not all(map(_is_end, ends)):
        return None
    return _Interval(ends[0], text[0] == "[", ends[1], text[-1] == "]")


def _is_end(text: str) -> bool:
    """Return whether it is a number or infinity: without variables, brackets and signs."""
    bare = _COMMANDS.sub(" ", text)
    return bool(text.strip()) and not _LETTERS.search(bare) and not re.search(r"[()\[\]<>=]", bare)


def _relations(text: str) -> _Set | None:
    r"""Return the set of ``x < 2 \text{ or } x > 5``, all of one variable."""
    variables = set[str]()
    union = list[_Interval]()
    for clause in _OR.split(re.sub(r"\\cup(?![A-Za-z])", " or ", text)):
        bounds, points = list[_Interval](), list[str]()
        pieces = [piece for piece in re.split(r",", _AND.sub(",", clause)) if piece.strip()]
        pieces = _excluded(pieces)
        alternatives = _AND.search(clause) is None and len(pieces) > 1
        for piece in pieces:
            read = _relation(piece.strip())
            if read is None:
                return None
            variables.add(read[0])
            if len(read[1]) > 1:  # x != 3
                alternatives = False
                if len(pieces) > 1 and (_value(read[1][0].high) is None or "|" in piece):
                    return None
                if len(pieces) > 1:
                    points.append(read[1][0].high)
                else:
                    union.extend(read[1])
            else:
                bounds.extend(read[1])
        if not bounds and not points:
            continue
        bounds = bounds or [_Interval("-\\infty", False, "\\infty", False)]  # x != 2, x != 3
        common = _meet(bounds)
        if common is None:
            return None
        if alternatives and _merged((common,)) == ():
            union.extend(bounds)  # "x < 2, x > 5" can only mean "or"
        elif points:
            left = _less(_Set((common,)), ",".join(points))
            union.extend(left.parts if left is not None else ())
        else:
            union.append(common)
    if len(variables) != 1 or _overlap(union):
        return None
    return _Set(tuple(union), variables.pop())


def _excluded(pieces: list[str]) -> list[str]:
    r"""Return ``x \ne 2`` and ``x \ne 3`` of ``x \ne 2`` and ``3``."""
    first = _UNEQUAL.fullmatch(pieces[0].strip()) if pieces else None
    if first is None or any(_SIGN.search(piece) for piece in pieces[1:]):
        return pieces
    return [pieces[0], *(f"{first[1]} \\ne {piece.strip()}" for piece in pieces[1:])]


def _relation(text: str) -> tuple[str, list[_Interval]] | None:
    r"""Return the variable and the intervals of one inequality such as ``5 > x \ge 2``."""
    tokens = _SIGN.split(text)
    sides, signs = [side.strip() for side in tokens[::2]], tokens[1::2]
    signs = [_SIGNS.get(sign, sign) for sign in signs]
    named = [
        side
        for side in sides
        if (re.fullmatch(_VARIABLE, side) and side != "e") or _ABSOLUTE.fullmatch(side)
    ]
    if len(named) != 1 or not all(_is_end(side) for side in sides if side != named[0]):
        return None
    if len(signs) == 2 and "|" in named[0]:
        return None
    if len(signs) == 2 and sides[1] == named[0] and signs[0][0] == signs[1][0] != "!":
        if signs[0][0] == ">":
            sides, signs = sides[::-1], [sign.replace(">", "<") for sign in signs[::-1]]
        return named[0], [_Interval(sides[0], signs[0] == "<=", sides[2], signs[1] == "<=")]
    if len(signs) != 1:
        return None
    value, sign = (sides[1], signs[0]) if sides[0] == named[0] else (sides[0], signs[0])
    if sides[0] != named[0]:
        sign = sign.translate(str.maketrans("<>", "><"))
    closed = "=" in sign
    centred = _ABSOLUTE.fullmatch(named[0])
    if centred is not None:
        return _around(centred, value, sign)
    if sign == "!=":
        return named[0], [
            _Interval("-\\infty", False, value, False), _Interval(value, False, "\\infty", False)
        ]  # fmt: skip
    if sign[0] == "<":
        return named[0], [_Interval("-\\infty", False, value, closed)]
    return named[0], [_Interval(value, closed, "\\infty", False)]


def _around(centred: re.Match[str], value: str, sign: str) -> tuple[str, list[_Interval]] | None:
    """Return the intervals of ``|x - 2| < 3``."""
    middle, radius = parse_number(centred[2] or "0", units=False), _value(value)
    if middle is None or not isinstance(radius, Fraction) or radius < 0 or sign == "!=":
        return None
    low, high, closed = str(-middle - radius), str(radius - middle), "=" in sign
    if sign[0] == "<":
        return centred[1], [_Interval(low, closed, high, closed)]
    return centred[1], [
        _Interval("-\\infty", False, low, closed), _Interval(high, closed, "\\infty", False)
    ]  # fmt: skip


def _meet(bounds: list[_Interval]) -> _Interval | None:
    """Return what intervals have in common; None if their ends cannot be ordered."""
    lows = [part for part in bounds if part.low != "-\\infty"] or bounds[:1]
    highs = [part for part in bounds if part.high != "\\infty"] or bounds[:1]
    lower = {part: _value(part.low) for part in lows}
    upper = {part: _value(part.high) for part in highs}
    for parts, values in ((lows, lower.values()), (highs, upper.values())):
        if len(parts) > 1 and None in values:
            return None
    low = max(lows, key=lambda part: (lower[part] or 0, not part.left))
    high = min(highs, key=lambda part: (upper[part] or 0, part.right))
    return _Interval(low.low, low.left, high.high, high.right)


def _less(whole: _Set | None, points: str) -> _Set | None:
    """Return a set without some points of it."""
    if whole is None or len(whole.parts) != 1:
        return None
    values = [(_value(point), point.strip()) for point in points.split(",")]
    known = sorted((value, point) for value, point in values if value is not None)
    low, high = _value(whole.parts[0].low), _value(whole.parts[0].high)
    if low is None or high is None or not all(low <= value <= high for value, _ in known):
        return None
    if len(known) < len(values):
        return None
    part = whole.parts[0]
    parts, low, left = list[_Interval](), part.low, part.left
    for _, point in known:
        parts.append(_Interval(low, left, point, False))
        low, left = point, False
    return _Set((*parts, _Interval(low, left, part.high, part.right)), whole.variable)


def _value(text: str) -> Fraction | float | None:
    endless = _ENDLESS.fullmatch(text.strip())
    if endless is not None:
        return float("-inf") if endless[1] == "-" else float("inf")
    return parse_number(text, units=False)


def _same_interval(left: tuple[object, ...], right: tuple[object, ...]) -> bool:
    """Return whether two intervals are one, by the policy for decimals."""
    return all(
        same_number(one, other)
        if isinstance(one, Fraction) and isinstance(other, Fraction)
        else one == other
        for one, other in zip(left, right, strict=True)
    )


def _merged(parts: tuple[_Interval, ...]) -> tuple[tuple[object, ...], ...] | None:
    """Return the intervals in order, those that touch as one; None if an end is no number."""
    ends = list[tuple[Fraction | float, bool, Fraction | float, bool]]()
    for part in parts:
        low, high = _value(part.low), _value(part.high)
        if low is None or high is None:
            return None
        if low < high or (low == high and part.left and part.right):
            ends.append((low, part.left, high, part.right))
    ends.sort(key=lambda end: (end[0], not end[1]))
    joined = list[tuple[Fraction | float, bool, Fraction | float, bool]]()
    for low, left, high, right in ends:
        if joined:
            before = joined[-1]
            if low < before[2] or (low == before[2] and (left or before[3])):
                top = max((before[2], before[3]), (high, right))
                joined[-1] = (before[0], before[1], *top)
                continue
        joined.append((low, left, high, right))
    return tuple(joined)
