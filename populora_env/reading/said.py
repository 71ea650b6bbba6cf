r"""What a reply says, without what surrounds it.

Models think aloud, end their turns with marks of their templates, and wrap what they mean in tags,
JSON objects, boxes and Markdown. All of that is removed here, in one place, for answers (`answers`)
and judgements (`judgements`, `preferences`) alike. Every function takes time linear in the text.

Only what follows the last closed thought counts, and a thought that is not closed says nothing:
what it holds was considered, not said.
"""

import json
import re
import unicodedata
from collections.abc import Sequence

READ_WINDOW = 50_000  # characters from the end of a reply in which answers are looked for
ANSWER_LIMIT = 4_000  # longest answer, in characters
JUDGEMENT_LIMIT = 50  # longest reply that can be nothing but a judgement

_NAMES = (
    r"(?:[a-z]{1,9}[:_])?(?:think|thinking|thoughts?|reason|reasoning|reflection|scratchpad|"
    r"analysis|inner_monologue|internal_monologue|antthinking|thought_process|chain_of_thought|cot)"
)
# One pattern for what opens a thought and one for what closes it: XML-like tags, ◁think▷ (Kimi),
# [THINK] (Magistral), <|begin_of_thought|> and kin, and the channels of gpt-oss.
_OPENS = re.compile(
    rf"<[|\uff5c]?\s?{_NAMES}(?:\s[^<>\n]{{0,99}}(?<!/))?\s?[|\uff5c]?>|\u25c1\s?{_NAMES}\s?\u25b7"
    rf"|\[THINK\]|<[|\uff5c](?:begin_of_thought|start_thinking|thought_begin|thinking_start)"
    r"[|\uff5c]>|<unused94>|<\|channel\|>\s?(?:analysis|commentary)\b[^<>]{0,99}<\|message\|>"
    r"|<\|channel>\s?thought",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    rf"<[|\uff5c]?/\s?{_NAMES}\s?[|\uff5c]?>|\u25c1/\s?{_NAMES}\s?\u25b7|\[/THINK\]"
    r"|<[|\uff5c](?:end_of_thought|end_thinking|thought_end|thinking_end)[|\uff5c]>|<unused95>"
    r"|<\|channel\|>\s?final\b[^<>]{0,99}<\|message\|>|<channel\|>",
    re.IGNORECASE,
)
# Whatever opens or closes a thought begins with one of these and has one of those in it; plain
# tests are much faster.
_BEGINS = ("<", "[", "\u25c1")
_HINTS = ("think", "thought", "reason", "reflection", "scratchpad", "analysis", "monologue",
          "cot", "unused9", "channel")  # fmt: skip
# The channels of gpt-oss where a decoder dropped the special tokens between them.
_CHANNELS = re.compile(r"\s*analysis(?=[A-Z0-9\"'*])")
_FINAL_CHANNEL = "assistantfinal"
# What ends a turn, or begins the next one, in the templates in use.
_END = re.compile(
    r"<[|\uff5c][a-z/][\w/:\u2581]{2,39}[|\uff5c]>|</s>|<(?:end|start)_of_turn>|<eos>|<pad>|<turn\|>"
    r"|\[\|[a-z]{1,20}\|\]|\[/?INST\]|\[EOS\]|\[end of text\]|<<SYS>>|<bos>|</?eot>",
    re.IGNORECASE,
)
_TURN = re.compile(rf"\s*(?:(?:{_END.pattern}|<s>)\s*){{1,9}}(?:(?:assistant|model)\b:?\s*)?", re.I)
_FENCE = re.compile(r"```[\w+-]{0,20}")
_SAYS = re.compile(r"</?(?:b|strong|i|em|u|mark|p|br|span|center)\s?/?>", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|texttt)\s?\{([^{}]*)\}")
_FORMULA = re.compile(r"\$+|\\[()\[\]]")
_BOXED = re.compile(r"\\boxed\s?\{\s?([^{}]{0,400})\}")
_APPROVAL = (
    " .!\t\n\ufe0f\u2705\u2714\u2713\u2611\u2b50\u2728\U0001f389\U0001f38a\U0001f44d\U0001f44f"
    "\U0001f3c6\U0001f4af\U0001f642\U0001f60a"
)
_MARKS = " \t\n.,:;!?*_`\"'()[]{}<>"
_DOUBLE = re.compile(r"\[\[([^\[\]\n]{1,100})\]\]")


def said(text: str) -> str:
    """Return what a reply says outside thoughts, up to the mark that ends its turn.

    Empty if the reply is a thought that was not closed, or nothing follows the last closed one.
    Of longer texts, the last `READ_WINDOW` characters are looked at.
    """
    lowered = text.lower() if any(begin in text for begin in _BEGINS) else ""
    if any(hint in lowered for hint in _HINTS):
        closed = last_match(_CLOSES, text)
        end = 0 if closed is None else closed.end()
        opened = _OPENS.search(text, end)
        text = text[end : None if opened is None else opened.start()]
    if _CHANNELS.match(text) is not None:
        text = text.rpartition(_FINAL_CHANNEL)[2] if _FINAL_CHANNEL in text else ""
    text = text[-READ_WINDOW:]
    if "<" in text or "[" in text:
        turn = _TURN.match(text)
        text = text if turn is None else text[turn.end() :]
        ended = _END.search(text)
        text = text if ended is None else text[: ended.start()]
    return text


