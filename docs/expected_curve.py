"""Writes what may be expected of a preset, from runs of it that differ in their seed.

    python docs/expected_curve.py quick runs/A runs/B runs/C --out docs/results/presets/quick

``accuracy.svg`` is the agents' mean accuracy in training over generations, ``held_out.svg`` (where
all runs had ``--held-out-every``) that on held-out problems: the mean of the runs, in the band from
the lowest run to the highest. ``table.md`` shows both, and what the runs ended with. Nothing is
smoothed; a curve ends where the shortest run does. Runs are only read; nothing is played here.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from agents.measuring.paired import Interval
from agents.plain_files import write_whole
from agents.population import BASE
from evolution.errors import UsageError
from evolution.fitness.task import mean_of
from evolution.runs.changes import UNRECORDED
from evolution.runs.files import CURVE_FILE, HISTORY_FILE
from evolution.runs.saved_run import SavedRun
from evolution.runs.settings_files import read_preset
from evolution.studies.drawing import (
    COLOURS,
    FAINT,
    WIDTH,
    band,
    figure,
    grid,
    line,
    path,
    round_ticks,
    text,
)
from evolution.studies.tables import Grid, markdown
from populora_env.errors import PopuloraError

AT_LEAST = 3
"""Runs that it takes: the band of two is where they happened to be."""
ENDS = {
    "base": "base",
    "best": "champion",
    "mean": "mean of agents",
    "vote": "vote",
    "average": "average of agents",
}
"""What `summary.json` says of held-out problems, and its name here."""

PRODUCTS = frozenset({"products"})
"""The preset may leave them to the processor; the runs have to agree."""
MEASURED = frozenset({"held_out_every", "keep_every", "keep_generations"})
"""What is measured and kept on the way has no influence on a run."""

Curve = Mapping[int, float]  # generation to a mean over agents


@dataclass(frozen=True, slots=True)
class Played:
    """What is shown of one run.

    Attributes:
        folder: Where it is.
        settings: It began with these.
        training: Accuracy in training.
        held_out: Accuracy on held-out problems; empty where it was not measured.
        summary: What it ended with; empty if it was not let end.
    """

    folder: Path
    settings: Mapping[str, Any]
    training: Curve
    held_out: Curve
    summary: Mapping[str, Any]


def read(folder: Path) -> Played:
    """Read a run.

    Raises:
        UsageError: If the folder is no run, is damaged, or its settings were changed on the way.
    """
    run = SavedRun(folder, "runs")
    if run.changes():
        raise UsageError(
            f"runs: the settings of {folder} changed while it ran; expected those of a preset"
        )
    _ = run.generation  # says it if there is none
    summary = run.summary()
    return Played(
        folder,
        asdict(run.settings()),
        _by_generation(run, HISTORY_FILE),
        _by_generation(run, CURVE_FILE),
        summary,
    )


def _by_generation(run: SavedRun, name: str) -> Curve:
    """A file's accuracies, averaged over agents; the base, and what is not known, left out."""
    rows = [row for _, row in run.rows(name, ("generation", "agent", "accuracy"))]
    known = [row for row in rows if row["agent"] != BASE and row["accuracy"] is not None]
    known.sort(key=lambda row: row["generation"])
    return {
        generation: mean_of([row["accuracy"] for row in own])
        for generation, own in groupby(known, key=lambda row: row["generation"])
    }


