r"""Functions and calls in what agents wrote, small models' mess included. Nothing is run.

A function is what follows ``def`` as far as it parses: fences, prompts of the interactive
interpreter, prose around it and a last line that was cut are passed over. A call is the function's
name with plain values in brackets; where there is none, ``Input: 3, 4`` will do.
"""

import ast
import re
from dataclasses import dataclass
from typing import Any

from populora_env.code.literals import arguments_text, parse_expression, plain_value
from populora_env.code.trees import LIMIT, NoProgramError, Program, read_program

_LINES = 400  # of a reply that are looked at
_FUNCTIONS = 8  # of a reply
_CALLS = 12
_DEF = re.compile(r"\bdef\s+([A-Za-z_]\w{0,60})\s*\(")
_IMPORT = re.compile(r"\s*(?:>>> )?((?:import|from)\s+[A-Za-z_][^\n]{0,120})$")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_PROMPT = re.compile(r"^(?:>>> ?|\.\.\. ?)")
_INPUT = re.compile(
    r"^[^\w\n]{0,40}(?:inputs?|arguments?|args|answer)\W{0,3}[:=]\s*(\S[^\n]*)$", re.I | re.M
)
_MARKS = " \t`*.;"


@dataclass(frozen=True, slots=True)
class Block:
    """One function of a text: its program, its own name, and the lines where it stands."""

    program: Program
    name: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a text: its arguments, the line where it stands, and whether it is all of it."""

    values: tuple[Any, ...]
    line: int
    alone: bool


def lines_of(text: str) -> list[str]:
    """Return the lines of a reply that are looked at, without interactive prompts.

    Backticks that end a line are no Python; fences stay.
    """
    return [
        line if _FENCE.match(line) else _PROMPT.sub("", line).rstrip("`")
        for line in text.expandtabs(4).splitlines()[:_LINES]
    ]


def functions_in(lines: list[str]) -> list[Block]:
    """Return the functions of a text, each with the imports and functions before it."""
    imports: list[str] = []
    before: list[tuple[str, str]] = []
    found: list[Block] = []
    at = 0
    while at < len(lines) and len(before) < _FUNCTIONS:
        line = lines[at]
        stated = _IMPORT.match(line)
        if stated is not None:
            imports.append(stated[1])
        match = _DEF.search(line)
        if match is None:
            at += 1
            continue
        block = _block(lines, at, match.start())
        parsed = _longest(block, match[1])
        if parsed is None:
            at += 1
            continue
        text, count = parsed
        for parts in ([*imports, *(other for _, other in before), text], [*imports, text], [text]):
            try:
                program = read_program("\n".join(parts), match[1])
            except NoProgramError:
                continue
            found.append(Block(program, match[1], at, at + count))
            break
        before = [entry for entry in before if entry[0] != match[1]]
        before.append((match[1], text))
        at += count
    return [_lean(block) for block in found]


def calls_in(lines: list[str], blocks: list[Block], names: set[str]) -> list[Call]:
    """Return the calls of functions with these names that stand outside of functions."""
    inside = {at for block in blocks for at in range(block.begin, block.end)}
    parameters = blocks[0].program.parameters if blocks else ()
    pattern = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, sorted(names)))})\s?\(")
    found: list[Call] = []
    for at, line in enumerate(lines):
        if at in inside or len(found) >= _CALLS:
            continue
        for match in list(pattern.finditer(line[:2000]))[:_CALLS]:
            end = _closing(line, match.end())
            values = None if end is None else _values(line[match.end() : end], parameters)
            if end is not None and values is not None:
                rest = line[: match.start()] + line[end + 1 :]
                found.append(Call(values, at, not _INPUT_WORDS.sub("", rest).strip(_MARKS)))
    return found[:_CALLS]


_INPUT_WORDS = re.compile(
    r"(?i)\b(?:the )?(?:final )?(?:answer|input|call)\b(?: is)?\s*:?|print\(|\)$"
)


def stated_input(text: str) -> tuple[Any, ...] | None:
    """Return the values of the last line such as ``Input: 3, 4``; None if there is none."""
    for match in reversed(list(_INPUT.finditer(text))[-_CALLS:]):
        values = _values(match[1].strip(_MARKS), ())
        if values is not None:
            return values
    return None


def code_answer(text: str) -> tuple[str | None, str | None]:
    """Return what a reply to a task of code says: a function's source, or a call ``f(3, 'ab')``.

    Of a reply that has both, the one that it says last, a call only if it stands by itself.

    Args:
        text: The reply outside thoughts.

    Returns:
        What it says, and the other of the two; None where there is none.
    """
    lines = lines_of(text)
    blocks = functions_in(lines)
    named = [block for block in blocks if block.name == "f"] or blocks
    block = named[-1] if named else None
    calls = calls_in(lines, blocks, {"f", *(entry.name for entry in blocks)})
    source = None if block is None else block.program.source
    call = None
    alone = [entry for entry in calls if entry.alone]
    if alone or calls:
        call = f"f({arguments_text((alone or calls)[-1].values)})"
    elif (values := stated_input(text)) is not None:
        call = f"f({arguments_text(values)})"
    elif source is None and lines:
        last = [line for line in lines if line.strip() and not _FENCE.match(line)][-1:]
        values = _values(last[0].strip(_MARKS), ()) if last else None
        call = None if values is None else f"f({arguments_text(values)})"
    if block is None:
        return call, None
    later = alone and alone[-1].line >= block.end and not _same_fence(lines, block, alone[-1])
    return (call, source) if later else (source, call)


def _same_fence(lines: list[str], block: Block, call: Call) -> bool:
    """Return whether a call stands in the code block of a function, as its example."""
    opened = sum(_FENCE.match(line) is not None for line in lines[: block.begin]) % 2 == 1
    closed = any(_FENCE.match(line) for line in lines[block.end : call.line])
    return opened and not closed


def _block(lines: list[str], at: int, column: int) -> list[str]:
    """Return the lines of a function: its first, and those below that are further in."""
    prefix = lines[at][:column]
    base = column if not prefix.strip() else len(prefix) - len(prefix.lstrip())
    block = [lines[at][column:]]
    for line in lines[at + 1 :]:
        if _FENCE.match(line) or (line.strip() and len(line) - len(line.lstrip()) <= base):
            break
        block.append(line[base:])
        if sum(map(len, block)) > LIMIT:
            break
    while len(block) > 1 and not block[-1].strip():
        block.pop()
    return block


def _longest(block: list[str], name: str) -> tuple[str, int] | None:
    """Return the longest beginning of a block that is a function, and its number of lines."""
    for count in range(len(block), max(0, len(block) - 40), -1):
        text = "\n".join(block[:count])
        try:
            read_program(text, name)
        except NoProgramError:
            continue
        return text, count
    return None


def _lean(block: Block) -> Block:
    """Return a function without the functions before it that it has no use for."""
    tree = ast.parse(block.program.source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {"f"}
    kept = [
        entry for entry in tree.body if not isinstance(entry, ast.FunctionDef) or entry.name in used
    ]
    if len(kept) == len(tree.body):
        return block
    try:
        program = read_program(ast.unparse(ast.Module(kept, [])))
    except NoProgramError:  # longer as it is written down than as it came
        return block
    return Block(program, block.name, block.begin, block.end)


def _closing(line: str, begin: int) -> int | None:
    """Return where the bracket that was opened before ``begin`` closes; None if nowhere."""
    depth, quote, at = 1, "", begin
    while at < min(len(line), begin + 1000):
        sign = line[at]
        if quote:
            if sign == "\\":
                at += 1
            elif sign == quote:
                quote = ""
        elif sign in "'\"":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
            if not depth:
                return at
        at += 1
    return None


def _values(text: str, parameters: tuple[str, ...]) -> tuple[Any, ...] | None:
    """Return the plain values of arguments, those by name put in their places, if these are known.

    Otherwise in the order in which they are written.
    """
    try:
        call = parse_expression(f"f({text}\n)")
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return None
        values = [plain_value(entry) for entry in call.args]
        named = {entry.arg: entry.value for entry in call.keywords}
        if not parameters:
            return (*values, *map(plain_value, named.values()))
        for name in parameters[len(values) :]:
            if name not in named:
                break
            values.append(plain_value(named.pop(name)))
        return None if named else tuple(values)
    except ValueError:
        return None
