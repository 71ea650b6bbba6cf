"""Children of every crossover and mutation before they learn anything, beside their parents.

Parents are agents that learned apart, on the embedded model. Each figure is a mean ± its standard
error over seeds. What no study can say: `examples/studies/ablation.toml` compares whole runs.

Without arguments it is a smoke test of a minute, whose figures mean nothing; `--full --json FILE`
is the experiment. Finished seeds are in FILE, so the same command goes on where it was cut off.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agents import LoraPopulation
from agents.loading.models import BaseModel, load_base
from agents.measuring.evaluate import evaluate
from evolution import EvolutionConfig, EvolutionManager
from evolution.lowrank.genomes import Genome, read_genome, write_genome
from evolution.lowrank.sums import inner_products
from evolution.operators.crossover import CROSSOVERS, CrossoverStep
from evolution.operators.mutation_weights import MUTATIONS, Offspring, mutate
from populora_env import Grader, load_problems
from populora_env.records import Problem

PROBLEMS = "procedural:chain_sum(max_terms=2,max_digits=1)+products(max_digits=1)"
NAN = float("nan")
Figures = dict[str, dict[str, float]]  # of every operator


@dataclass(frozen=True)
class Scale:
    """How large the experiment is."""

    seeds: int = 1
    generations: int = 1  # of learning apart
    size: int = 4
    problems: int = 4  # in a generation
    common: int = 2  # problems that children and parents are compared on


FULL = Scale(seeds=3, generations=15, size=6, problems=16, common=24)


def learn_apart(base: BaseModel, scale: Scale, seed: int) -> Figures:
    """Let agents learn apart, and compare children with them."""
    population = LoraPopulation(base, size=scale.size, rank=8, max_rows=96)
    config = EvolutionConfig(
        seed=seed,
        offspring=0,
        elites=1,
        problems_per_generation=scale.problems,
        judged_problems=0,
        confirm_problems=0,
        evaluation="none",
    )
    train = load_problems(PROBLEMS, split="train", seed=seed)
    common = load_problems(PROBLEMS, split="train", seed=1000 + seed).distinct(scale.common)
    try:
        with Grader() as grader:
            manager = EvolutionManager(population, train, config, grader=grader)
            manager.run(scale.generations)
            manager.confirm()
            found = operators(manager, common, grader)
            manager.close()
    finally:
        population.lora.detach()
    return found


def operators(manager: EvolutionManager, problems: Sequence[Problem], grader: Grader) -> Figures:
    """Children of every crossover and mutation beside their parents, on the same problems.

    Neighbours are paired, the better one being that of higher standing in the run; each pair has
    one child, which takes a slot until it is measured. Mutations have one of a pair as parent.
    """
    population, config = manager.population, manager.config
    lora = population.lora

    def accuracies(agents: Sequence[str]) -> np.ndarray:
        found = evaluate(
            population.greedy(),
            problems,
            agents=agents,
            grader=grader,
            max_new_tokens=config.solve_tokens,
        )
        population.forget()
        return np.array([found.scores[agent].accuracy for agent in agents])

    before = [read_genome(lora, slot) for slot in range(lora.size)]
    marks = accuracies(population.agents)
    pairs = np.arange(lora.size // 2 * 2).reshape(-1, 2)
    score = manager.standing[pairs]
    ranked = np.take_along_axis(pairs, np.argsort(-score, axis=1, kind="stable"), axis=1)
    slots = pairs[:, 0]
    key = ("ablation", config.seed)

    def cross(name: str) -> list[float]:
        score, spread = manager.standing[ranked], float(manager.standing.std())
        notes = CROSSOVERS[name](lora, CrossoverStep(slots, ranked, score, spread, key))
        return [note.get("recompression_error", NAN) for note in notes]

    def change(name: str) -> list[float]:
        mutate(lora, [MUTATIONS.read(name)], [Offspring(int(slot)) for slot in slots], *key)
        return [NAN] * len(slots)

    def compare(
        make: Callable[[str], list[float]], name: str, parents: np.ndarray
    ) -> dict[str, float]:
        errors = make(name)
        children = accuracies([population.agents[slot] for slot in slots])
        figures = [
            likeness(read_genome(lora, slot), [before[p] for p in own])
            for slot, own in zip(slots.tolist(), parents.tolist(), strict=True)
        ]
        for slot in slots.tolist():
            write_genome(lora, slot, before[slot])
        return {
            "minus_best": float((children - marks[parents[:, 0]]).mean()),
            "minus_mean": float((children - marks[parents].mean(axis=1)).mean()),
            "recompression_error": float(np.mean(errors)),
            "cosine": float(np.mean([cosine for cosine, _ in figures])),
            "norm_ratio": float(np.mean([ratio for _, ratio in figures])),
        }

    made = {f"crossover {name}": compare(cross, name, ranked) for name in CROSSOVERS}
    return made | {f"mutation {name}": compare(change, name, pairs[:, :1]) for name in MUTATIONS}


def likeness(child: Genome, parents: Sequence[Genome]) -> tuple[float, float]:
    """Cosine of a child's update and its parents' mean, and the ratio of their norms."""
    products = inner_products([child, *parents]).sum(0)
    own, mean, shared = products[0, 0], products[1:, 1:].mean(), products[0, 1:].mean()
    if not mean:
        return 0.0, float("inf")
    return shared / (own * mean) ** 0.5 if own else 0.0, (own / mean) ** 0.5


def mean_and_error(values: Sequence[float], form: str = ".3f") -> str:
    """Mean ± standard error of what is known; a single value, or equal ones, have no error."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return ""
    if len(known) == 1:
        return f"{known[0]:{form}}"
    error = known.std(ddof=1) / len(known) ** 0.5
    shown = f"{error:.3f}"
    return f"{known.mean():{form}}" + (f" ± {shown}" if float(shown) else "")


