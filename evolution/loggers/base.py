"""Where a run tells what it does: the protocol, and loggers to functions, JSON lines and a console.

A logger is told of every generation once it is complete and saved. `history.jsonl` and the
transcripts are not loggers: they are part of the run's state and are written by the manager.
`evolution.loggers.tensorboard` has the logger for TensorBoard, `evolution.loggers.trackers` those
for Weights & Biases and Trackio, `evolution.loggers.held_out` one that measures;
`evolution.loggers.named` calls them by name.

A logger never stops a run: one that raises is warned of, closed and dropped, and the run goes on.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from agents.plain_files import open_growing, refuse_links, write_whole
from evolution.fitness.task import diversity_words, known
from populora_env.records import Transcript

if TYPE_CHECKING:
    from rich.console import Console

    from evolution.results import GenerationResult

Callback = Callable[["GenerationResult", Sequence[Transcript]], object]
"""A function that is told of every complete generation."""

_SCORES = ("returns", "accuracy", "length", "diversity", "bonus", "fitness")


@runtime_checkable
class Logger(Protocol):
    """Is told of every complete generation."""

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Take note of a generation."""
        ...

    def close(self) -> None:
        """Flush and release what the logger holds."""
        ...


def as_logger(given: Logger | Callback) -> Logger:
    """A logger as it is, and a function as a `CallbackLogger`.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(given, type):
        if isinstance(given, Logger):
            return given
        if callable(given):
            return CallbackLogger(given)
    raise TypeError(
        f"loggers: got {given!r}, expected an object with log(result, transcripts) and close(), or "
        "a function of result and transcripts"
    )


def log_all(
    loggers: list[Logger], result: "GenerationResult", transcripts: Sequence[Transcript]
) -> None:
    """Tell loggers of a generation; those that raise are warned of, closed and taken off the list.

    Args:
        loggers: Changed in place.
        result: The generation.
        transcripts: Its episodes.
    """
    for logger in list(loggers):
        try:
            logger.log(result, transcripts)
        except Exception as error:
            loggers.remove(logger)
            what = f"failed in generation {result.generation} and is dropped"
            warn_of(type(logger).__name__, what, error)
            close_all([logger])


def close_all(loggers: Sequence[Logger]) -> None:
    """Close loggers; one that raises is warned of and keeps no other from being closed."""
    for logger in loggers:
        try:
            logger.close()
        except Exception as error:
            warn_of(type(logger).__name__, "could not be closed", error)


def warn_of(name: str, what: str, error: Exception) -> None:
    """Warn that something went wrong with a logger, which never stops a run."""
    warnings.warn(
        f"loggers: {name} {what} ({type(error).__name__}: {error}); the run is not affected",
        RuntimeWarning,
        stacklevel=3,
    )


def aggregates(result: "GenerationResult") -> dict[str, float | None]:
    """What a generation comes to: mean and maximum over the agents, proposals, what learning did.

    Returns:
        Names, as in ``returns/mean``, to values; None where nothing is known.
    """
    found: dict[str, float | None] = {}
    for name in _SCORES:
        values = np.asarray(getattr(result.scores, name))
        some = values[np.isfinite(values)]
        found[f"{name}/mean"] = float(some.mean()) if len(some) else None
        found[f"{name}/max"] = float(some.max()) if len(some) else None
    scores = result.scores
    whole = {"vendi": scores.vendi, "weight": scores.diversity_weight, **scores.archive}
    found |= {f"diversity/{name}": known(value) for name, value in whole.items()}
    found["time/seconds"] = result.seconds
    if (learning := result.learning) is not None:
        norms, divergences = np.array(learning.grad_norms), np.array(learning.kl or [])
        some = divergences[np.isfinite(divergences)]
        found["learning/grad_norm"] = known(float(norms.mean()))
        found["learning/tokens"] = learning.tokens
        found["learning/clipped"] = known(learning.clipped)
        found["learning/kl"] = float(some.mean()) if len(some) else None
    if (proposals := result.proposals) is not None:
        found["proposals/valid"] = proposals.valid / proposals.count
        found["proposals/learnable"] = known(proposals.learnable)
        found["proposals/solve_rate"] = known(proposals.solve_rate)
        found["proposals/novelty"] = known(proposals.novelty)
        found["proposals/held_out"] = proposals.held_out
        for name, value in proposals.measures.items():
            found[f"proposals/measures/{name}"] = known(value)
    if (guard := result.guard) is not None:
        shares = [own.anchors for own in guard.agents if own.anchors is not None]
        found["guard/anchors"] = float(np.mean(shares)) if shares else None
        found["guard/flagged"] = sum(bool(own.flags) for own in guard.agents)
        found["guard/bad"] = sum(own.verdict is not None and own.verdict.bad
                                 for own in guard.agents)  # fmt: skip
        found["guard/rung"] = max(int(own.rung) for own in guard.agents)
    return found


def spreads(result: "GenerationResult") -> dict[str, np.ndarray]:
    """What is told of all agents one by one: names, as in ``fitness/agents``, to known values."""
    scores = result.scores
    told = {"fitness": scores.fitness, "returns": scores.returns, "diversity": scores.diversity}
    told["standing"] = result.standing
    known_ones = {f"{name}/agents": v[np.isfinite(v)] for name, v in told.items()}
    return {name: values for name, values in known_ones.items() if len(values)}


def strengths(result: "GenerationResult") -> dict[str, float]:
    """Agent to its strength in comparisons; empty where there were none."""
    peers = result.peers
    if not peers.comparisons.any():
        return {}
    return dict(zip(peers.agents, peers.strengths.tolist(), strict=True))


class Alert(NamedTuple):
    """What a person should be told at once.

    Attributes:
        title: In short.
        text: All of it, in one line.
        is_stop: Whether the run ends with it.
    """

    title: str
    text: str
    is_stop: bool


def alerts(result: "GenerationResult") -> list[Alert]:
    """What the guard has to say of a generation, and why it ends the run, if it does."""
    if (guard := result.guard) is None:
        return []
    when = f"generation {result.generation + 1}"
    said = [Alert(f"Guard, {when}", line, False) for line in guard.lines]
    return said + ([Alert(f"Guard stops the run, {when}", guard.stop, True)] if guard.stop else [])


class CallbackLogger:
    """Calls a function with every generation; a `Logger`.

    Args:
        function: Takes a `GenerationResult` and the generation's transcripts.
    """

    def __init__(self, function: Callback) -> None:
        self._function = function

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Call the function."""
        self._function(result, transcripts)

    def close(self) -> None:
        """Nothing is held open."""


