"""Progress bars of a run."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from agents.engine.jobs import DecodeStats


class Bars:
    """Progress of generations and of the stage within one."""

    def __init__(self, console: Console, stats: DecodeStats) -> None:
        self.progress = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            transient=True,
        )
        self._stats = stats
        self._stage: TaskID | None = None
        self._name = ""

    def stage(self, name: str, done: float) -> None:
        """Show how far a stage is, in percent."""
        if name != self._name:
            if self._stage is not None:
                self.progress.remove_task(self._stage)
            self._stage, self._name = self.progress.add_task(name, total=100, rate=""), name
        if self._stage is not None:
            rate = self._stats.tokens_per_second
            said = f"{rate:.0f} tokens/s" if rate else ""
            self.progress.update(self._stage, completed=100 * done, rate=said)
