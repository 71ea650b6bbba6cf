r"""Mathematics as people type it, brought to LaTeX.

math-verify does not read full-width digits, ``√2``, ``x²`` or ``π`` as what they mean; `to_latex`
writes them as ``2``, ``\sqrt{2}``, ``x^{2}`` and ``\pi``. It does not parse: text that makes no
sense stays senseless.
"""

import re
import unicodedata

_SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SYMBOLS = {
    "π": r"\pi ", "∞": r"\infty ", "\u00d7": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "\u222a": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "°": r"^{\circ}", "\u2212": "-", "\u2013": "-", "\u2044": "/",
}  # fmt: skip
_POWER = re.compile(f"([{_SUPERSCRIPT}]+)")
_ROOT = re.compile(r"√ ?(?:\(([^()]{1,200})\)|\{([^{}]{1,200})\}|(\w+))")
_SUPERSCRIPT_DIGITS = str.maketrans(_SUPERSCRIPT, "0123456789")
_WRAPPERS = re.compile(r"\\[()\[\]]|\$")


def to_latex(text: str) -> str:
    """Return the expression with Unicode mathematics as LaTeX and single spaces."""
    text = _POWER.sub(lambda match: f"^{{{match[1].translate(_SUPERSCRIPT_DIGITS)}}}", text)
    text = unicodedata.normalize("NFKC", text)
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", text)
    text = "".join(_SYMBOLS.get(char, char) for char in text)
    return " ".join(_WRAPPERS.sub(" ", text).split())
