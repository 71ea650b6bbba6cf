r"""Units behind mathematical answers.

`split_unit` takes ``12`` and ``cm`` out of ``12\ \text{cm}``. A unit is a word in ``\text``, a
degree or percent sign, a known word of two or more letters, or letters joined by a slash
(``m/s^2``). One bare letter, as in ``2\pi r h`` or ``6 s^2``, is a variable. Two stated units
that are known must be of one kind, and the values are converted: ``3`` hours are ``180`` minutes
and never ``3`` minutes.
"""

import re
from fractions import Fraction

_KINDS: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter meters metre metres", "1/100": "cm centimeter centimeters centimetre "
        "centimetres", "1/1000": "mm millimeter millimeters millimetre millimetres",
        "1000": "km kilometer kilometers kilometre kilometres", "127/5000": "in inch inches",
        "381/1250": "ft foot feet", "1143/1250": "yd yds yard yards",
        "201168/125": "mi mile miles",
    },
    "mass": {
        "1": "g gram grams", "1/1000": "mg milligram milligrams",
        "1000": "kg kilogram kilograms", "45359237/100000": "lb lbs pound pounds",
        "45359237/1600000": "oz ounce ounces", "1000000": "ton tons tonne tonnes",
    },
    "time": {
        "1": "s sec secs second seconds", "60": "min mins minute minutes",
        "3600": "h hr hrs hour hours", "86400": "day days", "604800": "week weeks",
        "2629746": "month months", "31556952": "year years",
    },
    "volume": {
        "1": "l liter liters litre litres", "1/1000": "ml milliliter milliliters",
        "473176473/125000000": "gal gals gallon gallons",
        "473176473/500000000": "qt qts quart quarts",
        "473176473/1000000000": "pint pints", "473176473/2000000000": "cup cups",
    },
    "money": {"100": "dollar dollars usd", "1": "cent cents"},
    "euro": {"1": "euro euros eur"},
    "speed": {"mi/h": "mph", "km/h": "kph"},
    "energy": {"1": "j joule joules"},
    "power": {"1": "w watt watts", "1000": "kw kilowatt kilowatts"},
    "force": {"1": "n newton newtons"},
    "frequency": {"1": "hz hertz"},
    "celsius": {"1": "celsius"},
    "kelvin": {"1": "kelvin kelvins"},
    "fahrenheit": {"1": "fahrenheit"},
    "angle": {"1": "degree degrees deg"},
    "radian": {"1": "radian radians rad"},
    "percent": {"1": "percent"},
    "area": {"1": "hectare hectares", "316160658/781250000": "acre acres"},
}  # fmt: skip
# A liter is a thousandth of a cubic meter, a hectare ten thousand square meters.
_OF_LENGTH = {"volume": ("length", 3, Fraction(1, 1000)), "area": ("length", 2, Fraction(10**4))}
_DEGREES_OF = frozenset({"angle", "celsius", "fahrenheit"})  # "72^\\circ" may be of any
_COMPOUND = {"mph": "mi/h", "kph": "km/h"}
_KNOWN = {
    name: (kind, Fraction(factor) if "/h" not in factor else Fraction(1))
    for kind, factors in _KINDS.items()
    for factor, names in factors.items()
    for name in names.split()
}
_COUNTED = frozenset(
    ["unit", "units", "square", "sq", "cubic", "way", "ways", "people", "student", "students",
     "point", "points", "time", "times", "person"]
)  # fmt: skip
_BARE = sorted((_KNOWN.keys() | _COUNTED) - {"rad"}, key=len, reverse=True)
_LONG = "|".join(name for name in _BARE if len(name) > 1)
_ANY = "|".join(_BARE)
_POWER = r"(?:\s?(?:\^|\*\*)\s?\{?\s?(-?[1-9])\s?\}?)?"
_WORDS = re.compile(
    rf"(?:(?<=[\s\d)}}\]])|(?<=\\pi))(?P<unit>(?:(?:square|cubic|sq)\.?\s)?(?:{_LONG})\.?{_POWER}"
    rf"(?:\s?(?:/|\bper\b)\s?(?:{_ANY}){_POWER})?"
    rf"|(?:{_ANY})\s?/\s?(?:{_ANY}){_POWER})\s*$",
    re.IGNORECASE,
)
_PART = re.compile(r"(?<=[\d.,}])\sof (?:an?|the|all)(?:\s[a-z]{2,}){1,4}\s*$")
_COUNT_WORDS = re.compile(r"(?<=[\d.,])\s(?P<unit>[a-z]{4,}(?:\s[a-z]{2,}){0,4})\s*$")
_FINAL_TEXT = re.compile(
    r"(?P<unit>\\text\s?\{[^{}]*\}(?:\s?\^\s?(?:\{\s?-?[0-9]\s?\}|[0-9]))?)\s*$"
)
_JOINER = re.compile(r"\s?(?:/|\\cdot|\\times)?\s*$")
_DEGREES = re.compile(
    r"\s?\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\})\s?(?:\\text\s?\{\s*([CF])\s*\}|([CF]))?\s?$"
)
# Words that say more than what the number counts.
_NO_UNIT = re.compile(
    r"\b(?:or|and|not|more|less|least|most|than|over|under|to|if|for|when|where|approximately|"
    r"about|wrong|incorrect|false|maybe|through|until|mod|base|is|are|but|with|dozen|hundred|"
    r"thousand|million|billion|trillion|quadrillion|lakh|crore|even|odd|pi|i|e|k)\b|^\s*(?:squared|cubed|factorial)\b"
    r"|[=<>0-9:,(]",
    re.IGNORECASE,
)


