r"""Where in a reply its answer may stand: in a box, behind a phrase, in bold, on the last line.

Each function finds a candidate in one kind of place, or None; which of them count for what kind of
answer, and in which order, is decided in `answers`. Every one takes time linear in the text.
"""

import re

from populora_env.reading.numerals import parse_number
from populora_env.reading.said import (
    ANSWER_LIMIT,
    fielded,
    first_line,
    last_match,
    tagged,
    trimmed,
    without_approval,
)
from populora_env.reading.statements import denies, read_last, read_stated
from populora_env.reading.units import without_unit

_BARE_LIMIT = 200  # longest reply that can be nothing but an answer
_BOX_LIST = 64  # most boxes that are read as one list

_PHRASE = re.compile(
    r"\b(?:answer|(?:correct|right|best) (?:option|choice))\*{0,3}\s{0,2}"
    r"(?:is\b(?! not\b)|:|=)[\s:*]{0,6}(?:(?<=\n)> [\s*]{0,4})?"
    r"|\bfinal answer\*{0,3}\s{0,2}\n[\s:*]{0,6}(?:(?<=\n)> [\s*]{0,4})?",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?:^|\n)[ *]{0,4}A\*{0,2}:[\s:*]{0,6}")
_OPTION = r"\(?(?:[B-HJ-Z]|A(?!\s[a-z]))\b(?!')"
# "12; 13" and "12. Or 13." go on: what comes behind may be another answer.
_NO_OTHER = (
    r"(?!\s{0,9}(?:[Oo]r|vs\.?|[Mm]aybe|[Pp]erhaps|[Pp]ossibly)\b\W{0,9}"
    r"(?:(?:maybe|perhaps|possibly|rather|even|is it|it is)\b\W{0,9})?"
    rf"(?:[0-9]|{_OPTION}))"
)
_SENTENCE_END = re.compile(
    rf"\n{_NO_OTHER}"
    r"|(?<!\\)(?:!(?!\s?=)|(?:(?<!\b(?:lb|ft|hr))(?<!\b(?:lbs|hrs|min))|(?!\.\s[0-9]))\.(?!\s[+=])"
    rf"|[;?](?!\s?(?:-?[0-9]|[Nn]o(?:pe)?\b|{_OPTION})))"
    rf"(?=[\"'*_`\u201d\u2019]{{0,4}}\s){_NO_OTHER}"
)
_SENTENCES = re.compile(r"(?<=[.!?])\s(?![Nn]o(?:pe)?\b)")  # "12? No." is one
_AFTER_BOLD = re.compile(
    r"\s*(?:$|[.,;:!(\u2013\u2014])"
    r"|(?: [A-Za-z\u00b0/]{1,20}(?:\^?\{?[23\u00b2\u00b3]\}?)?){1,4}[.!]?$"
)
_INLINE = re.compile(r"\$\$?((?:\\.|[^$\\])+)\$\$?|\\[(\[]((?:(?!\\[)\]]).)+)\\[)\]]")
_COMMAND = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s?\{[^{}]*\}|\\(?:begin|end)\s?\{[^{}]*\}"
    r"|\\[A-Za-z]+|\b(?:sqrt|log|exp|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|pi|infinity|inf|"
    r"theta|alpha|beta|gamma|and|mod|gcd|lcm|max|min)(?![A-Za-z])"
)
_PROSE = re.compile(r"[a-z]{2,}")
_SHORT_WORDS = frozenset(
    ["is", "so", "we", "it", "to", "of", "in", "no", "he", "be", "by", "at", "an", "as", "on", "if",
     "my", "up", "do", "go", "me", "us", "am", "hm", "oh", "ok"]
)  # fmt: skip
_BULLET = re.compile(r"[ \t]{0,9}(?:[-+*\u2022]|[1-9][.)])[ \t]+(?=\S)")
NAME = re.compile(r"\s*[A-Za-z]{1,3}\s*")
_IS = re.compile(r"\s*(?:=|is(?: equal to)?\b|equals\b)\s*")
_BEGINS_NUMBER = re.compile(r"[-+$\\.*( ]{0,4}(?:d?frac\{-?)?[0-9]")
_STATES = re.compile(r"(?:\b(?:is|are|be|equals|option|choice|answer)|[=:])[\s*]*$", re.IGNORECASE)
_DISPLAY = re.compile(r"(?:\\\[|\\\(|\$\$)(.*?)(?:\\\]|\\\)|\$\$)", re.DOTALL)
_BRACES = re.compile(r"\\boxed\s?\{|\\[{}\\]|[{}]")
_BOXES_JOINED = re.compile(
    r"(?:[\s,;&$]|\\(?:quad|qquad|[,;:!() \[\]])|\\text\s?\{\s?(?:and|or)\s?\}|\b(?:and|or)\b)*",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"\W*(?:(?:step|part|case|section|stage|problem|question|example|exercise|solution|calculat"
    r"\w+)\b[^=]*|.{0,200}:\W*)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\W*[0-9]{1,2}[.)] +[A-Za-z]")  # a heading if more lines follow
