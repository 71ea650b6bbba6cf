"""What a run is going to take, as a table, and in lines what will end or hinder it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evolution.commands.evolve.options import EvolveOptions
from evolution.planning.disk import DiskPlan
from evolution.planning.forecast import Forecast, Range
from evolution.planning.memory import MemoryPlan
from evolution.planning.probe import Probe

_GLIBC = 1.5  # of what learning holds beside the base: freed blocks that the allocator keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """All there is to say of a run that has not begun.

    Attributes:
        options: Settings of the run.
        told: Replies, tokens and seconds.
        seen: What they were worked out from.
        memory: The most that is held.
        disk: What is kept.
        first: Generations that were played before.
        loading: Seconds until the first generation.
        room: Bytes of memory that there are for the run; None if not known.
        on_gpu: Whether on a GPU.
        context: Most tokens of a prompt and its reply; None for no limit.
    """

    options: EvolveOptions
    told: Forecast
    seen: Probe
    memory: MemoryPlan
    disk: DiskPlan
    first: int
    loading: float
    room: int | None
    on_gpu: bool
    context: int | None


def show_forecast(console: Console, run: Outlook, took: float) -> None:
    """Print it all.

    Args:
        console: Where to.
        run: What to say.
        took: Seconds that all this took.
    """
    seen = run.seen
    console.print(_costs(run))
    console.print(_memory(run))
    share = "all" if seen.cut == 1 and seen.problems else "part"
    replies = sum(seen.replies.values())
    console.print(
        f"Worked out from {replies} replies to {seen.problems} problems"
        + (", cut short" * (seen.cut > 1))
        + f" ({share} of their length, {took:.0f} s with loading). Not counted: evolution steps, "
        "writing to disk."
    )
    for line in warnings(run):
        console.print(line)


def _costs(run: Outlook) -> Table:
    options, told, disk = run.options, run.told, run.disk
    left = "" if not run.first else f" that are left of {options.generations}"
    table = Table(title=f"{told.generations} generations{left}, {options.size} agents")
    table.add_column("what")
    table.add_column("a generation", justify="right")
    table.add_column("the run", justify="right")
    n = told.generations
    for phase, count in told.replies.items():
        table.add_row(f"replies: {phase.value}", _numbers(count), _numbers(_by(count, n)))
    beside = told.measured
    for name, low, high in (
        ("trials", *beside.trials),
        ("progress of solvers", beside.progress, beside.progress),
        ("held-out problems", beside.curve + beside.table[0], beside.curve + beside.table[1]),
        ("the guard's anchors", *beside.guard),
    ):
        if high:
            table.add_row(f"replies: {name}", "", _numbers((low, high)))
    table.add_section()
    table.add_row("tokens written", _numbers(told.written), _numbers(_by(told.written, n)))
    table.add_row("tokens of prompts", _numbers(told.read), _numbers(_by(told.read, n)))
    table.add_section()
    table.add_row("playing", _times(told.playing), _times(_by(told.playing, n)))
    if told.learning[1]:
        table.add_row("learning", _times(told.learning), _times(_by(told.learning, n)))
    if told.measuring[1]:
        table.add_row("trials, held-out problems, guard", "", _times(told.measuring))
    table.add_row("together", _times(told.generation), _times(told.run(run.loading)))
    table.add_section()
    table.add_row("disk: a saved generation", size(disk.generation),
                  f"{disk.kept} kept: {size(disk.kept * disk.generation)}")  # fmt: skip
    table.add_row("disk: transcripts", size(disk.transcripts / max(n, 1)), size(disk.transcripts))
    table.add_row("disk: the best, records, report", "",
                  size(disk.best + disk.records + disk.report))  # fmt: skip
    table.add_row("disk: all", "", size(disk.total))
    return table


def _memory(run: Outlook) -> Table:
    memory, workers = run.memory, run.options.workers
    whose = f" of each of {workers} workers" * bool(workers)
    has = "" if run.room is None else f"; there is room for {size(run.room)}"
    table = Table(title=f"Memory{whose}{' on the GPU' * run.on_gpu}{has}")
    table.add_column("when")
    table.add_column("beside")
    table.add_column("bytes", justify="right")
    table.add_column("at most", justify="right")
    rows = memory.rows()
    for phase in ("", *memory.phases):
        own = [(name, held) for where, name, held in rows if where == phase]
        total = sum(held for _, held in own) if not phase else memory.total(phase)
        for number, (name, held) in enumerate(own):
            table.add_row(
                (phase or "always") if not number else "",
                name,
                size(held),
                size(total) if number == len(own) - 1 else "",
            )
        if own:
            table.add_section()
    return table


def warnings(run: Outlook) -> list[str]:
    """What will end the run early, or hinder it; a line each."""
    options, told, seen, first = run.options, run.told, run.seen, run.first
    memory, disk, room = run.memory, run.disk, run.room
    lines: list[str] = []
    if not told.generations:
        lines.append(
            f"Nothing is left: {first} generations were played; set generations above {first}."
        )
    if options.max_minutes:
        few, many = told.reached(options.max_minutes, run.loading)
        least, most = first + few, first + many
        which = f"{least}" if least == most else f"{least} to {most}"
        if few < told.generations:
            lines.append(
                f"max_minutes = {options.max_minutes:g} ends the run after generation {which} of "
                f"{options.generations}."
            )
        else:
            lines.append(f"max_minutes = {options.max_minutes:g} is not reached.")
    if options.learner != "none" and not seen.useful:
        lines.append(
            "No reply of the probe earned more than its rivals, so there was nothing to learn from."
        )
    if seen.valid < 1:
        lines.append(f"Proposals: {seen.valid:.0%} were valid; where ranges begin, so many are.")
    if seen.overlong:
        lines.append(
            f"Warning: {seen.overlong:.0%} of the prompts do not fit the model's context of "
            f"{run.context} tokens with their replies, and get empty ones; lower solve_tokens."
        )
    lines.append(f"Memory at most: {size(memory.peak)} ({memory.fullest}).")
    likely = memory.peak if run.on_gpu else most_resident(memory)
    if room is not None and memory.peak > room:
        lines.append(
            f"Warning: {size(memory.peak)} will not fit into {size(room)}; lower "
            f"{_remedy(memory.fullest)}."
        )
    elif room is not None and likely > room:
        lines.append(
            f"Warning: with freed blocks that the allocator keeps, up to {size(likely)} may be "
            f"held, and there are {size(room)}; lower {_remedy(memory.fullest)}."
        )
    elif likely > memory.peak:
        lines.append(f"With freed blocks that the allocator keeps, up to {size(likely)}.")
    place = Path(options.out or ".").absolute()
    free = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free
    if disk.total + disk.generation > free:  # the new one is written before an old one goes
        lines.append(
            f"Warning: {size(disk.total)} of disk will not fit into the {size(free)} that are free."
        )
    return lines


def most_resident(memory: MemoryPlan) -> int:
    """Bytes that a process may hold on a CPU, with freed blocks that its allocator keeps.

    Those are of what rounding the base's weights took, and up to half of what learning takes.
    """
    packing = sum(memory.phases.get("loading", {}).values())
    kept = {phase: packing for phase in memory.phases}
    if learning := memory.phases.get("learning"):
        kept["learning"] = max(packing, int((_GLIBC - 1) * sum(learning.values())))
    return max(memory.total(phase) + more for phase, more in kept.items())


def _remedy(phase: str) -> str:
    if phase == "learning":
        return "tokens_per_batch or size, or set gradient_checkpointing"
    return {"decoding": "max_rows or size", "saving": "size or rank"}.get(phase, "the model's size")


def size(count: float) -> str:
    """Bytes as one reads them."""
    for unit, whole in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= whole:
            number = count / whole
            return f"{number:,.1f} {unit}" if number < 100 else f"{number:,.0f} {unit}"
    return f"{count:.0f} B"


def _by(seconds: Range, n: int) -> Range:
    return seconds[0] * n, seconds[1] * n


def _numbers(both: Range) -> str:
    low, high = (round(number) for number in both)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _times(both: Range) -> str:
    low, high = both
    for unit, whole in (("h", 3600), ("min", 60), ("s", 1)):
        if high >= 2 * whole or unit == "s":
            shown = [f"{part / whole:.{int(high < 20 * whole)}f}" for part in (low, high)]
            return f"{shown[0]} {unit}" if shown[0] == shown[1] else f"{' to '.join(shown)} {unit}"
    raise AssertionError("unreachable")