def without_unit(expression: str) -> str:
    r"""Return the expression without a final unit in words, a degree or a percent sign."""
    return split_unit(expression)[0]


def split_unit(expression: str) -> tuple[str, str]:
    r"""Return the expression without its final unit, and the unit, empty if there is none.

    The words of a unit are as they were written, with ``^`` and ``/``; a degree is ``degree``.
    """
    bare = expression.rstrip(" .")
    degrees = _DEGREES.search(bare)
    if degrees is not None and bare[: degrees.start()].strip():
        scale = degrees[1] or degrees[2]
        name = {"C": "celsius", "F": "fahrenheit"}.get(scale, "degree")
        return bare[: degrees.start()].strip(), name
    if bare.endswith("%") and bare.rstrip("%\\ "):
        return bare.rstrip("%\\ "), "percent"
    unit = ""
    for _ in range(4):
        found = _FINAL_TEXT.search(bare)
        if found is None:
            break
        before = bare[: found.start()]
        words = re.sub(r"\\text\s?\{([^{}]*)\}", r"\1", found["unit"])
        # "K" is kelvin without a currency (see `notation`), alone or behind another unit.
        plain = re.sub(r"(?:^\s*|(?<=[A-Za-z)][ /]))K\s*$", "", re.sub(r"\s?\^.*", "", words))
        if _NO_UNIT.search(plain) or not re.search(r"[0-9A-Za-z]", before):
            break
        joiner = _JOINER.search(before)
        mark = "/" if joiner and "/" in joiner[0] else " "
        bare = (before[: joiner.start()] if joiner else before).rstrip()
        unit = f"{mark}{words.strip()}{unit}"
    if not unit or unit.startswith("/"):
        found = _PART.search(bare) or _WORDS.search(bare) or _COUNT_WORDS.search(bare)
        if found is not None and _has_value(bare[: found.start()]):
            name = found[0].strip()
            if not _NO_UNIT.search(re.sub(r"\s?(?:\^|\*\*).*|/.*", "", name)):
                bare, unit = bare[: found.start()].rstrip(" -"), name + unit
        elif unit.startswith("/"):
            return expression.rstrip(" ."), ""
    if not unit:
        return bare, ""
    inner, name = split_unit(bare)  # "45^\circ \text{ angle}"
    return (inner, name) if name in ("degree", "percent") else (bare, unit.strip())


def units_agree(gold: str, given: str) -> Fraction | None:
    """Return by what the given value is multiplied to be in the gold's unit; None if it cannot.

    An unknown unit, or none, agrees with any.
    """
    left, right = _measure(gold), _measure(given)
    if left is None or right is None:
        return Fraction(1)
    if left[0] != right[0]:
        kinds = {left[0][0][0], right[0][0][0]}
        return Fraction(1) if kinds < _DEGREES_OF and "angle" in kinds else None
    return right[1] / left[1]


def in_radians(gold: str, given: str) -> tuple[str, str]:
    r"""Return ``\frac{(30)\pi}{180}`` and ``\pi/6`` of ``30^\circ`` and ``\pi/6\text{ radians}``.

    Other pairs come back as they are; without a unit, as in ``\pi/6``, nothing is converted.
    """
    sides = [split_unit(side) for side in (gold, given)]
    kinds = [_KNOWN.get(unit.casefold().strip(" ."), ("", 0))[0] for _, unit in sides]
    if set(kinds) != {"angle", "radian"}:
        return gold, given
    values = [
        rf"\frac{{({value})\pi}}{{180}}" if kind == "angle" else value
        for (value, _), kind in zip(sides, kinds, strict=True)
    ]
    return values[0], values[1]


def one_quantity(first: Fraction, unit: str, second: Fraction, other_unit: str) -> bool | None:
    """Return whether ``18 dollars`` and ``1800 cents`` are one; None for unknown units."""
    if _measure(unit) is None or _measure(other_unit) is None:
        return None
    scale = units_agree(unit, other_unit)
    return scale is not None and first == second * scale


def _has_value(text: str) -> bool:
    return bool(re.search(r"[0-9]|\\(?:frac|sqrt|pi)", text))


def _measure(unit: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    """Return the kinds with their powers and the factor; None if a word of it is unknown."""
    folded = re.sub(r"[.{}]|\\text", " ", unit.casefold()).replace("**", "^")
    for name, written in _COMPOUND.items():
        folded = re.sub(rf"\b{name}\b", written, folded)
    folded = re.sub(r"\bper\b", "/", folded)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    sign, next_power = 1, 1
    for mark, word, power in re.findall(r"(/)|([a-z]+)(?:\s?\^\s?(-?[0-9]))?", folded):
        if mark:
            sign = -1
            continue
        if word in ("square", "sq", "cubic"):
            next_power = 3 if word == "cubic" else 2
            continue
        if word in ("unit", "units"):
            return None
        known = _KNOWN.get(word)
        if known is None:
            return None
        exponent = sign * (int(power) if power else next_power)
        next_power = 1
        base, times, scale = _OF_LENGTH.get(known[0], (known[0], 1, Fraction(1)))
        powers[base] = powers.get(base, 0) + times * exponent
        factor *= (known[1] * scale) ** exponent
    if not powers:
        return None
    return tuple(sorted(powers.items())), factor
