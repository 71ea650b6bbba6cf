"""What a run's adapters are like inside, from those on disk alone: no base model is needed.

PyTorch is imported by what reads adapters, and by nothing before.

Where each individual's update at birth is sketched (`evolution.individuals.births`), how far it has
moved is told from that. A run of an older version kept no sketches: there it is measured, exactly,
since the oldest generation on disk in which the individual already lived.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evolution.errors import UsageError
from evolution.reporting.anatomy.ablation import Ablation, read_ablation
from evolution.reporting.measures.data import RunData, Series
from evolution.runs.files import saved_generations
from evolution.runs.integrity import check_run, refusing
from evolution.runs.saved_run import SavedRun

if TYPE_CHECKING:  # a report of a run without adapters does without torch
    from agents.peft_io import PeftAdapter
    from agents.population import LoraPopulation
    from evolution.lowrank.anatomy import Anatomy
    from evolution.runs.saved_run import SavedBirths

_MOST_ROWS = 512  # agents times rank that a report measures: some ten seconds at 135M
_MOST_PRODUCTS = 4096  # of a sketch that is no accident
STILL = 1e-6  # of its size, below which nothing has moved
_ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """How far updates are from what they were before.

    Attributes:
        since: The first generation of what each agent is compared with, ``[N]``: that of its birth,
            or of the oldest of its adapters on disk; None where there is nothing to compare with.
        products: Numbers per layer of the sketches that distances are estimated from; None where
            they are exact.
        squares: Squared distance of each update from what it was, ``[L, N]``; NaN without.
        before: Squared norm of what it was, likewise.
        cosines: Between the moves of each pair of agents, all layers together, ``[N, N]``; NaN
            where one has not moved.
    """

    since: tuple[int | None, ...]
    products: int | None
    squares: Series
    before: Series
    cosines: Series

    @property
    def exact(self) -> bool:
        """Whether distances are exact, and not estimates from sketches."""
        return self.products is None

    @property
    def drift(self) -> Series:
        """Distance over the norm of what it was, all layers together, ``[N]``."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.squares.sum(0) / self.before.sum(0))


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """What is known of the inside of a run's adapters.

    Attributes:
        generation: Of the adapters.
        anatomy: Theirs.
        left_out: How many more agents there are.
        individuals: Who they are, ``[N]``; empty texts where not recorded.
        moves: How far they have moved; None where nothing on disk tells.
        ablation: What switching off blocks of layers costs; None if it was not measured.
    """

    generation: int
    anatomy: "Anatomy"
    left_out: int
    individuals: tuple[str, ...]
    moves: Moves | None
    ablation: Ablation | None


def anatomy(source: "LoraPopulation | str | Path", *, generation: int | None = None) -> "Anatomy":
    """Measure what a population's adapters are made of, and where they differ.

    Args:
        source: A population; or a run folder, a folder of PEFT adapter folders (such as
            ``generation_0007/adapters``), or one such folder.
        generation: Of a run, one that is on disk; None for the last.

    Returns:
        Norms, singular values, effective ranks and overlaps by layer; see
        `evolution.lowrank.anatomy.Anatomy`. Norms relative to the base's weights are known of a
        population only.

    Raises:
        UsageError: If there are no adapters, or the run is damaged.
        AdapterError: If one cannot be read, or they are not of one base.
    """
    from evolution.lowrank.anatomy import in_order, measure, weight_norms

    if not isinstance(source, str | Path):
        held = {agent: source.adapter(agent) for agent in source.agents}
        layers = in_order({layer.name for layer in source.lora.layers()})
        return measure(held, weight_norms(source.base.model, layers))
    return measure(read_adapters(_folders(Path(source).expanduser(), generation)))


def _folders(path: Path, generation: int | None) -> dict[str, Path]:
    """The adapter folders that a path means, by name."""
    if numbers := saved_generations(path):
        with refusing("source"):
            check_run(path)
        chosen = numbers[-1] if generation is None else generation
        if found := SavedRun(path, "source").adapters_in(chosen):
            return found
        said = ", ".join(map(str, numbers))
        raise UsageError(f"generation: got {chosen}, expected one that {path} has on disk: {said}")
    if (path / _ADAPTER).is_file():
        return {path.name: path}
    entries = sorted(path.iterdir()) if path.is_dir() else []
    found = {entry.name: entry for entry in entries if (entry / _ADAPTER).is_file()}
    if not found:
        raise UsageError(
            f"source: {path} holds no adapters; expected a run folder, a PEFT adapter folder, or a "
            "folder of these"
        )
    numbered = all(name.startswith("agent_") and name[6:].isdecimal() for name in found)
    return dict(sorted(found.items(), key=lambda entry: int(entry[0][6:]))) if numbered else found


def read_adapters(folders: Mapping[str, Path]) -> dict[str, "PeftAdapter"]:
    """Read adapters, by name.

    Raises:
        AdapterError: If one cannot be read.
    """
    from agents.peft_io import read_adapter

    return {name: read_adapter(folder) for name, folder in folders.items()}