def tagged(text: str, names: Sequence[str]) -> str | None:
    """Return the content of the last tag of one of these names, such as ``<answer>5</answer>``.

    A last tag that is not closed goes on to the end, as where sampling stops at the closing tag.
    Empty tags do not count.
    """
    if "<" not in text:
        return None
    found = None
    begin = None
    for match in re.finditer(rf"<(/?)(?:{'|'.join(names)})\s?>", text, re.IGNORECASE):
        if not match[1]:
            begin = match.end()
        elif begin is not None:
            content = text[begin : match.start()].strip()
            found, begin = content or found, None
    last = "" if begin is None else text[begin:].strip()
    return last or found


def fielded(text: str, keys: Sequence[str]) -> str | None:
    """Return the last value of one of these keys of a JSON object, as text.

    The object need not be whole: a reply may be cut, or mix quotes. ``null`` is None.
    """
    if "{" not in text:
        return None
    pattern = re.compile(
        rf"[{{,]\s{{0,99}}[\"'](?:{'|'.join(keys)})[\"']\s?:\s?"
        r"(?:(\"(?:[^\"\\]|\\.){0,4000}\")|'([^']{0,4000})'|(-?[0-9][0-9./]{0,40}|true|false))"
        r"(?=\s{0,99}[,}\n]|\s{0,99}$)",
        re.IGNORECASE,
    )
    found = last_match(pattern, text)
    if found is None:
        return None
    if found[1] is None:
        return found[2] if found[2] is not None else found[3]
    try:
        return str(json.loads(found[1], strict=False))
    except ValueError:  # such as "\frac": a backslash of LaTeX
        return found[1][1:-1]


def without_markup(text: str) -> str:
    r"""Return a text without Markdown, HTML emphasis and LaTeX fonts.

    ``**Score**: `8` `` is ``Score: 8``, ``$\text{A}$`` is ``A``; emoji are left out. For
    judgements: of an answer, asterisks and dollars may be part.
    """
    if "```" in text:
        text = _FENCE.sub(" ", text)
    if "<" in text:
        text = _SAYS.sub("", text)
    if "\\" in text:
        text = _LATEX.sub(r"\1", text)
    if not text.isascii():
        text = "".join(char for char in text if char < "\u2000" or not _is_symbol(char))
    text = _FORMULA.sub("", text).replace("*", "").replace("`", "").replace("__", "")
    return text.replace("\u2019", "'").replace("\u201c", '"').replace("\u201d", '"')


def _is_symbol(char: str) -> bool:
    """Return whether a character is an emoji, an arrow's kin or what selects its form."""
    return char in "\ufe0e\ufe0f\u200d" or unicodedata.category(char) == "So"


def without_approval(text: str) -> str:
    """Return a text without check marks, stars and applause behind it: ``3`` of ``3 \u2705``."""
    return text if text.isascii() else text.rstrip(_APPROVAL)


def boxes(text: str) -> list[tuple[int, str]]:
    r"""Return where each ``\boxed{...}`` and ``[[...]]`` of a text ends, and what it holds."""
    found: list[tuple[int, str]] = []
    for mark, pattern in (("\\boxed", _BOXED), ("[[", _DOUBLE)):
        if mark in text:
            found += [(match.end(), match[1].strip()) for match in pattern.finditer(text)]
    return sorted(found)


def trimmed(text: str) -> str:
    """Return a text without emphasis, quotes and a final period around it, in any nesting.

    Each mark goes with its counterpart: ``**(2, 3)**.`` is ``(2, 3)``.
    """
    text = text.strip()
    for _ in range(8):
        before = text
        ended = text.rstrip(" \t\n.,;:")
        # "5\," ends in a space of LaTeX, not in a comma.
        text = text[: len(ended) + 1] if ended[-1:] == "\\" else ended
        for left, right in (
            ("***", "***"), ("**", "**"), ("*", "*"), ("__", "__"), ("_", "_"), ("```", "```"),
            ("`", "`"), ('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"),
            ("\u00ab", "\u00bb"), ("<b>", "</b>"), ("<strong>", "</strong>"),
        ):  # fmt: skip
            inner = text[len(left) : len(text) - len(right)]
            whole = text.startswith(left) and text.endswith(right) and inner.strip()
            if whole and len(text) > len(left) + len(right) and left not in inner:
                text = inner.strip()
                break
        if text == before:
            break
    return text


def first_line(text: str) -> str:
    """Return the first line that is not blank, stripped."""
    stripped = text.strip()
    return stripped.splitlines()[0].strip() if stripped else ""


def line_after(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the line that follows the last match."""
    found = last_match(pattern, text)
    return None if found is None else first_line(text[found.end() : found.end() + ANSWER_LIMIT])


def last_match(pattern: re.Pattern[str], text: str, begin: int = 0) -> re.Match[str] | None:
    """Return the last of the matches that follow each other from ``begin`` on."""
    found = None
    for match in pattern.finditer(text, begin):
        found = match
    return found


def unmarked(text: str) -> str:
    """Return a short text folded and without marks around it; empty if it is long."""
    if len(text.strip()) > JUDGEMENT_LIMIT:
        return ""
    return unicodedata.normalize("NFKC", text.strip()).casefold().strip(_MARKS)