class JsonlLogger:
    """A row per generation in a file of JSON lines; a `Logger`.

    A row has the generation, the best agent, the champion, who was born, and the `aggregates`; what
    is not known is null. In a file that exists, rows of earlier generations are kept: a run that
    was killed and resumed has each generation once.

    Args:
        path: The file; its folder is made if need be. A link is not followed: logging to one
            raises OSError.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._begun = False

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Append a row."""
        del transcripts
        if not self._begun:
            self._keep_before(result.generation)
            self._begun = True
        row = {
            "generation": result.generation,
            "best": result.best,
            "champion": result.champion or None,
            "born": [i.name for i in result.individuals if i.generation == result.generation],
            **aggregates(result),
        }
        with open_growing(self._path) as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Nothing is held open."""

    def _keep_before(self, generation: int) -> None:
        """Leave in the file what is whole and of earlier generations."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        refuse_links(self._path)
        open_growing(self._path).close()  # a pipe, say, would be read for ever
        kept = [
            line
            for line in self._path.read_text(encoding="utf-8").splitlines()
            if (row := _row(line)) is not None and row["generation"] < generation
        ]
        write_whole(self._path, "".join(f"{line}\n" for line in kept))


def _row(line: str) -> dict[str, Any] | None:
    """A row of a `JsonlLogger`; None if the line was cut off."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("generation"), int) else None


class ConsoleLogger:
    """Prints a line per generation, as ``populora evolve`` does; a `Logger`.

    Args:
        console: Where to; by default standard output.
        generations: In total, for the line; 0 if it is open.
    """

    def __init__(self, console: "Console | None" = None, *, generations: int = 0) -> None:
        from evolution.terminal import PlainConsole

        self._console = console or PlainConsole()
        self._of = f"/{generations}" if generations else ""

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Print the line; ``?`` is what is not known."""
        del transcripts
        found = aggregates(result)

        def shown(name: str, form: str) -> str:
            value = found[name]
            width = int(form[0])
            return "?".rjust(width) if value is None else f"{value:{form}}"

        self._console.print(
            f"generation {result.generation + 1:3d}{self._of}  "
            f"return {shown('returns/mean', '5.2f')} (best {shown('returns/max', '5.2f')})  "
            f"accuracy {shown('accuracy/mean', '4.2f')}  "
            f"{diversity_words(result.scores)}  {result.seconds:4.1f} s"
            + (f"  {result.proposals}" if result.proposals is not None else ""),
            soft_wrap=True,
        )
        if result.guard is not None:
            for line in filter(None, (result.guard.summary, *result.guard.lines)):
                self._console.print(f"  guard: {line}", soft_wrap=True)

    def close(self) -> None:
        """Nothing is held open."""
