"""What the diversity bonus, evolution and each operator are worth, on the embedded model.

Three tables, each figure a mean ± its standard error over seeds:

1. Diversity bonus: evolution alone with several weights of the bonus. The Vendi score is that of
   the cosines of replies' mean hidden states, averaged over problems; the distance is 1 - cosine.
2. Equal compute: evolution alone, random search (individuals are drawn from scratch, nothing is
   inherited, the best are kept as evolution keeps them), learners that do not breed (they share
   problems, whose mean reward is the baseline, and nothing else), and evolution with learning. All
   may give the same number of replies, those of trials included; what learning costs besides shows
   in the seconds.
3. Operators: children before they learn anything, beside their parents: agents that learned apart.

Without arguments it is a smoke test of a minute, whose figures mean nothing; `--full --json FILE`
is the experiment. Finished runs are in FILE, so the same command goes on where it was cut off.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agents import LoraPopulation
from agents.loading.models import BaseModel, load_base
from agents.measuring.evaluate import evaluate
from agents.population import BASE
from evolution import EvolutionConfig, EvolutionManager
from evolution.fitness.diversity import vendi
from evolution.individuals.reevaluation import hosting
from evolution.lowrank.genomes import Genome, read_genome, write_genome
from evolution.operators.crossover import CROSSOVERS, CrossoverStep
from evolution.operators.mutation_weights import MUTATIONS, Offspring, mutate
from populora_env import Grader, load_problems
from populora_env.reading.reply_ids import reply_id
from populora_env.records import Phase, Problem

PROBLEMS = "procedural:chain_sum(max_terms=2,max_digits=1)+products(max_digits=1)"
EVOLUTION, RANDOM = "evolution alone", "random search"
APART, BOTH = "learners apart", "evolution + learning"
NAN = float("nan")


@dataclass(frozen=True)
class Scale:
    """How large the experiment is."""

    seeds: int = 1
    generations: int = 2  # what a run may reply: so often every agent to every problem
    size: int = 3
    problems: int = 4  # in a generation
    held_out: int = 4
    common: int = 2  # problems that children and parents are compared on
    weights: tuple[float, ...] = (0.0, EvolutionConfig.diversity_weight, 10.0)


FULL = Scale(seeds=3, generations=15, size=6, problems=16, held_out=64, common=24)


@CROSSOVERS.add("from_scratch")
def from_scratch(lora, step: CrossoverStep, *, strength: float = EvolutionConfig.spread):
    """Nothing from the parents: random factors, as those of the first population."""
    for i, slot in enumerate(step.slots.tolist()):
        rng = step.generator(i)
        for layer in lora.layers():
            for factor, deviation in (
                (layer.A[slot], layer.A.shape[2] ** -0.5),
                (layer.B[slot], strength * lora.rank**-0.5),
            ):
                drawn = rng.standard_normal(tuple(factor.shape), dtype=np.float32)
                factor.copy_(torch.from_numpy(drawn * np.float32(deviation)))
    return [{} for _ in step.slots]


class CountedPopulation(LoraPopulation):
    """A population that counts its replies."""

    replies = 0

    def generate(self, requests, **how):
        """Answer all requests."""
        self.replies += len(requests)
        return super().generate(requests, **how)


def settings(scale: Scale, seed: int) -> dict[str, EvolutionConfig]:
    """The runs of one seed, by name."""
    alone = EvolutionConfig(
        seed=seed,
        learner="none",
        problems_per_generation=scale.problems,
        judged_problems=0,
        confirm_problems=min(EvolutionConfig.confirm_problems, scale.problems),
        evaluation="none",
        elites=min(2, scale.size - 1),
    )
    learning = replace(alone, learner="policy-gradient")
    runs = {bonus_run(w): replace(alone, diversity_weight=w) for w in scale.weights}
    return {
        **runs,
        EVOLUTION: alone,
        RANDOM: replace(alone, crossover="from_scratch", mutations="none"),
        APART: replace(learning, offspring=0),
        BOTH: learning,
    }


def bonus_run(weight: float) -> str:
    """Name of the run with a weight of the bonus."""
    return EVOLUTION if weight == EvolutionConfig.diversity_weight else f"weight {weight:g}"


def similarity(features: np.ndarray) -> np.ndarray:
    """Cosine of features ``[problems, N, width]``, mean over problems, ``[N, N]``.

    Problems to which somebody gave no reply are left out; NaN if none is left.
    """
    whole = features[np.isfinite(features).all(axis=(1, 2))]
    if not len(whole):
        return np.full((features.shape[1],) * 2, NAN)
    unit = whole / np.linalg.norm(whole, axis=2, keepdims=True)
    return (unit @ unit.transpose(0, 2, 1)).mean(axis=0)


def features(population: LoraPopulation, rows: Sequence[Iterable[str]]) -> np.ndarray:
    """Features of replies by their ids ``[problems][N]``, ``[problems, N, width]``."""
    found: list[list[np.ndarray]] = []
    width = population.base.model.get_input_embeddings().weight.shape[1]
    for row in rows:
        known = [population.recall(known_as) for known_as in row]
        found.append(
            [
                np.full(width, NAN)
                if k is None or len(k.reply_ids) < 2
                else k.features["hidden_states"].numpy()
                for k in known
            ]
        )
    return np.array(found, dtype=float)


def run(
    base: BaseModel, scale: Scale, config: EvolutionConfig, held_out: Sequence[Problem]
) -> dict[str, Any]:
    """Play one run for as long as its replies last, and measure what came of it."""
    begin = time.perf_counter()
    population = CountedPopulation(base, size=scale.size, rank=8, max_rows=96)
    train = load_problems(PROBLEMS, split="train", seed=config.seed)
    budget = scale.generations * scale.size * scale.problems
    curve: list[float] = []
    try:
        with Grader() as grader:
            manager = EvolutionManager(population, train, config, grader=grader, exclude=held_out)
            while population.replies < budget:
                played = manager.play(manager.ask())
                rows = [
                    [turn.reply_id for turn in episode.turns if turn.phase is Phase.SOLVE]
                    for episode in played
                ]
                curve.append(float(vendi(similarity(features(population, rows))[None])[0]))
                manager.tell(played)
            manager.confirm()
            result = {
                "replies": population.replies,
                "generations": manager.generation,
                "individuals": len(manager.lineage),
                "seconds": round(time.perf_counter() - begin, 1),
                "vendi_by_generation": curve,
                **measure(manager, held_out, grader),
            }
            if config.offspring == 0:
                common = load_problems(PROBLEMS, split="train", seed=1000 + config.seed)
                result["operators"] = operators(manager, common.distinct(scale.common), grader)
            manager.close()
    finally:
        population.lora.detach()
    return result


def bare(base: BaseModel, held_out: Sequence[Problem]) -> dict[str, Any]:
    """Held-out accuracy of the base itself."""
    population = LoraPopulation(base, size=1, rank=1)
    try:
        with Grader() as grader:
            tokens = EvolutionConfig.solve_tokens
            return {"best": float(accuracies(population, [BASE], held_out, grader, tokens)[0])}
    finally:
        population.lora.detach()


def measure(
    manager: EvolutionManager, held_out: Sequence[Problem], grader: Grader
) -> dict[str, float]:
    """Held-out accuracy, Vendi score and mean distance of a population; the champion's accuracy."""
    population, tokens = manager.population, manager.config.solve_tokens
    population.forget()
    agents = evaluate(
        population.greedy(),
        held_out,
        agents=population.agents,
        grader=grader,
        max_new_tokens=tokens,
    )
    replies = [
        [reply_id(score.replies[i]) for score in agents.scores.values()]
        for i in range(len(held_out))
    ]
    kernel = similarity(features(population, replies))
    champion = manager.champion
    assert champion is not None  # a generation was played, and confirmed
    with hosting(population.lora, 0, champion.genome):
        best = accuracies(population, population.agents[:1], held_out, grader, tokens)
    return {
        "best": float(best[0]),
        "mean": agents.mean,
        "vote": agents.mean if agents.vote is None else agents.vote,
        "vendi": float(vendi(kernel[None])[0]),
        "distance": float(1 - kernel[~np.eye(len(kernel), dtype=bool)].mean()),
    }


