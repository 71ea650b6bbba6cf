"""``populora export``: one adapter, or one whole model, made of many, so that serving costs one.

Adapters are merged as updates, never factor by factor, and what a smaller rank loses is measured
and written beside the adapter. No base model is loaded unless the adapter is merged into it.
"""

import json
import math
import shutil
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.table import Table

from agents.loading.models import load_base
from agents.loading.quiet import no_bars
from agents.peft_io import CONFIG_FILE, WEIGHTS_FILE, PeftAdapter, read_adapter
from agents.plain_files import whole_folder
from evolution.commands.export.card import (
    CARD_FILE,
    NOT_HERE,
    SETTINGS_FILE,
    Carded,
    card_text,
    settings_text,
)
from evolution.commands.export.sources import ALL, NAMED_WEIGHTS, Source, read_sources
from evolution.commands.progress import Bars
from evolution.commands.usage import installed, parse, writing_to
from evolution.errors import UsageError
from evolution.individuals.lineage import AVERAGE
from evolution.lowrank.merging import Merge, merge
from evolution.runs.files import read_while_it_goes_on
from evolution.runs.saved_run import SavedRun
from evolution.terminal import PlainConsole


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Merge adapters into one: populora export RUN --out DIR, or populora export DIR DIR ..."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """A run folder, or PEFT adapter folders; a run among several stands for its best adapter."""
    out: str
    """Folder for the adapter, its model card and export.json; must not exist yet."""
    agents: tuple[str, ...] = (ALL,)
    """With a run: all agents of its last generation that solve, best, or some by name."""
    weights: tuple[str, ...] = ("equal",)
    """How much each counts: equal, standing, rating, or a number for each, used as it is."""
    rank: int | Literal["full"] | None = None
    """Rank of the result; 0 or full for the sum of the ranks, where nothing is lost. By default
    the largest of the adapters'."""
    merge_into_base: bool = False
    """Also write the base model with the adapter merged into it, to OUT/model."""
    model: str = ""
    """Base model to merge into; by default the run's, or the one the adapter names."""
    dtype: str = ""
    """Type of that model's weights: float32, bfloat16 or float16; by default the run's."""

    def check(self) -> None:
        """Check what nobody else checks.

        Raises:
            UsageError: On the first value that cannot be used.
        """
        if not self.sources:
            raise UsageError("sources: got none, expected a run folder or adapter folders")
        if isinstance(self.rank, int) and self.rank < 0:
            raise UsageError(f"rank: got {self.rank}, expected an integer >= 0, or full")
        if self.weights not in [(name,) for name in NAMED_WEIGHTS]:
            try:
                finite = all(math.isfinite(float(text)) for text in self.weights)
            except ValueError:
                finite = False
            if not finite or not self.weights:
                raise UsageError(
                    f"weights: got {' '.join(self.weights)!r}, expected {', '.join(NAMED_WEIGHTS)}"
                    " or a number for each adapter"
                )


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(ExportOptions, arguments, prog="populora export")
    options.check()
    console = PlainConsole()

    def read() -> tuple[SavedRun | None, list[Source], list[PeftAdapter]]:
        run, sources = read_sources(options.sources, options.agents, options.weights)
        return run, sources, [read_adapter(source.folder) for source in sources]

    run, sources, adapters = read_while_it_goes_on(Path(options.sources[0]).expanduser(), read)
    largest = max(adapter.rank for adapter in adapters)
    rank = None if options.rank in (0, "full") else int(options.rank or largest)
    alone = len(sources) == 1 and sources[0].weight == 1 and rank in (None, largest)
    with new_folder(options.out) as work:
        if alone:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(sources[0].folder / name, work / name)
            merged, made = adapters[0], None
        else:
            with Bars(console) as bars:
                made = merge(adapters, [source.weight for source in sources], rank, bars.tell)
            merged = made.adapter
            merged.write(work)
        record = lineage_record(run, sources, merged, made)
        (work / "export.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        average = (
            options.agents == (ALL,) and options.weights == ("equal",) and options.rank is None
        )
        write_card(work, options.out, run, sources, merged, made, AVERAGE if average else "")
        if options.merge_into_base:
            console.print("merging into the base model")
            write_model(merged, work / "model", options, run)
    console.print(sources_table(sources))
    for line in error_lines(merged, made):
        console.print(line)
    console.print(f"Adapter: {options.out}")
    if options.merge_into_base:
        console.print(f"Model: {Path(options.out) / 'model'}")
    return 0


