"""``populora report --ablate-blocks``: what an agent loses without its adapter in some layers.

The base is loaded, copies of an agent's adapter are put side by side on it, each with one block of
layers set to zero, and all answer the same problems in one batch. Problems are of the run's
training split, and none is one that the run is measured with.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from rich.console import Console

from agents.loading.linear import resolve
from agents.loading.models import BaseModel, load_base
from agents.measuring.evaluate import evaluate
from agents.plain_files import write_whole
from agents.population import BASE, LoraPopulation
from evolution.commands.participants import adapter_hash
from evolution.commands.progress import Bars
from evolution.commands.usage import writing_to
from evolution.config import RunConfig
from evolution.errors import UsageError
from evolution.lowrank.anatomy import block_of, weight_norms
from evolution.reporting.anatomy.ablation import (
    AblatedAgent,
    Ablation,
    ablation_file,
    ablation_text,
    read_ablation,
)
from evolution.run_problems import RunProblems, held_out_problems
from evolution.runs.saved_run import SavedRun
from populora_env.grading import Grader
from populora_env.problems import load_problems
from populora_env.records import Problem

ALL, BEST = "all", "best"


def ablate(
    run: SavedRun, blocks: int, problems: int, agents: Sequence[str], console: Console
) -> Ablation:
    """Measure what switching off blocks of layers costs, and keep it in the run's folder.

    What is kept there of the same adapters, blocks and problems is not measured again.

    Args:
        run: A checked run; see `evolution.runs.saved_run.read_run`.
        blocks: How many blocks the layers are cut into, of as equal a number as can be.
        problems: How many problems; fewer if the training split has no more.
        agents: Names, or ``best`` or ``all`` of those who solve.
        console: Where progress is shown.

    Raises:
        UsageError: If there are no such agents, not as many layers, no problems, or the file
            cannot be written.
    """
    chosen = _chosen(run, agents)
    known = read_ablation(run, run.generation)
    asked = _problems(run.config, run.generation, problems)
    kept: dict[str, AblatedAgent] = {}
    if known is not None and known.problems == len(asked) and len(known.blocks) == blocks:
        hashes = {name: adapter_hash(folder) for name, folder in run.adapters.items()}
        kept = {n: own for n, own in known.agents.items() if own.adapter == hashes.get(n)}
    missing = [name for name in chosen if name not in kept]
    if known is not None and kept and not missing:
        return known
    config, file = run.config, ablation_file(run.path, run.generation)
    with writing_to("run", file, "another copy of the run"):
        file.parent.mkdir(exist_ok=True)
    base = load_base(
        config.model,
        dtype=config.dtype,
        device=config.device,
        products=resolve(config.products, dtype=config.dtype, device=config.device),
        load_in_4bit=config.load_in_4bit,
    )
    found: Ablation | None = known if kept else None
    with Grader() as grader:
        for name in missing:
            one = _measure(run, base, name, blocks, asked, grader, console, found)
            both = {**(found.agents if found else {}), **one.agents}
            found = Ablation(run.generation, one.blocks, one.base, both, one.weight_norms)
    assert found is not None
    with writing_to("run", file, "another copy of the run"):
        write_whole(file, ablation_text(found))
    return found


def _chosen(run: SavedRun, agents: Sequence[str]) -> list[str]:
    """The agents that words mean, in the run's order."""
    solvers = list(run.solvers)
    if tuple(agents) == (BEST,):
        return [run.best_agent]
    if tuple(agents) == (ALL,):
        return solvers
    if not agents or not set(agents) <= set(solvers):
        raise UsageError(
            f"ablate_agents: got {', '.join(agents) or 'none'}, expected {ALL}, {BEST}, or some of "
            f"those who solve: {', '.join(solvers)}"
        )
    return [name for name in solvers if name in agents]


def _problems(config: RunConfig, generation: int, count: int) -> list[Problem]:
    """Problems of the training split with known answers; never held-out ones."""
    train = load_problems(config.problems, split="train", seed=config.seed)
    drawn = RunProblems(train, config.seed, held_out_problems(config))
    asked = drawn.with_answers(generation, count, "ablation")
    if not asked:
        raise UsageError(
            f"ablate_problems: {config.problems:.60} has no training problems with known answers; "
            "nothing can be measured"
        )
    return asked


def cut(layers: Sequence[str], blocks: int) -> list[list[int]]:
    """Numbers of the base's layers that carry adapters, in contiguous blocks.

    Raises:
        UsageError: If there are fewer layers than blocks.
    """
    numbers = sorted({block_of(name) for name in layers} - {-1})
    if len(numbers) < blocks:
        raise UsageError(
            f"ablate_blocks: got {blocks}, expected at most {len(numbers)}, the layers of the base "
            "that carry adapters"
        )
    ends = np.linspace(0, len(numbers), blocks + 1).round().astype(int)
    return [numbers[low:high] for low, high in pairwise(ends)]


def _measure(
    run: SavedRun,
    base: BaseModel,
    agent: str,
    blocks: int,
    problems: Sequence[Problem],
    grader: Grader,
    console: Console,
    before: Ablation | None,
) -> Ablation:
    """Measure one agent; the bare base only if nothing is known of it."""
    folder = run.adapters[agent]
    population = LoraPopulation.from_adapters(
        base, [folder] * (blocks + 1), max_rows=run.config.max_rows
    )
    try:
        layers = list(population.lora.layers())
        parts = cut([layer.name for layer in layers], blocks)
        for layer in layers:
            for place, part in enumerate(parts, 1):
                if block_of(layer.name) in part:
                    layer.B[place] = 0.0
        asked = population.agents if before else (BASE, *population.agents)
        with Bars(console, population.stats) as bars:
            result = evaluate(
                population.greedy(),
                problems,
                agents=asked,
                grader=grader,
                max_new_tokens=run.config.solve_tokens,
                progress=bars.tell,
            )
        norms = weight_norms(base.model, [layer.name for layer in layers])
    finally:
        population.forget()
        population.lora.detach()
    marks = {
        name: tuple(bool(grade.correct) for grade in score.grades)
        for name, score in result.scores.items()
    }
    whole, *without = (marks[name] for name in population.agents)
    own = AblatedAgent(adapter_hash(folder), whole, tuple(without))
    ends = tuple((part[0], part[-1]) for part in parts)
    bare = before.base if before else marks[BASE]
    return Ablation(run.generation, ends, bare, {agent: own}, norms)
