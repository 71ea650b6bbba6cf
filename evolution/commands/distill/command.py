"""``populora distill``: one adapter trained on what a whole population got right.

The replies are a run's own attempts that were graded correct, on its training problems, or fresh
ones. The adapter starts from the population's merge, or from the bare base, and is then measured on
the run's held-out problems beside everything it is to replace.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from agents.learning.learners import LearnerConfig, PolicyGradient, Sample
from agents.loading.linear import DTYPE_NAMES, MatmulPrecision
from agents.loading.models import BaseModel, load_base
from agents.peft_io import read_adapter
from agents.plain_files import write_whole
from agents.population import LoraPopulation
from evolution.commands.distill.measure import DISTILLED, MERGED, figures, measure, table
from evolution.commands.distill.replies import Verified, choose, from_transcripts, sampled
from evolution.commands.export.command import new_folder
from evolution.commands.participants import load_participants
from evolution.commands.progress import Bars
from evolution.commands.usage import Interrupts, parse
from evolution.config import RunConfig
from evolution.errors import UsageError
from evolution.lowrank.merging import Merge, merge
from evolution.operators import mutation_weights as mutation
from evolution.run_problems import held_out_problems
from evolution.runs.saved_run import SavedRun, read_run
from evolution.terminal import PlainConsole
from populora_env.grading import Grader
from populora_env.keys import generator
from populora_env.problems import load_problems
from populora_env.problems.files.columns import prompt_key
from populora_env.proposals.source import SelfPlaySource
from populora_env.records import Problem
from populora_env.settings import OneOf, Range

SAMPLING_TEMPERATURE = 0.8  # of fresh replies, where the run itself decoded greedily


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Train one adapter on a run's verified replies: populora distill RUN --out DIR."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    out: str
    """Folder for the adapter and distill.json; must not exist yet."""
    start: Literal["merge", "base"] = "merge"
    """What training starts from: the equal merge of all agents, or the bare base."""
    sample: Annotated[int, Range(0)] = 0
    """Fresh replies of each agent to each training problem, instead of the run's transcripts."""
    sample_problems: Annotated[int, Range(1)] = 64
    """Training problems for fresh replies."""
    per_problem: Annotated[int, Range(1)] = 4
    """Most different replies to one problem that are learned from."""
    epochs: Annotated[int, Range(1)] = 3
    """How often all replies are gone through."""
    batch: Annotated[int, Range(1)] = 32
    """Replies in one gradient step."""
    learning_rate: Annotated[float, Range(0, above=True)] = 3e-4
    """AdamW step size."""
    rank: Annotated[int, Range(0)] = 0
    """Rank of the adapter; 0 for the largest of the agents'."""
    model: str = "embedded"
    """Base model; by default the run's."""
    dtype: Annotated[str, OneOf(DTYPE_NAMES)] = "float32"
    """float32, bfloat16 or float16; by default the run's."""
    products: MatmulPrecision = MatmulPrecision.FLOAT32
    """Precision of a float32 base's products on a CPU; by default the run's."""
    load_in_4bit: bool = False
    """Whether the base's linear layers are kept in 4 bits; by default as in the run."""
    device: str = "auto"
    """Torch device; by default the run's."""
    max_rows: Annotated[int, Range(1)] = 64
    """Rows decoded at once; by default the run's."""
    seed: Annotated[int, Range(0)] = 0
    """Seed of sampling and order; by default the run's."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options, run = _read_options(arguments)
    console = PlainConsole()
    best = run.best_agent
    config = run.config
    held_out = held_out_problems(config)
    base = load_base(
        options.model,
        dtype=options.dtype,
        device=options.device,
        products=options.products,
        load_in_4bit=options.load_in_4bit,
    )
    out = Path(options.out).expanduser()
    with Interrupts() as interrupts, Grader() as grader:
        with new_folder(options.out) as work:
            adapters = [read_adapter(folder) for folder in run.solvers.values()]
            rank = options.rank or max(adapter.rank for adapter in adapters)
            equal = [1 / len(adapters)] * len(adapters)
            with Bars(console) as bars:
                merged = merge(adapters, equal, rank, bars.tell)
            merged.adapter.write(work / MERGED)
            replies = _replies(options, run, base, held_out, grader, console)
            used = choose(replies, options.per_problem, options.seed)
            if not used:
                raise UsageError(
                    "sample: none of the fresh replies is right; ask for more, or of more problems"
                    if options.sample
                    else "run: none of its replies is known to be right; try --sample 4, or a run "
                    "whose problems have known answers"
                )
            problems = len({reply.problem for reply in used})
            console.print(
                f"{len(replies)} verified replies; learning from {len(used)} different ones to "
                f"{problems} problems"
            )
            steps = train(base, merged, used, work, options, config, interrupts, console)
            record = {
                "run": str(run.path),
                "generation": run.generation,
                "start": options.start,
                "source": "sampled" if options.sample else "transcripts",
                "verified": len(replies),
                "used": len(used),
                "problems": problems,
                "steps": steps,
                "epochs": options.epochs,
                "learning_rate": options.learning_rate,
                "rank": rank,
                "merge": {
                    "relative_error": merged.relative_error,
                    "energy_kept": merged.energy_kept,
                },
                "held_out": None,
            }
            _write(work, record)
        console.print(f"Adapter: {options.out}")
        if held_out:
            folders = {**run.solvers, MERGED: out / MERGED, DISTILLED: out}
            try:
                right = measure(
                    base, folders, held_out, grader, console,
                    max_new_tokens=config.solve_tokens, max_rows=options.max_rows,
                    adapter_dtype=config.adapter_dtype,
                )  # fmt: skip
            except KeyboardInterrupt:
                console.print("\nInterrupted; the adapter is whole, but was not measured.")
                return 130
            console.print(table(right, best, len(adapters)))
            record["held_out"] = figures(right, best)
            _write(out, record)
    return 0


def _read_options(arguments: Sequence[str]) -> tuple[DistillOptions, SavedRun]:
    """Defaults, then what the run was made with, then flags."""
    prog = "populora distill"
    given = parse(DistillOptions, arguments, prog=prog)
    run = read_run(given.run)
    names = ("model", "dtype", "products", "load_in_4bit", "device", "max_rows", "seed")
    same = {name: getattr(run.config, name) for name in names}
    default = DistillOptions(run=given.run, out=given.out, **same)
    return parse(DistillOptions, arguments, default=default, prog=prog), run


def _replies(
    options: DistillOptions,
    run: SavedRun,
    base: BaseModel,
    held_out: Sequence[Problem],
    grader: Grader,
    console: Console,
) -> list[Verified]:
    if not options.sample:
        return from_transcripts(run, base, held_out)
    config = run.config
    source = load_problems(config.problems, split="train", seed=config.seed)
    forbidden = {prompt_key(problem.prompt) for problem in held_out}
    if isinstance(source, SelfPlaySource):  # its items are requests, which nobody can solve
        source.exclude(held_out)
        rng = generator("distill problems", options.seed)
        drawn = source.fresh(rng, options.sample_problems)
        source.close()
    else:
        drawn = source.distinct(options.sample_problems)
    problems = [problem for problem in drawn if prompt_key(problem.prompt) not in forbidden]
    population, _ = load_participants(
        base, run.solvers, max_rows=options.max_rows, adapter_dtype=config.adapter_dtype
    )
    try:
        with Bars(console) as bars:
            return sampled(
                population,
                population.agents,
                problems,
                grader,
                count=options.sample,
                max_new_tokens=config.solve_tokens,
                temperature=config.resolved(config.size).temperature or SAMPLING_TEMPERATURE,
                seed=options.seed,
                progress=bars.tell,
            )
    finally:
        population.lora.detach()


def train(
    base: BaseModel,
    merged: Merge,
    replies: Sequence[Verified],
    folder: Path,
    options: DistillOptions,
    config: RunConfig,
    interrupts: Interrupts,
    console: Console,
) -> int:
    """Train an adapter on replies and write it.

    Args:
        base: The frozen base.
        merged: What to start from, written to ``folder/merged``; for the base, its shapes.
        replies: What to learn.
        folder: Where the adapter goes.
        options: Start, epochs, batch and step size.
        config: The run's: what its adapters are kept in, and how it fits into memory.
        interrupts: Asked before each step.
        console: For the progress bar.

    Returns:
        Number of gradient steps.
    """
    targets = tuple(sorted(merged.adapter.factors))
    population = LoraPopulation(
        base, 1, merged.adapter.rank, targets=targets, adapter_dtype=config.adapter_dtype
    )
    try:
        if config.gradient_checkpointing:
            population.lora.gradient_checkpointing()
        if options.start == "merge":
            population.load_adapter("agent_0", folder / MERGED)
        else:  # random rows, and an update of zero
            mutation.spread(population.lora, 0.0, options.seed)
        learner = PolicyGradient(
            base,
            population.lora,
            LearnerConfig(
                learning_rate=options.learning_rate, tokens_per_batch=config.tokens_per_batch
            ),
        )
        samples = [Sample(0, reply.prompt_ids, reply.reply_ids, 1.0) for reply in replies]
        steps, total = 0, options.epochs * math.ceil(len(samples) / options.batch)
        with Bars(console) as bars:
            for epoch in range(options.epochs):
                order = generator("distill order", options.seed, epoch).permutation(len(samples))
                for start in range(0, len(samples), options.batch):
                    interrupts.check()
                    part = order[start : start + options.batch].tolist()
                    learner.step([samples[i] for i in part])
                    steps += 1
                    bars.tell("learning", steps / total)
        population.save_adapter("agent_0", folder)
    finally:
        population.lora.detach()
    return steps


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    write_whole(folder / "distill.json", json.dumps(record, indent=1) + "\n")
