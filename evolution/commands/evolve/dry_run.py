"""``populora evolve --dry-run``: what a run is going to take, before anything is spent.

All settings are read and checked as for the run itself, and a few seconds of it are played; nothing
is written.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path

from agents.engine.jobs import Engine
from agents.engine.kv_cache import free_memory
from agents.loading.models import BaseModel
from agents.machine.resources import resident
from agents.population import LoraPopulation
from evolution.commands.evolve.engine import connected, load
from evolution.commands.evolve.forecast_table import Outlook, show_forecast
from evolution.commands.evolve.options import EvolveOptions, new_folder
from evolution.commands.evolve.workers import with_workers
from evolution.commands.extras import lacks
from evolution.config import Learner, RunConfig
from evolution.learning import make_learner
from evolution.manager import EvolutionManager
from evolution.planning.demand import demand_of
from evolution.planning.disk import plan_disk
from evolution.planning.forecast import forecast
from evolution.planning.memory import MemoryPlan, learns_by_tree, plan_memory
from evolution.planning.probe import Probe, probe
from evolution.planning.shapes import BaseShapes
from evolution.run_problems import check_fit, held_out_problems, reply_limits
from evolution.runs.branching import check_branch, split_branch
from evolution.runs.files import (
    folder_of,
    refuse_foreign,
    refuse_inside,
    refuse_taken,
    saved_generations,
)
from evolution.terminal import PlainConsole
from populora_env.grading import Grader
from populora_env.problems import load_problems
from populora_env.reading.forms import FORMS
from populora_env.records import Phase

SECONDS = 5.0


def dry_run(
    options: EvolveOptions, newborn: Callable[[BaseModel, RunConfig, Engine | None], LoraPopulation]
) -> int:
    """Say what the run would take.

    Args:
        options: Of the run.
        newborn: Makes its population.

    Raises:
        PopuloraError: Where the run would.
    """
    console = PlainConsole()
    started, process = time.monotonic(), resident()
    train = load_problems(options.problems, split="train", seed=options.seed)
    held_out = held_out_problems(options)
    saved, last = _origin(options)
    console.print("Loading the base and playing for a few seconds; nothing is written ...")
    base = load(options)
    settings = options.resolved(options.size)
    config = replace(options, **asdict(settings))
    if options.learner is not Learner.NONE:  # which the probe has, and what goes with one
        without = {"exchange": RunConfig.exchange, "learn_from": RunConfig.learn_from}
        config = replace(config, learner=Learner.NONE, **without)
    place = saved or Path(options.out or new_folder())
    with ExitStack() as stack:
        grader = stack.enter_context(Grader())
        population = newborn(base, options, stack.enter_context(connected(options, base, place)))
        stack.enter_context(with_workers(population, options, console))
        shapes = BaseShapes.of(base.model.config, options.targets)
        population.check_saving()
        if saved is not None:
            population.load_adapters(folder_of(saved, last) / "adapters")
        manager = EvolutionManager(population, train, config, grader=grader, exclude=held_out)
        for problems in (train, held_out):
            check_fit(base, problems, options.solve_tokens, population.context)
        learner = make_learner(population, options, settings)
        loading = time.monotonic() - started
        episodes = len(manager.ask().problems)
        seen = probe(manager, options, learner, grader, SECONDS)
        manager.close()
    first = last + 1
    told = forecast(options, seen, problems=episodes, first=first, held_out=len(held_out))
    on_gpu = base.device.type == "cuda"
    by_tree = learns_by_tree(shapes, options.dtype, on_gpu=on_gpu)
    # A worker has a shard at a time, the replies of a part of the problems.
    parts = options.shards if options.workers else 1
    share = ceil(max(episodes, options.judged_problems) / parts)
    judged = min(options.judged_problems, share)
    demand = demand_of(
        replace(options, problems_per_generation=share, judged_problems=judged),
        _longest(options, seen),
        on_gpu=on_gpu,
        shared=seen.shared,
        by_tree=by_tree,
        useful=min(1.0, 1.6 * seen.useful) or 0.5,
        filled=_filled(options, seen),
    )
    memory = plan_memory(shapes, demand, process)
    if options.engine != "local":  # a server decodes, and its memory is its own
        memory = _elsewhere(memory, weights=not base.is_skeleton)
    disk = plan_disk(shapes, options, told.transcripts, first, reports=not lacks("report"))
    run = Outlook(
        options=options, told=told, seen=seen, memory=memory, disk=disk, first=first,
        loading=loading, room=_room(base, options), on_gpu=on_gpu, context=population.context,
    )  # fmt: skip
    show_forecast(console, run, time.monotonic() - started)
    return 0


def _elsewhere(memory: MemoryPlan, *, weights: bool) -> MemoryPlan:
    """What is left of a plan where a server decodes.

    Args:
        memory: The plan.
        weights: Whether the base's weights are here all the same, to learn with.
    """
    kept = {phase: own for phase, own in memory.phases.items() if phase != "decoding"}
    if not weights:
        kept.pop("loading")
    always = {name: held for name, held in memory.always.items() if weights or name != "base"}
    return MemoryPlan({**always, "base": always.get("base", 0)}, kept)


def _origin(options: EvolveOptions) -> tuple[Path | None, int]:
    """The run to go on from and its last generation; None and -1 for a new run.

    Raises:
        CheckpointError: If a new run could not begin in its folder.
    """
    if options.branch:
        path, generation = split_branch(options.branch)
        check_branch(path, generation, Path(options.out))
        return Path(path), generation
    if options.resume:
        numbers = saved_generations(Path(options.resume))
        return (Path(options.resume), numbers[-1]) if numbers else (None, -1)
    if options.out:
        refuse_inside(Path(options.out))
        refuse_taken(Path(options.out))
        refuse_foreign(Path(options.out))
    return None, -1


def _longest(options: RunConfig, seen: Probe) -> dict[Phase, int]:
    """Tokens of the longest prompt of each phase, attempts in it as long as they may be."""
    limits = reply_limits(options)
    solve = max((asked.longest for asked in seen.phases.values()), default=1)
    found: dict[Phase, int] = {}
    for phase in limits:
        if (asked := seen.phases.get(phase)) is None:
            found[phase] = solve
            continue
        quoted = FORMS[phase].attempts if phase in FORMS else int(phase is Phase.REVISE)
        cut = limits[Phase.SOLVE] * (1 - 1 / seen.cut)
        found[phase] = asked.longest + int(quoted * cut)
    return found


def _filled(options: RunConfig, seen: Probe) -> float:
    """Share of their limit that replies may be long: half as much again as those that were seen."""
    asked = seen.phases.get(Phase.SOLVE)
    if asked is None or seen.cut > 1:
        return 1.0
    return min(1.0, 1.5 * asked.written / (asked.replies * options.solve_tokens))


def _room(base: BaseModel, options: EvolveOptions) -> int | None:
    """Bytes that whoever has the base could hold where it is; None if it cannot be told."""
    if options.workers and (options.ray_address or options.worker_gpus):
        return None  # elsewhere
    free = free_memory(base.device)
    if free is None:
        return None
    if options.workers:
        return free // options.workers
    if base.device.type == "cuda":
        import torch

        return free + torch.cuda.memory_allocated(base.device)
    return free + resident()
