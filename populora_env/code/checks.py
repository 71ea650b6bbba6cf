"""What the known answer of a problem of code is: what has to be run, and what has to come of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from populora_env.code.literals import read_arguments, same_texts
from populora_env.code.replies import Block, functions_in, lines_of
from populora_env.code.sandbox import RunStatus, Sandbox

INPUT, FUNCTION = "input", "function"


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """What a reply has to do.

    Attributes:
        task: ``input``, the arguments of a function that give a value, or ``function``, a function
            that gives the values of examples.
        source: The program whose input is wanted; empty for a function.
        value: The value that its result has to be; empty for a function.
        examples: Arguments and value of each example, the shown ones and the hidden ones.
        known: A reply that is right.
    """

    task: str
    source: str = ""
    value: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    known: str = ""

    def text(self) -> str:
        """Return it as JSON text, the form in which it is a problem's answer."""
        parts = {"task": self.task, "known": self.known}
        if self.task == INPUT:
            return json.dumps({**parts, "source": self.source, "value": self.value})
        return json.dumps({**parts, "examples": [list(entry) for entry in self.examples]})


def read_check(text: str) -> CodeCheck | None:
    """Return what `CodeCheck.text` wrote; None if a text is nothing of the kind."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    found = cast(dict[str, Any], data)
    task, known = found.get("task"), found.get("known", "")
    if not isinstance(known, str):
        return None
    if task == INPUT:
        source, value = found.get("source"), found.get("value")
        if isinstance(source, str) and isinstance(value, str):
            return CodeCheck(INPUT, source, value, known=known)
        return None
    examples = found.get("examples")
    if task != FUNCTION or not isinstance(examples, list) or not examples:
        return None
    pairs = [_pair(entry) for entry in cast(list[Any], examples)]
    whole = tuple(pair for pair in pairs if pair is not None)
    return CodeCheck(FUNCTION, examples=whole, known=known) if len(whole) == len(pairs) else None


def _pair(entry: Any) -> tuple[str, str] | None:
    parts = cast(list[Any], entry) if isinstance(entry, list) else []
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        return None
    return parts[0], parts[1]


def is_function(answer: str) -> bool:
    """Return whether an answer that `replies.code_answer` returned is a function, not a call."""
    return not answer.startswith("f(")


def check_answer(check: CodeCheck, answers: Sequence[str | None], sandbox: Sandbox) -> RunStatus:
    """Run what a reply says.

    Args:
        check: What it has to do.
        answers: What it says, and what else it says, as `replies.code_answer` returned them.
        sandbox: Where it is run.

    Returns:
        DONE if it is right, RAISED if it is wrong, UNSUPPORTED if it says nothing that can be run,
        EXHAUSTED if it was stopped.

    Raises:
        SandboxError: If the sandbox is not installed or does not start.
    """
    wanted = check.task == FUNCTION
    said = [answer for answer in answers if answer and is_function(answer) is wanted]
    if not said:
        return RunStatus.UNSUPPORTED
    if not wanted:
        arguments = said[0][2:-1]
        try:
            read_arguments(arguments)
        except ValueError:
            return RunStatus.UNSUPPORTED
        return _outcome(sandbox, check.source, arguments, check.value)
    for arguments, value in check.examples:
        status = _outcome(sandbox, said[0], arguments, value)
        if status is not RunStatus.DONE:
            return status
    return RunStatus.DONE


def same_code(one: str, other: str) -> bool:
    """Return whether two answers are the same call, or the same function but for its names."""
    if is_function(one) is not is_function(other):
        return False
    if not is_function(one):
        return same_texts(f"[{one[2:-1]}]", f"[{other[2:-1]}]")
    first, second = _program(one), _program(other)
    return first is not None and second is not None and first == second


def _program(source: str) -> str | None:
    blocks: list[Block] = functions_in(lines_of(source))
    return blocks[-1].program.normal if blocks else None


def _outcome(sandbox: Sandbox, source: str, arguments: str, value: str) -> RunStatus:
    run = sandbox.run(source, arguments)
    if run.status in (RunStatus.EXHAUSTED, RunStatus.UNSUPPORTED):
        return run.status
    right = run.value is not None and same_texts(run.value, value)
    return RunStatus.DONE if right else RunStatus.RAISED
