r"""Mathematics as people type it, brought to LaTeX.

math-verify does not read full-width digits, ``√2``, ``x²``, ``sqrt(2)`` or ``π`` as what they
mean; `to_latex` writes them as ``2``, ``\sqrt{2}``, ``x^{2}`` and ``\pi``, and what LaTeX says in
several ways (``\frac\pi6``, ``\mathrm{e}``, ``\color{red}{5}``, ``\log_e 2``, ``\sin 30^\circ``) in
one. It does not parse: text that makes no sense stays senseless.
"""

import re
import unicodedata

from populora_env.reading.numerals import without_periods

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
_FUNCTIONS = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|gcd|lcm|max|min"
)
_DEGREE = r"\s?\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\})"
_ANGLE = re.compile(rf"([0-9]+(?:\.[0-9]+)?){_DEGREE}")
_ANGLED = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])(?:\s?\^\s?(?:[0-9]|\{\s?[0-9]\s?\}))?\s?"
    rf"(?:\([^()]{{1,100}}\)|\{{[0-9.]{{1,20}}{_DEGREE}\}}|-?[0-9.]{{1,20}}{_DEGREE})"
)
_PRICE_IN_THOUSANDS = re.compile(r"\\\$\s?([0-9][0-9.,]*)\s?(?:\\text\s?\{\s?[kK]\s?\}|[kK]$)")
_PRICE = re.compile(r"\s*\\\$\s?(-?[0-9][0-9.,\\!{} ]*)\s*")
_SUPERSCRIPT_DIGITS = str.maketrans(_SUPERSCRIPT, "0123456789")
_SUBSCRIPT_DIGITS = str.maketrans(_SUBSCRIPT, "0123456789")


def _one_cell(match: re.Match[str]) -> str:
    """Return what is in an environment for several lines that has one."""
    return match[2].replace("&", " ")


