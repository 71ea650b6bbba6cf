"""Reading the names of procedural problems.

``2*chain_sum(max_digits=1,max_terms=3)+products`` is a mixture of two generators, the first drawn
twice as often. Whether a generator of that name exists is for `procedural` to find out.
"""

import ast
import math
from dataclasses import dataclass
from typing import Any

from populora_env.problems.source import ProblemSpecError

SPEC_LIMIT = 4_000  # characters
_FORM = "procedural:NAME[(parameter=value, ...)][+NAME...], as in procedural:chain_sum(max_terms=3)"
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


def _value(node: ast.expr, text: str) -> Any:
    """Return the value of a parameter: a Python literal, or a bare word as a string."""
    if isinstance(node, ast.Name):
        return _NAMED_VALUES.get(node.id.lower(), node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _malformed(text) from None


def _malformed(text: str) -> ProblemSpecError:
    return ProblemSpecError(f"problem spec must have the form {_FORM}; got {text[:120]!r}")
