"""A launcher whose workers are objects of this process, and misbehave as told."""

from __future__ import annotations

import itertools

from agents.workers.launcher import Failed, Lost
from agents.workers.worker import Worker


class FakeLauncher:
    """Calls are done when they are waited for, one a time.

    Args:
        make: Makes a worker; by default from the spec.
        faults: What happens to the calls of ``decode`` and ``learn``, in order: None for what is
            right, an exception to raise, a function of the answer, or ``hang``.
        starts: Likewise for starts.
    """

    def __init__(self, make, faults=(), starts=()):
        self.make, self.faults, self.starts = make, iter(faults), iter(starts)
        self.killed, self.calls, self.started, self.closed = [], [], 0, False
        self.lost_nodes = set()
        self.clock = 0.0  # stands still while anything can be done
        self._open, self._numbers = {}, itertools.count()

    def start(self):
        self.started += 1
        fault = next(self.starts, None)
        worker = {"name": f"w{self.started}", "worker": None if fault else self.make()}
        return worker, self._ticket(fault, lambda: worker["worker"].hello())

    def call(self, worker, method, *arguments):
        self.calls.append((worker["name"], method, arguments))
        return self._ticket(
            next(self.faults, None), lambda: getattr(worker["worker"], method)(*arguments)
        )

    def _ticket(self, fault, work):
        number = next(self._numbers)
        self._open[number] = (fault, work)
        return number

    def ready(self, tickets, seconds):
        over = [t for t in tickets if self._open[t][0] != "hang"]
        self.clock += 0 if over else 1000 * seconds
        return over

    def result(self, ticket):
        fault, work = self._open.pop(ticket)
        if isinstance(fault, Exception):
            raise fault
        return work() if fault is None else fault(work())

    def gone(self, node):
        return node in self.lost_nodes

    def kill(self, worker):
        self.killed.append(worker["name"])

    def close(self):
        self.closed = True


def lost():
    return Lost("its process is gone")


def failed(words="out of memory"):
    return Failed(words)


def worker_of(spec):
    return lambda: Worker(spec)
