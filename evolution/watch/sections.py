"""What the sections of the page show; most of them are sections of the report.

To add one, write a function here, a macro named after its key in ``assets/watched.html``, and a row
of `SECTIONS`. A function that returns None leaves its section out.
"""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from evolution.reporting.charts import (
    COLOURS,
    Chart,
    add_held_out,
    curve,
    layout,
    line,
    whole_ticks,
)
from evolution.reporting.findings import Findings
from evolution.reporting.guard import guard_shown
from evolution.reporting.measures.data import RunData, Series
from evolution.reporting.measures.measured import read_curve, read_held_out
from evolution.reporting.measures.proposals import read_proposals
from evolution.reporting.page import hover
from evolution.reporting.sections import SECTIONS as OF_THE_REPORT
from evolution.watch.follower import Follower

Shown = Mapping[str, Any]
Work = Callable[[Follower, Findings], Shown | None]

_IN_REPORT = {key: work for key, _, work in OF_THE_REPORT}
_HEIGHT = 280
_ROW, _USUAL_ROWS = 19, 3  # pixels of a row of the legend, and how many find room
_DASHES = (None, "dot", "dash", "dashdot", "longdash", "longdashdot")
_CURVES = ("return", "accuracy", "diversity")
_COLUMNS = (
    ("standing", "standing", "{:+.3f}"), ("standing_error", "±", "{:.3f}"),
    ("accuracy", "accuracy", "{:.2f}"), ("return", "return", "{:.2f}"),
    ("diversity", "diversity", "{:.3f}"), ("validity", "valid proposals", "{:.2f}"),
    ("length", "reply length", "{:.0f}"), ("rating", "rating", "{:.1f}"),
)  # fmt: skip


def find_live(follower: Follower, run: RunData) -> Findings:
    """Return what the sections need to know of a run, without what only a report measures."""
    return Findings(
        run=run,
        held_out=follower.reading("held out", lambda: read_held_out(run)),
        curve=follower.reading("held-out curve", lambda: read_curve(run)),
        bench=None,
        identical=None,
        judges={},
        audits=(),
        proposals=read_proposals(run),
    )


def _agents(follower: Follower, found: Findings) -> Shown:
    """Each agent in the last generation, the one of highest standing first."""
    del follower
    run = found.run
    last = {name: values[-1] for name, values in run.series.items()}
    columns = [column for column in _COLUMNS if np.isfinite(last.get(column[0], np.nan)).any()]
    births = {birth.name: birth for birth in run.lineage}
    rows: list[list[str]] = []
    for n in _by_standing(last.get("standing", np.zeros(len(run.agents)))):
        who = run.individuals[-1][n]
        birth = births.get(who)
        made = "" if birth is None else f"{birth.operator}, generation {birth.generation}"
        known = (spelling.format(last[name][n]) for name, _, spelling in columns)
        cells = ("" if cell.endswith("nan") else cell for cell in known)
        rows.append([run.agents[n], *cells, who, made])
    titles = ["agent", *(title for _, title, _ in columns), "individual", "born by"]
    return {
        "columns": titles,
        "rows": rows,
        "best": run.best[-1],
        "generation": run.generations[-1],
        "proposers": run.proposers,
    }


def _by_standing(standing: Series) -> list[int]:
    """Places of agents, highest standing first, and at the end those of whom it is not known."""
    return [int(n) for n in np.argsort(-standing, kind="stable")]


def _curves(follower: Follower, found: Findings) -> Shown:
    """Return, accuracy, diversity and standing over generations."""
    del follower
    run, charts, names = found.run, list[Chart](), list[str]()
    for name in _CURVES:
        values = run.recorded(name)
        if values is not None:
            chart = curve(f"curve-{name}", run, values, share=name == "accuracy")
            if name == "accuracy":
                add_held_out(chart, run, found.held_out, found.curve)
            charts.append(Chart(chart.key, chart.figure, _HEIGHT))
            names.append(name)
    if run.recorded("standing") is not None:
        charts.append(_standing(run))
        names.append("standing")
    return {"charts": charts, "names": names, "proposed": bool(found.proposals)}


def _standing(run: RunData) -> Chart:
    """A line for each agent: means over agents would be the same at all times."""
    figure, x = go.Figure(), np.array(run.generations)
    for n, agent in enumerate(run.agents):
        own = run.series["standing"][:, n]
        known = np.isfinite(own)
        line(figure, x[known], own[known], hover(agent), COLOURS[n % len(COLOURS)], width=1.5,
             mode="lines+markers" if known.sum() == 1 else "lines",
             dash=_DASHES[n // len(COLOURS) % len(_DASHES)])  # fmt: skip
    layout(figure, "generation", "")
    whole_ticks(figure, run.generations)
    figure.update_layout(hovermode="x unified")
    # On a phone three names stand side by side; more rows than usual must not eat the lines.
    rows = max(-(-len(run.agents) // 3) - _USUAL_ROWS, 0)
    return Chart("curve-standing", figure, _HEIGHT + _ROW * rows)


def _with_charts(key: str) -> Work:
    """A section of the report, left out where it has nothing to draw."""

    def work(follower: Follower, found: Findings) -> Shown | None:
        del follower
        shown = _IN_REPORT[key](found)
        return shown if shown is not None and shown["charts"] else None

    return work


def _measured(follower: Follower, found: Findings) -> Shown | None:
    del follower
    return None if found.held_out is None else _IN_REPORT["measured"](found)


def _guard(follower: Follower, found: Findings) -> Shown | None:
    return follower.reading("guard", lambda: guard_shown(found.run, follower.guard_rows()))


def _report(follower: Follower, found: Findings) -> Shown:
    del found
    folder = follower.path.resolve()
    written = folder / "report.html"
    return {
        "command": shlex.join(["populora", "report", str(folder), "--open"]),
        "written": str(written) if written.is_file() else None,
    }


SECTIONS: tuple[tuple[str, str, Work], ...] = (
    ("agents", "Agents now", _agents),
    ("curves", "Over generations", _curves),
    ("proposals", "Proposals", _with_charts("proposals")),
    ("meetings", "Who proposes for whom", _with_charts("meetings")),
    ("games", "Who beats whom", _with_charts("games")),
    ("family-tree", "Family tree", _with_charts("family-tree")),
    ("measured", "Held-out accuracy", _measured),
    ("guard", "Guard", _guard),
    ("report", "The report", _report),
)
"""Key, title and function of each section, in the order of the page."""
