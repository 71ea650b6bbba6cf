"""The report's sections on self-play, which only runs with proposals have."""

from typing import Any

from evolution.reporting.findings import Findings
from evolution.reporting.measures.proposals import (
    Proposed,
    course,
    eras,
    mean_of,
    meetings,
    sizes,
)
from evolution.reporting.proposal_charts import UNSURE, course_charts, meetings_chart, size_chart
from populora_env.prompts import clip
from populora_env.records import Attempt

Cell = str | int | float | None

_MOST_SIZES = 8
_TEXT, _REPLY = 120, 80  # characters that are shown


def proposals_section(found: Findings) -> dict[str, Any] | None:
    """Return what became of proposals over generations."""
    if not found.proposals:
        return None
    run = found.run
    told = course(run, found.proposals)
    columns = ["generation", *(status.replace("_", " ") for status in told.statuses),
               "learnable", "solve rate", "novelty", "different so far"]  # fmt: skip
    figures = [
        [None if value != value else value for value in own.tolist()]
        for own in (told.learnable, told.solve_rate, told.novelty)
    ]
    counts = [own.tolist() for own in told.statuses.values()]
    return {
        "charts": course_charts(run, told),
        "columns": columns,
        "rows": list(zip(run.generations, *counts, *figures, told.distinct.tolist(), strict=True)),
    }


def difficulty_section(found: Findings) -> dict[str, Any] | None:
    """Return how large proposals are over generations."""
    if not found.proposals:
        return None
    measured = sizes(found.run, found.proposals)
    shown = measured[:_MOST_SIZES]
    return {
        "charts": [size_chart(number, found.run, size) for number, size in enumerate(shown)],
        "names": [size.name for size in shown],
        "left": len(measured) - len(shown),
    }


def meetings_section(found: Findings) -> dict[str, Any] | None:
    """Return who proposes for whom."""
    if not found.proposals:
        return None
    met = meetings(found.run, found.proposals)
    rows: list[list[Cell]] = []
    for agent in found.run.agents:
        own = [entry for entry in found.proposals if entry.proposal.agent == agent]
        if own:
            rates = [entry.proposal.solve_rate for entry in own]
            rows.append(
                [agent, len(own), sum(entry.proposal.valid for entry in own), mean_of(rates),
                 mean_of([None if rate is None else float(0 < rate < 1) for rate in rates]),
                 mean_of([entry.proposal.novelty for entry in own])]
            )  # fmt: skip
    return {"charts": [meetings_chart(met)] if met else [], "rows": rows, "unsure": UNSURE}


def examples_section(found: Findings) -> dict[str, Any] | None:
    """Return proposals to read, of early, middle and late generations."""
    if not found.proposals:
        return None
    return {
        "eras": [(era, [_row(entry) for entry in era.proposed]) for era in eras(found.proposals)]
    }


def _row(entry: Proposed) -> list[Cell]:
    proposal, marks = entry.proposal, entry.marks
    status = proposal.status.value.replace("_", " ")
    solved = f"{sum(marks)} of {len(marks)}" if marks else ""
    # A wrong answer says more of a problem than a right one.
    wrong = [attempt for attempt in entry.attempts if attempt.correct is False]
    answer = _answer((wrong or list(entry.attempts))[0]) if entry.attempts else ""
    known = entry.problem.answer if proposal.valid else None
    return [f"{entry.generation}, {proposal.agent}", clip(proposal.text, _TEXT), status,
            solved or clip(proposal.reason, _REPLY),
            "" if known is None else clip(known, _REPLY), answer]  # fmt: skip


def _answer(attempt: Attempt) -> str:
    mark = {True: "right", False: "wrong", None: "not graded"}[attempt.correct]
    said = attempt.text if attempt.answer is None else attempt.answer
    return f"{attempt.agent}: {clip(' '.join(said.split()), _REPLY)} ({mark})"
