"""WorkerPool: gives tasks to workers, keeps the deadlines, and loses nothing when one is lost.

A task is a pure function of what it is given. So whoever has not answered in time, answered
nonsense or is gone is ended and replaced, and its task is given to another. Nothing of what a
worker did counts before its answer was checked.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from agents.workers.launcher import Failed, Handle, Launcher, Lost, Ticket, WorkerError, Workers
from agents.workers.messages import Decoded, Hello

_now = time.monotonic
_LOOK = 0.5  # seconds at most from one look at deadlines to the next
_LOOK_AT_NODES = 5.0  # likewise at whether machines are still there
_MOST_UNSTARTED = 3  # workers that may fail to start, one after another

Result = TypeVar("Result")
Checked = TypeVar("Checked", covariant=True)


class Nonsense(Exception):
    """An answer that cannot be one to its task."""


_MOST: Mapping[type[Exception], int] = {Lost: 20, Nonsense: 3, Failed: 2}
"""How often one task may go wrong, by how."""


class PoolTask(Protocol[Checked]):
    """One thing for any worker to do."""

    what: str
    """What messages call it."""
    method: str
    """Of the worker."""
    size: int
    """How large it is; the largest are given out first."""
    deadline: float
    """Factor on the pool's deadline."""

    def arguments(self, held: Mapping[int, str]) -> tuple[Any, ...]:
        """What to call the method with.

        Args:
            held: Content hashes of the adapters that the worker has, by row.
        """
        ...

    def check(self, answer: Any) -> tuple[Checked, Mapping[int, str]]:
        """The result, and the adapters by row that the worker holds now.

        Raises:
            Nonsense: If this cannot be an answer.
        """
        ...


@dataclass(slots=True)
class WorkerCounts:
    """What one place in a pool did, whoever was in it.

    Attributes:
        tasks: Tasks done.
        tokens: Tokens of the replies it gave.
        seconds: Time these took.
        memory: Bytes it held when it last said so.
    """

    tasks: int = 0
    tokens: int = 0
    seconds: float = 0.0
    memory: int = 0

    def add(self, answer: Any, seconds: float) -> None:
        """Count an answer."""
        self.tasks += 1
        self.memory = answer.memory
        if isinstance(answer, Decoded):
            self.tokens += answer.stats.tokens
            self.seconds += seconds


@dataclass(slots=True)
class _Place:
    """A place in the pool and who is in it."""

    number: int
    counts: WorkerCounts = field(default_factory=WorkerCounts)
    worker: Handle | None = None
    ticket: Ticket | None = None  # of its hello, or of its task
    since: float = 0.0
    hello: Hello | None = None
    task: PoolTask[Any] | None = None
    held: dict[int, str] = field(default_factory=dict[int, str])