def write_card(
    work: Path,
    name: str,
    run: SavedRun | None,
    sources: Sequence[Source],
    merged: PeftAdapter,
    made: Merge | None,
    measured_as: str,
) -> None:
    """Write the model card, and the run's settings if there is a run.

    Args:
        work: Folder to write to.
        name: Of the adapter.
        run: Where the adapters are from; None if from several places.
        sources: The adapters.
        merged: What they came to.
        made: How; None of a copy.
        measured_as: What a run's held-out table calls the merged adapter; empty where it is not in
            there.
    """
    if made is None:
        source = sources[0]
        known = source.name if run is not None else ""
        whose = str(source.record.get("individual", ""))
        entries = [Carded(f"a copy of {source.name}", "", known, (whose,))]
    else:
        entries = [Carded("the merged adapter", measured_as=measured_as)]
        entries += [
            Carded(f"{one.name}, weight {one.weight:.4g}", NOT_HERE, one.name,
                   (str(one.record.get("individual", "")),))
            for one in sources
        ]  # fmt: skip
    said = [] if made is None else ["\n".join(error_lines(merged, made))]
    text = card_text(name, entries, run=run, base=merged.base, made=said)
    (work / CARD_FILE).write_text(text, encoding="utf-8")
    if run is not None:
        (work / SETTINGS_FILE).write_text(settings_text(run), encoding="utf-8")


@contextmanager
def new_folder(path: str | Path) -> Generator[Path, None, None]:
    """Fill a folder whole or not at all: gives a working folder, renamed if the block succeeds.

    Raises:
        UsageError: If the folder holds something already, or cannot be written.
    """
    target = Path(path).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"out: {path} is there already; choose another folder")
    with writing_to("out", path, "a writable folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        filling = ExitStack()
        work = filling.enter_context(whole_folder(target, shared=True))
    with filling:
        yield work


def lineage_record(
    run: SavedRun | None, sources: Sequence[Source], merged: PeftAdapter, made: Merge | None
) -> dict[str, Any]:
    """What was made from what, and how exactly; plain JSON types."""
    keys = ("individual", "operator", "parents", "standing", "rating")
    return {
        "version": installed("populora-env"),
        "run": None if run is None else str(run.path),
        "generation": None if run is None else run.generation,
        "base": merged.base,
        "sources": [
            {
                "name": source.name,
                "folder": str(source.folder),
                "weight": source.weight,
                **{key: source.record[key] for key in keys if key in source.record},
            }
            for source in sources
        ],
        "rank": merged.rank,
        "copied": made is None,
        "relative_error": 0.0 if made is None else made.relative_error,
        "energy_kept": 1.0 if made is None else made.energy_kept,
        "worst_layer": None if made is None else made.worst_layer,
        "layers": {}
        if made is None
        else {name: entry.relative for name, entry in made.errors.items()},
    }


def sources_table(sources: Sequence[Source]) -> Table:
    """Who went into the result."""
    table = Table()
    table.add_column("adapter", overflow="fold")
    for name in ("weight", "standing", "rating"):
        table.add_column(name, justify="right")
    for source in sources:
        known = [source.record.get(name) for name in ("standing", "rating")]
        table.add_row(
            source.name,
            f"{source.weight:.4g}",
            *("" if value is None else f"{value:.3f}" for value in known),
        )
    return table


def error_lines(merged: PeftAdapter, made: Merge | None) -> list[str]:
    """What the rank costs, in words."""
    if made is None:
        return [f"rank {merged.rank}: a copy of the only adapter"]
    worst = made.worst_layer
    return [
        f"rank {merged.rank}: relative error {made.relative_error:.2g} of the exact sum "
        f"(Frobenius), {made.energy_kept:.2%} of its energy kept",
        f"worst layer: {worst}, relative error {made.errors[worst].relative:.2g}",
    ]


def write_model(
    adapter: PeftAdapter, folder: Path, options: ExportOptions, run: SavedRun | None
) -> None:
    """Write the base model with an adapter merged into its weights, and its tokenizer.

    Raises:
        UsageError: If no base is named, it is quantised, or it lacks a layer of the adapter.
    """
    name = options.model or (run.config.model if run is not None else adapter.base)
    if not name:
        raise UsageError("model: the adapter names no base model; say which with --model")
    dtype = options.dtype or (run.config.dtype if run is not None else "float32")
    base = load_base(name, dtype=dtype, device="cpu")
    for layer, (A, B) in adapter.factors.items():
        try:
            weight: torch.Tensor = base.model.get_submodule(layer).weight
        except AttributeError:
            raise UsageError(
                f"model: {name} has no layer {layer}, which the adapter changes"
            ) from None
        if not weight.is_floating_point() or weight.shape != (B.shape[0], A.shape[1]):
            raise UsageError(
                f"model: {layer} of {name} is {tuple(weight.shape)} {weight.dtype}, expected "
                f"{(B.shape[0], A.shape[1])} floats, neither quantised nor of another model"
            )
        changed = weight.detach().float().addmm_(B.float(), A.float(), alpha=adapter.scale)
        weight.data = changed.to(weight.dtype)
    with no_bars():
        base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