def accuracies(
    population: LoraPopulation,
    agents: Sequence[str],
    problems: Sequence[Problem],
    grader: Grader,
    tokens: int,
) -> np.ndarray:
    """Greedy accuracy of some agents ``[agents]``."""
    found = evaluate(
        population.greedy(), problems, agents=agents, grader=grader, max_new_tokens=tokens
    )
    population.forget()
    return np.array([found.scores[agent].accuracy for agent in agents])


def operators(
    manager: EvolutionManager, problems: Sequence[Problem], grader: Grader
) -> dict[str, dict[str, float]]:
    """Children of every crossover and mutation beside their parents, on the same problems.

    Neighbours are paired, the better one being that of higher standing in the run; each pair has
    one child, which takes a slot until it is measured. Mutations have one of a pair as parent.
    """
    population, config = manager.population, manager.config
    lora, tokens = population.lora, config.solve_tokens
    before = [read_genome(lora, slot) for slot in range(lora.size)]
    marks = accuracies(population, population.agents, problems, grader, tokens)
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

    def compare(make: Callable[[str], list[float]], name: str, parents: np.ndarray):
        errors = make(name)
        agents = [population.agents[slot] for slot in slots]
        children = accuracies(population, agents, problems, grader, tokens)
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
    own = mean = shared = 0.0
    for layer in range(len(child.factors)):
        made, *given = (g.scale * (g.factors[layer][1] @ g.factors[layer][0]).double()
                        for g in (child, *parents))  # fmt: skip
        wanted = torch.stack(given).mean(0)
        own += float(made.square().sum())
        mean += float(wanted.square().sum())
        shared += float((made * wanted).sum())
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


