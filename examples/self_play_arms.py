"""Who should write the problems? Self-play beside curricula and ordinary problems, equal replies.

Each arm may give the same number of replies, proposals included, and is then measured on the same
held-out problems, which no arm may learn from. Figures are means ± standard errors over seeds.

Without arguments it is a smoke test of a minute, whose figures mean nothing; `--full --json FILE`
is the experiment. Finished runs are in FILE, so the same command goes on where it was cut off.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agents import LoraPopulation
from agents.loading.models import BaseModel, load_base
from agents.measuring.evaluate import evaluate
from agents.population import BASE
from evolution import EvolutionConfig, EvolutionManager
from evolution.individuals.champion import hosting
from populora_env import Grader, load_problems
from populora_env.records import Problem

SUMS = "chain_sum(min_terms=2,max_terms=2)"  # curricula and levels choose the digits
ORDINARY = "procedural:chain_sum(max_terms=2,max_digits=2)"
EXPRESSIONS = "self-play:expressions(operators='+-',digits=2,terms=2)"


@dataclass(frozen=True)
class Scale:
    """How large the experiment is."""

    seeds: int = 1
    replies: int = 24  # of a run, proposals included
    proposals: int = 6  # in a generation
    held_out: int = 4


FULL = Scale(seeds=3, replies=1_800, proposals=40, held_out=512)


@dataclass(frozen=True)
class Arm:
    """One way to come by problems.

    Attributes:
        problems: Their spec.
        size: Agents.
        proposers: How many of them write problems, or all.
        tries: How often each solver answers a problem.
    """

    problems: str
    size: int = 4
    proposers: int | str = 0
    tries: int = 1


ARMS = {
    "expressions, 4 proposers + 4 solvers": Arm(EXPRESSIONS, 8, 4, 2),
    "expressions, 1 + 1": Arm(EXPRESSIONS, 2, 1, 8),
    "expressions, one agent does both": Arm(EXPRESSIONS, 1, "all", 8),
    "levels, 4 + 4": Arm(f"self-play:levels({SUMS})", 8, 4, 2),
    "curriculum: uniform": Arm(f"curriculum:uniform({SUMS})"),
    "curriculum: window": Arm(f"curriculum:window({SUMS})"),
    "curriculum: learnability": Arm(f"curriculum:learnability({SUMS})"),
    "ordinary problems": Arm(ORDINARY),
}


class CountedPopulation(LoraPopulation):
    """A population that counts its replies."""

    replies = 0

    def generate(self, requests, **how):
        """Answer all requests."""
        self.replies += len(requests)
        return super().generate(requests, **how)


def settings(arm: Arm, scale: Scale, seed: int) -> EvolutionConfig:
    """The settings of a run; learners do not breed, so that the source alone makes a difference."""
    writing = arm.proposers if isinstance(arm.proposers, int) else 0
    return EvolutionConfig(
        seed=seed,
        proposers=arm.proposers,
        tries=arm.tries,
        # About as many replies as a third of the proposals, answered eight times.
        problems_per_generation=scale.proposals if arm.proposers else scale.proposals * 7 // 8,
        judged_problems=0,
        evaluation="none",
        rewards="learnability",
        propose_tokens=24 if "levels" in arm.problems else 16,
        offspring=0,
        elites=1,
        parents=1 if min(arm.size - writing, writing or arm.size) < 2 else 2,
        confirm_problems=0,
    )


def run(
    arm: Arm, scale: Scale, seed: int, base: BaseModel, held_out: Sequence[Problem], grader: Grader
) -> dict[str, Any]:
    """Play one arm until its replies are given, and measure who solves."""
    config = settings(arm, scale, seed)
    population = CountedPopulation(base, arm.size, 8)
    problems = load_problems(arm.problems, split="train", seed=seed)
    started = time.monotonic()
    manager = EvolutionManager(population, problems, config, grader=grader, exclude=held_out)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while population.replies < scale.replies:
        transcripts = manager.play(manager.ask())
        result = manager.tell(transcripts)
        seen |= {t.proposal.key for t in transcripts if t.proposal and t.proposal.valid}
        marks = [a.correct for t in transcripts for a in t.attempts if a.correct is not None]
        rows.append(
            {
                **(result.proposals.to_dict() if result.proposals else {}),
                "rate": float(np.mean(marks)) if marks else None,
                "distinct": len(seen),
            }
        )
    seconds, replies = time.monotonic() - started, population.replies
    manager.confirm()
    solvers = manager.solvers
    greedy = population.greedy()
    found = evaluate(
        greedy, held_out, agents=solvers, grader=grader, max_new_tokens=config.solve_tokens
    )
    champion = manager.champion
    assert champion is not None
    with hosting(population.lora, population.agents.index(champion.agent), champion.genome):
        best = evaluate(greedy, held_out, agents=(champion.agent,), grader=grader,
                        max_new_tokens=config.solve_tokens)  # fmt: skip
    manager.close()
    population.lora.detach()
    return {
        "mean": found.mean,
        "champion": best.scores[champion.agent].accuracy,
        "vote": found.vote if found.vote is not None else found.mean,
        "replies": replies,
        "seconds": seconds,
        "generations": rows,
    }


def over_time(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """Mean of a figure in the first and the last quarter of the generations; NaN if unknown."""
    part = max(len(rows) // 4, 1)
    halves = [[row.get(name) for row in some] for some in (rows[:part], rows[-part:])]
    known = [[value for value in values if value is not None] for values in halves]
    first, last = (float(np.mean(values)) if values else float("nan") for values in known)
    return first, last


def validity(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the share of proposals that were tasks, held-out ones among them."""
    good = ("valid", "held_out")
    return [
        {**row, "tasks": sum(row["statuses"].get(s, 0) for s in good) / row["count"]}
        for row in rows
        if row.get("count")
    ]


