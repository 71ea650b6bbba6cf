"""Workers as actors of a Ray cluster: one that is started for a run, or one to join.

Ray is asked to start processes, to carry arrays and to say which machines are gone. It restarts
nothing and repeats no call: whose answer counts is the pool's to say.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Generator, Sequence
from typing import Any

from agents.loading.files import first_line
from agents.workers.launcher import Failed, Handle, Lost, Ticket, WorkerError, Workers
from agents.workers.messages import WorkerSpec

INSTALL = "pip install 'populora-env[ray]'"
_REACH = 10.0  # seconds in which a cluster has to be reached
_STORE = 1 << 28  # bytes of shared memory at least


class RayLauncher:
    """Starts workers as Ray actors; a `Launcher`.

    Args:
        spec: What each loads.
        workers: What each gets, and where.
        store: Bytes that travel at once, about.

    Raises:
        WorkerError: If Ray is missing, the cluster cannot be reached, or has too little.
    """

    def __init__(self, spec: WorkerSpec, workers: Workers, store: int = 0) -> None:
        if importlib.util.find_spec("ray") is None:
            raise WorkerError(f"workers: needs the package ray; {INSTALL}")
        # What Ray would do otherwise: tell its makers of every start, and hide GPUs from workers
        # that asked for none.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray: Any = importlib.import_module("ray")
        self._ray = ray
        self._spec, self._settings = spec, workers
        self._own = not ray.is_initialized()
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            with _sigterm_kept():
                if not self._own:
                    pass
                elif workers.address:
                    _reach(workers.address)
                    ray.init(address=workers.address, **quiet)
                else:
                    ray.init(
                        num_cpus=max(spec.threads * workers.count, 1),
                        object_store_memory=max(store, _STORE),
                        include_dashboard=False,
                        **quiet,
                    )
            self._check_resources()
        except WorkerError:
            self.close()
            raise
        except Exception as error:  # whatever Ray raises
            self.close()
            where = workers.address or "this machine"
            raise WorkerError(
                f"workers: Ray could not be started on {where} ({first_line(error)}); see that it "
                "runs there: ray status"
            ) from error
        self._actor: Any = ray.remote(max_restarts=0, max_task_retries=0)(_Actor)
        self._workers: list[Any] = []

    def start(self) -> tuple[Handle, Ticket]:
        """Begin to start a worker."""
        threads = str(self._spec.threads)
        worker = self._actor.options(
            num_cpus=self._spec.threads,
            num_gpus=self._settings.gpus,
            # Threads that spin while they wait take the processor from the other workers.
            runtime_env={
                "env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
                             "OMP_WAIT_POLICY": "passive"}
            },
        ).remote(self._spec)  # fmt: skip
        self._workers.append(worker)
        return worker, worker.hello.remote()

    def call(self, worker: Handle, method: str, *arguments: Any) -> Ticket:
        """Begin a call."""
        return getattr(worker, method).remote(*arguments)

    def ready(self, tickets: Sequence[Ticket], seconds: float) -> list[Ticket]:
        """Wait until a call is over, or so long; return those that are."""
        over, _ = self._ray.wait(list(tickets), num_returns=1, timeout=seconds)
        more, _ = self._ray.wait(list(tickets), num_returns=len(tickets), timeout=0)
        return [*over, *(ticket for ticket in more if ticket not in over)]

    def result(self, ticket: Ticket) -> Any:
        """What a call that is over came to.

        Raises:
            Lost: If its worker is gone.
            Failed: If it raised.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(ticket, timeout=60)
        except errors.RayActorError as error:
            raise Lost(f"its process is gone ({_reason(error)})") from None
        except errors.RayTaskError as error:
            raise Failed(first_line(error.cause)) from None
        except errors.RayError as error:  # what it answered is lost, or cannot be had
            raise Lost(f"its answer could not be had ({first_line(error)})") from None

    def gone(self, node: str) -> bool:
        """Whether the machine of this id is known to be gone."""
        try:
            return any(n["NodeID"] == node and not n["Alive"] for n in self._ray.nodes())
        except Exception:  # the head does not answer: deadlines will tell
            return False

    def kill(self, worker: Handle) -> None:
        """End a worker at once."""
        with contextlib.suppress(Exception):  # it is gone already, or its machine is
            self._ray.kill(worker, no_restart=True)
        self._workers = [other for other in self._workers if other is not worker]

    def close(self) -> None:
        """End all workers, and Ray if it was started here."""
        for worker in list(getattr(self, "_workers", ())):
            self.kill(worker)
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()

    def _check_resources(self) -> None:
        """Check that the cluster has what the workers need.

        Raises:
            WorkerError: If not.
        """
        has, count = self._ray.cluster_resources(), self._settings.count
        for kind, each in (("CPU", float(self._spec.threads)), ("GPU", self._settings.gpus)):
            if (there := float(has.get(kind, 0.0))) < each * count - 1e-6:
                fewer = int(there / each)
                raise WorkerError(
                    f"workers: {count} with {each:g} {kind} each need {each * count:g}, but the "
                    f"cluster has {there:g}; ask for {fewer or 'no'} workers, or for less each "
                    f"(--worker-{kind.lower()}s)"
                )


class _Actor:
    """A `Worker`, which is made when it is asked who it is: then it can say why it cannot be."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec

    def hello(self) -> Any:
        from agents.workers.worker import Worker  # not on the driver's side

        ray: Any = importlib.import_module("ray")
        self._worker = Worker(self._spec, ray.get_runtime_context().get_node_id())
        return self._worker.hello()

    def decode(self, call: Any, given: Any) -> Any:
        return self._worker.decode(call, given)

    def learn(self, call: Any, given: Any) -> Any:
        return self._worker.learn(call, given)


@contextlib.contextmanager
def _sigterm_kept() -> Generator[None, None, None]:
    """Give SIGTERM back to whose it was: Ray ends the process at once, in the middle of a run."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """See that somebody listens there: Ray itself would try for minutes.

    Raises:
        OSError: If not.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=_REACH):
            pass


def _reason(error: BaseException) -> str:
    """Why Ray says that an actor died, in one line."""
    said = " ".join(str(error).split())
    for mark in ("Worker exit detail: ", "The actor is dead because ", "error_message: "):
        if mark in said:
            return said.partition(mark)[2][:160]
    return first_line(error)[:160]
