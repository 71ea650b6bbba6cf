"""The command ``populora``.

Each subcommand's options are the fields of a dataclass. Whatever the user got wrong ends in one
line on standard error and exit status 2, without a traceback, and a warning is one line, too;
Ctrl-C, and SIGTERM like it, ends with 130, and a reader that closes the pipe with 141.
"""

import importlib
import importlib.metadata
import os
import select
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from evolution.commands.extras import extra_of
from evolution.commands.help_text import asks_for_help, help_text

# What each subcommand is for, the module whose `main(arguments)` runs it, and the dataclass of its
# options there.
COMMANDS = {
    "evolve": (
        "evolve a population of adapters", "evolution.commands.evolve.command", "EvolveOptions",
    ),
    "bench": ("measure accuracy", "evolution.commands.bench.command", "BenchOptions"),
    "bench-engine": (
        "measure speed and memory beside peers",
        "evolution.engine_benchmark.command", "BenchEngineOptions",
    ),
    "export": (
        "make one adapter, or one model, of many",
        "evolution.commands.export.command", "ExportOptions",
    ),
    "push": (
        "upload a run's adapters with a model card", "evolution.commands.push.command",
        "PushOptions",
    ),
    "distill": (
        "train one adapter on a run's verified replies",
        "evolution.commands.distill.command", "DistillOptions",
    ),
    "play": ("watch an episode, or play in it", "evolution.commands.play.command", "PlayOptions"),
    "report": (
        "write a run's report as one HTML page", "evolution.commands.report", "ReportOptions",
    ),
    "study": ("play arms over seeds and compare them", "evolution.commands.study", "StudyOptions"),
    "doctor": (
        "say what is here, and what each missing thing costs",
        "evolution.commands.doctor.command", "DoctorOptions",
    ),
    "validate": (
        "grade every known answer against itself",
        "evolution.commands.validate", "ValidateOptions",
    ),
    "watch": ("follow a run in the browser", "evolution.commands.watch", "WatchOptions"),
}  # fmt: skip

# What the package cannot do without, where it was installed without its dependencies.
CORE = ("gymnasium", "math_verify", "numpy", "openskill", "pettingzoo", "reasoning_gym", "rich",
        "tyro")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status.

    Raises:
        SystemExit: After a subcommand's ``--help``.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    arguments = list(sys.argv[1:] if argv is None else argv)
    before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        try:
            return _run(arguments)
        finally:
            warnings.formatwarning = before
            sys.stdout.flush()  # here, where a reader that is gone can still be told from a fault
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 128 + signal.SIGPIPE


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {what}" for name, (what, *_) in COMMANDS.items()]
        print("usage: populora COMMAND [options]\n\n" + "\n".join(lines))
        print("\npopulora COMMAND --help lists a command's options.")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"populora {_version()}")
        return 0
    command, *words = arguments
    if command in COMMANDS and asks_for_help(words):
        print(help_text(f"populora {command}", *COMMANDS[command][1:]))
        raise SystemExit(0)
    try:
        if command not in COMMANDS:
            from evolution.errors import UsageError
            from populora_env.settings import did_you_mean

            raise UsageError(
                f"unknown command {command[:100]!r}; expected one of {', '.join(COMMANDS)}"
                f"{did_you_mean(command, COMMANDS)}"
            )
        _bound_threads()
        from evolution.commands.usage import terminable

        with terminable():
            return _module(command).main(words)
    except ModuleNotFoundError as error:
        if (install := _install(error.name or "")) is None:
            raise
        print(
            f"populora: error: {command} needs {error.name}, which is not installed; {install}",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("populora: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from populora_env.errors import PopuloraError  # whose package takes too long for --help

        if not isinstance(error, PopuloraError):  # nothing that a user can mend
            raise
        print(f"populora: error: {_shown(error)}", file=sys.stderr)
        return 2


def _bound_threads() -> None:
    """Start no more threads than a container has processor time for, unless a number is given.

    They would wait for each other. It has to be said before PyTorch is imported.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        from agents.machine.resources import cores  # whose package takes too long for --help

        found = cores()
        if found.is_short:
            os.environ["OMP_NUM_THREADS"] = str(found.threads)


def _module(command: str) -> Any:
    """The module of a command; a terminal is told of the seconds that importing PyTorch takes."""
    said = f"populora {command}: loading the program ..." if sys.stderr.isatty() else ""
    if said:
        print(said, end="\r", file=sys.stderr, flush=True)
    try:
        return importlib.import_module(COMMANDS[command][1])
    finally:
        if said:
            print(" " * len(said), end="\r", file=sys.stderr, flush=True)


def _install(module: str) -> str | None:
    """The command that installs a module; None for one that is not known."""
    if module.partition(".")[0] in CORE:
        return "pip install populora-env"
    extra = extra_of(module)
    return None if extra is None else extra.install


def _shown(said: Exception | str) -> str:
    """A message in one line that no terminal obeys."""
    from evolution.commands.usage import one_line
    from populora_env.episodes.rendering import visible

    return visible(one_line(str(said)))


def _warning(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as a user of a command reads it: without the line of code that gave it."""
    return f"populora: warning: {_shown(message)}\n"


def _version() -> str:
    try:
        return importlib.metadata.version("populora-env")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _reader_is_gone() -> bool:
    """Whether whoever read our output has closed it, as ``| head`` does; then write to nobody."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        asked = select.poll()
        asked.register(stream.fileno(), 0)
        if any(state & select.POLLERR for _, state in asked.poll(0)):
            gone = True
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, stream.fileno())
            os.close(nobody)
    return gone


if __name__ == "__main__":
    sys.exit(main())
