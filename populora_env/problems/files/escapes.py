r"""Backslashes that JSON has eaten, and halves of characters.

``{"answer": "\frac{1}{2}"}`` is valid JSON for a form feed and ``rac{1}{2}``: whoever wrote the
file forgot to write the backslash twice. ``"\ud83d"`` is valid JSON for the first half of a
character beyond U+FFFF, left by whoever cut a text between the two. Neither is a text that anybody
meant.
"""

import re

from populora_env.problems.sources.base import ProblemSpecError
from populora_env.storage import LONE_SURROGATE

# Tabs and ends of lines (U+0085 is one) belong into ordinary texts, so these count only where what
# follows is the rest of a command and hardly anything else.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_END = r"(?![A-Za-z])"
_IN_TEXT = re.compile(
    r"\t(?:(?:heta|imes|frac|au|riangle|herefore|ilde|binom|extstyle|extdollar)" + _END
    + r"|ext(?:bf|it|rm|tt|sf)?\{|anh?(?=\s*[\\({^]))"
    + r"|\r(?:ho|ight|ightarrow|angle|ceil|floor|vert|Vert)" + _END
    + r"|\n(?:abla|eq|otin|ewline|leq|geq|exists|parallel|earrow|warrow|cong)" + _END
)  # fmt: skip
_IN_ANSWER = re.compile(rf"\t(?:an|anh|o|op|t|top){_END}|\n(?:e|u|i|eg|ot|mid|less|gtr|sim){_END}")
_LETTERS = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_SHOWN = 30


def check_text(place: str, column: str, text: str, *, answer: bool = False) -> None:
    """Refuse a text with a control character, or half of one, that is in no ordinary text.

    Args:
        place: Where it stands, for the message.
        column: Its column.
        text: A prompt, a solution or an answer.
        answer: Whether it is a mathematical answer, in which hardly anything begins a line.

    Raises:
        ProblemSpecError: If there is one; the likely cause is said.
    """
    if half := LONE_SURROGATE.search(text):
        raise ProblemSpecError(
            f"{place}: column {column[:60]!r} must hold whole characters, got {half[0]!r}, a half "
            "of one (a lone surrogate) that no file or tokenizer can hold: write the other half too"
        )
    found = _CONTROL.search(text) or _IN_TEXT.search(text)
    if found is None and answer:
        found = _IN_ANSWER.search(text)
    if found is None:
        return
    stray = text[found.start()]
    shown = text[found.start() : found.start() + _SHOWN]
    cause = "remove it, or convert the file to UTF-8 if it has another encoding"
    if stray in _LETTERS:
        cause = (
            f"in JSON \\{_LETTERS[stray]} is a control character, so a backslash of LaTeX is "
            "written twice (\\\\frac)"
        )
    raise ProblemSpecError(
        f"{place}: column {column[:60]!r} must hold no control character, got {shown!r}: {cause}"
    )
