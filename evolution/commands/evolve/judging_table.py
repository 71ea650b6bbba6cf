"""How a run's agents judged, and how good their majority was as a label: a table and figures."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from evolution.runs.checkpoint import RunFolder
from evolution.runs.saved_run import SavedRun
from populora_env.judges import JudgeStatistics, judge_statistics, majority_figures
from populora_env.judges.bias import MajorityFigures

_COLUMNS = (
    ("unread", "abstention_rate"),
    ("flips", "flip_rate"),
    ("says A", "first_rate"),
    ("ties", "tie_rate"),
    ("length r", "pair_length_correlation"),
    ("truth", "agreement"),
)


def show_judging(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Print how the agents judged and how good the majority was; return both as JSON types."""
    episodes = [transcript for *_, transcript in SavedRun(folder.path).episodes()]
    statistics, majority = judge_statistics(episodes), majority_figures(episodes)
    if (table := judging_table(statistics)) is not None:
        console.print(table)
    console.print(majority_line(majority))
    judges = {name: asdict(entry) for name, entry in statistics.items()}
    return {"judges": judges, "majority": {**asdict(majority), "right_rate": majority.right_rate}}


def judging_table(statistics: Mapping[str, JudgeStatistics]) -> Table | None:
    """Return how each agent that was asked judged; None if nobody judged anything."""
    asked = {n: entry for n, entry in statistics.items() if entry.comparisons + entry.assessments}
    if not asked:
        return None
    table = Table(
        title="How the agents judged, over the whole run",
        caption="shares of their judgements; length r: correlation with length; truth: agreement",
    )
    table.add_column("judge")
    table.add_column("judged", justify="right")
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right")
    for name, entry in asked.items():
        values = [getattr(entry, attribute) for _, attribute in _COLUMNS]
        table.add_row(
            name,
            str(entry.comparisons + entry.assessments),
            *("" if value is None else f"{value:.2f}" for value in values),
        )
    return table


def majority_line(figures: MajorityFigures) -> str:
    """Return in one line how often the majority was right."""
    if figures.right_rate is None or figures.accuracy is None:
        return "Majority answers: none where the right answer is known."
    return (
        f"Majority answers: right in {figures.right} of {figures.decided} episodes that had one "
        f"({figures.right_rate:.2f}; a single attempt {figures.accuracy:.2f}); wrong in "
        f"{figures.misled} of {figures.hard} episodes in which most attempts were wrong."
    )