def show(seeds: Sequence[Figures], console: Console) -> None:
    """Print the table."""
    over = f"{len(seeds)} seed" + "s" * (len(seeds) > 1)
    table = Table(title=f"Children before they learn, beside their parents ({over})")
    for i, name in enumerate(
        ("crossover", "- best", "- mean", "lost by rank", "cosine to mean", "norm / mean's")
    ):
        table.add_column(name, justify="right" if i else "left", no_wrap=not i)
    for operator in seeds[0]:
        if operator == f"mutation {next(iter(MUTATIONS))}":
            table.add_section()
            table.add_row("[b]mutation[/b]")
        own = [figures[operator] for figures in seeds]
        table.add_row(
            operator.partition(" ")[2],
            *(mean_and_error([o[f] for o in own], "+.3f") for f in ("minus_best", "minus_mean")),
            *(mean_and_error([o[f] for o in own])
              for f in ("recompression_error", "cosine", "norm_ratio")),
        )  # fmt: skip
    console.print(table)


def finished(file: Path | None, scale: Scale) -> list[Figures]:
    """Seeds that a file of the same experiment holds, from 0 on."""
    if file is None or not file.exists():
        return []
    try:
        saved = json.loads(file.read_text())
    except ValueError as error:
        sys.exit(f"json: {file} cannot be read ({error}); choose another file")
    if saved["scale"] | {"seeds": scale.seeds} != asdict(scale):
        sys.exit(f"json: {file} is of another experiment ({saved['scale']}); choose another file")
    return saved["seeds"]


def save(file: Path, scale: Scale, seeds: Sequence[Figures]) -> None:
    aside = file.with_name(file.name + ".part")
    aside.write_text(json.dumps({"scale": asdict(scale), "seeds": seeds}, indent=1) + "\n")
    os.replace(aside, file)


def arguments() -> tuple[Scale, Path | None]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help=f"the experiment: {FULL}")
    parser.add_argument("--json", type=Path, help="where results are kept, and read on a rerun")
    for name in asdict(FULL):
        parser.add_argument(f"--{name}", type=int)
    given = vars(parser.parse_args())
    file, full = given.pop("json"), given.pop("full")
    chosen = {name: value for name, value in given.items() if value is not None}
    if low := [n for n, v in chosen.items() if v < (2 if n == "size" else 1)]:
        parser.error(f"--{low[0]}: got {chosen[low[0]]}, expected more")
    return replace(FULL if full else Scale(), **chosen), file


def main() -> None:
    """Play the seeds that are not finished, and print the table."""
    scale, file = arguments()
    seeds = finished(file, scale)[: scale.seeds]
    base = load_base("embedded", products="auto")
    for seed in range(len(seeds), scale.seeds):
        seeds.append(learn_apart(base, scale, seed))
        if file is not None:
            save(file, scale, seeds)
    show(seeds, Console(highlight=False))


if __name__ == "__main__":
    main()