def show(scale: Scale, cells: dict[str, dict[str, Any]], console: Console) -> None:
    """Print the three tables."""
    over = f"{scale.seeds} seed" + "s" * (scale.seeds > 1)

    def column(run: str, name: str) -> list[float]:
        return [cells[f"{run}, seed {seed}"][name] for seed in range(scale.seeds)]

    def table(title: str, *names: str) -> Table:
        made = Table(title=f"{title} ({over})")
        for i, name in enumerate(names):
            made.add_column(name, justify="right" if i else "left", no_wrap=not i)
        console.print()
        return made

    bonus = table("Diversity bonus, evolution alone, held-out problems",
                  "weight", "Vendi score", "vs. first", "distance", "mean", "best")  # fmt: skip
    start = column(bonus_run(scale.weights[0]), "vendi")
    for weight in scale.weights:
        run, own = bonus_run(weight), column(bonus_run(weight), "vendi")
        bonus.add_row(
            f"{weight:g}",
            mean_and_error(own),
            mean_and_error(np.subtract(own, start).tolist(), "+.3f"),
            *(mean_and_error(column(run, name)) for name in ("distance", "mean", "best")),
        )
    console.print(bonus)
    compute = table("Equal number of replies, accuracy on held-out problems",
                    "run", "best", "mean", "vote", "replies", "individuals", "s")  # fmt: skip
    base = mean_and_error(column(BASE, "best"))
    compute.add_row(BASE, base, "", "", "", "", "")
    for name in (EVOLUTION, RANDOM, APART, BOTH):
        compute.add_row(
            name,
            *(mean_and_error(column(name, figure)) for figure in ("best", "mean", "vote")),
            *(f"{np.mean(column(name, f)):.0f}" for f in ("replies", "individuals", "seconds")),
        )
    console.print(compute)
    children = table("Children before they learn, beside their parents", "crossover", "- best",
                     "- mean", "lost by rank", "cosine to mean", "norm / mean's")  # fmt: skip
    for operator in cells[f"{APART}, seed 0"]["operators"]:
        if operator == f"mutation {next(iter(MUTATIONS))}":
            children.add_section()
            children.add_row("[b]mutation[/b]")
        own = [cells[f"{APART}, seed {s}"]["operators"][operator] for s in range(scale.seeds)]
        children.add_row(
            operator.partition(" ")[2],
            *(mean_and_error([o[f] for o in own], "+.3f") for f in ("minus_best", "minus_mean")),
            *(mean_and_error([o[f] for o in own])
              for f in ("recompression_error", "cosine", "norm_ratio")),
        )  # fmt: skip
    console.print(children)


def finished(file: Path | None, scale: Scale) -> dict[str, dict[str, Any]]:
    """Runs that a file of the same experiment holds; whatever the number of seeds was."""
    if file is None or not file.exists():
        return {}
    try:
        saved = json.loads(file.read_text())
    except ValueError as error:
        sys.exit(f"json: {file} cannot be read ({error}); choose another file")
    same = {**asdict(scale), "weights": list(scale.weights), "seeds": saved["scale"]["seeds"]}
    if saved["scale"] != same:
        sys.exit(f"json: {file} is of another experiment ({saved['scale']}); choose another file")
    return saved["cells"]


def save(file: Path, scale: Scale, cells: dict[str, dict[str, Any]]) -> None:
    aside = file.with_name(file.name + ".part")
    aside.write_text(json.dumps({"scale": asdict(scale), "cells": cells}, indent=1) + "\n")
    os.replace(aside, file)


def arguments() -> tuple[Scale, Path | None]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a smoke test (default)")
    size.add_argument("--full", action="store_true", help=f"the experiment: {FULL}")
    parser.add_argument("--json", type=Path, help="where results are kept, and read on a rerun")
    parser.add_argument("--weights", type=float, nargs="+", help="of the diversity bonus")
    for name in ("seeds", "generations", "size", "problems", "held_out", "common"):
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=int)
    given = vars(parser.parse_args())
    file, full, _ = given.pop("json"), given.pop("full"), given.pop("quick")
    chosen = {name: value for name, value in given.items() if value is not None}
    if weights := chosen.get("weights"):
        chosen["weights"] = tuple(weights)
    if low := [n for n, v in chosen.items() if n != "weights" and v < (2 if n == "size" else 1)]:
        parser.error(f"--{low[0].replace('_', '-')}: got {chosen[low[0]]}, expected more")
    return replace(FULL if full else Scale(), **chosen), file


def main() -> None:
    """Run what is not finished, and print the tables."""
    scale, file = arguments()
    cells = finished(file, scale)
    console = Console(highlight=False)
    base = load_base("embedded", products="auto")
    for seed in range(scale.seeds):
        held_out = load_problems(PROBLEMS, split="test", seed=seed).distinct(scale.held_out)
        for name, config in {BASE: None, **settings(scale, seed)}.items():
            cell = f"{name}, seed {seed}"
            if cell in cells:
                continue
            cells[cell] = bare(base, held_out) if config is None else run(
                base, scale, config, held_out
            )  # fmt: skip
            console.print(f"{cell}: " + ", ".join(
                f"{figure} {value:.3g}" for figure, value in cells[cell].items()
                if isinstance(value, int | float)
            ), soft_wrap=True)  # fmt: skip
            if file is not None:
                save(file, scale, cells)
    show(scale, cells, console)


if __name__ == "__main__":
    main()
