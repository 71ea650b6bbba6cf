"""The workers of a run: what they load, and what they did."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from agents.loading.models import BaseModel
from agents.loading.skeleton import load_skeleton
from agents.machine import resources
from agents.population import LoraPopulation
from agents.workers.engine import WorkersEngine
from agents.workers.launcher import Workers
from agents.workers.starting import start_workers
from evolution.commands.evolve.options import EvolveOptions
from evolution.learning import threads_of


def skeleton_for_workers(options: EvolveOptions) -> BaseModel:
    """The base without its weights, which knows how workers load it."""
    how: dict[str, Any] = {"dtype": options.dtype, "load_in_4bit": options.load_in_4bit}
    base = load_skeleton(options.model, **how)
    how |= {"name": options.model, "device": options.device, "products": str(options.products)}
    return replace(base, loaded=how)


@contextmanager
def with_workers(
    population: LoraPopulation, options: EvolveOptions, console: Console
) -> Generator[None, None, None]:
    """Have the workers that the options ask for inside the block, if any.

    Raises:
        WorkerError: If there cannot be such workers.
    """
    if not options.workers:
        yield
        return
    workers = Workers(
        options.workers,
        cpus=threads_of(options),
        gpus=options.worker_gpus,
        address=options.ray_address,
        deadline=options.worker_deadline,
    )
    if options.workers > options.shards:
        console.print(
            f"{options.workers} workers, but {options.shards} shards: the others have nothing to "
            f"do; for a new run say --shards {options.workers}"
        )
    threads = options.workers * (options.worker_cpus or 1)
    if not options.ray_address and threads > (cores := resources.cores().threads):
        console.print(
            f"{options.workers} workers with {options.worker_cpus} threads each share {cores} "
            "processors; --worker-cpus 1 is quicker, but the last digit of sums depends on it"
        )
    with console.status(f"starting {options.workers} workers"):
        engine = population.engine = start_workers(population, workers, console.print)
    try:
        yield
    finally:
        engine.pool.close()


def show_workers(population: LoraPopulation, console: Console) -> dict[str, Any]:
    """Say what the workers did; nothing without workers."""
    engine = population.engine
    if not isinstance(engine, WorkersEngine):
        return {}
    pool, shards = engine.pool, engine.shards
    console.print(
        f"{engine.stats.words}; {shards} shards; lost {pool.lost}, done again {pool.redone}"
    )
    counts = [asdict(count) for count in pool.counts]
    return {"shards": shards, "lost": pool.lost, "redone": pool.redone, "each": counts}
