"""Charts of the inside of adapters: maps by module and depth, agents beside agents, bars, lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from evolution.reporting.anatomy.ablation import Ablation
from evolution.reporting.anatomy.reading import Moves
from evolution.reporting.charts import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    RED,
    SYMBOLS,
    Chart,
    layout,
    line,
    whole_ticks,
)
from evolution.reporting.measures.data import RunData, Series
from evolution.reporting.page import hover

if TYPE_CHECKING:  # which needs torch
    from evolution.lowrank.anatomy import Anatomy

_WRITTEN = 10  # most agents for whom numbers are written into a matrix
_SCALE = "Cividis"
_SIGNED = [[0, RED], [0.5, "#f2f2f2"], [1, BLUE]]


def place_map(
    key: str,
    found: "Anatomy",
    values: Series,
    unit: str,
    form: str,
    also: tuple[Series, str, str] | None = None,
) -> Chart:
    """Return a quantity by module and depth.

    Args:
        key: Id on the page.
        found: Whose modules they are.
        values: ``[K, D]``, as `Anatomy.by_place` gives it.
        unit: What is beside the scale of colours.
        form: How plotly writes a value on hover, such as ``.1%``.
        also: Another quantity for the hover, with its words and form.
    """
    more, words, other = also or (None, "", "")
    after = f" {unit}; {words} %{{customdata:{other}}}" if also else ""
    figure = go.Figure(
        go.Heatmap(
            z=values, x=list(range(values.shape[1])), y=[hover(kind) for kind in found.kinds],
            colorscale=_SCALE, zmin=0, zmax=_top(values), hoverongaps=False, xgap=1, ygap=1,
            customdata=more,
            hovertemplate=f"%{{y}}, layer %{{x}}: %{{z:{form}}}{after}<extra></extra>",
            colorbar=_bar(unit, form),
        )
    )  # fmt: skip
    layout(figure, "layer", "")
    whole_ticks(figure, range(values.shape[1]))
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return Chart(key, figure, 110 + max(28 * len(found.kinds), 120))


def agent_map(key: str, found: "Anatomy", values: Series, unit: str, form: str) -> Chart:
    """Return a quantity of each agent in all layers, module after module.

    Args:
        key: Id on the page.
        found: Whose modules they are.
        values: ``[N, K, D]``, a map by module and depth for each agent.
        unit: What is beside the scale of colours.
        form: How plotly writes a value on hover.
    """
    there = np.logical_or.reduce(np.isfinite(values))
    cells = [(k, d) for k in range(values.shape[1]) for d in range(values.shape[2]) if there[k, d]]
    rows = np.array([[own[k, d] for k, d in cells] for own in values])
    names = [f"{found.kinds[k]}, layer {d}" for k, d in cells]
    starts = [place for place, (k, _) in enumerate(cells) if not place or cells[place - 1][0] != k]
    ends = [*starts[1:], len(cells)]
    figure = go.Figure(
        go.Heatmap(
            z=rows, x=list(range(len(cells))), y=[hover(agent) for agent in found.agents],
            colorscale=_SCALE, zmin=0, zmax=_top(rows), hoverongaps=False, ygap=1,
            customdata=[[hover(name) for name in names]] * len(rows),
            hovertemplate=f"%{{y}}, %{{customdata}}: %{{z:{form}}}<extra></extra>",
            colorbar=_bar(unit, form),
        )
    )  # fmt: skip
    for start in starts[1:]:
        figure.add_vline(start - 0.5, line={"color": GREY, "width": 2})
    layout(figure, "", "")
    figure.update_xaxes(
        showgrid=False, range=[-0.5, len(cells) - 0.5],
        tickvals=[(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)],
        ticktext=[hover(found.kinds[cells[start][0]].removesuffix("_proj")) for start in starts],
        tickangle=0,
    )  # fmt: skip
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return Chart(key, figure, 110 + max(24 * len(found.agents), 90))


def pair_map(key: str, agents: Sequence[str], values: Series, *, signed: bool = False) -> Chart:
    """Return a quantity of each pair of agents, ``[N, N]``; from -1 to 1 if signed, else from 0."""
    names = [hover(agent) for agent in agents]
    numbered = all(agent.startswith("agent_") for agent in agents)
    small = len(names) <= _WRITTEN
    figure = go.Figure(
        go.Heatmap(
            z=values, x=names, y=names, zmin=-1 if signed else 0, zmax=1, hoverongaps=False,
            colorscale=_SIGNED if signed else _SCALE, xgap=2, ygap=2,
            hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
            texttemplate="%{z:.2f}" if small else None, showscale=not small,
            colorbar=_bar("", ".1f"),
        )
    )  # fmt: skip
    layout(figure, "agent" if numbered else "", "")
    figure.update_xaxes(type="category", showgrid=False)
    if numbered:
        ticks = [name.removeprefix("agent_") for name in names]
        figure.update_xaxes(tickvals=names, ticktext=ticks, tickangle=0)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return Chart(key, figure, 100 + max(30 * len(names), 180), True)


def rank_chart(found: "Anatomy") -> Chart:
    """Return how many directions updates use by module: bars of means, whiskers over agents."""
    figure = go.Figure()
    kinds = [hover(kind) for kind in found.kinds]
    shown = (
        ("effective rank", found.effective_ranks, BLUE),
        ("stable rank", found.stable_ranks, ORANGE),
    )
    for name, values, colour in shown:
        means = _by_kind(found, values)  # [K, N]
        centre = _over_known(np.mean, means)
        low, high = _over_known(np.min, means), _over_known(np.max, means)
        figure.add_trace(
            go.Bar(
                x=kinds, y=centre, name=name, marker={"color": colour},
                error_y={"array": high - centre, "arrayminus": centre - low, "color": GREY,
                         "symmetric": False, "thickness": 1.5},
                hovertemplate="%{y:.2f}",
            )
        )  # fmt: skip
    rank = found.spectrum.shape[2]
    figure.add_hline(rank, line={"color": GREY, "dash": "dash", "width": 1.5})
    layout(figure, "", "directions")
    figure.update_yaxes(range=[0, rank * 1.08])
    figure.update_layout(barmode="group", hovermode="x unified", bargap=0.25)
    return Chart("inside-ranks", figure)


def drift_chart(run: RunData, agents: Sequence[str]) -> Chart | None:
    """Return how far each agent was from its birth over generations; None if not recorded."""
    values = run.recorded("drift")
    if values is None or not bool((values[np.isfinite(values)] > 0).any()):
        return None
    figure = go.Figure()
    for number, agent in enumerate(agents):
        column = run.agents.index(agent)
        x: list[float] = []
        y: list[float] = []
        for place, generation in enumerate(run.generations):
            lived = [run.individuals[at][column] for at in (max(place - 1, 0), place)]
            if lived[0] != lived[1]:  # another one from here on
                x.append(np.nan)
                y.append(np.nan)
            x.append(generation)
            y.append(float(values[place, column]))
        line(
            figure, x, y, hover(agent), COLOURS[number % len(COLOURS)], width=1.5,
            mode="lines+markers", hovertemplate="%{y:.1%}",
            marker={"size": 6, "symbol": SYMBOLS[number % len(SYMBOLS)]},
        )  # fmt: skip
    layout(figure, "generation", "")
    whole_ticks(figure, run.generations)
    figure.update_yaxes(rangemode="tozero", tickformat=".0%")
    figure.update_layout(hovermode="x unified")
    return Chart("inside-drift", figure)


def drift_map(found: "Anatomy", moves: Moves) -> Chart:
    """Return by how much of their size updates have moved, by module and depth."""
    known = [start is not None for start in moves.since]
    moved = found.by_place(moves.squares[:, known].sum(1))
    before = found.by_place(moves.before[:, known].sum(1))
    share = np.sqrt(np.divide(moved, before, out=np.full(moved.shape, np.nan), where=before > 0))
    return place_map("inside-moved", found, share, "of its size", ".1%")


def ablation_chart(measured: Ablation) -> Chart:
    """Return what switching off each block costs, with 95 % intervals."""
    figure = go.Figure()
    names = [f"{a}" if a == b else f"{a} to {b}" for a, b in measured.blocks] + ["all"]
    for number, agent in enumerate(measured.agents):
        costs = measured.costs(agent)
        centre = np.array([change.value for change in costs])
        figure.add_trace(
            go.Bar(
                x=names, y=centre, name=hover(agent),
                marker={"color": COLOURS[number % len(COLOURS)]},
                error_y={"array": [c.high - c.value for c in costs], "color": GREY,
                         "arrayminus": [c.value - c.low for c in costs], "symmetric": False,
                         "thickness": 1.5},
                text=[change.text() for change in costs], textposition="none",
                hovertemplate="%{text}",
            )
        )  # fmt: skip
    layout(figure, "layers whose adapter is switched off", "change of accuracy")
    figure.update_xaxes(type="category")
    figure.update_yaxes(zeroline=True)
    figure.update_layout(barmode="group", hovermode="x unified", showlegend=True)
    return Chart("inside-ablation", figure)


def _top(values: Series) -> float:
    """End of the scale of colours, which begins at 0: so that noise is not taken for a pattern."""
    return float(np.nanmax(values, initial=0.0)) or 1.0


def _bar(unit: str, form: str) -> dict[str, object]:
    return {
        "thickness": 12, "outlinewidth": 0, "title": {"text": unit, "side": "right"},
        "tickformat": ".2~p" if form[-1] == "%" else ".2~g",
    }  # fmt: skip


def _by_kind(found: "Anatomy", values: Series) -> Series:
    """Means over the layers of each module of a quantity ``[L, N]``, ``[K, N]``."""
    kinds = np.array(found.modules)
    return np.stack([_over_known(np.mean, values[kinds == kind].T) for kind in found.kinds])


def _over_known(how: object, values: Series) -> Series:
    """A figure of each row's finite values; NaN where there is none."""
    rows = [row[np.isfinite(row)] for row in values]
    return np.array([how(row) if len(row) else np.nan for row in rows])  # type: ignore[operator]