def read_inside(run: RunData) -> Inside | None:
    """Return what a report says of a run's adapters; None if none are on disk.

    Of very many agents the first are measured.

    Raises:
        UsageError: If an adapter or what was kept beside it is damaged.
    """
    numbers = [g for g in saved_generations(run.path) if run.saved.adapters_in(g)]
    if not numbers or numbers[-1] not in run.generations:
        return None
    last = numbers[-1]
    folders = run.saved.adapters_in(last)
    folders = {name: folder for name, folder in folders.items() if name in run.agents}
    if not folders:
        return None
    from agents.peft_io import AdapterError, read_adapter
    from evolution.lowrank.anatomy import measure

    ablation = read_ablation(run.saved)
    try:
        first = read_adapter(next(iter(folders.values())))
        most = max(_MOST_ROWS // first.rank, 2)
        shown = dict(list(folders.items())[:most])
        adapters = read_adapters(shown)
        found = measure(adapters, ablation.weight_norms if ablation else {})
        places = [run.agents.index(name) for name in shown]
        row = run.individuals[run.generations.index(last)]
        individuals = tuple(row[place] for place in places)
        births = run.saved.births(last)
        if births is not None:
            moves = _since_birth(run, adapters, individuals, births, places)
        else:
            moves = _since_saved(run, adapters, individuals, numbers[:-1], places)
    except AdapterError as error:
        raise UsageError(f"run: {error}") from error
    return Inside(last, found, len(folders) - len(shown), individuals, moves, ablation)


def _since_birth(
    run: RunData,
    adapters: Mapping[str, "PeftAdapter"],
    individuals: tuple[str, ...],
    births: "SavedBirths",
    places: list[int],
) -> Moves | None:
    """Moves since birth, from sketches; None if these are of other individuals or layers."""
    import torch

    from evolution.lowrank.anatomy import in_order, stacked
    from evolution.lowrank.sketches import Sketcher

    layers = in_order({name for adapter in adapters.values() for name in adapter.factors})
    known = births.individuals
    if births.sketches.ndim != 3 or births.sketches.shape[:2] != (len(known), len(layers)):
        return None
    if max(places) >= len(known) or individuals != tuple(known[place] for place in places):
        return None
    pairs = [pair for adapter in adapters.values() for pair in adapter.factors.values()]
    widest = max(max(A.shape[1], B.shape[0]) for A, B in pairs)
    products = min(births.sketches.shape[2], _MOST_PRODUCTS)
    sketcher = Sketcher(births.seed, layers, widest, products)
    rows = [sketcher.layers.index(name) for name in layers]
    taken = [sketcher.take(name, *stacked(adapters, name)) for name in layers]
    now = torch.stack(taken).numpy()
    then = births.sketches.astype(np.float64)[places].transpose(1, 0, 2)[rows]
    if now.shape != then.shape:
        return None
    moved = now - then
    inner = np.einsum("lik,ljk->ij", moved, moved) / now.shape[2]
    born = {individual.name: individual.generation for individual in run.lineage}
    return Moves(
        tuple(born.get(name) for name in individuals),
        now.shape[2],
        (moved**2).mean(2),
        (then**2).mean(2),
        _cosines(inner, (then**2).mean(2).sum(0)),
    )


def _since_saved(
    run: RunData,
    adapters: Mapping[str, "PeftAdapter"],
    individuals: tuple[str, ...],
    earlier: list[int],
    places: list[int],
) -> Moves | None:
    """Moves since the oldest generation on disk in which each agent's individual lived."""
    from evolution.lowrank.anatomy import in_order, inner_products

    names, size = list(adapters), len(adapters)
    since: list[int | None] = [None] * size
    for generation in reversed([number for number in earlier if number in run.generations]):
        row = run.individuals[run.generations.index(generation)]
        there = run.saved.adapters_in(generation)
        for i, (place, individual) in enumerate(zip(places, individuals, strict=True)):
            if individual and row[place] == individual and names[i] in there:
                since[i] = generation
    chosen = {
        name: run.saved.adapters_in(generation)[name]
        for name, generation in zip(names, since, strict=True)
        if generation is not None
    }
    if not chosen:
        return None
    then = read_adapters(chosen)
    # Who is not there before is compared with itself, which says nothing, and is taken out below.
    both = {f"now {name}": adapter for name, adapter in adapters.items()}
    both |= {f"then {name}": then.get(name, adapters[name]) for name in names}
    layers = in_order({name for adapter in both.values() for name in adapter.factors})
    inner = np.stack([inner_products(both, name) for name in layers])
    now_now, now_then = inner[:, :size, :size], inner[:, :size, size:]
    then_then = inner[:, size:, size:]
    moved = now_now - now_then - now_then.transpose(0, 2, 1) + then_then
    unknown = [generation is None for generation in since]
    squares = np.maximum(moved.diagonal(axis1=1, axis2=2), 0.0)
    before = then_then.diagonal(axis1=1, axis2=2).copy()
    squares[:, unknown] = before[:, unknown] = np.nan
    total = moved.sum(0)
    total[unknown] = np.nan
    total[:, unknown] = np.nan
    return Moves(tuple(since), None, squares, before, _cosines(total, before.sum(0)))


def _cosines(inner: NDArray[np.float64], before: Series) -> Series:
    """Cosines from inner products ``[N, N]`` of moves; NaN where one is a rounding error."""
    norms = np.sqrt(np.maximum(inner.diagonal(), 0.0))
    size = np.outer(norms, norms)
    moved = norms > STILL * np.sqrt(before)  # which is false of NaN
    known = np.outer(moved, moved)
    return np.divide(inner, size, out=np.full(size.shape, np.nan), where=known)
