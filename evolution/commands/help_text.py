"""The options of a command, read from the source of its dataclass.

Importing the dataclass would import PyTorch, which takes seconds; reading its source takes
milliseconds. Names, types, defaults and words are those that `evolution.commands.usage.parse` goes
by.
"""

import ast
import runpy
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_HELP = ("-h", "--help")
# Options that give others their defaults: what a saved run or a preset says needs a real look.
_SOURCES = ("--preset", "--config", "--resume", "--branch", "--run")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command."""

    name: str
    """Field of the dataclass."""
    kind: str
    """What its value looks like; empty for a switch."""
    positional: bool
    """Whether it is a bare word."""
    words: str
    """What it is for, and its default."""


def asks_for_help(arguments: Sequence[str], *, sources: bool = False) -> bool:
    """Whether the words of a command ask for its options.

    Args:
        arguments: The words.
        sources: Whether what gives others their defaults may be among them.
    """
    if not sources and any(word.partition("=")[0] in _SOURCES for word in arguments):
        return False
    return any(word in _HELP for word in arguments)


def help_text(command: str, module: str, name: str, default: Any = None) -> str:
    """Usage and options of a command.

    Args:
        command: How it is called, as in ``populora play``.
        module: Where its dataclass is defined or imported.
        name: The dataclass.
        default: One of these, whose values are the defaults; None for the dataclass's own.
    """
    about, options = read_options(module, name, default)
    words = " ".join(option.kind for option in options if option.positional)
    lines = [" ".join(f"usage: {command} [-h] {words} [OPTIONS]".split()), "", about, ""]
    for title, positional in (("positional arguments", True), ("options", False)):
        shown = [option for option in options if option.positional == positional]
        rows = [] if positional else [("-h, --help", "show this help message and exit")]
        rows += [(_head(option), option.words) for option in shown]
        if rows:
            lines += [f"{title}:", *_rows(rows), ""]
    return "\n".join(lines).rstrip()


def read_options(module: str, name: str, default: Any = None) -> tuple[str, list[Option]]:
    """What a dataclass is for, and its fields as options, those of its bases first."""
    module, name = _defined(module, name) or (module, name)
    found = _class(_tree(module), name)
    options: list[Option] = []
    for base in found.bases:
        if isinstance(base, ast.Name) and (where := _defined(module, base.id)):
            options += read_options(*where, default)[1]
    about = " ".join((ast.get_docstring(found) or "").split())
    return about, options + list(_options(module, found, default))


def _options(module: str, found: ast.ClassDef, default: Any) -> Iterator[Option]:
    for statement, after in zip(found.body, [*found.body[1:], ast.Pass()], strict=True):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        words = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            words = " ".join(str(after.value.value).split())
        kind, positional, notes = statement.annotation, False, list[str]()
        if isinstance(kind, ast.Subscript) and ast.unparse(kind.value).endswith("Positional"):
            kind, positional = kind.slice, True
        if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Annotated":
            kind, *extras = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
            notes += [_range(extra) for extra in extras if ast.unparse(extra).startswith("Range(")]
        name, value = statement.target.id, statement.value
        if value is None:
            notes.append("required")
        elif text := _value(module, value) if default is None else _typed(getattr(default, name)):
            notes.append(f"default: {text}")
        words = f"{words} ({'; '.join(notes)})" if notes else words
        yield Option(name, _kind(module, kind), positional, words)


def _range(call: ast.expr) -> str:
    """What a ``Range(...)`` says of itself."""
    if not isinstance(call, ast.Call):
        return ""
    values = [ast.literal_eval(value) for value in call.args]
    named = {entry.arg or "": ast.literal_eval(entry.value) for entry in call.keywords}
    return str(_ranges()(*values, **named))


@cache
def _ranges() -> Any:
    """The class `populora_env.settings.Range`, without its package, which would take a second."""
    return runpy.run_path(str(_file("populora_env.settings")))["Range"]


def _kind(module: str, kind: ast.expr) -> str:
    """What a value of a type looks like."""
    if isinstance(kind, ast.BinOp):
        return f"{_kind(module, kind.left)}|{_kind(module, kind.right)}"
    if isinstance(kind, ast.Subscript):
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        if ast.unparse(kind.value).endswith("Literal"):
            return "{" + ",".join(str(_value(module, entry)) for entry in inner) + "}"
        return f"[{_kind(module, inner[0])} ...]"
    text = ast.unparse(kind)
    if text == "bool":
        return ""
    if where := _defined(module, text):
        values = [
            str(_value(where[0], entry.value))
            for entry in _class(_tree(where[0]), where[1]).body
            if isinstance(entry, ast.Assign)
        ]
        return "{" + ",".join(values) + "}"
    return {"str": "TEXT"}.get(text, text.upper())


def _value(module: str, value: ast.expr) -> str:
    """A default as it would be typed; empty for an empty one and for None."""
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        where = _defined(module, value.value.id)
        for entry in _class(_tree(where[0]), where[1]).body if where else []:
            named = entry.targets[0] if isinstance(entry, ast.Assign) else None
            named = entry.target if isinstance(entry, ast.AnnAssign) else named
            if isinstance(named, ast.Name) and named.id == value.attr and where:
                return _value(where[0], entry.value)  # type: ignore[reportAttributeAccessIssue]
    if isinstance(value, ast.Name):
        return _value(*_constant(module, value.id))
    if isinstance(value, ast.Tuple):
        return " ".join(_value(module, entry) for entry in value.elts)
    if isinstance(value, ast.Constant):
        return "" if value.value in ("", None) else str(value.value)
    return ast.unparse(value)


def _typed(value: Any) -> str:
    """A value as it would be typed; empty for an empty one and for None."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _head(option: Option) -> str:
    flag = option.name.replace("_", "-")
    if option.positional:
        return option.kind
    return f"--{flag} {option.kind}" if option.kind else f"--{flag}, --no-{flag}"


def _rows(rows: list[tuple[str, str]]) -> Iterator[str]:
    """Heads in a column, words in another."""
    width = max(min(shutil.get_terminal_size().columns, 100), 50)
    for head, words in rows:
        folded = textwrap.wrap(words, width - 26, break_on_hyphens=False) or [""]
        if len(head) > 22:
            yield f"  {head}"
        else:
            yield f"  {head:23} {folded.pop(0)}".rstrip()
        yield from (" " * 26 + line for line in folded)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    top, *below = module.split(".")
    found = find_spec(top)  # of a package, which this does not import; of what is in it, it would
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {top!r}", name=top)
    path = Path(found.submodule_search_locations[0]).joinpath(*below)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(s for s in tree.body if isinstance(s, ast.ClassDef) and s.name == name)


def _defined(module: str, name: str) -> tuple[str, str] | None:
    """Module and name of a class of ours that a module defines or imports."""
    for statement in _tree(module).body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return module, name
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for entry in statement.names:
                ours = statement.module.partition(".")[0] in ("evolution", "agents", "populora_env")
                if ours and (entry.asname or entry.name) == name:
                    return _defined(statement.module, entry.name)
    return None


def _constant(module: str, name: str) -> tuple[str, ast.expr]:
    """Module and value of a constant that a module defines or imports."""
    for statement in _tree(module).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return module, statement.value
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for entry in statement.names:
                if (entry.asname or entry.name) == name:
                    return _constant(statement.module, entry.name)
    return module, ast.Constant("")
