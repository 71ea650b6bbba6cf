"""Reading the names of problems.

``2*chain_sum(max_digits=1,max_terms=3)+products`` is a mixture of two generators, the first drawn
twice as often; ``gsm8k+math(level=[1,2])+my/own.csv(answer=gold)`` puts three sources together.
Whether a generator, a benchmark or a file of that name exists is for others to find out.
"""

import ast
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from populora_env.problems.sources.base import ProblemSpecError
from populora_env.settings import did_you_mean

SPEC_LIMIT = 4_000  # characters
_FORM = "procedural:NAME[(parameter=value, ...)][+NAME...], as in procedural:chain_sum(max_terms=3)"
_PROCEDURAL = "procedural:"
_SOURCE_FORM = "gsm8k, math(subject=algebra,level=5) or file.csv(prompt=question,answer=gold)"
_WEIGHTED = re.compile(r"(?:([0-9]*\.?[0-9]+)\s*\*\s*)?(.*)", re.DOTALL)
_NAMED_VALUES = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True)
class GeneratorSpec:
    """One generator of a mixture: its name, parameters and weight (above 0)."""

    name: str
    parameters: dict[str, Any]
    weight: float

    def __str__(self) -> str:
        listed = ",".join(f"{key}={value!r}" for key, value in self.parameters.items())
        return f"{self.name}({listed})" if listed else self.name


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source of several.

    Attributes:
        name: A benchmark, the path of a file, or empty for procedural problems.
        options: What stands in brackets after the name.
        weight: How often it is drawn beside others, above 0; None where it was not said.
        generators: What procedural problems are made by.
    """

    name: str
    options: dict[str, Any]
    weight: float | None = None
    generators: tuple[GeneratorSpec, ...] = ()


def parse_sources(
    text: str, benchmarks: Collection[str], suffixes: Collection[str]
) -> list[SourceSpec]:
    """Return the sources that a text names, in order; all generators are one source.

    Args:
        text: Sources joined by ``+``. After ``procedural:``, generators may follow each other.
        benchmarks: Names that are benchmarks.
        suffixes: What the name of a file may end in, such as ``.csv``.

    Raises:
        ProblemSpecError: If the text has another form.
    """
    if len(text) > SPEC_LIMIT:
        raise ProblemSpecError(
            f"problem spec must have at most {SPEC_LIMIT} characters, got {len(text)}"
        )
    known = (*benchmarks, _PROCEDURAL.removesuffix(":"))
    names = "|".join(map(re.escape, sorted(benchmarks, key=len, reverse=True)))
    endings = "|".join(map(re.escape, suffixes))
    source = re.compile(rf"({names}|.+?(?:{endings}))\s*(\(.*\))?", re.DOTALL | re.IGNORECASE)
    sources: list[SourceSpec] = []
    generators: list[str] = []
    for piece in _pieces(text):
        weight, rest = _weight(piece, text)
        match = source.fullmatch(rest)
        if rest.startswith(_PROCEDURAL) or (generators and match is None):
            if not generators:
                sources.append(SourceSpec("", {}))
            generators.append(piece.strip().removeprefix(_PROCEDURAL))
        elif match is None:
            raise ProblemSpecError(
                f"unknown problem spec {text[:120]!r}: expected procedural:NAME[+NAME...] (as in "
                f"procedural:chain_sum), {', '.join(benchmarks)}, or a path ending in "
                f"{', '.join(suffixes)}{did_you_mean(re.sub('[(:].*', '', rest), known)}"
            )
        else:
            sources.append(SourceSpec(match[1], _options(match[2], text), weight))
    made = tuple(parse_mixture("+".join(generators))) if generators else ()
    return [
        entry
        if entry.name
        else SourceSpec("", {}, sum(generator.weight for generator in made), made)
        for entry in sources
    ]


def parse_mixture(text: str) -> list[GeneratorSpec]:
    """Return the generators that a text such as ``2*a(x=1)+b`` names, in order.

    Raises:
        ProblemSpecError: If the text has another form.
    """
    if len(text) > SPEC_LIMIT:
        raise ProblemSpecError(
            f"problem spec must have at most {SPEC_LIMIT} characters, got {len(text)}"
        )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _malformed(text) from None
    terms: list[ast.expr] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        terms.append(tree.right)
        tree = tree.left
    terms.append(tree)
    return [_generator(term, text) for term in reversed(terms)]


def _generator(term: ast.expr, text: str) -> GeneratorSpec:
    weight = 1.0
    if isinstance(term, ast.BinOp) and isinstance(term.op, ast.Mult):
        if not isinstance(term.left, ast.Constant) or type(term.left.value) not in (int, float):
            raise _malformed(text)
        weight = float(str(term.left.value))
        if not (weight > 0 and math.isfinite(weight)):
            raise ProblemSpecError(f"weight must be above 0, got {weight:g} in {text!r}")
        term = term.right
    if isinstance(term, ast.Name):
        return GeneratorSpec(term.id, {}, weight)
    if isinstance(term, ast.Call) and isinstance(term.func, ast.Name) and not term.args:
        parameters = {
            entry.arg: _value(entry.value, text) for entry in term.keywords if entry.arg is not None
        }
        if len(parameters) == len(term.keywords):
            return GeneratorSpec(term.func.id, parameters, weight)
    raise _malformed(text)


def _pieces(text: str) -> list[str]:
    """Split at each ``+`` that stands neither in brackets nor in quotes."""
    pieces = [""]
    depth, quote = 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char if depth else ""  # an apostrophe in a file's name quotes nothing
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        if char == "+" and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += char
    return pieces


def _weight(piece: str, text: str) -> tuple[float | None, str]:
    """Return the weight in front of a piece, if there is one, and the rest."""
    match = _WEIGHTED.fullmatch(piece.strip())
    if match is None or match[1] is None:
        return None, piece.strip()
    weight = float(match[1])
    if not (weight > 0 and math.isfinite(weight)):
        raise ProblemSpecError(f"weight must be above 0, got {weight:g} in {text[:120]!r}")
    return weight, match[2]


def _options(text: str | None, whole: str) -> dict[str, Any]:
    """Return the options of a benchmark or a file, such as ``(level=5)``."""
    try:
        return parse_mixture(f"source{text or ''}")[0].parameters
    except ProblemSpecError:
        raise ProblemSpecError(
            f"options must have the form {_SOURCE_FORM}; got {whole[:120]!r}"
        ) from None


def _value(node: ast.expr, text: str) -> Any:
    """Return the value of a parameter: a Python literal, or a bare word as a string."""
    if isinstance(node, ast.Name):
        return _NAMED_VALUES.get(node.id.lower(), node.id)
    if isinstance(node, ast.Attribute | ast.Subscript):
        return _path(node, text)
    if isinstance(node, ast.List | ast.Tuple):
        listed = [_value(entry, text) for entry in node.elts]
        return listed if isinstance(node, ast.List) else tuple(listed)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _malformed(text) from None


def _path(node: ast.expr, text: str) -> str:
    """Return the name of a nested column as it was written, such as ``messages[0].content``."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value, text)}.{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return f"{_path(node.value, text)}[{node.slice.value}]"
    raise _malformed(text)


def _malformed(text: str) -> ProblemSpecError:
    return ProblemSpecError(f"problem spec must have the form {_FORM}; got {text[:120]!r}")
