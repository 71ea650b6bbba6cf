"""The report's charts, as plotly figures without colours of a theme; the page adds these.

Here are curves, the matrix and judging; the family tree and the map are in `reporting.maps`.

Whatever a run has written is escaped: plotly reads a few HTML tags and entities in names and in
texts on hover.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from evolution.reporting.measures.data import RunData, Series, row_means
from evolution.reporting.measures.games import Games, JudgingBin
from evolution.reporting.measures.measured import HeldOut, HeldOutCurve
from populora_env.episodes.rendering import visible

# Okabe and Ito's colours that are visible on white and on black; told apart with colour blindness.
BLUE, ORANGE, GREEN, RED, SKY, PINK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PINK, RED, SKY)
# Seven symbols and six colours: 42 agents before a pair repeats.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down")
GREY = "#888888"
_WRAP, _CLIP = 60, 420
_MARKED = 40  # most generations whose points are marked
_WRITTEN = 10  # most agents for whom numbers are written into the matrix


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and what it shows.

    Attributes:
        key: Its id on the page.
        title: Its heading.
        caption: What one sees, and how it is computed.
        figure: The chart.
        height: In pixels.
        square: Whether it must not become wide.
    """

    key: str
    title: str
    caption: str
    figure: go.Figure
    height: int = 320
    square: bool = False


def hover(text: str) -> str:
    """Return a text from a run for plotly: visible, clipped, wrapped and escaped."""
    text = visible(text.strip())
    if len(text) > _CLIP:
        text = text[:_CLIP] + " […]"
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, _WRAP) or [""]]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def curve(
    key: str,
    title: str,
    caption: str,
    run: RunData,
    values: Series,
    *,
    error: Series | None = None,
    share: bool = False,
) -> Chart:
    """Return a quantity over generations: mean, band over agents, the best agent's.

    Args:
        key: Id on the page.
        title: Heading.
        caption: What one sees.
        run: The run.
        values: [G, N], or [G, 1] for a quantity of the population.
        error: Standard error of the mean, [G], for a second band.
        share: Whether values are shares, which are shown from 0 to 1.
    """
    figure = go.Figure()
    x = np.array(run.generations)
    mean = row_means(values)
    known = np.isfinite(mean)
    if values.shape[1] > 1:
        spread = values[known]
        _band(figure, x[known], np.nanmin(spread, 1), np.nanmax(spread, 1), 0.25, "all agents")
    if error is not None:
        sure = known & np.isfinite(error)
        low, high = mean[sure] - error[sure], mean[sure] + error[sure]
        _band(figure, x[sure], low, high, 0.45, "± 1 s.e.")
    mode = "lines+markers" if known.sum() <= _MARKED else "lines"
    figure.add_trace(
        go.Scatter(x=x[known], y=mean[known], mode=mode, name="mean" if values.shape[1] > 1
                   else "population", line={"color": BLUE, "width": 2}, marker={"size": 6},
                   hovertemplate="%{y:.3f}")
    )  # fmt: skip
    if values.shape[1] > 1 and any(run.best):
        leads = [
            row[run.agents.index(best)] if best is not None else np.nan
            for row, best in zip(values, run.best, strict=True)
        ]
        figure.add_trace(
            go.Scatter(x=x, y=leads, mode="lines", name="best by standing",
                       line={"color": RED, "width": 1.5, "dash": "dot"}, hovertemplate="%{y:.3f}")
        )  # fmt: skip
    layout(figure, "generation", "")
    figure.update_layout(hovermode="x unified")
    if share:
        figure.update_yaxes(range=[-0.02, 1.02])
    elif bool((values[np.isfinite(values)] >= 0).all()):
        figure.update_yaxes(rangemode="nonnegative")
    return Chart(key, title, caption, figure)


def add_held_out(
    chart: Chart, run: RunData, held_out: HeldOut | None, measured: HeldOutCurve | None
) -> None:
    """Add held-out accuracies to the chart of accuracy."""
    figure = chart.figure
    base = held_out.base.value if held_out else measured.base if measured else None
    if base is not None:
        ends = [run.generations[0], run.generations[-1]]
        figure.add_trace(
            go.Scatter(x=ends, y=[base, base], mode="lines", name="held out: base",
                       line={"color": GREY, "width": 1.5, "dash": "dash"},
                       hovertemplate="%{y:.3f}")
        )  # fmt: skip
    if measured is not None:
        mean = row_means(measured.values)
        known = np.isfinite(mean)
        x = np.array(run.generations)[known]
        figure.add_trace(
            go.Scatter(x=x, y=mean[known], mode="lines+markers", name="held out: mean",
                       line={"color": GREEN, "width": 2}, marker={"size": 8, "symbol": "diamond"},
                       hovertemplate="%{y:.3f}")
        )  # fmt: skip
    if held_out is not None and held_out.after:
        best = held_out.best
        error = best.standard_error
        figure.add_trace(
            go.Scatter(x=[held_out.after - 1], y=[held_out.best.value], mode="markers",
                       name="held out: best", marker={"color": RED, "size": 11, "symbol": "star"},
                       error_y={"array": [error], "color": RED, "thickness": 1.5},
                       hovertemplate=best.text())
        )  # fmt: skip


