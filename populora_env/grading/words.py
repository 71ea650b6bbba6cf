r"""Answers that are words: names, the letters of a choice, dates, times of day, digits in a base.

A word is no product, so ``\text{on}`` is not ``no`` and ``Tom`` is not ``mTo``, and a date is no
subtraction. A few letters are taken for a word if they are written in ``\text``, as a name
(``Tom``), or are a common short word; otherwise, as in ``ab``, they are a product of variables.
Upper and lower case are one in words and two in variables. Every function returns None where the
answers are not of its kind.
"""

import re

TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_WORDS = re.compile(r"(?=.*[A-Za-z])[A-Za-z][A-Za-z ,.'\u2019-]*")
_LABEL = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ,.'\u2019-]*")
_FUNCTIONS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "max", "min", "gcd", "lcm",
     "mod", "det", "abs"]
)  # fmt: skip
_SHORT_WORDS = frozenset(
    ["yes", "no", "it", "he", "we", "me", "us", "so", "go", "on", "off", "up", "in", "out", "odd",
     "all", "one", "two", "six", "ten", "red", "cat", "dog", "sun", "mon", "tue", "wed", "thu",
     "fri", "sat", "tie", "win", "true", "day", "may", "jan", "feb", "mar", "apr", "jun", "jul",
     "aug", "sep", "oct", "nov", "dec", "car", "bus", "hat", "pen", "cup", "box", "key", "map",
     "left", "man", "boy", "her", "his", "she", "him", "mom", "dad", "bat", "rat", "pig", "cow",
     "hen", "ant", "bee", "owl", "fox", "tin", "gas", "oil", "ice", "pot", "top", "bag", "big",
     "old", "new", "low", "hot", "wet", "dry", "fat", "thin", "sum", "any", "few", "not",
     "neither", "none", "both"]
)  # fmt: skip
_ARTICLE = re.compile(
    r"^(?:(?:the|an)\s|a\s(?=\w{3})|on\s(?:an?\s)?(?=(?:mon|tues|wednes|thurs|fri|satur|sun)day))"
)
_CHOICE = re.compile(r"[(\[]?([A-Z])[)\]]?", re.IGNORECASE)
_CHOSEN = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)\s?(?:is)?\s?:?\s?)?"
    r"(?:\(\s?([A-Z])\s?\)(?![ ]?[-+*/^]).*|\[\s?([A-Z])\s?\]|([A-Z])\s?[).:](?:\s.*)?|([A-Z]))",
    re.IGNORECASE | re.DOTALL,
)
_CHOSEN_TEXT = re.compile(
    r"\(?([a-z])\)?(?:[).:;].*|,(?!\s?\(?[a-z]\)?(?![a-z'\u2019])).*"
    r"|\s(?:[-\u2013\u2014(=]|because|since|not\b|and not\b).*)?",
    re.DOTALL,
)
_OPTION_AT_END = re.compile(
    r"(?!.*(?:\b(?:not|wrong|incorrect)\b|n't))"
    r".*(?:\b(?:option|choice|choose|chose|pick|select|is|it's|with) ?:? ?\(?|\()([a-z])\)?"
    r"|(?!.*(?:\b(?:not|wrong|incorrect|neither|or|and|if)\b|n't))"
    r"(?:.*\W)?\(?([a-z])\)? is (?:the )?(?:correct|right)(?: (?:answer|option|choice|one))?",
    re.DOTALL | re.IGNORECASE,
)
# "b, or possibly c" chooses neither.
_OR_ANOTHER = re.compile(
    r"\(?([a-z])\)?\W{0,4}\b(?:or|vs\.?|versus|maybe|perhaps|possibly)\b\W+"
    r"(?:(?:maybe|perhaps|possibly|even|rather|also|else)\b\W+)*"
    r"\(?(?!\1)([b-z]|a(?! [a-z]))\)?(?![a-z'\u2019])"
)
_NOT_THIS = re.compile(
    r",?\s(?:and\s)?not\s\(?[A-Za-z]\)?(?:(?:,|\s(?:or|nor|and))\s\(?[A-Za-z]\)?)*(?=\s*\}?\s*[.]?$)"
)
_LABELLED = re.compile(r"\s*(?:\\text\s?\{\s*)?\(?([A-Z])\)(?:\s*\}\s*|\s+)(?=\S)(?![-+*/^=])")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})\s?([ap]\.?\s?m\.?)?", re.IGNORECASE)
_DATE = re.compile(
    r"(?P<year>1[5-9][0-9]{2}|2[01][0-9]{2})(?P<mark>[-/.])(?P<month>0?[1-9]|1[0-2])(?P=mark)"
    r"(?P<day>0?[1-9]|[12][0-9]|3[01])"
    r"|(?P<first>0?[1-9]|[12][0-9]|3[01])(?P<sign>[-/.])(?P<second>0?[1-9]|[12][0-9]|3[01])"
    r"(?P=sign)(?P<last>1[5-9][0-9]{2}|2[01][0-9]{2})"
)
_NAMED_DATE = re.compile(
    r"(?:(?:the )?(?P<before>[0-9]{1,2})(?:st|nd|rd|th)?(?: of)? )?"
    r"(?P<month>January|February|March|April|May|June|July|August|September|October|November|December)"
    r"(?(before)| (?:the )?(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?)(?:,? (?P<year>[0-9]{4}))?",
    re.IGNORECASE,
)
_BASED = re.compile(r"([0-9A-Fa-f]+)_ ?\{?(?:\\text ?\{)?([0-9]{1,2}|[a-z]{3,12})\}{0,2}")


