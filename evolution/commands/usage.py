"""Reading a command line, and saying in one line what is wrong with it."""

import importlib.metadata
import io
import re
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from evolution.commands.help_text import asks_for_help, help_text
from evolution.errors import UsageError
from populora_env.settings import check_fields

T = TypeVar("T")


def parse(options: type[T], arguments: Sequence[str], *, prog: str, default: T | None = None) -> T:
    """Read options with tyro, and check each by itself.

    Args:
        options: The dataclass type.
        arguments: Command-line words.
        prog: How the command is called.
        default: Values of options that are not given; None for the dataclass's own.

    Raises:
        UsageError: If the words do not fit the dataclass, or a value is out of range; in one line.
        SystemExit: After ``--help``.
    """
    if asks_for_help(arguments, sources=True):
        print(help_text(prog, options.__module__, options.__name__, default))
        raise SystemExit(0)
    import tyro

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            made = tyro.cli(
                options,
                args=_with_switches(options, arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
                prog=prog,
                config=(tyro.conf.EnumChoicesFromValues,),
            )
    except SystemExit:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        # The box's upper edge holds a title, which the words in it repeat; where the terminal has
        # no boxes, the title is a line less far in than the words, with a rule below.
        plain = re.sub(r"^\u256d.*$|^ \S.*\n -{3,}.*$", "", plain, flags=re.MULTILINE)
        words = re.sub(r"[\u2500-\u257f]+|-{3,}", " ", plain)
        words = one_line(words).partition(" For full helptext")[0]
        raise UsageError(f"{words} (see {prog} --help)") from None
    check_fields(made, UsageError)
    return made


def _with_switches(options: Any, arguments: Sequence[str]) -> list[str]:
    """The words with ``--revise True`` said as the switch that tyro knows, ``--revise``."""
    switches = {f.name.replace("_", "-") for f in fields(options) if f.type in (bool, "bool")}
    words: list[str] = []
    for word in arguments:
        flag, _, value = word.partition("=")
        if not value and words and word.lower() in ("true", "false"):
            flag, value = words[-1], word
        name = flag.removeprefix("--").replace("_", "-")
        if flag.startswith("--") and name in switches and value.lower() in ("true", "false"):
            if value is word:
                words.pop()
            words.append(f"--{'no-' * (value.lower() == 'false')}{name}")
        else:
            words.append(word)
    return words


@contextmanager
def terminable() -> Generator[None, None, None]:
    """Let SIGTERM, with which schedulers and service managers end a process, count as Ctrl-C.

    Elsewhere than in the main thread, or where SIGTERM is somebody's already, this does nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Interrupts:
    """Remembers Ctrl-C, which Python drops when it comes during a clean-up of its own.

    SIGTERM counts as Ctrl-C, see `terminable`.

    A context manager. Elsewhere than in the main thread it does nothing, and neither does it where
    Ctrl-C is ignored, as in a background job.
    """

    def __init__(self) -> None:
        self._came = False
        self._before: Any = None
        self._ended: Any = None

    def __enter__(self) -> "Interrupts":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._note)
        if main and signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, _interrupt):
            self._ended = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self._ended is not None:
            signal.signal(signal.SIGTERM, self._ended)

    def check(self) -> None:
        """Raise KeyboardInterrupt if it came before and was dropped."""
        if self._came:
            raise KeyboardInterrupt

    def _note(self, *_: object) -> None:
        self._came = True
        raise KeyboardInterrupt


@contextmanager
def writing_to(
    option: str, path: str | Path, choose: str = "another file"
) -> Generator[None, None, None]:
    """Say which option's file or folder the block cannot write, and what to choose instead.

    Raises:
        UsageError: Where the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{option}: cannot write to {path} ({error.strerror}); choose {choose}"
        ) from error


def installed(package: str) -> str:
    """The version of a package that is installed; ``not installed`` if none is."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def one_line(text: str) -> str:
    """The text with every run of white space made one space."""
    return " ".join(text.split())