class WorkerPool:
    """Several workers that take tasks.

    Args:
        launcher: Starts them; closed with the pool.
        workers: How many, and their deadlines.
        say: Told in a line of what was lost and done again.

    Attributes:
        counts: Of each place in the pool.
        lost: Workers that were lost.
        redone: Tasks that were given out again.
        digest: Of the base that all of them have.

    Raises:
        WorkerError: If none can be started.
    """

    def __init__(
        self, launcher: Launcher, workers: Workers, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._launcher, self._settings, self._say = launcher, workers, say
        self._places = [_Place(number) for number in range(workers.count)]
        self._unstarted = 0  # one after another
        self._looked = _now()
        self.lost = self.redone = 0
        self.digest = self.precision = ""
        self._closed = False
        try:
            for place in self._places:
                self._start(place)
            while not any(place.hello for place in self._places):
                self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def counts(self) -> list[WorkerCounts]:
        """What each place in the pool did."""
        return [place.counts for place in self._places]

    def run(
        self, tasks: Sequence[PoolTask[Result]], done: Callable[[int, Result], None]
    ) -> list[Result]:
        """Do all tasks.

        Args:
            tasks: What to do, in any order and at once.
            done: Called with the number of a task and its result as soon as it is there.

        Raises:
            WorkerError: If a task went on failing, or there are no workers left.
        """
        for place in self._places:
            if place.task is not None:  # of a call that was broken off
                self._launcher.kill(place.worker)
                self._start(place)
        numbers = {id(task): number for number, task in enumerate(tasks)}
        results: dict[int, Result] = {}
        waiting = deque(sorted(tasks, key=lambda task: -task.size))
        wrong = Counter[tuple[int, type[Exception]]]()
        while len(results) < len(tasks):
            for place in self._places:
                if place.hello is not None and place.task is None and waiting:
                    self._give(place, waiting.popleft())
            for place, task, error in self._wait():
                number, ticket, took = numbers[id(task)], place.ticket, _now() - place.since
                place.task = place.ticket = None
                try:
                    if error is not None:
                        raise error
                    answer = self._launcher.result(ticket)
                    results[number], held = task.check(answer)
                except (Lost, Nonsense, Failed) as why:
                    wrong[number, type(why)] += 1
                    self._lose(place, task, why, wrong[number, type(why)])
                    waiting.appendleft(task)
                else:
                    place.held.update(held)
                    place.counts.add(answer, took)
                    done(number, results[number])
        return [results[number] for number in range(len(tasks))]

    def close(self) -> None:
        """End all workers."""
        if not self._closed:
            self._closed = True
            self._launcher.close()

    def _start(self, place: _Place) -> None:
        place.worker, place.ticket = self._launcher.start()
        place.since, place.hello, place.task, place.held = _now(), None, None, {}

    def _give(self, place: _Place, task: PoolTask[Any]) -> None:
        place.task, place.since = task, _now()
        place.ticket = self._launcher.call(place.worker, task.method, *task.arguments(place.held))

    def _wait(self) -> list[tuple[_Place, PoolTask[Any], Exception | None]]:
        """Wait a moment; return whose task is over, or why its worker must be given up.

        Places that have started meanwhile are ready afterwards.

        Raises:
            WorkerError: If no worker is left and none can be started.
        """
        busy = [place for place in self._places if place.ticket is not None]
        if not busy:
            raise WorkerError(
                f"workers: none of {len(self._places)} is left, and none could be started again; "
                "mend the machines and resume the run"
            )
        over = self._launcher.ready([place.ticket for place in busy], _LOOK)
        ended: list[tuple[_Place, PoolTask[Any], Exception | None]] = []
        now = _now()
        look = now - self._looked > _LOOK_AT_NODES
        self._looked = now if look else self._looked
        for place in busy:
            task, took, settings = place.task, now - place.since, self._settings
            most = settings.deadline * task.deadline if task else settings.start_deadline
            error: Exception | None = None
            if place.ticket in over:
                pass
            elif look and place.hello and self._launcher.gone(place.hello.node):
                error = Lost("its machine is gone")
            elif took > most:
                error = Lost(f"it has not answered for {took:.0f} s (at most {most:.0f})")
            else:
                continue
            if task is None:
                self._welcome(place, error)
            else:
                ended.append((place, task, error))
        return ended

    def _welcome(self, place: _Place, error: Exception | None) -> None:
        """Take in a worker that started, or try again."""
        ticket, place.ticket = place.ticket, None
        try:
            if error is not None:
                raise error
            hello: Hello = self._launcher.result(ticket)
        except Failed as why:  # the base cannot be loaded there: it cannot be next time either
            self._launcher.kill(place.worker)
            if not any(other.hello for other in self._places):
                raise WorkerError(f"workers: the base could not be loaded: {why}") from None
            return self._unstart(place, str(why))
        except Lost as why:
            self._launcher.kill(place.worker)
            return self._unstart(place, str(why))
        if self.digest and hello.digest != self.digest:
            self._launcher.kill(place.worker)
            raise WorkerError(
                f"workers: the worker {hello.process} has another base: got digest "
                f"{hello.digest[:12]}, expected {self.digest[:12]}; put the same files and "
                "versions on all machines"
            )
        self.digest, self.precision = hello.digest, hello.precision
        place.hello, self._unstarted = hello, 0
        return None

    def _unstart(self, place: _Place, why: str) -> None:
        self._unstarted += 1
        if self._unstarted < _MOST_UNSTARTED:
            return self._start(place)
        self._say(f"worker {place.number} could not be started: {why}; going on without it")
        return None

    def _lose(self, place: _Place, task: PoolTask[Any], why: Exception, times: int) -> None:
        """End the worker of a place and start another.

        Raises:
            WorkerError: If its task has gone wrong too often.
        """
        self._launcher.kill(place.worker)
        place.hello = None
        self.lost += 1
        if times >= _MOST[type(why)]:
            raise WorkerError(
                f"workers: {task.what} went wrong {times} times, the last time because {why}; mend "
                "that and resume the run"
            )
        self.redone += 1
        self._say(f"worker {place.number} is replaced, and {task.what} done again, because {why}")
        self._start(place)
