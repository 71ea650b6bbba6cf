"""Who takes part in ``populora bench``: the bare base, adapter folders, a run's last generation."""

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.loading.models import BaseModel
from agents.measuring.benchmark import Entrant
from agents.peft_config import folder_hint
from agents.peft_io import CONFIG_FILE, WEIGHTS_FILE, common_shape
from agents.population import BASE, LoraPopulation
from evolution.config import RunConfig
from evolution.errors import CheckpointError, UsageError
from evolution.runs.changes import read_changes, with_changes
from evolution.runs.integrity import check_adapters, check_run, refusing
from evolution.runs.settings_files import from_mapping
from populora_env.ratings import DEFAULT_SIGMA

_GENERATION = re.compile(r"generation_(\d+)")
_CHANCE = DEFAULT_SIGMA / math.sqrt(2)  # spread of the luck in a game between two, as OpenSkill has


@dataclass(frozen=True, slots=True)
class SavedRun:
    """A run on disk, read and never written.

    Attributes:
        path: Its folder.
        config: Its settings.
        generation: Number of its last whole generation.
        adapters: Folders of that generation's adapters, in order of the agents.
        ratings: Agent to its rating in that generation.
    """

    path: Path
    config: RunConfig
    generation: int
    adapters: tuple[Path, ...]
    ratings: Mapping[str, float]


def read_run(path: str | Path) -> SavedRun:
    """Read what a benchmark needs of a run.

    Raises:
        UsageError: If the folder is no run, is damaged, or holds no complete generation.
    """
    path = Path(path).expanduser()
    with refusing("run"):
        check_run(path)
    try:
        saved = tomllib.loads((path / "run.toml").read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"run: {path} is no run folder (run.toml: {error.strerror}); expected one that "
            "populora evolve made"
        ) from error
    except ValueError as error:
        raise UsageError(f"run: {path / 'run.toml'} is damaged ({error})") from error
    config = from_mapping(saved.get("config", {}), str(path / "run.toml"))
    matches = [_GENERATION.fullmatch(entry.name) for entry in path.iterdir()]
    numbers = [int(match[1]) for match in matches if match]
    if not numbers:
        raise UsageError(f"run: {path} holds no complete generation; wait for its first")
    last = max(numbers)
    try:  # those that it began with are not always those it was played with
        changes = [change for change in read_changes(path) if change.generation <= last]
    except CheckpointError as error:
        raise UsageError(str(error).replace("resume:", "run:", 1)) from error
    config = with_changes(config, changes, str(path))
    folder = path / f"generation_{last:04d}" / "adapters"
    adapters = tuple(folder / f"agent_{i}" for i in range(config.size))
    return SavedRun(path, config, last, adapters, _ratings(path / "history.jsonl", last))


def _ratings(history: Path, generation: int) -> dict[str, float]:
    """Return the agents' ratings in a generation, from the run's history."""
    try:
        lines = filter(None, history.read_text(encoding="utf-8").split("\n"))
        rows = [json.loads(line) for line in lines]
        return {
            str(row["agent"]): float(row["rating"])
            for row in rows
            if row["generation"] == generation and row.get("rating") is not None
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run: {history} cannot be read ({type(error).__name__}: {error}); expected the "
            "history that populora evolve wrote"
        ) from error


def vote_weights(ratings: Mapping[str, float]) -> dict[str, float]:
    """Return each agent's weight in a vote: the odds of its winning against the best rated.

    Ratings are on OpenSkill's scale, whose model gives these odds as exp(difference / spread).
    The best has weight 1. Ratings come from how agents judged each other, not from this benchmark.
    """
    top = max(ratings.values(), default=0.0)
    return {agent: math.exp((rating - top) / _CHANCE) for agent, rating in ratings.items()}


def adapter_folder(name: str) -> Path:
    """Return the adapter folder that a name means: itself, or the best of a run.

    Raises:
        UsageError: If it is neither.
    """
    path = Path(name).expanduser()
    for folder in (path, path / "best"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise UsageError(
        f"adapters: {name} is neither a PEFT adapter folder ({CONFIG_FILE} is missing) nor a run "
        f"with a best adapter; for all agents of a run say --run{folder_hint(path)}"
    )


def trained_on(adapter: Path) -> str | None:
    """Return the problems that an adapter in a run folder was trained on; None if not known."""
    for folder in list(adapter.resolve().parents)[:3]:  # of best/ or generation_0007/adapters/
        try:
            saved = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
            return str(saved["config"]["problems"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def load_entrants(
    base: BaseModel,
    folders: Mapping[str, Path],
    *,
    with_base: bool = True,
    ratings: Mapping[str, float] | None = None,
    max_rows: int = 32,
) -> tuple[LoraPopulation, list[Entrant]]:
    """Put adapters on the base, and say who takes part.

    Args:
        base: The frozen base; adapters attached to it stay until ``population.lora.detach()``.
        folders: Name in the results to adapter folder.
        with_base: Whether the bare base takes part as well; without adapters it always does.
        ratings: Name to rating, for the weighted vote; None for no such vote.
        max_rows: Rows decoded at once.

    Raises:
        UsageError: If no adapter fits the base.
        AdapterError: If an adapter cannot be read or does not fit.
    """
    rank, targets = common_shape(folders.values())
    try:
        population = LoraPopulation(
            base,
            size=max(len(folders), 1),  # without any adapter, one that nobody asks
            rank=rank,
            targets=targets or "all-linear",
            max_rows=max_rows,
        )
    except ValueError as error:
        raise UsageError(f"adapters: none fits model {base.name} ({error})") from error
    weights = vote_weights(ratings) if ratings and set(folders) <= set(ratings) else {}
    entrants = [Entrant(BASE, apart=bool(folders))] if with_base or not folders else []
    for (name, folder), agent in zip(folders.items(), population.agents, strict=False):
        population.load_adapter(agent, folder)
        entrants.append(
            Entrant(name, agent, weight=weights.get(name), content=adapter_hash(folder))
        )  # fmt: skip
    return population, entrants


def unique_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Return short names for folders: the last parts of their paths that tell them apart.

    Raises:
        UsageError: If a folder is there twice, or one or the run that it belongs to is damaged.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise UsageError("adapters: the same folder is given twice; expected different ones")
    with refusing("adapters"):
        check_adapters(folders)
    for length in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names) and BASE not in names:
            return dict(zip(names, folders, strict=True))
    return {str(path): folder for path, folder in zip(paths, folders, strict=True)}


def adapter_hash(folder: Path) -> str:
    """Return a hash of an adapter's weights and settings."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
