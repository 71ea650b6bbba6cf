"""``populora study``: arms over seeds at equal budgets, and what sets them apart.

A cell is an arm with one seed. Finished cells are kept, so the same command goes on where it was
cut off, and with more seeds or other arms plays what is new.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evolution.commands.progress import Bars
from evolution.commands.usage import Interrupts, installed, parse
from evolution.errors import UsageError
from evolution.studies.comparing import answers, finished
from evolution.studies.design import Arm, Study
from evolution.studies.file import read_study
from evolution.studies.measured import FIGURES, Cell
from evolution.studies.page import write_page
from evolution.studies.results import Results, cells_left
from evolution.studies.run import Bases, check_cells, play
from evolution.studies.tables import Grid, differences, explained, means
from evolution.terminal import PlainConsole
from populora_env.settings import did_you_mean

_PACKAGES = ("populora-env", "torch", "transformers", "numpy", "reasoning-gym")
_SHOWN = ("accuracy", "members", "vote", "any", "average")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Play the arms of a study over its seeds, and say what sets them apart.

    Finished runs are kept: the same command goes on where it was cut off.
    """

    file: tyro.conf.Positional[str]
    """TOML file of the study."""
    out: str = ""
    """Folder of its results; by default studies/<name>."""
    arms: tuple[str, ...] = ()
    """Play these arms alone, as in --arms apart,average."""
    seeds: tuple[str, ...] = ()
    """Play these seeds alone, as in --seeds 0,1."""
    dry_run: bool = False
    """Whether to say what is left to be played, and how long that may take, and to play nothing."""
    table: bool = False
    """Whether to show what was found so far, and to play nothing."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(StudyOptions, arguments, prog="populora study")
    study = read_study(options.file)
    arms, seeds = _chosen_arms(options, study), _chosen_seeds(options, study)
    console = PlainConsole()
    results = Results(Path(options.out or f"studies/{study.name}").expanduser())
    left = cells_left(study, results, arms, seeds)
    if options.dry_run:
        check_cells(left)
        console.print(_plan(study, results, left, len(arms) * len(seeds)))
        return 0
    if not options.table:
        results.open()
        try:
            _play(study, results, cells_left(study, results, arms, seeds), console)
        except KeyboardInterrupt:
            console.print(
                f"\nInterrupted; finished runs are in {results.file}: the same command goes on"
            )
            return 130
        finally:
            results.close()
    _show(study, results, console)
    console.print(f"Results: {results.file}")
    return 0


def _play(
    study: Study, results: Results, left: Sequence[tuple[Arm, int]], console: Console
) -> None:
    """Play what is left."""
    bases, versions = Bases(), {package: installed(package) for package in _PACKAGES}
    check_cells(left, bases)
    with Interrupts() as interrupts, Bars(console) as bars:
        bars.count("runs", 0, len(left))
        for done, (arm, seed) in enumerate(left, 1):
            begin, config = time.monotonic(), arm.config(seed)
            results.check_base(config, bases.of(config)[1])
            cell = play(
                study,
                arm,
                seed,
                bases,
                progress=bars.tell,
                check=interrupts.check,
                versions=versions,
            )
            results.add(cell)
            bars.count("runs", done, len(left))
            console.print(_said(cell, arm, f"{done}/{len(left)}", time.monotonic() - begin))


def _said(cell: Cell, arm: Arm, place: str, seconds: float) -> str:
    """What came of a cell, in a line."""
    found = cell.measured[-1]
    shown = ", ".join(
        f"{name} {float(FIGURES[name].values(found).mean()):.3f}"
        for name in _SHOWN[: None if found.replies and found.members else 1]
    )
    cut = f", cut off before {found.budget}" if cell.cut_off else ""
    return (
        f"{place} {arm.label}, seed {cell.seed}: {shown}; {found.replies} replies, "
        f"{seconds:.0f} s{cut}"
    )


def _plan(study: Study, results: Results, left: Sequence[tuple[Arm, int]], total: int) -> Table:
    """What is left, and how long it may take, going by runs of the same arm."""
    table = Table(title=f"{study.name}: {len(left)} of {total} runs are left")
    for name in ("arm", "seeds left", "seconds a run", "minutes"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    whole: float | None = 0.0
    for arm in study.arms.values():
        seeds = [seed for own, seed in left if own is arm]
        if not seeds:
            continue
        done = [results.cell(study, arm, seed) for seed in study.seeds]
        took = [cell.seconds + cell.measuring_seconds for cell in done if cell is not None]
        each = sum(took) / len(took) if took else None
        minutes = None if each is None else each * len(seeds) / 60
        whole = None if whole is None or minutes is None else whole + minutes
        table.add_row(
            arm.label,
            ",".join(map(str, seeds)),
            "not known" if each is None else f"{each:.0f}",
            "" if minutes is None else f"{minutes:.0f}",
        )
    table.add_section()
    table.add_row("all", str(len(left)), "", "not known" if whole is None else f"{whole:.0f}")
    return table


def _show(study: Study, results: Results, console: Console) -> None:
    """Print the tables, and write them and the figures beside the results."""
    cells = finished(study, results)
    found = answers(study, cells)
    if not any(cells.values()):
        console.print(f"nothing was played yet: {results.file} holds no run of this study")
        return
    for answer in found:
        console.print(Text(f"\n{answer.question.title}", style="bold"))
        for grid in (means(answer), differences(answer)):
            if grid is not None and grid.rows:
                console.print(_table(grid))
        for note in (answer.question.note, *answer.notes):
            if note:
                console.print(note)
    console.print()
    for sentence in explained(study, found):
        console.print(sentence)
    files = write_page(results.folder, study, cells, found)
    console.print(f"Tables and figures: {', '.join(str(file) for file in files)}")


def _table(grid: Grid) -> Table:
    table = Table()
    for i, name in enumerate(grid.head):
        table.add_column(name, justify="right" if i else "left")
    for row in grid.rows:
        table.add_row(*row)
    return table


def _split(words: Sequence[str]) -> list[str]:
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def _chosen_arms(options: StudyOptions, study: Study) -> list[str]:
    chosen = _split(options.arms)
    for name in chosen:
        if name not in study.arms:
            raise UsageError(
                f"--arms: got {name!r}, expected some of {', '.join(study.arms)}"
                f"{did_you_mean(name, study.arms)}"
            )
    return [name for name in study.arms if name in chosen or not chosen]


def _chosen_seeds(options: StudyOptions, study: Study) -> list[int]:
    chosen = _split(options.seeds)
    known = {str(seed): seed for seed in study.seeds}
    for seed in chosen:
        if seed not in known:
            raise UsageError(f"--seeds: got {seed!r}, expected some of {', '.join(known)}")
    return [seed for name, seed in known.items() if name in chosen or not chosen]
