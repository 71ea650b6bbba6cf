"""Arithmetic expressions in texts that nobody checked: found, read and worked out exactly.

Whole numbers, ``+ - * /``, brackets and a minus before a number or a bracket. A text is only taken
apart by a list of tokens and two stacks, so none is too deep, and nothing of it is ever run.
Decimal fractions, powers, names and numbers with separators are no part of it; an expression
beside which one of them stands is none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

TEXT_LIMIT = 4_000  # characters of a text that are looked at; int() reads numbers that long

# Multiplication sign and dots, asterisk operator; division signs; minus and dashes.
_MANY_SIGNS = {
    "*": "\u00d7\u2715\u2716\u00b7\u2219\u22c5\u2217",
    "/": "\u00f7\u2215",
    "-": "\u2212\u2013\u2014",
}
_SIGNS = str.maketrans({other: sign for sign, others in _MANY_SIGNS.items() for other in others})
_QUOTES = "\"'`$\u201c\u201d\u2018\u2019"
_TIMES = re.compile(r"(?<=[0-9)])(\s{0,4})(?:[xX]|\\times|\\cdot)(\s{0,4})(?=[-(0-9])")
# Markup around words or an expression; 2**3 is a power, and 2 * 3 * 4 a product.
_BOLD = re.compile(r"(?<![0-9)*])\*\*(?=[^\s*])([^*]*(?:\*[^*]+)*)(?<=[^\s*])\*\*(?![0-9(*])")
_EMPHASIS = re.compile(r"(?<![\w)*])\*([A-Za-z][A-Za-z :]*)\*(?![\w(*])")
_DELIMITER = re.compile(r"\\[()\[\]]")
_BULLET = re.compile(r"\s*(?:[-*•]\s+|\(?[0-9]{1,3}[.)]\s+)(?=[0-9(])")
_TOKEN = re.compile(r"(?P<part>[0-9]+|[-+*/()])|(?P<space>\s+)|(?P<word>[^\W\d_]+)|.", re.DOTALL)
# Words right before an expression. After any other, numbers count or measure something.
_ASKING = frozenset(
    (
        "answer",
        "calculate",
        "compute",
        "does",
        "evaluate",
        "evaluates",
        "expression",
        "find",
        "is",
        "much",
        "of",
        "problem",
        "question",
        "simplify",
        "solve",
        "task",
        "try",
        "value",
    )
)
_SAYING = frozenset(("is", "equals"))  # right after it
_STRENGTH = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "negative": 3}


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression with at least one operator.

    Attributes:
        text: As one writes it, such as ``(8 - 2) * 3``.
        key: Normal form: the same for all that differ in the order of what is added or
            multiplied, and in brackets that change nothing.
        value: What it comes to; None where it divides by zero.
        whole: Whether every division in it comes out even.
        numbers: In order.
        operators: Between them, in order.
        depth: Of its brackets.
    """

    text: str
    key: str
    value: Fraction | None
    whole: bool
    numbers: tuple[int, ...]
    operators: tuple[str, ...]
    depth: int

    @property
    def tokens(self) -> tuple[str, ...]:
        """Parts of the normal form."""
        return tuple(re.findall(r"[0-9]+|.", self.key))


def find_expression(text: str) -> Expression | None:
    """Return the first expression that a text states, or None.

    Of an equation it is the left side. Numbers in prose, as in ``I have 3 + 4 apples``, are none.
    """
    for line in text[:TEXT_LIMIT].splitlines():
        for tokens in _candidates(_plain(line), strict=True):
            expression = read_tokens(tokens)
            if expression is not None:
                return expression
    return None


def expressions_in(text: str) -> Iterator[Expression]:
    """Yield what can be read as an expression in a text, also in the middle of prose."""
    for line in text[:TEXT_LIMIT].splitlines():
        for tokens in _candidates(_plain(line), strict=False):
            expression = read_tokens(tokens)
            if expression is not None:
                yield expression


def read_tokens(tokens: list[str]) -> Expression | None:
    """Return the expression that tokens form, or None if they form none.

    Args:
        tokens: Whole numbers, ``+ - * / ( )``.
    """
    stack: list[str] = []  # operators and brackets that wait for what follows
    done: list[_Node] = []
    numbers: list[int] = []
    operators: list[str] = []
    shown: list[str] = []
    depth = deepest = 0
    wanted = True  # whether a number or a bracket has to follow
    for token in tokens:
        if token[0].isdigit():
            if not wanted or (token[0] == "0" and len(token) > 1):
                return None
            numbers.append(int(token))
            done.append(_Node("number", (token,), Fraction(int(token))))
            shown.append(token)
            wanted = False
        elif token == "(":
            if not wanted:
                return None
            stack.append(token)
            shown.append(token)
            depth += 1
            deepest = max(deepest, depth)
        elif token == ")":
            if wanted or not depth:
                return None
            while stack[-1] != "(":
                _apply(stack.pop(), done)
            stack.pop()
            shown.append(token)
            depth -= 1
        elif wanted:
            if token != "-" or (stack and stack[-1] == "negative"):
                return None
            stack.append("negative")
            shown.append(token)
        else:
            while stack and _STRENGTH[stack[-1]] >= _STRENGTH[token]:
                _apply(stack.pop(), done)
            stack.append(token)
            operators.append(token)
            shown.append(f" {token} ")
            wanted = True
    if wanted or depth or not operators:
        return None
    while _is_wrapped(tokens):
        tokens, shown, deepest = tokens[1:-1], shown[1:-1], deepest - 1
    while stack:
        _apply(stack.pop(), done)
    node = done[0]
    return Expression(
        "".join(shown), node.text, node.value, node.whole, tuple(numbers), tuple(operators), deepest
    )


