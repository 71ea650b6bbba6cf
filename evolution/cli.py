"""The command ``populora``.

Each subcommand's options are the fields of a dataclass. Whatever the user got wrong ends in one
line on standard error and exit status 2, without a traceback; Ctrl-C ends with 130.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from evolution.usage import UsageError, one_line

# What each subcommand is for, and the module whose `main(arguments)` runs it.
COMMANDS = {
    "evolve": ("evolve a population of adapters", "evolution.evolve"),
    "bench": ("measure accuracy", "evolution.bench"),
    "bench-engine": ("measure speed and memory beside peers", "evolution.bench_engine"),
    "export": ("make one adapter, or one model, of many", "evolution.export"),
    "distill": ("train one adapter on a run's verified replies", "evolution.distill"),
    "play": ("watch an episode, or play in it", "evolution.play"),
    "report": ("write a run's report as one HTML page", "evolution.report"),
    "validate": ("grade every known answer against itself", "evolution.validate"),
}


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
        print(f"populora: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("populora: interrupted", file=sys.stderr)
        return 130


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors that are the user's to mend; anything else is ours and keeps its traceback."""
    errors: list[type[Exception]] = [UsageError]
    for module, name in (
        ("evolution.config", "ConfigError"),
        ("evolution.run_files", "CheckpointError"),
        ("agents.models", "ModelError"),
        ("agents.population", "AdapterError"),
        ("populora_env.problems", "ProblemSpecError"),
    ):
        if module in sys.modules:  # an error of a module that was never imported cannot come
            errors.append(getattr(sys.modules[module], name))
    return tuple(errors)


if __name__ == "__main__":
    sys.exit(main())
