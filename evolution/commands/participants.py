"""Who takes part in ``populora bench``: the bare base and adapter folders."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.loading.models import BaseModel
from agents.measuring.benchmark import Participant
from agents.peft_config import folder_hint
from agents.peft_io import CONFIG_FILE, WEIGHTS_FILE, AdapterError
from agents.population import BASE, LoraPopulation
from evolution.errors import UsageError
from evolution.runs.integrity import check_adapters, refusing
from populora_env.ratings import DEFAULT_SIGMA

_CHANCE = DEFAULT_SIGMA / math.sqrt(2)  # spread of the luck in a game between two, as OpenSkill has


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


def load_participants(
    base: BaseModel,
    folders: Mapping[str, Path],
    *,
    with_base: bool = True,
    ratings: Mapping[str, float] | None = None,
    max_rows: int = 32,
    adapter_dtype: str | None = None,
) -> tuple[LoraPopulation, list[Participant]]:
    """Put adapters on the base, and say who takes part.

    Args:
        base: The frozen base; adapters attached to it stay until ``population.lora.detach()``.
        folders: Name in the results to adapter folder.
        with_base: Whether the bare base takes part as well; without adapters it always does.
        ratings: Name to rating, for the weighted vote; None for no such vote.
        max_rows: Rows decoded at once.
        adapter_dtype: Of the factors; None for the base's own.

    Raises:
        UsageError: If no adapter fits the base.
        AdapterError: If an adapter cannot be read or does not fit.
    """
    try:
        population = population_of(
            base, list(folders.values()), max_rows=max_rows, adapter_dtype=adapter_dtype
        )
    except AdapterError:
        raise
    except ValueError as error:
        raise UsageError(f"adapters: none fits model {base.name} ({error})") from error
    weights = vote_weights(ratings) if ratings and set(folders) <= set(ratings) else {}
    participants = [Participant(BASE, apart=bool(folders))] if with_base or not folders else []
    for (name, folder), agent in zip(folders.items(), population.agents, strict=False):
        participants.append(
            Participant(name, agent, weight=weights.get(name), content=adapter_hash(folder))
        )  # fmt: skip
    return population, participants


def population_of(
    base: BaseModel,
    folders: Sequence[Path],
    *,
    max_rows: int = 32,
    temperature: float = 1.0,
    adapter_dtype: str | None = None,
) -> LoraPopulation:
    """Return a population of the adapters; without any, of one that nobody asks."""
    if not folders:
        return LoraPopulation(base, 1, 1, max_rows=max_rows, temperature=temperature)
    return LoraPopulation.from_adapters(
        base, folders, max_rows=max_rows, temperature=temperature, adapter_dtype=adapter_dtype
    )


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
