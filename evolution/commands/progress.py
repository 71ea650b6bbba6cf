"""Progress bars of all commands."""

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:  # some commands show bars without torch
    from agents.engine.jobs import DecodeStats

_CLIP = 30  # characters of a name that are shown
_REFRESH = 2  # times a second; drawing takes from the processor that decodes


class Bars:
    """A bar of what is going on, and above it one of the whole; gone when the block is left.

    What stands above the bars is drawn anew with them, a few times a second. Nothing is shown where
    the console is no terminal.

    Args:
        console: Where they are drawn.
        stats: Whose words on speed are shown; None to show none.
        above: What stands above the bars; None for nothing.
    """

    def __init__(
        self,
        console: Console,
        stats: "DecodeStats | None" = None,
        above: RenderableType | None = None,
    ) -> None:
        self._shown = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=console,
        )
        parts = [self._shown] if above is None else [above, self._shown]
        self._live = Live(
            Group(*parts), console=console, transient=True, refresh_per_second=_REFRESH
        )
        self._draws = console.is_terminal  # else it would leave an empty line in a log
        self._stats = stats
        self._whole: TaskID | None = None
        self._stage: TaskID | None = None
        self._label = ""

    def __enter__(self) -> "Bars":
        if self._draws:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tell(self, label: str, fraction: float) -> None:
        """Show how far a stage is, as `agents.progress.Progress`; another label, another bar."""
        if self._stage is None or label != self._label:
            if self._stage is not None:
                self._shown.remove_task(self._stage)
            self._stage = self._shown.add_task(label[:_CLIP], total=1.0, said="")
            self._label = label
        said = self._stats.words if self._stats else ""
        self._shown.update(self._stage, completed=fraction, said=said)

    def count(self, label: str, done: int, total: int) -> None:
        """Show how many steps of the whole are done."""
        if self._whole is None:
            self._whole = self._shown.add_task(label, total=total, said="")
        self._shown.update(self._whole, completed=done, said=f"{done}/{total}")