_TYPED = (
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|log|ln)(?=[ ({_]\S)"), r"\\\1 "),
    (re.compile(r"(?<![\\A-Za-z])(alpha|beta|gamma|theta|lambda|phi|omega)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"^\s*\\text\s?\{[^{}]*(?:\bis|\bare|=|:)\s*\}"), ""),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\\(?:(?:text)?degree|(?:text)?degrees)(?![A-Za-z])"), r"^{\\circ}"),
    (re.compile(r"\\(?:[hv]space\*?|underset|overset|tag\*?|label)\s?\{[^{}]*\}|\\(?:thin|en|med|"
                r"thick)space(?![A-Za-z])|\\(?:checkmark|blacksquare|square|qed|Box|dagger)"
                r"(?![A-Za-z])\s*$|\\\\\s*$"), " "),
    (re.compile(r"\\[ns]icefrac(?![A-Za-z])|\\(?:nice|s|x)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"^\^\s?\{?([0-9]+)\}?\s?/\s?_\s?\{?([0-9]+)\}?$"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\uppi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"\{\s?\\rm\s?(?:\\ )?([A-Za-z /]+)\}|\\rm\s?\{(?:\\ )?([A-Za-z /]+)\}"),
     r"\\text{\1\2}"),
    (re.compile(r"\\math(?:rm|bf|it|sf)\s+([0-9A-Za-z])(?![A-Za-z])"), r" \1 "),
    (re.compile(r"\\l(?:g|og\s?_\s?\{\s?10\s?\})(?![A-Za-z])"), r"\\log_{10} "),
    (re.compile(r"(\\log\s?_\s?)\{?\s?\\(?:text|mathrm)\s?\{\s?e\s?\}\s?\}?"), r"\1{e}"),
    (re.compile(r"(?<![\\A-Za-z])degrees?\s(celsius|fahrenheit)(?![A-Za-z])", re.IGNORECASE),
     r"\\text{ \1}"),
    (re.compile(r"(?<=[0-9A-Za-z)}])\s*\?\s*$"), ""),
    (re.compile(r"\\equiv(?!.*\\p?mod)"), "="),
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
    (re.compile(r"\\(?:text|page)?color(?:box)?\s?(?:\[[a-zA-Z]*\])?\s?\{[^{}]*\}|\\(?:underline|"
                r"fbox|boldsymbol|bm|mathit|mathsf|mathtt|texttt|textsf|mathcal|emph|ensuremath|"
                r"hbox|bf|it|rm|tt|sf|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge)"
                r"(?![A-Za-z])"), " "),
    (re.compile(r"^\s*\\text\s?\{\s*([0-9][0-9.,]*)\s+([a-z][a-z ]*)\}\s*$"),
     r"\1 \\text{ \2}"),
    (re.compile(r"^\s*\(\s?([0-9]+)\s?\)\s?_"), r"\1_"),
    (re.compile(r"^\s*([0-9]+)\s?\\text\s?\{\s*(?:in )?base ([0-9]+)\s*\}\s*$"), r"\1_{\2}"),
    (re.compile(r"(?<=[0-9)}\s])\\text\s?\{\s*\(([a-z][a-z ]+)\)\s*\}\s*$"), r"\\text{ \1}"),
    (re.compile(r"^\s*\\begin\s?\{(aligned|align\*?|gathered|split)\}((?:(?!\\\\|&.*&|\\end).)*)"
                r"\\end\s?\{\1\}\s*$"), _one_cell),
    (re.compile(r"^\s*(?:\\overline\s?\{\s?[A-Z]{2}\s?\}|\\\|[^=|]{1,30}\\\|)\s?=(?=[^=]*$)"), ""),
    (re.compile(r"(?<=[0-9])\s?\u00a2\s*$"), r" \\text{ cents}"),
    (re.compile(r"^\s*(?:\u20b9|\\pounds(?![a-z]))\s?(?=[0-9])"), ""),
    (re.compile(r"\\text\s?\{([^{}A-Za-z]*[0-9][^{}A-Za-z]*)\}"), r" \1 "),
    (re.compile(r"\\text\s?\{\s*([ei])\s*\}(?=\s?\^)"
                r"|(?<=[0-9)}])(?:\\[,!:; ]|\s)?\\text\s?\{\s*([ei])\s*\}"),
     r" \1\2 "),
    (re.compile(r"\\not\s?>"), r"\\le "),
    (re.compile(r"\\not\s?<"), r"\\ge "),
    (re.compile(r"\\mu\s?\\text\s?\{\s?"), r"\\text{micro"),
    (re.compile(rf"\\text\s?\{{\s*({_FUNCTIONS})\s*\}}"), r"\\\1 "),
    (re.compile(r"\\(?:log|text\s?\{\s*log\s*\})\s?_\s?(?:e(?![A-Za-z])|\{\s?e\s?\})"), r"\\ln "),
    (re.compile(r"\\frac\s?\{\s?(\\text\s?\{[^{}]*\})\s?\}\s?"
                r"\{\s?(\\text\s?\{[^{}]*\}(?:\s?\^\s?\{?[0-9]\}?)?)\s?\}$"), r"\1/\2"),
    (re.compile(r"(?:^[a-z]\s?\\equiv\s?)?([0-9-]+)\s?\\pmod\s?(?:\{[^{}]*\}|[0-9])$"), r"\1"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\+ ?/ ?-|(?<![0-9A-Za-z)}])\+-(?=[0-9\\])"), r"\\pm "),
    (re.compile(r"(\\[gl]e)qslant(?![A-Za-z])"), r"\1 "),
    (re.compile(r"(?<=[)\]])\s?U\s?(?=[(\[])"), r" \\cup "),
    (re.compile(r"(?<=[0-9])(?:,\\!|\{,\}|\\,)\s?(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r",\\!\s?(?=[0-9])|(?<=[0-9])\{,\}(?=[0-9])"), ","),
    (re.compile(r"(?<!\\)\\[,;:! ]|\\(?:quad|qquad)(?![A-Za-z])|~"), " "),
)  # fmt: skip
# "12,000\\pi" and "\\frac{20,000}{x}"; "1,200" may be a list.
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_FACTORED = re.compile(
    r"[0-9],[0-9]{3}(?:\s?(?:\\(?:pi|theta|sqrt|cdot|times|frac)(?![a-z])|[a-z](?![a-z])|[/^])"
    r"|(?<=\{[0-9],[0-9]{3})\}|(?<=\{[0-9]{2},[0-9]{3})\}|(?<=\{[0-9]{3},[0-9]{3})\})"
)
_LISTED = re.compile(r"[()\[\];]|\\\{|,\s")
_TOKEN = re.compile(r"\s*(\{|\\[A-Za-z]+|[0-9A-Za-z])")
_BARE_ROOT = re.compile(r"\\sqrt\s?(\\frac\{[^{}]*\}\{[^{}]*\}|\\(?:pi|theta)(?![A-Za-z]))")
_INFIX = re.compile(r"\\(?:over|choose|atop)(?![A-Za-z])")
# What `numerals.without_periods` writes, and no other quotient.
_FRACTION_ALONE = re.compile(r"(?<![0-9A-Za-z./)}\]])([0-9]+)/([0-9]+)(?=\s?\\[a-z])")
_WITHIN = re.compile(
    r"\\(?:mathrm|text|textrm|mbox)\s?\{((?:[^{}]|\^\{\s?-?[0-9]\s?\})*[A-Za-z](?:[^{}]|\^\{\s?-?[0-9]\s?\})*)\}"
)
_FONT = re.compile(
    r"\\(?:(math|text)?(bf|it|rm|sf|tt)|text|textnormal|textup|mbox|mathnormal)\s?(?=\{)"
)
# What is mathematics in any font; "m^2" in \mathrm is a unit.
_FORMULA = re.compile(r"\\(?:sqrt|pi|[dtc]?frac\b(?=.*[0-9]))|\\[dtc]?frac[0-9]")
_BOLD_FORMULA = re.compile(r"[\^_]|[0-9]\s*\\[a-z]")
_QUANTITY = re.compile(
    r"\\(?:SI|qty)\s?\{([^{}]*)\}\s?\{([^{}]*)\}|\\(?:unit|si)\s?\{([^{}]*)\}"
)  # of the package siunitx
_NUMBER_WITHIN = re.compile(r"^\\mathrm\s?\{\s?(-?[0-9][0-9.,]*)(?:\\[,;: ]|~|\s)+(?=[A-Za-z])")
_WRAPPERS = re.compile(r"(?<!\\)\\[()\[\]]|\\?\$")


def to_latex(text: str) -> str:
    """Return the expression with Unicode and typed mathematics as LaTeX and single spaces."""
    if "\\" in text:
        text = _NUMBER_WITHIN.sub(r"\1 \\mathrm{", text)
        text = _WITHIN.sub(_flat, _without_fonts(_QUANTITY.sub(_in_words, text)))
    if "." in text:
        text = _FRACTION_ALONE.sub(r"\\frac{\1}{\2}", without_periods(text))
    if not text.isascii():
        text = _POWER.sub(lambda match: f"^{{{match[1].translate(_SUPERSCRIPT_DIGITS)}}}", text)
        text = _INDEX.sub(lambda match: f"_{{{match[1].translate(_SUBSCRIPT_DIGITS)}}}", text)
        text = unicodedata.normalize("NFKC", text)
        text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", text)
        text = "".join(_SYMBOLS.get(char, char) for char in text)
    text = _PRICE_IN_THOUSANDS.sub(r"\1 \\text{ thousand}", text)
    price = _PRICE.fullmatch(text)
    if price is not None:
        text = rf"{price[1]} \text{{ dollars}}"  # the sign itself would go with the wrappers
    text = _TYPED_ROOT.sub(r"\\sqrt{\1}", text)
    for pattern, replacement in _TYPED:
        text = pattern.sub(replacement, text)
    if "," in text and _FACTORED.search(text) and not _LISTED.search(text):
        whole = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
        text = text if "," in whole else whole
    text = _braced(_WRAPPERS.sub(" ", text))
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    if "circ" in text:
        text = _ANGLED.sub(lambda match: _ANGLE.sub(r"(\\frac{\1\\pi}{180})", match[0]), text)
    text = " ".join(text.split())
    while text[:1] == "{" and _closing(text, 0) == len(text) - 1 and not _INFIX.search(text):
        text = text[1:-1].strip()  # what is left of "\\color{red}{5}"
    return text


def _without_fonts(text: str) -> str:
    r"""Return ``{\frac{3}{5}}`` of ``\mathbf{\frac{3}{5}}``: what is no word needs no font."""
    parts, end = list[str](), 0
    for font in _FONT.finditer(text):
        close = _closing(text, font.end()) if font.start() >= end else None
        inside = text[font.end() : close]
        bold = font[2] in ("bf", "it") and _BOLD_FORMULA.search(inside)
        if close is not None and (bold or _FORMULA.search(inside)):
            parts.append(text[end : font.start()])
            end = font.end()
    return "".join([*parts, text[end:]])


def _in_words(match: re.Match[str]) -> str:
    r"""Return ``14 \text{ m/s}`` of ``\SI{14}{\meter\per\second}``."""
    unit = re.sub(r"\\per(?![a-z])", "/", match[2] or match[3] or "").replace("\\", " ")
    return rf"{match[1] or ''} \text{{ {' '.join(unit.split()).replace(' / ', '/')}}}"


def _flat(match: re.Match[str]) -> str:
    r"""Return ``\text{m s^-1}`` of ``\mathrm{m\,s^{-1}}``: words without commands and braces."""
    words = re.sub(r"\\[,;: ]|[·⋅*~]|\\cdot(?![a-z])", " ", match[1]).replace("°", "deg ")
    words = re.sub(r"/\s?\(([^()]*)\)", r"/\1", words)
    return rf"\text{{{re.sub(r'[{}]', '', words)}}}"


def _braced(text: str, depth: int = 0) -> str:
    r"""Return the text with ``\frac\pi6`` as ``\frac{\pi}{6}``, as TeX takes one token each."""
    if "\\frac" not in text or depth > 30:
        return text
    parts = list[str]()
    end = 0
    while (start := text.find("\\frac", end)) >= 0:
        parts.append(text[end : start + 5])
        end = start + 5
        if text[end : end + 1].isalpha():
            continue
        for _ in range(2):
            token = _TOKEN.match(text, end)
            if token is None:
                break
            if token[1] != "{":
                parts.append(f"{{{token[1]}}}")
                end = token.end()
                continue
            close = _closing(text, token.start(1))
            if close is None:
                break
            parts.append("{" + _braced(text[token.end() : close], depth + 1) + "}")
            end = close + 1
    return "".join([*parts, text[end:]])


def _closing(text: str, start: int) -> int | None:
    """Return where the brace that opens at ``start`` is closed."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] in "{}" and text[position - 1 : position] != "\\":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return position
    return None