def check(preset: str, runs: Sequence[Played]) -> None:
    """See that these are runs of the preset, and differ in their seed alone.

    Raises:
        UsageError: If they are not.
    """
    if len(runs) < AT_LEAST:
        raise UsageError(f"runs: got {len(runs)}, expected at least {AT_LEAST}: play more seeds")
    seeds = [run.settings["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"runs: got the seeds {seeds}, expected each once: play others")
    preset_settings = asdict(read_preset(preset))
    for run in runs:
        for wanted, free in ((preset_settings, PRODUCTS | MEASURED), (runs[0].settings, MEASURED)):
            others = [
                name
                for name in run.settings
                if name not in UNRECORDED | free | {"seed"} and run.settings[name] != wanted[name]
            ]
            if others:
                raise UsageError(
                    f"runs: {run.folder} differs in {', '.join(others)}; expected the preset "
                    f"{preset} with another seed, nothing else"
                )


def together(curves: Sequence[Curve]) -> dict[int, Interval]:
    """Mean and ends of the band, by generation that all runs have."""
    shared = sorted(set(curves[0]).intersection(*curves[1:]))
    found: dict[int, Interval] = {}
    for generation in shared:
        values = [curve[generation] for curve in curves]
        found[generation] = Interval(mean_of(values), min(values), max(values), len(values))
    return found


def chart(title: str, about: str, words: str, expected: Mapping[int, Interval]) -> str:
    """The SVG of a curve and its band.

    Args:
        title: What it shows.
        about: Of which runs.
        words: Name of the values.
        expected: By generation, two at least.
    """
    top, bottom, left, right = 66, 366, 72, WIDTH - 24
    generations = list(expected)
    lowest = [entry.low or 0.0 for entry in expected.values()]
    highest = [entry.high or 0.0 for entry in expected.values()]
    ticks = round_ticks(min(lowest), max(highest), share=True)
    first, last = generations[0], generations[-1]

    def x(generation: float) -> float:
        return left + 10 + (generation - first) / (last - first) * (right - left - 30)

    def y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)

    marks = grid(ticks, left, right, y)
    for tick in round_ticks(first, last, share=False):
        if first <= tick <= last and float(tick).is_integer():
            marks.append(line(x(tick), bottom, x(tick), bottom + 5, FAINT))
            marks.append(text(x(tick), bottom + 20, f"{tick:.0f}", FAINT, anchor="middle"))
    places = [x(generation) for generation in generations]
    marks.append(
        band(
            [(at, y(value)) for at, value in zip(places, lowest, strict=True)],
            [(at, y(value)) for at, value in zip(places, highest, strict=True)],
            COLOURS[0],
        )
    )
    means = [(at, y(entry.mean)) for at, entry in zip(places, expected.values(), strict=True)]
    marks.append(path(means, COLOURS[0]))
    marks.append(text((left + right) / 2, bottom + 42, "generation, from 0", anchor="middle"))
    marks.append(text(20, (top + bottom) / 2, words, anchor="middle", turned=True))
    return figure(title, about, bottom + 58, marks)


def quarters(expected: Sequence[Curve]) -> dict[str, list[float]]:
    """Each run's mean over the first and over the last quarter of what all have."""
    shared = sorted(set(expected[0]).intersection(*expected[1:]))
    part = max(len(shared) // 4, 1)
    return {
        f"generations {own[0]} to {own[-1]}": [
            mean_of([curve[generation] for generation in own]) for curve in expected
        ]
        for own in (shared[:part], shared[-part:])
    }


def summed_up(runs: Sequence[Played]) -> Grid:
    """Figures of all runs: mean, ends of the band, interval of the mean."""
    figures = {
        f"accuracy in training, {when}": values
        for when, values in quarters([run.training for run in runs]).items()
    }
    for name, words in ENDS.items():
        values = [run.summary.get("held_out", {}).get(name) for run in runs]
        if all(value is not None for value in values):
            figures[f"held out, {words}"] = values
    rows = []
    for words, values in figures.items():
        sure = Interval.of(values).within(0, 1)
        rows.append(
            (
                words,
                f"{sure.mean:.3f}",
                f"{min(values):.3f} to {max(values):.3f}",
                f"{sure.low:.3f} to {sure.high:.3f}",
            )
        )
    return Grid(("figure", "mean of runs", "lowest to highest", "95 % interval"), tuple(rows))


def each(runs: Sequence[Played]) -> Grid:
    """A row for each run."""
    shown = [name for name in ENDS if any(name in run.summary.get("held_out", {}) for run in runs)]
    rows: list[tuple[str, ...]] = []
    for run in runs:
        ends = run.summary.get("held_out", {})
        rows.append(
            (
                str(run.settings["seed"]),
                str(max(run.training) + 1),
                *(f"{ends[name]:.3f}" if name in ends else "" for name in shown),
                f"{run.summary['seconds']:.0f}" if "seconds" in run.summary else "",
            )
        )
    return Grid(("seed", "generations", *(ENDS[name] for name in shown), "seconds"), tuple(rows))


def page(preset: str, runs: Sequence[Played]) -> dict[str, str]:
    """Names of files to their texts.

    Raises:
        UsageError: If the runs have fewer than two generations in common.
    """
    about = (
        f"{len(runs)} runs that differ in their seed: the mean, and the band from lowest to highest"
    )
    texts: dict[str, str] = {}
    lines = [f"# What to expect of the preset {preset}", ""]
    measured = {
        "accuracy": ("Accuracy in training", "accuracy, mean of agents", "training"),
        "held_out": ("Accuracy on held-out problems", "accuracy, mean of agents", "held_out"),
    }
    for name, (title, words, kind) in measured.items():
        expected = together([getattr(run, kind) for run in runs])
        if len(expected) < 2:
            if kind == "training":
                raise UsageError(
                    f"runs: got {len(expected)} generations that all have, expected at least 2"
                )
            continue
        texts[f"{name}.svg"] = chart(f"{title}: preset {preset}", about, words, expected)
        lines += [f"![{title}]({name}.svg)", ""]
    lines += [*markdown(summed_up(runs)), "", *markdown(each(runs)), ""]
    settings = runs[0].settings
    said = [f"{name} `{settings[name]}`" for name in ("model", "products")]
    lines += [
        f"{about[0].upper()}{about[1:]}; {', '.join(said)}; written by "
        "`docs/expected_curve.py`. Accuracy in training is on fresh problems before they are "
        "learned from, held-out accuracy is greedy; intervals are t intervals over runs.",
        "",
    ]
    return {**texts, "table.md": "\n".join(lines)}


def main(words: Sequence[str] | None = None) -> None:
    """Read the command's words, and write the files.

    Raises:
        ConfigError: If there is no such preset.
        UsageError: If something about the runs or the folder is wrong.
    """
    parser = argparse.ArgumentParser(description="What may be expected of a preset, from its runs.")
    parser.add_argument("preset", help="its name")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the SVGs and table.md")
    given = parser.parse_args(words)
    runs = [read(folder) for folder in given.runs]
    check(given.preset, runs)
    texts = page(given.preset, runs)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        for name, content in texts.items():
            write_whole(given.out / name, content)
    except OSError as error:
        raise UsageError(f"out: cannot write to {given.out} ({error.strerror})") from error
    print("\n".join(str(given.out / name) for name in texts))


if __name__ == "__main__":
    try:
        main()
    except PopuloraError as error:
        sys.exit(str(error))
