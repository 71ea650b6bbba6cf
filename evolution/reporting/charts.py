"""The report's charts, as plotly figures without colours of a theme; the page adds these.

Here are curves, the matrix and judging; the family tree and the map are in `reporting.maps`. What a
run has written goes through `hover`: plotly reads some HTML in names and in texts on hover.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from evolution.reporting.measures.data import RunData, Series, row_means
from evolution.reporting.measures.games import Games, JudgingBin
from evolution.reporting.measures.measured import HeldOut, HeldOutCurve
from evolution.reporting.page import hover, hover_text

# Okabe and Ito's colours that are visible on white and on black; told apart with colour blindness.
BLUE, ORANGE, GREEN, RED, SKY, PINK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PINK, RED, SKY)
# Seven symbols and six colours: 42 agents before a pair repeats.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down")
GREY = "#888888"
_MARKED = 40  # most generations whose points are marked
_BAR = 14  # width in pixels of a band over a single generation
_ALL = "agents"
_TICKS = 12  # most generations, or layers, of which each is marked
_WRITTEN = 10  # most agents for whom numbers are written into the matrix


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart; its title and caption are words of the section that shows it.

    Attributes:
        key: Its id on the page.
        figure: The chart.
        height: In pixels.
        square: Whether it must not become wide.
    """

    key: str
    figure: go.Figure
    height: int = 320
    square: bool = False


def curve(
    key: str, run: RunData, values: Series, *, error: Series | None = None, share: bool = False
) -> Chart:
    """Return a quantity over generations: mean, band over agents, the best agent's.

    Where some only propose, a mean for each role that has it, and the band over the first of them:
    what the two are paid is on scales of their own.

    Args:
        key: Id on the page.
        run: The run.
        values: [G, N], or [G, 1] for a quantity of the population.
        error: Standard error of the mean, [G], for a second band.
        share: Whether values are shares, which are shown from 0 to 1.
    """
    figure = go.Figure()
    x, by_agent = np.array(run.generations), values.shape[1] > 1
    roles = _roles(run, values) if by_agent else {"population": values}
    own = next(iter(roles.values()))
    mean = row_means(own)
    known = np.isfinite(mean)
    if by_agent:
        low, high = np.nanmin(own[known], 1), np.nanmax(own[known], 1)
        band(figure, x[known], low, high, 0.25, f"all {next(iter(roles))}")
    if error is not None:
        sure = known & np.isfinite(error)
        band(figure, x[sure], (mean - error)[sure], (mean + error)[sure], 0.45, "± 1 s.e.")
    for (role, of_role), colour in zip(roles.items(), (BLUE, GREEN), strict=False):
        means = row_means(of_role)
        some = np.isfinite(means)
        name = "population" if not by_agent else "mean" if role == _ALL else f"mean of {role}"
        line(figure, x[some], means[some], name, colour, mode=mode_of(some), marker={"size": 6})
    if by_agent and any(run.best):
        leads = np.array([
            np.nan if best is None else row[run.agents.index(best)]
            for row, best in zip(values, run.best, strict=True)
        ])  # fmt: skip
        led = np.isfinite(leads)
        if led.any():
            line(figure, x[led], leads[led], "best by standing", RED, width=1.5, dash="dot",
                 mode=mode_of(led), marker={"size": 5})  # fmt: skip
    layout(figure, "generation", "")
    whole_ticks(figure, run.generations)
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(tickformat=".6~g")  # of what does not change, plotly would write 17 digits
    if share:
        figure.update_yaxes(range=[-0.02, 1.02])
    elif bool((values[np.isfinite(values)] >= 0).all()):
        figure.update_yaxes(rangemode="nonnegative")
    return Chart(key, figure)


def _roles(run: RunData, values: Series) -> dict[str, Series]:
    """Return the columns of each role with any value but 0; all, where roles make no difference."""
    known = values[np.isfinite(values).all(axis=1)]
    if not run.proposers or (len(known) and bool((known == known[:, :1]).all())):
        return {_ALL: values}
    roles = {"solvers": run.solvers, "proposers": run.proposers}
    found = {name: values[:, run.columns(agents)] for name, agents in roles.items()}
    some = {name: own for name, own in found.items() if bool(np.nan_to_num(own).any())}
    return some or {_ALL: values}