def names(gold: str, answer: str) -> bool | None:
    """Compare answers that are nothing but words; a list of names has no order."""
    pattern = _LABEL if TEXT.fullmatch(gold.strip()) else _WORDS
    words = _plain_words(gold, pattern)
    if words is None or not (_is_word(gold) or _is_word(answer)):
        return None
    given = _plain_words(answer, pattern)
    if given is None:
        # "Evelyn (the second)" or a sentence is no name; a list of names may be in another order.
        return False if "," not in words else None
    return _members(words) == _members(given)


def choices(gold: str, answer: str) -> bool | None:
    """Compare the letters of a choice: ``(C)``, ``C``, ``C) 12`` and ``Option C`` are one."""
    right = _CHOICE.fullmatch(TEXT.sub(r"\1", gold).strip())
    if right is None:
        return None
    wrapped = "\\text" in gold or "(" in gold
    if not wrapped and not right[1].isupper():
        return None  # a variable
    if wrapped and len(offered(answer)) > 1:
        return False  # "(A) or (B)" chooses nothing
    bare = TEXT.sub(r"\1", answer).strip()
    chosen = _CHOSEN.fullmatch(bare) or (_OPTION_AT_END.fullmatch(bare) if wrapped else None)
    if chosen is None:
        return False if wrapped else None
    letter = next(letter for letter in chosen.groups() if letter)
    return letter.upper() == right[1].upper() if wrapped else letter == right[1]


def offered(answer: str) -> set[str]:
    r"""Return the letters of a choice that an answer names: A and B of ``\text{(A) or (B)}``."""
    found = re.findall(r"\(\s?([A-Za-z])\s?\)", TEXT.sub(r"\1", answer))
    alone = re.findall(r"(?<![A-Za-z\\'\u2019])([B-HJ-Z]|A(?!\s[a-z]))(?![A-Za-z'\u2019])", answer)
    return {letter.upper() for letter in found} | set(alone)


def is_choice(gold: str) -> bool:
    r"""Return whether a known answer is a letter in brackets or in ``\text``."""
    return ("\\text" in gold or "(" in gold) and bool(
        _CHOICE.fullmatch(TEXT.sub(r"\1", gold).strip())
    )


def is_letter(gold: str) -> bool:
    """Return whether a known answer of kind text is a letter, perhaps in brackets."""
    return bool(_CHOICE.fullmatch(gold))


def without_label(gold: str, answer: str) -> str:
    """Return ``12`` of ``(C) 12``, or ``(C)`` of ``(C), not (D)``, as the known answer is."""
    if is_choice(gold):
        bare = " ".join(TEXT.sub(r" \1 ", answer).replace(" ,", ",").split())
        left = _NOT_THIS.sub("", bare)
        answer = answer if left == bare else left
    label = _LABELLED.match(answer)
    if label is None or re.search(rf"(?<![A-Za-z\\]){label[1]}(?![A-Za-z])", gold):
        return answer
    rest = answer[label.end() :]
    return answer if is_choice(rest) or offered(rest) else rest  # "(A)(C)" names two