def matrix_chart(games: Games) -> Chart:
    """Return who beats whom as a heat map."""
    names = [hover(agent) for agent in games.agents]
    size = len(names)
    shares = games.shares
    texts = [
        [
            f"{names[i]} against {names[j]}<br>won {games.wins[i, j]}, tied {games.ties[i, j]}, "
            f"lost {games.wins[j, i]}<br>without a result {games.abstained[i, j]}"
            if i != j
            else ""
            for j in range(size)
        ]
        for i in range(size)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=shares, x=names, y=names, zmin=0, zmax=1, hovertext=texts, hoverinfo="text",
            colorscale=[[0, RED], [0.5, "#f2f2f2"], [1, BLUE]], xgap=2, ygap=2,
            texttemplate="%{z:.2f}" if size <= _WRITTEN else None, hoverongaps=False,
            colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": "share won",
                                                                   "side": "right"}},
        )
    )  # fmt: skip
    layout(figure, "against", "")
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    caption = (
        "Share of its decided comparisons that the row's agent won against the column's, a tie "
        "counting half: blue wins, orange loses, empty never met. A win must hold in both orders "
        "of showing. Counts are shown on hover and in the table. Agents are slots: who lives "
        "there changes with births."
    )
    return Chart("matrix", "Shares won", caption, figure, 160 + max(34 * size, 200), True)


def judging_chart(bins: Sequence[JudgingBin]) -> Chart:
    """Return how the agents' judging changed."""
    figure = go.Figure()
    shown = (
        ("unreadable", "abstention_rate", GREY, "dash", "circle"),
        ("flips with the order", "flip_rate", RED, "solid", "square"),
        ("says A", "first_rate", ORANGE, "dot", "diamond"),
        ("agrees with truth", "agreement", BLUE, "solid", "triangle-up"),
    )
    x = [(part.first + part.last) / 2 for part in bins]
    for name, attribute, colour, dash, symbol in shown:
        y = [getattr(part.statistics, attribute) for part in bins]
        if any(value is not None for value in y):
            pairs = [f" of {part.statistics.agreement_pairs}" for part in bins]
            figure.add_trace(
                go.Scatter(x=x, y=y, name=name, mode="lines+markers", connectgaps=True,
                           line={"color": colour, "dash": dash, "width": 2},
                           marker={"symbol": symbol, "size": 8}, hovertemplate="%{y:.2f}%{text}",
                           text=pairs if attribute == "agreement" else [""] * len(bins))
            )  # fmt: skip
    layout(figure, "generation", "share")
    figure.update_yaxes(range=[-0.02, 1.02])
    figure.update_layout(hovermode="x unified")
    caption = (
        "Of all agents' judgements together"
        + (f", in {len(bins)} groups of neighbouring generations" if _grouped(bins) else "")
        + ": the share without a readable verdict; of the pairs read in both orders, the share "
        "whose verdict changed with the order; the share of A among verdicts for A or B, 1/2 "
        "without position bias; of the pairs with one right attempt, the share in which it was "
        "preferred, a tie as half (on hover, of how many)."
    )
    return Chart("judging", "Judging over generations", caption, figure)


def _grouped(bins: Sequence[JudgingBin]) -> bool:
    return any(part.last > part.first for part in bins)


def layout(figure: go.Figure, x: str, y: str) -> None:
    """Set what all charts have in common."""
    settings: Mapping[str, Any] = {
        "template": "none",
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        "hoverlabel": {"align": "left"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
    figure.update_layout(settings)
    figure.update_xaxes(title={"text": x, "standoff": 8}, automargin=True, zeroline=False)
    figure.update_yaxes(title={"text": y, "standoff": 8}, automargin=True)


def _band(
    figure: go.Figure, x: Series, low: Series, high: Series, opacity: float, name: str
) -> None:
    red, green, blue = (int(SKY[i : i + 2], 16) for i in (1, 3, 5))
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
            fillcolor=f"rgba({red},{green},{blue},{opacity})", line={"width": 0}, mode="lines",
            name=name, hoverinfo="skip",
        )
    )  # fmt: skip