_TAGS = (
    "answer", "final_answer", "final answer", "finalanswer", "final", "solution",
    "result", "output",
)  # fmt: skip
_KEYS = ("answer", "final_answer", "final answer", "finalanswer", "result")


def marked_part(text: str) -> str | None:
    r"""Return the part that a reply marks as its answer, if no ``\boxed`` comes after it."""
    content = tagged(text, _TAGS)
    if content is not None and text.rfind("\\boxed") > text.rfind(content) + len(content):
        content = None
    if content is None and "\\boxed" not in text:
        content = fielded(text, _KEYS)
    return content[:ANSWER_LIMIT] if content and content.strip() else None


def boxed(text: str) -> str | None:
    r"""Return the content of the last outermost ``\boxed{}`` whose braces close.

    Boxes with nothing but commas, "and" or "or" between them are one list.
    """
    if "\\boxed" not in text:
        return None
    opened: list[tuple[int, int] | None] = []  # where each box and its content begin
    boxes = 0
    outermost: list[str] = []
    last_end = 0
    innermost: str | None = None
    for match in _BRACES.finditer(text):
        token = match[0]
        if token.startswith("\\boxed"):
            opened.append((match.start(), match.end()))
            boxes += 1
        elif token == "{":
            opened.append(None)
        elif token == "}" and opened:
            begin = opened.pop()
            if begin is not None:
                boxes -= 1
                content = text[begin[1] : min(match.start(), begin[1] + ANSWER_LIMIT)]
                innermost = content
                if not boxes:
                    if not outermost or not _BOXES_JOINED.fullmatch(text, last_end, begin[0]):
                        outermost.clear()
                    if len(outermost) < _BOX_LIST and content not in outermost:
                        outermost.append(content)
                    last_end = match.end()
    return innermost if boxes else (", ".join(outermost) or None)


def after_hashes(text: str) -> str | None:
    """Return what follows the last #### that is no heading."""
    end = len(text)
    for _ in range(20):
        start = text.rfind("####", 0, end)
        if start < 0:
            return None
        line = first_line(text[start + 4 : start + 4 + ANSWER_LIMIT].lstrip("#"))
        after = text[start : start + ANSWER_LIMIT].lstrip("# \t").rstrip()
        heads = _HEADING.fullmatch(line[:300]) or (_NUMBERED.match(line) and "\n" in after)
        if line and not heads:
            return line
        end = start
    return None


def after_phrase(text: str) -> str | None:
    """Return what follows the last "Answer:", "The answer is" or "A:" in its sentence."""
    # The tests for plain strings are much faster than the patterns.
    found: list[re.Match[str] | None] = []
    lowered = text.lower()
    words = [at for word in ("answer", "option", "choice") if (at := lowered.find(word)) >= 0]
    if words:
        # "correct option" begins eight characters before; some capitals are shorter than lowered.
        begin = max(0, min(words) - 10) if text.isascii() else 0
        found.append(last_match(_PHRASE, text, begin))
    if "A:" in text or "A*" in text:
        found.append(last_match(_LETTER, text))
    end = max((match.end() for match in found if match is not None), default=-1)
    if end < 0:
        return None
    rest = text[end : end + ANSWER_LIMIT]
    if _BULLET.match(rest) and "\n" in text[end - 6 : end]:
        rest = _listed(rest)
    display = _DISPLAY.match(rest)
    if display is not None:
        return display[1].strip()
    return _within_bold(_SENTENCE_END.split(rest, maxsplit=1)[0].strip())


def _listed(text: str) -> str:
    """Return the items of the list that a text begins with, as one line, and what follows."""
    lines = text.split("\n", _BOX_LIST)
    items = list[str]()
    while lines and (bullet := _BULLET.match(lines[0])):
        items.append(lines.pop(0)[bullet.end() :].strip())
    return "\n".join([", ".join(items), *lines])


def _within_bold(text: str) -> str:
    """Return ``12π`` of ``12π** square units``, whose opening mark was read already."""
    stated, closed, rest = text.partition("**")
    if closed and stated.strip() and "**" not in rest and _AFTER_BOLD.match(rest):
        return stated.strip()
    return text


def bare_number(text: str) -> str | None:
    """Return a short reply that is nothing but a number."""
    short = text.strip()
    return short if len(short) <= _BARE_LIMIT and parse_number(short) is not None else None


