"""The base and the engine of a run, as its settings ask for them."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from agents.engine.jobs import Engine
from agents.loading.models import BaseModel, load_base
from agents.loading.skeleton import load_skeleton
from agents.named_adapters import HeldAdapters
from agents.population import LoraPopulation
from agents.vllm.engine import VllmEngine
from agents.workers.engine import AwaitedEngine, WorkersEngine
from evolution.commands.evolve.options import EvolveOptions
from evolution.commands.evolve.workers import skeleton_for_workers
from evolution.config import Learner, RunConfig


def load(options: EvolveOptions) -> BaseModel:
    """The base; without its weights where workers have them, or a server and nobody learns."""
    if options.workers:
        return skeleton_for_workers(options)
    if options.engine == "vllm" and options.learner == Learner.NONE:
        return load_skeleton(options.model, dtype=options.dtype, load_in_4bit=options.load_in_4bit)
    return load_base(
        options.model,
        dtype=options.dtype,
        device=options.device,
        products=options.products,
        load_in_4bit=options.load_in_4bit,
    )


@contextmanager
def connected(
    options: EvolveOptions, base: BaseModel, run: Path
) -> Generator[Engine | None, None, None]:
    """The engine that the settings ask for; None for the base's own in this process.

    Args:
        options: Settings of the run.
        base: Its base.
        run: Its folder, whose adapters on a server are the run's.

    Raises:
        EngineError: If the server will not do.
    """
    if options.engine != "vllm":
        yield AwaitedEngine(options.max_rows) if options.workers else None
        return
    with VllmEngine(
        base,
        options.server,
        options.adapter_folder,
        model=options.served_model or None,
        owner=str(run.resolve()),
        timeout=options.server_timeout,
        max_rows=options.max_rows,
        max_loaded=options.server_adapters,
    ) as engine:
        yield engine


def introduce(population: LoraPopulation, options: RunConfig, console: Console) -> None:
    """Say what the base and the engine are, and have a server load an adapter to see that it does.

    Raises:
        EngineError: If it does not.
    """
    base, engine = population.base, population.engine
    where = f"products in {base.precision}"
    if isinstance(engine, WorkersEngine):
        where = f"products in {engine.pool.precision} by {len(engine.pool.counts)} workers"
    elif base.is_skeleton:
        where = "weights on the server"
    console.print(f"base model {options.model}, {where}, problems {options.problems}")
    if isinstance(engine, VllmEngine):
        console.print(f"engine: {engine}")
        names = {name: population.agents[i] for i, name in population.lora.hashes([0]).items()}
        engine.check(HeldAdapters(population, names))


def computed_by(population: LoraPopulation) -> str:
    """In what precision a population's replies are computed, or by what server."""
    engine = population.engine
    if isinstance(engine, WorkersEngine):
        return engine.pool.precision
    return f"vLLM {engine.version}" if isinstance(engine, VllmEngine) else population.base.precision
