"""Which adapters ``populora export`` merges, and how much each counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.peft_config import CONFIG_FILE, folder_hint
from evolution.commands.participants import adapter_folder, unique_names, vote_weights
from evolution.errors import UsageError
from evolution.runs.saved_run import SavedRun, read_run

ALL, BEST = "all", "best"
NAMED_WEIGHTS = ("equal", "standing", "rating")


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter that goes into the result.

    Attributes:
        name: What it is called.
        folder: Where it is.
        weight: Weight of its update.
        record: What the run's history says of it in its last generation.
    """

    name: str
    folder: Path
    weight: float
    record: Mapping[str, Any]


def read_sources(
    names: Sequence[str], agents: Sequence[str], weights: Sequence[str]
) -> tuple[SavedRun | None, list[Source]]:
    """Find the adapters that words on a command line mean, and their weights.

    Args:
        names: A run folder, or adapter folders.
        agents: Which of a run's agents.
        weights: A name of weights, or a number for each adapter.

    Raises:
        UsageError: If something is not there, or does not fit together.
    """
    run = None
    records: Mapping[str, Mapping[str, Any]] = {}
    if len(names) == 1 and (Path(names[0]).expanduser() / "run.toml").is_file():
        run = read_run(names[0])
        records = run.last_rows
        folders = _chosen(run, agents)
    else:
        if tuple(agents) != (ALL,):
            raise UsageError("agents: only of a single run folder; expected adapter folders alone")
        folders = unique_names([_folder(name) for name in names])
    values = _weights(list(folders), weights, records, run)
    return run, [
        Source(name, folder, value, records.get(name, {}))
        for (name, folder), value in zip(folders.items(), values, strict=True)
    ]


def _folder(name: str) -> Path:
    try:
        return adapter_folder(name)
    except UsageError as error:
        raise UsageError(
            f"sources: {name} is neither a PEFT adapter folder ({CONFIG_FILE} is missing) nor "
            "a run with a best adapter; all agents of a run are merged where it is the only source"
            f"{folder_hint(Path(name).expanduser())}"
        ) from error


def _chosen(run: SavedRun, agents: Sequence[str]) -> dict[str, Path]:
    everyone = run.adapters
    if tuple(agents) == (ALL,):
        return run.solvers
    named = [run.best_agent] if tuple(agents) == (BEST,) else list(agents)
    if not named or len(set(named)) < len(named) or not set(named) <= set(everyone):
        raise UsageError(
            f"agents: got {', '.join(named) or 'none'}, expected {ALL}, {BEST}, or different ones "
            f"of agent_0 to agent_{len(everyone) - 1}"
        )
    return {name: everyone[name] for name in named}


def _weights(
    names: Sequence[str],
    weights: Sequence[str],
    records: Mapping[str, Mapping[str, Any]],
    run: SavedRun | None,
) -> list[float]:
    """A weight for each adapter; those that are not given as numbers sum to 1."""
    if tuple(weights) == ("equal",):
        return [1 / len(names)] * len(names)
    if weights[0] not in NAMED_WEIGHTS:
        if len(weights) != len(names):
            raise UsageError(
                f"weights: got {len(weights)} numbers for {len(names)} adapters, expected one each"
            )
        return [float(text) for text in weights]
    if run is None:
        raise UsageError(f"weights: {weights[0]} needs a run folder; adapter folders have none")
    column = "rating" if weights[0] == "rating" else "standing"
    known = {name: records.get(name, {}).get(column) for name in names}
    if missing := [name for name, value in known.items() if value is None]:
        raise UsageError(f"weights: the history of {run.path} has no {column} of {missing[0]}")
    values = {name: float(value) for name, value in known.items() if value is not None}
    if column == "rating":
        odds = np.array(list(vote_weights(values).values()))
    else:
        odds = _by_standing(np.array(list(values.values())))
    return (odds / odds.sum()).tolist()


def _by_standing(standing: np.ndarray) -> np.ndarray:
    """Exponential of the standing in units of its standard deviation; equal where that is 0."""
    deviation = standing.std()
    return np.exp((standing - standing.max()) / deviation) if deviation else np.ones_like(standing)
