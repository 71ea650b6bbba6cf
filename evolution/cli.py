"""The command ``populora``.

Each subcommand's options are the fields of a dataclass. Whatever the user got wrong ends in one
line on standard error and exit status 2, without a traceback; Ctrl-C ends with 130.
"""

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

# What each subcommand is for, and the module whose `main(arguments)` runs it.
COMMANDS = {"evolve": ("evolve a population of adapters", "evolution.evolve")}


class UsageError(ValueError):
    """A command line that cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {what}" for name, (what, _) in COMMANDS.items()]
        print("usage: populora COMMAND [options]\n\n" + "\n".join(lines))
        print("\npopulora COMMAND --help lists a command's options.")
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise UsageError(
                f"unknown command {arguments[0]!r}; expected one of {', '.join(COMMANDS)}"
            )
        module = importlib.import_module(COMMANDS[arguments[0]][1])
        return module.main(arguments[1:])
    except _user_errors() as error:
        print(f"populora: error: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("populora: interrupted", file=sys.stderr)
        return 130


def parse(options: Any, arguments: Sequence[str], *, default: Any, prog: str) -> Any:
    """Read options with tyro.

    Args:
        options: The dataclass type.
        arguments: Command-line words.
        default: Values of options that are not given.
        prog: How the command is called.

    Raises:
        UsageError: If the words do not fit the dataclass; in one line.
        SystemExit: After ``--help``.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, args=list(arguments), default=default, prog=prog)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        words = re.sub(r"[\u2500-\u257f]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()))
        raise UsageError(f"{_one_line(words)} (see {prog} --help)") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors that are the user's to mend; anything else is ours and keeps its traceback."""
    errors: list[type[Exception]] = [UsageError]
    for module, name in (
        ("evolution.config", "ConfigError"),
        ("evolution.checkpoint", "CheckpointError"),
        ("agents.models", "ModelError"),
        ("agents.population", "AdapterError"),
        ("populora_env.problems", "ProblemSpecError"),
    ):
        if module in sys.modules:  # an error of a module that was never imported cannot come
            errors.append(getattr(sys.modules[module], name))
    return tuple(errors)


if __name__ == "__main__":
    sys.exit(main())