def bare_formula(text: str) -> str | None:
    r"""Return a reply of one line that is nothing but a number, a formula or one word.

    Words may stand in ``\\text``, be the name of a function, or a unit behind the formula.
    """
    number = bare_number(text)
    if number is not None:
        return number
    short = trimmed(without_approval(text))
    if not short or len(short) > _BARE_LIMIT or "\n" in short:
        return None
    inner = _INLINE.fullmatch(short)
    formula = short if inner is None else (inner[1] or inner[2]).strip()
    if any(mark in formula.replace("\\$", "") for mark in ("$", "\\(", ":", "\\boxed")):
        return None
    if formula.startswith(("**", "__", "`")):  # emphasis of a part
        return None
    if formula.isalpha():
        return formula
    plain = _COMMAND.sub(" ", without_unit(formula))
    if any(len(word) > 2 or word in _SHORT_WORDS for word in _PROSE.findall(plain.lower())):
        return None
    return formula


def last_math(text: str) -> str | None:
    """Return the last formula between dollars or LaTeX brackets."""
    found: str | None = None
    start = after = -1
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        end = text.rfind(closing) if found is None else -1
        if end > 0 and "$" not in text[end:]:
            start = text.rfind(opening, 0, end)
            found, after = (text[start + 2 : end], end + 2) if start >= 0 else (None, -1)
    if found is None:
        end = text.rfind("$")
        if end > 0 and text[end - 1] == "$":  # "$$" closes a display
            end -= 1
        start = text.rfind("$", 0, end) if end > 0 else -1
        found, after = (None, -1) if start < 0 else (text[start + 1 : end], end + 1)
    if found is None or denies(text[max(0, start - 60) : start]):
        return None
    if NAME.fullmatch(found):
        return stated_of_name(text[max(0, start - 400) : start], text[after : after + 400]) or found
    return found.strip()[:ANSWER_LIMIT]


def stated_of_name(before: str, behind: str) -> str | None:
    """Return what a sentence says of a variable that is its last formula: ``5`` of ``$x$ is 5``.

    That is what "is" follows, or else the last formula with a number before it; None if the
    variable itself is what the sentence states, or nothing is.

    Args:
        before: The text up to the variable.
        behind: The text behind it.
    """
    joined = _IS.match(behind)
    if joined is not None:
        formula = _INLINE.match(behind, joined.end())
        if formula is not None:
            return (formula[1] or formula[2]).strip()
        right = _SENTENCE_END.split(behind[joined.end() :], maxsplit=1)[0].strip().rstrip(".")
        stated = read_stated(right)
        if stated.several or stated.undone:
            return right
        if stated.number is not None and _BEGINS_NUMBER.match(right):
            return stated.number
        return None
    if _STATES.search(before):
        return None
    sentence = _SENTENCE_END.split(before)[-1]
    formulas = [(match[1] or match[2]).strip() for match in _INLINE.finditer(sentence)]
    return next((formula for formula in reversed(formulas) if re.search("[0-9]", formula)), None)


def _number_line(text: str) -> str | None:
    """Return what surrounds the last digit: its line, 400 characters before it at most."""
    digit = re.search(r"\d|[¼-¾⅐-⅞]", text[::-1])
    if digit is None:
        return None
    end = len(text) - digit.start()
    before = text[max(0, end - 400) : end].rpartition("\n")[2]
    return before + text[end : end + 100].partition("\n")[0]


def bold_number(text: str) -> str | None:
    """Return the last bold number of the last line that has a number."""
    line = _number_line(text) if "**" in text else None
    if line is None:
        return None
    parts = line.split("**")
    stated = [
        part
        for before, part in zip(parts[::2], parts[1::2], strict=False)
        if parse_number(part) is not None and not denies(before)
    ]
    return stated[-1] if stated else None


def bold_words(text: str) -> str | None:
    """Return the only bold or quoted code of the last line, unless it heads a formula or more."""
    line = last_line(text) or ""
    for mark in ("**", "`"):
        parts = line.split(mark)
        while len(parts) > 3 and denies(parts[0]):  # "not **Lyon** but **Paris**"
            parts = parts[2:]
        if len(parts) != 3 or parts[1].rstrip()[-1:] == ":" or parts[2][:1] == ":":
            continue
        if not any(sign in parts[2] for sign in ("$", "\\(", "=")) and not denies(parts[0]):
            return parts[1].strip()
    return None


def _last_sentence(text: str) -> str | None:
    """Return the last sentence that has a number."""
    line = _number_line(text)
    if line is None:
        return None
    # "... 4 - 1 = 3. So 7." is about 7, "3." after a break is a number, "3.5" is one.
    sentences = [part for part in _SENTENCES.split(line) if re.search(r"\d|[¼-⅞]", part)]
    return sentences[-1]


def last_number_stated(text: str) -> str | None:
    """Return the number that the last sentence with one is about; the sentence if several."""
    sentence = _last_sentence(text)
    if sentence is None:
        return None
    read = read_last(sentence)
    return sentence if read.several else read.number


def last_number_of_math(text: str) -> str | None:
    """Return the number that the last sentence with one is about; None if several or a formula."""
    sentence = _last_sentence(text)
    return None if sentence is None else read_last(sentence).number


def last_line(text: str) -> str | None:
    """Return the last line."""
    return text.rstrip()[-ANSWER_LIMIT:].splitlines()[-1] if text.strip() else None
