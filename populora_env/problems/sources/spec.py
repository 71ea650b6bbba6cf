"""Reading the names of problems.

``2*chain_sum(max_digits=1,max_terms=3)+products`` is a mixture of two generators, the first drawn
twice as often; ``gsm8k+math(level=[1,2])+my/own.csv(answer=gold)`` puts three sources together;
``2*levels(chain_sum+products)+expressions(digits=2)`` names tasks, some made of generators.
Whether a generator, a benchmark or a file of that name exists is for others to find out.
"""

import ast
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from populora_env.problems.sources.base import ProblemSpecError
from populora_env.settings import did_you_mean

SPEC_LIMIT = 4_000  # characters
_FORM = "procedural:NAME[(parameter=value, ...)][+NAME...], as in procedural:chain_sum(max_terms=3)"
_TASK_FORM = (
    "NAME[(GENERATOR[+GENERATOR...], option=value, ...)][+NAME...], "
    "as in 2*levels(chain_sum+products)+expressions(digits=2)"
)
_PROCEDURAL = "procedural:"
CURRICULUM, SELF_PLAY = "curriculum:", "self-play:"  # what such specs begin with
_ALONE = (CURRICULUM, SELF_PLAY)  # read by others, whole
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
class TaskSpec:
    """One of the tasks named after ``self-play:``, or curricula named after ``curriculum:``.

    Attributes:
        name: A kind of task or of curriculum.
        generators: The procedural generators in its brackets; empty for most kinds.
        parameters: Its options.
        weight: How often it is asked for beside others, above 0.
    """

    name: str
    generators: tuple[GeneratorSpec, ...]
    parameters: dict[str, Any]
    weight: float

    def __str__(self) -> str:
        listed = [f"{key}={value!r}" for key, value in self.parameters.items()]
        if self.generators:
            listed.insert(0, mixture_text(self.generators))
        return f"{self.name}({','.join(listed)})" if listed else self.name


class _MalformedError(Exception):
    """A text of another form than its reader expects; the reader says which."""


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
    known = (*benchmarks, *(prefix.removesuffix(":") for prefix in (_PROCEDURAL, *_ALONE)))
    names = "|".join(map(re.escape, sorted(benchmarks, key=len, reverse=True)))
    endings = "|".join(map(re.escape, suffixes))
    source = re.compile(rf"({names}|.+?(?:{endings}))\s*(\(.*\))?", re.DOTALL | re.IGNORECASE)
    sources: list[SourceSpec] = []
    generators: list[str] = []
    for piece in _pieces(text):
        weight, rest = _weight(piece, text)
        match = source.fullmatch(rest)
        if rest.startswith(_ALONE):
            raise ProblemSpecError(
                f"problem spec {text[:120]!r}: {rest.partition(':')[0]} stands alone, nothing is "
                "joined to it by +"
            )
        if rest.startswith(_PROCEDURAL) or (generators and match is None):
            if not generators:
                sources.append(SourceSpec("", {}))
            generators.append(piece.strip().removeprefix(_PROCEDURAL))
        elif match is None:
            raise ProblemSpecError(
                f"unknown problem spec {text[:120]!r}: expected procedural:NAME[+NAME...] (as in "
                f"procedural:chain_sum), curriculum:NAME(...), {', '.join(benchmarks)}, or a path "
                f"ending in {', '.join(suffixes)}{did_you_mean(re.sub('[(:].*', '', rest), known)}"
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
    try:
        return [_generator(term, text) for term in _terms(_tree(text))]
    except (_MalformedError, RecursionError):
        raise _malformed(text) from None


def parse_tasks(text: str) -> list[TaskSpec]:
    """Return the tasks that a text such as ``2*levels(chain_sum+gcd)+functions`` names, in order.

    Raises:
        ProblemSpecError: If the text has another form.
    """
    try:
        return [_task(term, text) for term in _terms(_tree(text))]
    except (_MalformedError, RecursionError):
        raise _malformed(text, _TASK_FORM) from None


def mixture_text(entries: Sequence[GeneratorSpec] | Sequence[TaskSpec]) -> str:
    """Return what `parse_mixture` or `parse_tasks` reads as these generators or tasks."""
    return "+".join(
        str(entry) if entry.weight == 1 else f"{entry.weight:g}*{entry}" for entry in entries
    )


def _tree(text: str) -> ast.expr:
    if len(text) > SPEC_LIMIT:
        raise ProblemSpecError(
            f"problem spec must have at most {SPEC_LIMIT} characters, got {len(text)}"
        )
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _MalformedError from None


def _terms(tree: ast.expr) -> list[ast.expr]:
    """Return what ``+`` joins, from left to right."""
    terms: list[ast.expr] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        terms.append(tree.right)
        tree = tree.left
    terms.append(tree)
    return terms[::-1]


def _task(term: ast.expr, text: str) -> TaskSpec:
    weight, term = _factor(term, text)
    if isinstance(term, ast.Name):
        return TaskSpec(term.id, (), {}, weight)
    if isinstance(term, ast.Call) and isinstance(term.func, ast.Name) and len(term.args) < 2:
        generators = [_generator(one, text) for arg in term.args for one in _terms(arg)]
        return TaskSpec(term.func.id, tuple(generators), _keywords(term), weight)
    raise _MalformedError


def _factor(term: ast.expr, text: str) -> tuple[float, ast.expr]:
    """Return the weight before a term, 1 if there is none, and the rest."""
    if not (isinstance(term, ast.BinOp) and isinstance(term.op, ast.Mult)):
        return 1.0, term
    if not isinstance(term.left, ast.Constant) or type(term.left.value) not in (int, float):
        raise _MalformedError
    weight = float(str(term.left.value))
    if not (weight > 0 and math.isfinite(weight)):
        raise ProblemSpecError(f"weight must be above 0, got {weight:g} in {text!r}")
    return weight, term.right


def _keywords(call: ast.Call) -> dict[str, Any]:
    """Return the options of a call; one that is given twice is one too many."""
    options = {entry.arg: _value(entry.value) for entry in call.keywords if entry.arg}
    if len(options) < len(call.keywords):
        raise _MalformedError
    return options


def _generator(term: ast.expr, text: str) -> GeneratorSpec:
    weight, term = _factor(term, text)
    if isinstance(term, ast.Name):
        return GeneratorSpec(term.id, {}, weight)
    if isinstance(term, ast.Call) and isinstance(term.func, ast.Name) and not term.args:
        return GeneratorSpec(term.func.id, _keywords(term), weight)
    raise _MalformedError


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


def _value(node: ast.expr) -> Any:
    """Return the value of a parameter: a Python literal, or bare words as a text, as in ``a|b``."""
    if isinstance(node, ast.Name):
        return _NAMED_VALUES.get(node.id.lower(), node.id)
    if isinstance(node, ast.Attribute | ast.Subscript):
        return _path(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return f"{_value(node.left)}|{_value(node.right)}"
    if isinstance(node, ast.List | ast.Tuple):
        listed = [_value(entry) for entry in node.elts]
        return listed if isinstance(node, ast.List) else tuple(listed)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _MalformedError from None


def _path(node: ast.expr) -> str:
    """Return the name of a nested column as it was written, such as ``messages[0].content``."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return f"{_path(node.value)}[{node.slice.value}]"
    raise _MalformedError


def _malformed(text: str, form: str = _FORM) -> ProblemSpecError:
    return ProblemSpecError(f"problem spec must have the form {form}; got {text[:120]!r}")
