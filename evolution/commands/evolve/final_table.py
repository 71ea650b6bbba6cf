"""What an evolution came to: accuracy of those who solve and of the champion on held-out problems.

In self-play also how many proposals were held-out problems.
"""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from agents.measuring.evaluate import AgentScore, EvaluationResult, evaluate
from agents.measuring.statistics import Estimate
from agents.population import BASE, LoraPopulation
from evolution.commands.evolve.answers import show_side_by_side
from evolution.commands.evolve.engine import computed_by
from evolution.commands.progress import Bars
from evolution.config import RunConfig
from evolution.individuals.champion import Champion, averaged, hosting
from evolution.individuals.lineage import AVERAGE, CHAMPION
from evolution.individuals.reevaluation import LastTrial
from evolution.lowrank.genomes import content_hash
from evolution.manager import EvolutionManager
from evolution.runs.checkpoint import RunFolder
from evolution.runs.files import HISTORY_FILE
from evolution.runs.saved_run import SavedRun
from populora_env.episodes.roles import PROPOSER, SOLVER
from populora_env.grading import Grader
from populora_env.proposals.record import ProposalStatus
from populora_env.records import Problem


def measure(
    manager: EvolutionManager,
    options: RunConfig,
    held_out: Sequence[Problem],
    grader: Grader,
    console: Console,
    folder: RunFolder,
) -> dict[str, Any]:
    """Held-out accuracy of the base and all who solve: table, replies, best adapter."""
    population = manager.population
    ask = partial(
        evaluate,
        population.greedy(),
        held_out,
        grader=grader,
        max_new_tokens=options.solve_tokens,
    )
    with Bars(console, population.stats) as bars:
        base = ask(agents=(BASE,), progress=bars.tell)
        agents = ask(agents=manager.solvers, progress=bars.tell)
    champion = manager.champion
    if champion is None:
        raise ValueError("measure: no individual was ever confirmed")
    best = _score_of(champion, agents, population, ask)
    is_average = champion.is_mean and champion.generation == manager.generation  # as it is now
    average = None if is_average else _average(manager, ask)
    console.print(_table(base, agents, champion, best, average, manager))
    show_side_by_side(held_out, base.scores[BASE], best, console)
    whose = "average of the agents" if champion.is_mean else champion.individual
    console.print(f"Champion ({whose}): {manager.keep_best()}")
    scores = {**base.scores, **agents.scores, CHAMPION: best}
    if average is not None:
        scores[AVERAGE] = average
        run = folder.path
        words = ["populora", "export", str(run), "--out", str(run / AVERAGE)]
        console.print(f"Average of the agents, as one adapter: {shlex.join(words)}")
    folder.write(
        "held_out.jsonl",
        "".join(
            json.dumps({"agent": agent, "problem": problem.prompt, "answer": problem.answer,
                        "reply": reply, "extracted": grade.extracted, "correct": grade.correct})
            + "\n"
            for agent, score in scores.items()
            for problem, reply, grade in zip(held_out, score.replies, score.grades, strict=True)
        ),
    )  # fmt: skip
    return {
        "problems": len(held_out),
        "champion": champion.individual,
        "champion_is": champion.who,
        "base": base.scores[BASE].accuracy,
        "best": best.accuracy,
        "mean": agents.mean,
        "vote": agents.vote if agents.vote is not None else agents.mean,
        "average": best.accuracy if average is None else average.accuracy,
        "standard_error": best.standard_error,
    }


def show_last_trial(trial: LastTrial, console: Console) -> dict[str, Any]:
    """Say whom the last trial made the champion; returns it as JSON types."""
    order = sorted(trial.accuracy.items(), key=lambda entry: -entry[1])
    said = ", ".join(f"{name} {accuracy:.2f}" for name, accuracy in order)
    console.print(
        f"Last trial, on {trial.problems} fresh training problems: {said}; kept: {trial.kept}"
    )
    return asdict(trial)


def show_proposals(folder: RunFolder, console: Console) -> dict[str, Any] | None:
    """Say how many proposals were held-out problems, over the whole run.

    Returns:
        How many proposals there were, how many were held-out problems, and what became of all, as
        JSON types; None where agents wrote no problems.
    """
    # Each agent's row of a generation has the same.
    found = {
        row["generation"]: row["proposals"]["statuses"]
        for _, row in SavedRun(folder.path).rows(HISTORY_FILE)
        if "proposals" in row
    }
    if not found:
        return None
    statuses: Counter[str] = Counter()
    for own in found.values():
        statuses.update(own)
    held_out, count = statuses[ProposalStatus.HELD_OUT.value], statuses.total()
    console.print(f"{held_out} of {count} proposals were held-out problems; none was learned from.")
    return {"count": count, "held_out": held_out, "statuses": dict(statuses)}


def _score_of(
    champion: Champion,
    agents: EvaluationResult,
    population: LoraPopulation,
    ask: Callable[..., EvaluationResult],
) -> AgentScore:
    """Held-out score of the champion: that of the agent that still is what it was, or its own."""
    slot = population.agents.index(champion.agent)
    if content_hash(population.lora, slot) == champion.content_hash:
        return agents.scores[champion.agent]
    with hosting(population.lora, slot, champion.genome):
        return ask(agents=(champion.agent,)).scores[champion.agent]


def _average(manager: EvolutionManager, ask: Callable[..., EvaluationResult]) -> AgentScore | None:
    """Held-out score of the mean of all who solve; None where there is but one."""
    if len(manager.solvers) < 2:
        return None
    with averaged(manager.population, manager.solvers) as agent:
        return ask(agents=(agent,)).scores[agent]


def _table(
    base: EvaluationResult,
    agents: EvaluationResult,
    champion: Champion,
    best: AgentScore,
    average: AgentScore | None,
    manager: EvolutionManager,
) -> Table:
    table = Table(
        title=f"Accuracy on {len(base.problems)} held-out problems, greedy, "
        f"{computed_by(manager.population)} ({manager.generation} generations)"
    )
    table.add_column("who")
    apart = len(agents.scores) < len(manager.population.agents)  # some only propose
    if apart:
        table.add_column("role")
    for name in ("accuracy", "± s.e.", "vs base", "standing"):
        table.add_column(name, justify="right")
    start = base.scores[BASE].accuracy

    def row(
        name: str, accuracy: float, error: float | None, standing: str = "", role: str = ""
    ) -> None:
        table.add_row(
            name,
            *((role,) if apart else ()),
            f"{accuracy:.3f}",
            "" if error is None else Estimate(accuracy, error).error_text(),
            "" if name == BASE else f"{accuracy - start:+.3f}",
            standing,
        )

    row(BASE, start, base.scores[BASE].standard_error)
    standings = zip(manager.standing.tolist(), manager.standing_errors.tolist(), strict=True)
    for agent, (standing, error) in zip(manager.population.agents, standings, strict=True):
        shown = Estimate(standing, error).text()
        if (score := agents.scores.get(agent)) is None:
            table.add_row(agent, PROPOSER, "", "", "", shown)
        else:
            row(agent, score.accuracy, score.standard_error, shown, SOLVER)
    table.add_section()
    taken = "" if champion.generation == manager.generation else f", gen. {champion.generation}"
    row(f"champion ({champion.who}{taken})", best.accuracy, best.standard_error)
    row("mean of the solvers" if apart else "population mean", agents.mean, None)
    if agents.vote is not None:
        row("majority vote", agents.vote, None)
    if average is not None:
        row("average, as one adapter", average.accuracy, average.standard_error)
    return table