def chosen_text(gold: str, answer: str) -> bool | None:
    """Compare answers of kind text, folded, where the known one is the letter of a choice.

    Returns:
        Whether the letter is chosen; None if the known answer is no letter, or several letters
        are offered.
    """
    right = _CHOICE.fullmatch(gold)
    if right is None:
        return None
    letters = set(re.findall(r"\(([a-z])\)", answer))
    listed = re.fullmatch(r"\(?([a-z])\)?(?: ?(?:,|/|;|&|\bor\b|\band\b) ?\(?([a-z])\)?)+", answer)
    if len(letters) > 1 or listed is not None or _OR_ANOTHER.match(answer):
        return None
    answer = re.sub(r"^\[([a-z])\]", r"\1", answer.rstrip("?!"))
    answer = re.sub(r"\$|\\(?:text|textbf|mathrm|mathbf) ?\{([^{}]*)\}", r"\1", answer).strip()
    patterns = (_CHOSEN_TEXT, _CHOSEN, _OPTION_AT_END)
    chosen = next((found for found in (one.fullmatch(answer) for one in patterns) if found), None)
    if chosen is None:
        return False
    return next(letter for letter in chosen.groups() if letter).casefold() == right[1].casefold()


def clocks(gold: str, answer: str) -> bool | None:
    """Compare times of day; one half of the day may be left out."""
    right = _CLOCK.fullmatch(TEXT.sub(r"\1", gold).strip())
    if right is None or (right[3] is None and right[2][0] != "0"):
        return None  # it may be a ratio such as 3:20
    given = _CLOCK.fullmatch(TEXT.sub(r"\1", answer).strip())
    if given is None:
        return None if right[3] is None else False
    same = (int(right[1]), right[2]) == (int(given[1]), given[2])
    halves = {match[3][0].lower() for match in (right, given) if match[3]}
    return same and len(halves) < 2


def dates(gold: str, answer: str) -> bool | None:
    """Compare dates in digits; one is no subtraction and no fraction."""
    named = [_named_date(TEXT.sub(r"\1", side).strip(" .")) for side in (gold, answer)]
    if None not in named:
        return named[0] == named[1]
    found = [_DATE.fullmatch(TEXT.sub(r"\1", side).strip(" .")) for side in (gold, answer)]
    if found == [None, None]:
        return None
    left, right = (_date(match) if match else None for match in found)
    return left == right


def bases(gold: str, answer: str) -> bool | None:
    """Compare digits of which at least one side names the base."""
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


def variables_differ(gold: str, answer: str) -> bool:
    """Return whether an answer writes a variable of the known one in the other case."""
    left, right = (
        set(re.findall(r"[A-Za-z]", re.sub(r"\\text\s?\{[^{}]*\}|\\[A-Za-z]+", " ", side)))
        for side in (gold, answer)
    )
    return any(letter.swapcase() in left - right for letter in right - left)


def _date(match: re.Match[str]) -> tuple[str, ...]:
    if match["year"]:
        return match["year"], match["month"].lstrip("0"), match["day"].lstrip("0")
    # Whether the day or the month comes first is unknown, so that they have to be as in the other.
    return match["first"].lstrip("0"), match["second"].lstrip("0"), match["last"]


def _named_date(text: str) -> tuple[str, str, str] | None:
    """Return month, day and year, perhaps empty, of ``July 4th, 1999`` and ``4 July``."""
    found = _NAMED_DATE.fullmatch(text)
    if found is None:
        return None
    return found["month"].casefold(), found["day"] or found["before"], found["year"] or ""


def _plain_words(expression: str, pattern: re.Pattern[str] = _WORDS) -> str | None:
    """Return the words of an expression that is nothing but words, folded; None otherwise."""
    bare = TEXT.sub(r" \1 ", expression).strip(" .")
    if not pattern.fullmatch(bare):
        return None
    folded = " ".join(bare.casefold().split())
    return None if folded in _FUNCTIONS else _ARTICLE.sub("", folded)


def _is_word(expression: str) -> bool:
    r"""Return whether it is words and no product; see the module."""
    bare = expression.strip(" .")
    if "\\text" in bare:  # of "p - q\\text{ cm}" it is the unit
        return not re.search("[A-Za-z]", TEXT.sub("", bare))
    words = re.findall(r"[A-Za-z]+", bare)
    return any(
        word.casefold() in _SHORT_WORDS
        or (len(word) > 2 and word.istitle() and re.search("[aeiouy]", word, re.IGNORECASE))
        or (len(word) > 3 and not _is_product(word))
        for word in words
    ) and bool(_WORDS.fullmatch(bare))


def _is_product(word: str) -> bool:
    """Return whether letters are variables, in the order of the alphabet as products are."""
    letters = word.casefold()
    return list(letters) == sorted(letters) and not re.search("[eiou]", letters)


def _members(words: str) -> list[str]:
    """Return the names of a list such as ``anna, ben and carla``, sorted."""
    return sorted(part for part in re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", words) if part)
