"""How ``populora distill`` measures: the adapter beside all that it is to replace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agents.loading.models import BaseModel
from agents.measuring.evaluate import evaluate, vote_shares
from agents.measuring.statistics import Estimate, paired
from agents.population import BASE
from evolution.commands.participants import load_participants
from evolution.commands.progress import Bars
from populora_env.grading import Grader
from populora_env.records import Problem

MERGED, DISTILLED, VOTE = "merged", "distilled", "vote"


def measure(
    base: BaseModel,
    folders: Mapping[str, Path],
    held_out: Sequence[Problem],
    grader: Grader,
    console: Console,
    *,
    max_new_tokens: int,
    max_rows: int,
    adapter_dtype: str | None,
) -> dict[str, list[float]]:
    """Return who answers which held-out problem right, 1 or 0, greedily.

    The keys are ``base``, those of ``folders``, and ``vote``, the most frequent answer of the
    run's agents.
    """
    population, participants = load_participants(
        base, folders, max_rows=max_rows, adapter_dtype=adapter_dtype
    )
    try:
        with Bars(console) as bars:
            result = evaluate(
                population.greedy(),
                held_out,
                agents=[participant.agent or participant.name for participant in participants],
                grader=grader,
                max_new_tokens=max_new_tokens,
                progress=bars.tell,
            )
    finally:
        population.forget()
        population.lora.detach()
    scores = {
        participant.name: result.scores[participant.agent or participant.name]
        for participant in participants
    }
    right = {
        name: [float(bool(grade.correct)) for grade in score.grades]
        for name, score in scores.items()
    }
    members = [scores[name] for name in scores if name not in (BASE, MERGED, DISTILLED)]
    right[VOTE] = vote_shares(held_out, members, grader)
    return right


def figures(right: Mapping[str, Sequence[float]], best: str) -> dict[str, Any]:
    """Accuracy of everyone, and how it differs from the base's, paired by problem.

    Args:
        right: See `measure`.
        best: Agent of highest standing, chosen on training problems.
    """
    named = {BASE: BASE, "best": best, VOTE: VOTE, MERGED: MERGED, DISTILLED: DISTILLED}
    agents = [name for name in right if name not in named.values() or name == best]
    mean = [sum(row) / len(row) for row in zip(*(right[name] for name in agents), strict=True)]
    values = {name: right[key] for name, key in named.items()} | {"mean": mean}
    found: dict[str, Any] = {"problems": len(mean), "best_agent": best}
    for name, row in values.items():
        own = Estimate.of(row)
        change = paired(row, right[BASE])
        found[name] = {
            "accuracy": own.value,
            "standard_error": own.standard_error,
            "change": change.value,
            "change_standard_error": change.standard_error,
        }
    return found


def table(right: Mapping[str, Sequence[float]], best: str, size: int) -> Table:
    """Accuracy beside what it costs to serve."""
    found = figures(right, best)
    made = Table(
        title=f"Accuracy on {found['problems']} held-out problems, greedy",
        caption="± standard error; vs base: paired by problem",
    )
    made.add_column("who")
    made.add_column("adapters", justify="right")
    made.add_column("accuracy", justify="right")
    made.add_column("vs base", justify="right")
    rows = (
        (BASE, "bare base", 0), ("mean", "mean of the agents", 1), ("best", f"best ({best})", 1),
        (VOTE, "majority vote", size), (MERGED, "merged", 1), (DISTILLED, "distilled", 1),
    )  # fmt: skip
    for name, who, count in rows:
        row = found[name]
        change = Estimate(row["change"], row["change_standard_error"])
        own = Estimate(row["accuracy"], row["standard_error"])
        made.add_row(
            who,
            str(count),
            own.text(short=True),
            "" if name == BASE else change.text("+.3f", short=True),
        )
    return made