def _is_wrapped(tokens: list[str]) -> bool:
    """Return whether one pair of brackets is around all of an expression."""
    if tokens[0] != "(":
        return False
    depth = 0
    for at, token in enumerate(tokens):
        depth += (token == "(") - (token == ")")
        if not depth:
            return at == len(tokens) - 1
    return False


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of an expression in normal form.

    ``kind`` is number, negative, sum or product; ``parts`` are the terms of a sum, negative ones
    with their sign, or the factors of a product, each behind ``*`` or ``/``.
    """

    kind: str
    parts: tuple[str, ...]
    value: Fraction | None
    whole: bool = True

    @property
    def text(self) -> str:
        if self.kind == "sum":
            plus = sorted((part for part in self.parts if part[0] != "-"), key=_order)
            minus = sorted((part for part in self.parts if part[0] == "-"), key=_order)
            return "+".join(plus) + "".join(minus)
        parts = sorted(self.parts, key=lambda part: (part[0] == "/", _order(part)))
        return "".join(parts).removeprefix("*")

    @property
    def bracketed(self) -> str:
        return self.text if self.kind == "number" else f"({self.text})"

    @property
    def terms(self) -> tuple[str, ...]:
        return self.parts if self.kind == "sum" else (self.text,)

    @property
    def factors(self) -> tuple[str, ...]:
        return self.parts if self.kind == "product" else (f"*{self.bracketed}",)


def _order(part: str) -> tuple[int, str]:
    return len(part), part


def _apply(operator: str, done: list[_Node]) -> None:
    """Put the last one or two nodes together."""
    right = done.pop()
    if operator == "negative":
        done.append(_negative(right))
        return
    left = done.pop()
    a, b = left.value, right.value
    whole = left.whole and right.whole
    value: Fraction | None = None
    if operator in "+-":
        other = right if operator == "+" else _negative(right)
        if a is not None and b is not None:
            value = a + b if operator == "+" else a - b
        done.append(_Node("sum", left.terms + other.terms, value, whole))
        return
    if operator == "*":
        factors = right.factors
        value = None if a is None or b is None else a * b
    else:
        factors = (f"/{right.bracketed}",)
        value = None if a is None or not b else a / b
        whole = whole and value is not None and value.denominator == 1
    done.append(_Node("product", left.factors + factors, value, whole))


def _negative(node: _Node) -> _Node:
    value = None if node.value is None else -node.value
    return _Node("negative", (f"-{node.bracketed}",), value, node.whole)


def _plain(line: str) -> str:
    """Return a line with the usual signs, without markup, a bullet or a number before it."""
    line = _EMPHASIS.sub(r"\1", _BOLD.sub(r"\1", _DELIMITER.sub(" ", line)))
    line = _TIMES.sub(r"\1*\2", line.translate(_SIGNS))
    return line[match.end() :] if (match := _BULLET.match(line)) else line


def _candidates(line: str, *, strict: bool) -> Iterator[list[str]]:
    """Yield runs of numbers, operators and brackets.

    Args:
        line: In the usual signs.
        strict: Whether to look at the left side of an equation alone, and to leave out what
            stands in prose.
    """
    if strict:
        line = line.partition("=")[0]
    matches = list(_TOKEN.finditer(line))
    at = 0
    for inside, group in groupby(matches, key=lambda match: match.lastgroup in ("part", "space")):
        run = list(group)
        start, at = at, at + len(run)
        tokens = [match[0] for match in run if match.lastgroup == "part"]
        if not inside or len(tokens) < 3:
            continue
        if not strict or (
            _begins(matches[max(start - 2, 0) : start], run) and _ends(run, matches[at : at + 2])
        ):
            yield tokens


def _begins(before: list[re.Match[str]], run: list[re.Match[str]]) -> bool:
    """Return whether an expression can begin after these two tokens."""
    if not before:
        return True
    last, spaced = before[-1], run[0].lastgroup == "space"
    if last.lastgroup == "word":
        first = next(match[0] for match in run if match.lastgroup == "part")
        return spaced and last[0].lower() in _ASKING and first != "-"
    if last[0] in _QUOTES:
        return True
    if last[0] == ":" and len(before) == 2 and before[0].lastgroup == "word":
        return True
    return spaced and last[0] in ":,;.?"


def _ends(run: list[re.Match[str]], after: list[re.Match[str]]) -> bool:
    """Return whether an expression can end before these two tokens."""
    if not after:
        return True
    first = after[0]
    if first.lastgroup == "word":
        return run[-1].lastgroup == "space" and first[0].lower() in _SAYING
    if first[0] in _QUOTES + "?":
        return True
    return first[0] in ".,;:…" and (len(after) < 2 or after[1].lastgroup == "space")
