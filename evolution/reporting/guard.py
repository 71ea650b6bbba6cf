"""The report's section on the guard: what it measured, what it found bad, and what it did."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evolution.guard.verdicts import MARGIN
from evolution.reporting.charts import Chart, curve
from evolution.reporting.findings import Findings
from evolution.reporting.measures.data import RunData
from evolution.runs.files import GUARD_FILE

IN_GUARD = ("generation", "agent", "rung")
"""What each row of its file has."""
_MOST_STEPS = 60


def guard_section(found: Findings) -> dict[str, Any] | None:
    """Return what the guard saw and did; None of a run that had none."""
    return guard_shown(found.run, [row for _, row in found.run.saved.rows(GUARD_FILE, IN_GUARD)])


def guard_shown(run: RunData, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what rows of `GUARD_FILE` say, each with `IN_GUARD`; None if there are none.

    Raises:
        RunError: If they are damaged.
    """
    with run.saved.reading(run.saved.path / GUARD_FILE):
        return _shown(run, rows)


def _shown(run: RunData, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    rows = [row for row in rows if row["generation"] in run.generations]
    if not rows:
        return None
    places = {generation: i for i, generation in enumerate(run.generations)}
    columns = {agent: i for i, agent in enumerate(run.agents)}
    series = {
        name: np.full((len(places), len(columns)), np.nan) for name in ("anchors", "forgotten")
    }
    for row in rows:
        for name, values in series.items():
            if row[name] is not None and row["agent"] in columns:
                values[places[row["generation"]], columns[row["agent"]]] = row[name]
    charts: list[Chart] = []
    for name, values in series.items():
        if np.isfinite(values).any():
            charts.append(curve(f"guard-{name}", run, values, share=name == "anchors"))
    verdicts = [row for row in rows if row["verdict"] is not None]
    steps = [row for row in rows if row["step"] is not None]
    first = {row["generation"]: row for row in rows}
    base = next((row["base_anchors"] for row in rows if row["base_anchors"] is not None), None)
    return {
        "charts": charts,
        "base": base,
        "margin": MARGIN,
        "verdicts": len(verdicts),
        "bad": sum(row["verdict"]["bad"] for row in verdicts),
        "flagged": sum(bool(row["flags"]) for row in rows),
        "signals": Counter(flag["signal"] for row in rows for flag in row["flags"]).most_common(),
        "steps": [
            [
                row["generation"],
                row["agent"],
                row["individual"],
                row["what"],
                _evidence(row["verdict"]),
                ", ".join(flag["signal"].replace("_", " ") for flag in row["flags"]),
            ]
            for row in steps[:_MOST_STEPS]
        ],
        "left": max(len(steps) - _MOST_STEPS, 0),
        "replies": sum(row["replies"] for row in first.values()),
        "places": sum(row["places"] for row in first.values()),
        "stop": next((row["stop"] for row in reversed(rows) if row["stop"]), ""),
    }


def _evidence(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return ""
    return "; ".join(
        f"{name}: {test['worse']} against, {test['better']} for, p {test['p']:.2g}"
        for name, test in verdict["tests"].items()
    )
