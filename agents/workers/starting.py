"""Workers for a population: what each of them loads, and how a population is given to them."""

import warnings
from collections.abc import Callable
from dataclasses import replace

from agents.engine.local import LocalEngine
from agents.population import LoraPopulation
from agents.workers.engine import WorkersEngine
from agents.workers.launcher import WorkerError, Workers
from agents.workers.messages import WorkerSpec, packed_bytes
from agents.workers.pool import WorkerPool
from agents.workers.ray_launcher import RayLauncher
from agents.workers.shards import shard_threads

_COPIES = 6  # of a generation's adapters that are under way at once: values, moments, both ways


def worker_spec(population: LoraPopulation, workers: Workers) -> WorkerSpec:
    """What each worker loads.

    Raises:
        WorkerError: If the population's base cannot be loaded elsewhere.
    """
    base, lora = population.base, population.lora
    if base.loaded is None:
        raise WorkerError(
            f"workers: the base {base.name!r} was made in memory; save it to a folder, and load it "
            "from there with load_base"
        )
    device = base.loaded["device"]
    if workers.gpus:
        device = "cuda"
    elif device == "auto":
        device = "cpu"
    return WorkerSpec(
        base={**base.loaded, "device": device},
        size=lora.size,
        rank=lora.rank,
        targets=lora.targets,
        dtype=str(next(lora.parameters()).dtype).removeprefix("torch."),
        checkpointing=lora.checkpointed,
        threads=workers.cpus or shard_threads(0, max(workers.count, 1)),
    )


def start_workers(
    population: LoraPopulation, workers: Workers, say: Callable[[str], None] = lambda _: None
) -> WorkersEngine:
    """Start workers for a population, with Ray; `WorkersEngine.pool` is to be closed.

    The population still has to be given the engine.

    Args:
        population: Whose replies and learning steps they do.
        workers: How many, and what each gets.
        say: Told in a line of every worker that was lost.

    Raises:
        WorkerError: If Ray is missing, the cluster has too little, or no worker can load the base.
    """
    spec = worker_spec(population, workers)
    lora = population.lora
    store = _COPIES * lora.size * packed_bytes(lora, lora.rank)
    pool = WorkerPool(RayLauncher(spec, workers, store), workers, say)
    return WorkersEngine(pool, lora, population.max_rows)


class Hired:
    """Workers that a population has for a while.

    Args:
        population: What is given them.
        workers: How many; none leaves it as it is.
        say: Told in a line of every worker that was lost.
    """

    def __init__(
        self, population: LoraPopulation, workers: Workers, say: Callable[[str], None]
    ) -> None:
        self._population, self._before = population, population.engine
        self.engine: WorkersEngine | None = None
        if workers.count:
            self.engine = population.engine = start_workers(population, workers, say)

    @property
    def digest(self) -> str:
        """Of the base that they have; empty if there are none."""
        engine = self._population.engine
        return engine.pool.digest if isinstance(engine, WorkersEngine) else ""

    def end(self) -> None:
        """End them; the population has its engine of before. Doing so again changes nothing."""
        if self.engine is not None:
            self.engine.pool.close()
            self._population.engine, self.engine = self._before, None


def hire(
    population: LoraPopulation, workers: Workers | int, shards: int, threads: int = 0
) -> Hired:
    """Give a population workers, if there are to be any, and say in how many parts they work.

    Args:
        population: Which.
        workers: How many, and what each gets.
        shards: Parts of a generation.
        threads: CPU threads for each, if workers do not say; 0 for those that there are.

    Raises:
        WorkerError: If there cannot be such workers, or the population's engine knows no shards.
    """
    if isinstance(workers, int):
        workers = Workers(workers)
    if isinstance(population.engine, WorkersEngine):
        workers = Workers()
    workers = replace(workers, cpus=workers.cpus or threads)
    hired = Hired(population, workers, lambda line: warnings.warn(line, RuntimeWarning, 2))
    engine = population.engine
    if isinstance(engine, WorkersEngine):
        engine.shards = shards
    elif isinstance(engine, LocalEngine):
        engine.shards, engine.threads = shards, threads
    elif shards > 1:
        raise WorkerError(
            f"shards: got {shards}, but {type(engine).__name__} decodes by itself; set shards = 1"
        )
    return hired