def mean_and_error(values: Sequence[float]) -> str:
    """Mean ± standard error."""
    known = np.array(values)
    if len(known) == 1:
        return f"{known[0]:.3f}"
    return f"{known.mean():.3f} ± {known.std(ddof=1) / len(known) ** 0.5:.3f}"


def show(
    scale: Scale, cells: dict[str, dict[str, Any]], arms: Sequence[str], console: Console
) -> None:
    """Print what was measured, and how proposals went."""

    def column(arm: str, name: str) -> list[Any]:
        return [cells[f"{arm}, seed {seed}"][name] for seed in range(scale.seeds)]

    table = Table(title=f"Accuracy on {scale.held_out} held-out problems, {scale.seeds} seed(s)")
    table.add_column("who writes the problems", no_wrap=True)
    for name in ("mean of solvers", "champion", "vote", "replies", "s"):
        table.add_column(name, justify="right")
    table.add_row("base", mean_and_error(column(BASE, "mean")), "", "", "", "")
    for arm in arms:
        figures = [mean_and_error(column(arm, name)) for name in ("mean", "champion", "vote")]
        counts = [f"{np.mean(column(arm, name)):.0f}" for name in ("replies", "seconds")]
        table.add_row(arm, *figures, *counts)
    console.print(table)
    table = Table(title="First quarter → last quarter of the generations, mean over seeds")
    table.add_column("who writes the problems", no_wrap=True)
    for name in ("are tasks", "novelty", "some solve it", "solve rate", "distinct in all"):
        table.add_column(name, justify="right")
    for arm in arms:
        runs = column(arm, "generations")
        cells_of = [
            " → ".join(f"{v:.2f}" for v in np.mean([over_time(r, name) for r in each], axis=0))
            for name, each in (
                ("tasks", [validity(rows) for rows in runs]),
                ("novelty", runs),
                ("learnable", runs),
                ("rate", runs),
            )
            if (each[0] and each[0][0].get(name) is not None) or name == "rate"
        ]
        distinct = f"{np.mean([rows[-1]['distinct'] for rows in runs]):.0f}"
        if len(cells_of) == 1:
            cells_of, distinct = ["", "", "", *cells_of], ""
        table.add_row(arm, *cells_of, distinct)
    console.print(table)


def main() -> None:
    """Run what is not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help=f"the experiment: {FULL}")
    parser.add_argument("--json", type=Path, help="where results are kept, and read on a rerun")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM",
                        help=f"some of {', '.join(map(repr, ARMS))}; default all")  # fmt: skip
    for name in ("seeds", "replies", "proposals", "held_out"):
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=int)
    given = vars(parser.parse_args())
    file, full, arms = given.pop("json"), given.pop("full"), given.pop("arms")
    scale = replace(FULL if full else Scale(), **{k: v for k, v in given.items() if v})
    saved = json.loads(file.read_text()) if file and file.exists() else {}
    cells = saved.get("cells", {})
    console = Console(highlight=False, width=120)
    base = load_base("embedded", products="auto")
    with Grader() as grader:
        for seed in range(scale.seeds):
            held_out = load_problems(ORDINARY, split="test", seed=seed).distinct(scale.held_out)
            for name in (BASE, *arms):
                cell = f"{name}, seed {seed}"
                if cell in cells:
                    continue
                if name == BASE:
                    alone = LoraPopulation(base, 1, 8)
                    found = evaluate(
                        alone.greedy(), held_out, agents=(BASE,), grader=grader,
                        max_new_tokens=EvolutionConfig.solve_tokens,
                    )  # fmt: skip
                    alone.lora.detach()
                    cells[cell] = {"mean": found.mean}
                else:
                    cells[cell] = run(ARMS[name], scale, seed, base, held_out, grader)
                console.print(f"{cell}: {cells[cell]['mean']:.3f}")
                if file:
                    aside = file.with_name(file.name + ".part")
                    aside.write_text(json.dumps({"scale": asdict(scale), "cells": cells}) + "\n")
                    os.replace(aside, file)
    show(scale, cells, arms, console)


if __name__ == "__main__":
    main()
