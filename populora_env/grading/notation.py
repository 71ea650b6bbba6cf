r"""Mathematics as people type it, brought to LaTeX.

math-verify does not read full-width digits, ``√2``, ``x²``, ``sqrt(2)`` or ``π`` as what they
mean; `to_latex` writes them as ``2``, ``\sqrt{2}``, ``x^{2}`` and ``\pi``. It does not parse: text
that makes no sense stays senseless.
"""

import re
import unicodedata

_SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUBSCRIPT = "₀₁₂₃₄₅₆₇₈₉"
_SYMBOLS = {
    "π": r"\pi ", "∞": r"\infty ", "\u00d7": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "\u222a": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "°": r"^{\circ}", "\u2212": "-", "\u2013": "-", "\u2044": "/", "∅": r"\emptyset ",
    "θ": r"\theta ", "≈": r"\approx ",
}  # fmt: skip
_POWER = re.compile(f"([{_SUPERSCRIPT}]+)")
_INDEX = re.compile(f"([{_SUBSCRIPT}]+)")
_ROOT = re.compile(r"√ ?(?:\(([^()]{1,200})\)|\{([^{}]{1,200})\}|(\w+))")
_TYPED_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt ?\(([^()]{1,200})\)")
_SUPERSCRIPT_DIGITS = str.maketrans(_SUPERSCRIPT, "0123456789")
_SUBSCRIPT_DIGITS = str.maketrans(_SUBSCRIPT, "0123456789")
_TYPED = (
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|log|ln)(?=[ ({_]\S)"), r"\\\1 "),
    (re.compile(r"(?<![\\A-Za-z])(alpha|beta|gamma|theta|lambda|phi|omega)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"^\s*\\text\s?\{[^{}]*(?:\bis|\bare|=|:)\s*\}"), ""),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\\(?:d|t|c)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\left\s?\.|\\right\s?\."), ""),
    (re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|big|Big)(?![A-Za-z])"), ""),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:mbox|textrm|textnormal|mathrm|textbf|mathbf|textit|operatorname)\s?\{"),
     r"\\text{"),
    (re.compile(r",\\!\s?(?=[0-9]{3})|(?<=[0-9])\{,\}(?=[0-9]{3})"), ","),
    (re.compile(r"(?<!\\)\\[,;:! ]|\\(?:quad|qquad)(?![A-Za-z])|~"), " "),
)  # fmt: skip
_WRAPPERS = re.compile(r"(?<!\\)\\[()\[\]]|\\?\$")


def to_latex(text: str) -> str:
    """Return the expression with Unicode and typed mathematics as LaTeX and single spaces."""
    if not text.isascii():
        text = _POWER.sub(lambda match: f"^{{{match[1].translate(_SUPERSCRIPT_DIGITS)}}}", text)
        text = _INDEX.sub(lambda match: f"_{{{match[1].translate(_SUBSCRIPT_DIGITS)}}}", text)
        text = unicodedata.normalize("NFKC", text)
        text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", text)
        text = "".join(_SYMBOLS.get(char, char) for char in text)
    text = _TYPED_ROOT.sub(r"\\sqrt{\1}", text)
    for pattern, replacement in _TYPED:
        text = pattern.sub(replacement, text)
    return " ".join(_WRAPPERS.sub(" ", text).split())
