"""What a pool asks of whatever runs its workers, and the errors that all of them share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agents.engine.jobs import EngineError


class WorkerError(EngineError):
    """Workers that cannot be had, or went on failing."""


class Lost(Exception):
    """A worker that is gone, with what is known of why."""


class Failed(Exception):
    """A call that raised inside a worker; the worker is still there."""


Handle = Any
"""A worker, as its launcher knows it."""
Ticket = Any
"""A call that is under way, as its launcher knows it."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers a run has, and what each of them gets.

    Attributes:
        count: How many; 0 for none, all being done in this process.
        cpus: CPU threads of each; 0 for as many as a shard of the run gets, or for an equal share
            of this machine's.
        gpus: GPUs of each; a part of one where several share it.
        address: Of the Ray cluster to join, ``auto`` for one that runs here; empty to start Ray on
            this machine for as long as the run takes.
        deadline: Seconds that a worker may take over one shard before it is given up.
        start_deadline: Seconds that a worker may take to load the base.

    Raises:
        WorkerError: If a value is out of range.
    """

    count: int = 0
    cpus: int = 0
    gpus: float = 0.0
    address: str = ""
    deadline: float = 600.0
    start_deadline: float = 600.0

    def __post_init__(self) -> None:
        for name, least in (("count", 0), ("cpus", 0), ("gpus", 0.0)):
            if not getattr(self, name) >= least:
                raise WorkerError(
                    f"workers: {name}: got {getattr(self, name)!r}, expected at least {least}"
                )
        for name in ("deadline", "start_deadline"):
            if not getattr(self, name) > 0:
                raise WorkerError(
                    f"workers: {name}: got {getattr(self, name)!r}, expected more than 0 seconds"
                )


class Launcher(Protocol):
    """Starts workers, calls them, and says what became of it."""

    def start(self) -> tuple[Handle, Ticket]:
        """Begin to start a worker; the ticket is that of its `agents.workers.messages.Hello`."""
        ...

    def call(self, worker: Handle, method: str, *arguments: Any) -> Ticket:
        """Begin a call."""
        ...

    def ready(self, tickets: Sequence[Ticket], seconds: float) -> list[Ticket]:
        """Wait until a call is over, or so long; return those that are."""
        ...

    def result(self, ticket: Ticket) -> Any:
        """What a call that is over came to.

        Raises:
            Lost: If its worker is gone.
            Failed: If it raised.
        """
        ...

    def gone(self, node: str) -> bool:
        """Whether the machine of this id is known to be gone; asked every few seconds."""
        ...

    def kill(self, worker: Handle) -> None:
        """End a worker at once, wherever it is."""
        ...

    def close(self) -> None:
        """End all workers, and what was started for them."""
        ...
