r"""Where in a reply its answer may stand: in a box, behind a phrase, in bold, on the last line.

Each function finds a candidate in one kind of place, or None; which of them count for what kind of
answer, and in which order, is decided in `answers`. Every one takes time linear in the text.
"""

import re

from populora_env.reading.numerals import last_number, parse_number
from populora_env.reading.said import ANSWER_LIMIT, fielded, first_line, last_match, tagged
from populora_env.reading.statements import denies, read_last, without_denied

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
    r"|(?<!\\)(?:!(?!\s?=)|(?:(?<!\b(?:lb|ft|hr))(?<!\b(?:lbs|hrs|min))|(?!\.\s[0-9]))\."
    rf"|[;?](?!\s?(?:-?[0-9]|[Nn]o(?:pe)?\b|{_OPTION})))"
    rf"(?=[\"'*_`\u201d\u2019]{{0,4}}\s){_NO_OTHER}"
)
_SENTENCES = re.compile(r"(?<=[.!?])\s(?![Nn]o(?:pe)?\b)")  # "12? No." is one
_AFTER_BOLD = re.compile(
    r"\s*(?:$|[.,;:!(\u2013\u2014])"
    r"|(?: [A-Za-z\u00b0/]{1,20}(?:\^?\{?[23\u00b2\u00b3]\}?)?){1,4}[.!]?$"
)
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
    display = _DISPLAY.match(rest)
    if display is not None:
        return display[1].strip()
    return _within_bold(_SENTENCE_END.split(rest, maxsplit=1)[0].strip())


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


def last_math(text: str) -> str | None:
    """Return the last formula between dollars or LaTeX brackets."""
    found: str | None = None
    start = -1
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        end = text.rfind(closing) if found is None else -1
        if end > 0 and "$" not in text[end:]:
            start = text.rfind(opening, 0, end)
            found = text[start + 2 : end] if start >= 0 else None
    if found is None:
        end = text.rfind("$")
        if end > 0 and text[end - 1] == "$":  # "$$" closes a display
            end -= 1
        start = text.rfind("$", 0, end) if end > 0 else -1
        found = None if start < 0 else text[start + 1 : end]
    if found is None or denies(text[max(0, start - 60) : start]):
        return None
    return found.strip()[:ANSWER_LIMIT]


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


def last_number_stated(text: str) -> str | None:
    """Return the number that the last sentence with one is about; the sentence if several."""
    line = _number_line(text)
    if line is None:
        return None
    # "... 4 - 1 = 3. So 7." is about 7, "3." after a break is a number, "3.5" is one.
    sentences = [part for part in _SENTENCES.split(line) if re.search(r"\d|[¼-⅞]", part)]
    read = read_last(sentences[-1])
    return sentences[-1] if read.several else read.number


def last_number_of_math(text: str) -> str | None:
    """Return the last number of the last line that has one."""
    line = _number_line(text)
    return None if line is None else last_number(without_denied(line))


def last_line(text: str) -> str | None:
    """Return the last line."""
    return text.rstrip()[-ANSWER_LIMIT:].splitlines()[-1] if text.strip() else None