def add_held_out(
    chart: Chart, run: RunData, held_out: HeldOut | None, measured: HeldOutCurve | None
) -> None:
    """Add held-out accuracies to the chart of accuracy."""
    figure = chart.figure
    base = held_out.base.value if held_out else measured.base if measured else None
    if base is not None:
        ends = sorted({run.generations[0], run.generations[-1]})
        # Of one generation a line has no length; a mark as flat as the line is seen all the same.
        flat = {"symbol": "line-ew-open", "size": 28, "line": {"width": 1.5}}
        alone = {"mode": "markers", "marker": flat} if len(ends) == 1 else {}
        line(figure, ends, [base] * len(ends), "held out: base", GREY, width=1.5, dash="dash",
             **alone)  # fmt: skip
    if measured is not None:
        mean = row_means(measured.values)
        known = np.isfinite(mean)
        line(
            figure, np.array(run.generations)[known], mean[known], "held out: mean", GREEN,
            mode="lines+markers", marker={"size": 8, "symbol": "diamond"},
        )  # fmt: skip
    if held_out is not None and held_out.after:
        best = held_out.best
        figure.add_trace(
            go.Scatter(x=[held_out.after - 1], y=[best.value], mode="markers",
                       name="held out: at the end",
                       marker={"color": RED, "size": 11, "symbol": "star"},
                       error_y={"array": [best.standard_error], "color": RED, "thickness": 1.5},
                       hovertemplate=best.text())
        )  # fmt: skip


def matrix_chart(games: Games) -> Chart:
    """Return who beats whom as a heat map."""
    names = [hover(agent) for agent in games.agents]
    size = len(names)
    texts = [
        [
            hover_text("pair", row=row, column=column, games=games, i=i, j=j) if i != j else ""
            for j, column in enumerate(names)
        ]
        for i, row in enumerate(names)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=games.shares, x=names, y=names, zmin=0, zmax=1, hovertext=texts, hoverinfo="text",
            colorscale=[[0, RED], [0.5, "#f2f2f2"], [1, BLUE]], xgap=2, ygap=2,
            texttemplate="%{z:.2f}" if size <= _WRITTEN else None, hoverongaps=False,
            colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": "share won",
                                                                   "side": "right"}},
        )
    )  # fmt: skip
    layout(figure, "against", "")
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return Chart("matrix", figure, 160 + max(34 * size, 200), True)


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
    pairs = [f" of {part.statistics.agreement_pairs}" for part in bins]
    for name, attribute, colour, dash, symbol in shown:
        y = [getattr(part.statistics, attribute) for part in bins]
        if any(value is not None for value in y):
            line(
                figure, x, y, name, colour, dash=dash, mode="lines+markers", connectgaps=True,
                marker={"symbol": symbol, "size": 8}, hovertemplate="%{y:.2f}%{text}",
                text=pairs if attribute == "agreement" else [""] * len(bins),
            )  # fmt: skip
    layout(figure, "generation", "share")
    figure.update_yaxes(range=[-0.02, 1.02])
    figure.update_layout(hovermode="x unified")
    return Chart("judging", figure)


def layout(figure: go.Figure, x: str, y: str) -> None:
    """Set what all charts have in common."""
    figure.update_layout(
        template="none",
        margin={"l": 56, "r": 16, "t": 12, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        hoverlabel={"align": "left"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, automargin=True, zeroline=False)
    figure.update_yaxes(title={"text": y, "standoff": 8}, automargin=True)


def whole_ticks(figure: go.Figure, numbers: Sequence[int]) -> None:
    """Mark whole numbers alone where there are few, as plotly does by itself where not."""
    if numbers[-1] - numbers[0] <= _TICKS:
        figure.update_xaxes(dtick=1)


def mode_of(known: NDArray[np.bool_]) -> str:
    """Return how plotly draws a line: few points are marked, as one alone makes no line."""
    return "lines+markers" if known.sum() <= _MARKED else "lines"


def line(
    figure: go.Figure,
    x: ArrayLike,
    y: ArrayLike,
    name: str,
    colour: str,
    *,
    width: float = 2,
    dash: str | None = None,
    **more: Any,
) -> None:
    """Add a line to a chart; on hover it says its height."""
    style = {"color": colour, "width": width, "dash": dash}
    settings = {"mode": "lines", "hovertemplate": "%{y:.3f}", **more}
    figure.add_trace(go.Scatter(x=x, y=y, name=name, line=style, **settings))


def band(
    figure: go.Figure, x: Series, low: Series, high: Series, opacity: float, name: str
) -> None:
    """Add an area between two lines of one length, or a bar where there is a single point."""
    red, green, blue = (int(SKY[i : i + 2], 16) for i in (1, 3, 5))
    colour = f"rgba({red},{green},{blue},{opacity})"
    if len(x) == 1:  # an area would have no width
        figure.add_trace(
            go.Scatter(x=[x[0], x[0]], y=[low[0], high[0]], mode="lines", name=name,
                       line={"width": _BAR, "color": colour}, hoverinfo="skip")
        )  # fmt: skip
        return
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
            fillcolor=colour, line={"width": 0}, mode="lines", name=name, hoverinfo="skip",
        )
    )  # fmt: skip
