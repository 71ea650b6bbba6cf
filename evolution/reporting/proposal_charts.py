"""Charts of self-play: what became of proposals, how large they are, who solved whose."""

import numpy as np
import plotly.graph_objects as go

from evolution.reporting.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    Chart,
    band,
    layout,
    line,
    mode_of,
    whole_ticks,
)
from evolution.reporting.measures.data import RunData
from evolution.reporting.measures.proposals import Course, Meetings, Size
from evolution.reporting.page import hover, hover_text

UNSURE = 0.1  # standard error above which a share is marked
_WRITTEN = 10  # most agents for whom numbers are written into the matrix
_STATUSES = {
    "valid": BLUE,
    "held_out": SKY,
    "repeated": ORANGE,
    "out_of_range": PINK,
    "unreadable": RED,
}
_REST = ("#888888", "#aaaaaa", "#666666", "#bbbbbb", "#555555", "#999999")


def course_charts(run: RunData, found: Course) -> list[Chart]:
    """Return shares over generations, statuses stacked, and the number of different proposals."""
    x = np.array(run.generations)
    shares = go.Figure()
    shown = (
        ("valid", found.valid, GREY, "dash", "circle"),
        ("learnable, of those tried", found.learnable, BLUE, "solid", "square"),
        ("mean solve rate", found.solve_rate, GREEN, "solid", "diamond"),
        ("novelty", found.novelty, ORANGE, "dot", "triangle-up"),
    )
    for name, values, colour, dash, symbol in shown:
        if np.isfinite(values).any():
            line(
                shares, x, values, name, colour, dash=dash, mode="lines+markers", connectgaps=True,
                marker={"symbol": symbol, "size": 7}, hovertemplate="%{y:.2f}",
            )  # fmt: skip
    layout(shares, "generation", "")
    shares.update_yaxes(range=[-0.02, 1.02])
    shares.update_layout(hovermode="x unified")
    stacked = go.Figure()
    rest = iter(_REST)
    for status, counts in found.statuses.items():
        colour = _STATUSES.get(status) or next(rest)
        stacked.add_trace(
            go.Bar(x=x, y=counts, name=status.replace("_", " "), marker={"color": colour})
        )
    layout(stacked, "generation", "proposals")
    stacked.update_layout(barmode="stack", hovermode="x unified", bargap=0.15)
    distinct = go.Figure()
    mode = mode_of(np.isfinite(x))
    line(distinct, x, found.distinct, "different valid proposals", BLUE, mode=mode,
         hovertemplate="%{y}")  # fmt: skip
    made = np.cumsum(sum(found.statuses.values()))
    line(distinct, x, made, "all proposals", GREY, mode=mode, dash="dash", hovertemplate="%{y}")
    layout(distinct, "generation", "so far")
    distinct.update_yaxes(rangemode="tozero")
    distinct.update_layout(hovermode="x unified")
    for figure in (shares, stacked, distinct):
        whole_ticks(figure, run.generations)
        figure.update_layout(showlegend=True)  # of a single line plotly leaves it out
    return [
        Chart("proposals-shares", shares),
        Chart("proposals-statuses", stacked),
        Chart("proposals-distinct", distinct),
    ]


def size_chart(number: int, run: RunData, size: Size) -> Chart:
    """Return a measure of valid proposals over generations: its mean and where most are."""
    figure = go.Figure()
    x = np.array(run.generations)
    known = np.isfinite(size.mean)
    band(figure, x[known], size.low[known], size.high[known], 0.3, "four in five")
    line(figure, x[known], size.mean[known], "mean", BLUE, mode="lines+markers",
         marker={"size": 6})  # fmt: skip
    layout(figure, "generation", "")
    whole_ticks(figure, run.generations)
    figure.update_layout(hovermode="x unified")
    return Chart(f"size-{number}", figure)


def meetings_chart(found: Meetings) -> Chart:
    """Return who solved whose proposals as a heat map."""
    rows, columns = ([hover(agent) for agent in own] for own in (found.proposers, found.solvers))
    shares, errors = found.shares, found.errors
    texts = [
        [hover_text("meeting", row=row, column=column, found=found, i=i, j=j)
         for j, column in enumerate(columns)]
        for i, row in enumerate(rows)
    ]  # fmt: skip
    small = max(len(rows), len(columns)) <= _WRITTEN
    written = [
        [cell_text(share, error, count) if small else ""
         for share, error, count in zip(*cells, strict=True)]
        for cells in zip(shares.tolist(), errors.tolist(), found.graded.tolist(), strict=True)
    ]  # fmt: skip
    figure = go.Figure(
        go.Heatmap(
            z=shares, x=columns, y=rows, zmin=0, zmax=1, hovertext=texts, hoverinfo="text",
            text=written, texttemplate="%{text}", hoverongaps=False, xgap=2, ygap=2,
            colorscale=[[0, RED], [0.5, "#f2f2f2"], [1, BLUE]],
            colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": "share right",
                                                                   "side": "right"}},
        )
    )  # fmt: skip
    layout(figure, "solved by", "")
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return Chart("meetings-matrix", figure, 160 + max(44 * len(rows), 200), True)


def cell_text(share: float, error: float, count: int) -> str:
    """Return what a cell says: a share and of how many, marked where it is uncertain."""
    if not count:
        return ""
    return f"{'~' if error > UNSURE else ''}{share:.2f} of {count}"
