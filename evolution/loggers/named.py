"""Loggers by name: what the setting ``log`` may call for.

A name stands for a function of a `LoggedRun` that returns a logger, or a function of a result and
transcripts; its keyword-only arguments are its parameters, as in ``wandb(project='mine')``. Names
are joined by ``+``; ``none`` is no logger.

    from evolution import LOGGERS

    @LOGGERS.add("best_only")
    def best_only(run, *, name: str = "best.txt"):
        return lambda result, transcripts: (run.folder / name).write_text(result.best)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evolution.errors import OperatorError
from evolution.loggers.base import Callback, Logger, as_logger, warn_of
from evolution.loggers.tensorboard import TensorBoardLogger
from evolution.loggers.trackers import TrackioLogger, WandbLogger
from evolution.registry import Operators, Use
from populora_env.errors import PopuloraError

PROJECT = "populora"
_PACKAGES = ("tensorboard", "trackio", "wandb")  # each called as its logger


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The run that a logger is made for.

    Attributes:
        folder: Where it is kept.
        first: The first generation that will be logged.
        settings: Of the run, by name, as JSON types.
    """

    folder: Path
    first: int
    settings: Mapping[str, Any]


LOGGERS = Operators[Callable[..., Logger | Callback]]("log")
"""Loggers by name."""


@LOGGERS.add("tensorboard", samples=(0, 100))
def tensorboard(run: LoggedRun, *, samples: int = 2) -> Logger:
    """Event files in the run's folder."""
    return TensorBoardLogger(
        run.folder / "tensorboard", samples=samples, first=run.first, settings=run.settings
    )


@LOGGERS.add("trackio", samples=(0, 100))
def trackio(run: LoggedRun, *, project: str = PROJECT, samples: int = 2) -> Logger:
    """Trackio's local database, which ``trackio show`` shows."""
    return TrackioLogger(run.folder, project=project, samples=samples, settings=run.settings)


@LOGGERS.add("wandb", samples=(0, 100))
def wandb(
    run: LoggedRun, *, project: str = PROJECT, entity: str = "", mode: str = "", samples: int = 2
) -> Logger:
    """Weights & Biases, offline in the run's folder unless ``mode`` or WANDB_MODE says online."""
    return WandbLogger(
        run.folder, project=project, entity=entity, mode=mode, samples=samples,
        settings=run.settings,
    )  # fmt: skip


def read_loggers(text: str) -> list[Use[Any]]:
    """What the setting ``log`` calls for.

    Raises:
        OperatorError: If it cannot be read, or names what does not exist, or one twice.
    """
    uses = LOGGERS.read_several(text)
    names = [use.name for use in uses]
    if len(set(names)) < len(names) or any(use.chance != 1 for use in uses):
        raise OperatorError(
            f"log: got {text!r}, expected different names joined by +, without numbers, such as "
            "tensorboard+trackio"
        )
    return uses


def check_packages(text: str) -> None:
    """Make sure, before anything is spent, that the packages of loggers are there.

    Raises:
        ModuleNotFoundError: If one is not.
    """
    for use in read_loggers(text):
        if use.name in _PACKAGES and find_spec(use.name) is None:
            raise ModuleNotFoundError(f"No module named {use.name!r}", name=use.name)


def make_loggers(text: str, run: LoggedRun) -> list[Logger]:
    """The loggers that the setting ``log`` calls for; one that cannot start is warned of.

    Raises:
        PopuloraError: If one refuses the run's folder.
    """
    made: list[Logger] = []
    for use in read_loggers(text):
        try:
            made.append(as_logger(use(run)))
        except PopuloraError:
            raise
        except Exception as error:
            warn_of(use.name, "could not start and is left out", error)
    return made
