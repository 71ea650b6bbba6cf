"""Functions as syntax trees: read within bounds, brought to one form, measured. Nothing is run."""

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from populora_env.code.literals import nesting

LIMIT = 2000  # characters of a program
NODES = 600
DEPTH = 40  # of the tree
# Those of the sandbox whose results are the same each time.
MODULES = frozenset({"math", "re", "itertools", "functools", "collections", "json", "typing"})
_REFUSED = frozenset(
    [
        "exec", "eval", "compile", "open", "input", "globals", "locals", "vars", "id", "hash",
        "object", "breakpoint", "help", "exit", "quit", "memoryview", "getattr", "setattr",
        "delattr", "dir", "super",
    ]
)  # fmt: skip
_LOOPS = (ast.For, ast.While, ast.comprehension)
_BRANCHES = (ast.If, ast.IfExp, ast.Match, ast.Try)
_UNPRINTABLE = re.compile("[\x00\ud800-\udfff]")


class NoProgramError(ValueError):
    """Why a text is no program of ours, in one line."""


@dataclass(frozen=True, slots=True)
class Program:
    """A function ``f``, with what it imports and calls, in one form.

    Attributes:
        source: Without comments, docstrings and annotations, as `ast.unparse` writes it.
        normal: The same with local names numbered in order of appearance.
        parameters: Names of the arguments of ``f``.
        required: How many of them have no default.
        unused: Those that it never reads.
        refused: What it uses that no task may, in words; empty if nothing.
        measures: Its size: ``lines``, ``nodes``, ``loops`` and ``branches``.
    """

    source: str
    normal: str
    parameters: tuple[str, ...]
    required: int
    unused: tuple[str, ...]
    refused: str
    measures: dict[str, float]

    @property
    def digest(self) -> str:
        """Hash of the normal form, 16 hexadecimal characters."""
        return hashlib.sha256(self.normal.encode()).hexdigest()[:16]

    def takes(self, count: int) -> bool:
        """Return whether it can be called with so many arguments."""
        return self.required <= count <= len(self.parameters)


def parse_module(text: str) -> ast.Module:
    """Return the tree of a program of bounded length, size and depth.

    Raises:
        NoProgramError: If there is none.
    """
    if len(text) > LIMIT or nesting(text) > DEPTH:
        raise NoProgramError(f"a program of more than {LIMIT} characters, or too deep")
    if _UNPRINTABLE.search(text):
        raise NoProgramError("characters that no program has")
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NoProgramError("no Python") from None
    level: list[ast.AST] = [module]
    nodes = 0
    for _ in range(DEPTH):
        nodes += len(level)
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if nodes > NODES or not level:
            break
    if level:
        raise NoProgramError(f"a program of more than {NODES} parts, or more than {DEPTH} deep")
    return module


def read_program(text: str, name: str = "f") -> Program:
    """Return the program that a text is; its function ``name`` becomes ``f``.

    Args:
        text: Functions and imports; other statements are left out.
        name: The function that is the task's.

    Raises:
        NoProgramError: If there is none.
    """
    module = parse_module(text)
    kept: list[ast.stmt] = [
        entry
        for entry in module.body
        if isinstance(entry, ast.FunctionDef | ast.Import | ast.ImportFrom)
        and not (isinstance(entry, ast.ImportFrom) and entry.module == "typing")
    ]
    module = ast.Module(kept, [])
    named = {entry.name: entry for entry in kept if isinstance(entry, ast.FunctionDef)}
    if name not in named:
        raise NoProgramError(f"no function {name}")
    function = named[name]
    _strip(module)
    if name != "f":
        _rename(module, {"f": _unused(module), name: "f"})
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        raise NoProgramError("its arguments are not all plain ones")
    parameters = tuple(entry.arg for entry in (*arguments.posonlyargs, *arguments.args))
    read = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    source = _text(module)
    refused = _refused(module)
    measures: dict[str, float] = {
        "lines": source.count("\n") + 1,
        "nodes": sum(1 for _ in ast.walk(module)),
        "loops": sum(isinstance(node, _LOOPS) for node in ast.walk(module)),
        "branches": sum(isinstance(node, _BRANCHES) for node in ast.walk(module)),
    }
    _rename(module, {entry: f"v{at}" for at, entry in enumerate(_bound(module))})
    return Program(
        source, _text(module), parameters, len(parameters) - len(arguments.defaults),
        tuple(entry for entry in parameters if entry not in read), refused, measures,
    )  # fmt: skip


def _text(module: ast.Module) -> str:
    """Return a program's text.

    Raises:
        NoProgramError: If it has none, as some texts within an f-string.
    """
    try:
        return ast.unparse(module)
    except (ValueError, RecursionError):
        raise NoProgramError("a program that cannot be written down") from None


def _unused(module: ast.Module) -> str:
    """Return a name that is nobody's in a program: g, if it is."""
    nodes = list(ast.walk(module))
    names = {str(getattr(node, field, "")) for node in nodes for field in ("id", "arg", "name")}
    return next(name for name in ("g", *map("g{}".format, range(len(nodes)))) if name not in names)


def _strip(module: ast.Module) -> None:
    """Take docstrings and annotations out."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                kept = [_plain(entry) for entry in body if not _is_text(entry)]
                setattr(node, field, kept or [ast.Pass()] if body else [])


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _plain(node: ast.stmt) -> ast.stmt:
    """Return an assignment without its annotation; other statements as they are."""
    if not isinstance(node, ast.AnnAssign):
        return node
    if node.value is None:
        return ast.copy_location(ast.Pass(), node)
    plain = ast.Assign([node.target], node.value)
    return ast.fix_missing_locations(ast.copy_location(plain, node))


def _bound(module: ast.Module) -> list[str]:
    """Return the names that a program gives, in order of appearance; imported ones keep theirs."""
    given: dict[str, None] = {}
    for node in _in_order(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.setdefault(node.id)
        elif isinstance(node, ast.arg):
            given.setdefault(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and node.name:
            given.setdefault(node.name)
    return list(given)


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it as they are written, more or less."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _rename(module: ast.Module, names: dict[str, str]) -> None:
    for node in ast.walk(module):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = names.get(node.arg, node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and node.name:
            node.name = names.get(node.name, node.name)
        elif isinstance(node, ast.Nonlocal | ast.Global):
            node.names = [names.get(entry, entry) for entry in node.names]


def _refused(module: ast.Module) -> str:
    """Return what a program uses that no task may, in words; empty if nothing."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            other = [a.name for a in node.names if a.name.split(".")[0] not in MODULES]
            if other:
                return f"it imports {other[0]:.40}"
        elif isinstance(node, ast.ImportFrom):
            if node.level or (node.module or "").split(".")[0] not in MODULES:
                return f"it imports {node.module or '.':.40}"
            if any(alias.name == "*" for alias in node.names):
                return "it imports *"
        elif isinstance(node, ast.Name) and (node.id in _REFUSED or node.id.startswith("__")):
            return f"it uses {node.id:.40}"
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            return f"it uses {node.attr:.40}"
        elif isinstance(node, ast.Global):
            return "it uses global"
        elif isinstance(node, ast.FunctionDef) and node.decorator_list:
            return "it has a decorator"
    return ""
