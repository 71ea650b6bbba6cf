"""The report's family tree and its map of replies, as plotly figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from evolution.individuals.lineage import Individual
from evolution.reporting.charts import COLOURS, GREY, RED, SKY, SYMBOLS, Chart, layout, whole_ticks
from evolution.reporting.measures.data import RunData
from evolution.reporting.measures.family import Family, Life, is_copy, weights_of
from evolution.reporting.page import hover, hover_text
from evolution.reporting.text import Point, TextMap

_SOME = "#bcaf6f"  # from the middle of the scale of colours, for the legend
_CROWD = 100  # most births that are drawn large


def family_chart(run: RunData, tree: Family) -> Chart:
    """Return the family tree: a row per slot, a line per life, edges from parents to children."""
    figure = go.Figure()
    births = [life.birth for life in tree.lives]
    slots = {birth.name: birth.slot for birth in births}
    crowded = len(births) > _CROWD
    edges = [
        (birth.name in tree.ancestors, slots[parent], birth)
        for birth in births
        for parent in birth.parents
        if parent in slots
    ]
    for best, name in ((False, "parent to child"), (True, "ancestry of the best")):
        own = [(slot, birth) for of_best, slot, birth in edges if of_best is best]
        lines = [((birth.generation - 1, slot), (birth.generation, birth.slot))
                 for slot, birth in own]  # fmt: skip
        width = (0.6 + 0.4 * best) * (1.0 if crowded else 2.0)
        _strokes(figure, lines, name, RED if best else GREY, width, 0.9 if best else 0.6)
    lives = [((life.birth.generation, life.birth.slot),
              (life.last + 0.3 * life.living, life.birth.slot)) for life in tree.lives]  # fmt: skip
    _strokes(figure, lives, "life", SKY, 4, 0.6)
    size = 7 if crowded else 11
    known = [life for life in tree.lives if getattr(life, tree.measured) is not None]
    unknown = [life for life in tree.lives if getattr(life, tree.measured) is None]
    colours = [getattr(life, tree.measured) for life in known]
    low, high = (0.0, 1.0) if tree.measured == "accuracy" else _span(colours)
    scale = {
        "colorscale": "Cividis", "showscale": True, "cmin": low, "cmax": high,
        "colorbar": {"title": {"text": tree.measured, "side": "right"}, "thickness": 12,
                     "outlinewidth": 0},
    }  # fmt: skip
    if any(birth.name == tree.best for birth in births):
        _in_legend(figure, "the best", "star", _SOME, size * 1.7, legendrank=1001)
    if unknown:
        name = f"birth, {tree.measured} not known"
        _in_legend(figure, name, "circle", GREY, size, legendgroup=name)
        _births(figure, unknown, name, tree.best, size, color=GREY)
    if known:
        _in_legend(figure, "birth", "circle", _SOME, size, legendgroup="birth")
    _births(figure, known, "birth", tree.best, size, color=colours, **scale)
    layout(figure, "generation", "")
    whole_ticks(figure, run.generations)
    figure.update_yaxes(
        tickvals=list(range(len(run.agents))), ticktext=[hover(agent) for agent in run.agents],
        range=[len(run.agents) - 0.5, -0.5], zeroline=False,
    )  # fmt: skip
    return Chart("family", figure, 130 + max(34 * len(run.agents), 150))


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return where a scale of colours begins and ends: never in one place, nor close to it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    space = 0.5 * max(abs(low), abs(high), 1.0)
    return (low, high) if high - low > 1e-6 * space else (low - space, high + space)


def _in_legend(
    figure: go.Figure, name: str, symbol: str, colour: str, size: float, **more: Any
) -> None:
    """Add an entry to the legend alone, where plotly would show whatever mark comes first."""
    marker = {"symbol": symbol, "color": colour, "size": size, "line": {"color": GREY, "width": 1}}
    figure.add_trace(
        go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, **more)
    )


def _births(
    figure: go.Figure, lives: Sequence[Life], name: str, best: str | None, size: int, **marker: Any
) -> None:
    """Add a mark for each birth; the best one's is a star."""
    births = [life.birth for life in lives]
    marker |= {
        "size": [size * 1.7 if birth.name == best else size for birth in births],
        "symbol": ["star" if birth.name == best else _symbol(birth) for birth in births],
        "line": {"color": GREY, "width": 1},
    }
    figure.add_trace(
        go.Scatter(
            x=[birth.generation for birth in births], y=[birth.slot for birth in births],
            mode="markers", name=name, marker=marker, showlegend=False, legendgroup=name,
            hovertext=[_birth_text(life) for life in lives], hoverinfo="text",
        )
    )  # fmt: skip


def _strokes(
    figure: go.Figure,
    ends: Sequence[tuple[tuple[float, float], tuple[float, float]]],
    name: str,
    colour: str,
    width: float,
    opacity: float,
) -> None:
    """Add many straight lines as one; each is given by its two ends."""
    x, y = ([value for start, end in ends for value in (start[i], end[i], None)] for i in (0, 1))
    figure.add_trace(
        go.Scatter(x=x, y=y, mode="lines", name=name, hoverinfo="skip", opacity=opacity,
                   line={"color": colour, "width": width})
    )  # fmt: skip


def _symbol(born: Individual) -> str:
    """Return the mark of a birth by how it came about."""
    if "failed" in born.parameters:
        return "x"
    if born.operator == "migration":
        return "diamond"
    return "square" if is_copy(born) else "circle"


def _birth_text(life: Life) -> str:
    mutations = life.birth.parameters.get("mutations")
    mutations = mutations if isinstance(mutations, list) else []
    return hover_text("birth", life=life, weights=weights_of(life.birth), mutations=mutations)


def map_charts(run: RunData, found: TextMap) -> list[Chart]:
    """Return the map of early and that of late attempts, with the same axes."""
    ranges: list[list[float]] = []
    centre: list[float] = []
    for axis in ("x", "y"):
        values = [getattr(point, axis) for point in found.points]
        space = 0.06 * (max(values) - min(values)) or 1.0
        ranges.append([min(values) - space, max(values) + space])
        centre.append(float(np.mean([getattr(p, axis) for p in found.points if not p.late])))
    charts: list[Chart] = []
    for late in (False, True) if found.late else (False,):
        figure = go.Figure()
        for number, agent in enumerate(run.agents):
            own = [p for p in found.points if p.late is late and p.attempt.agent == agent]
            if own:
                figure.add_traces(_cloud(agent, number, own))
        figure.add_trace(
            go.Scatter(x=[centre[0]], y=[centre[1]], mode="markers", name="mean of the first",
                       marker={"symbol": "x-thin", "size": 16, "line": {"width": 3, "color": GREY}},
                       hovertext=["mean of the first attempts"], hoverinfo="text")
        )  # fmt: skip
        layout(figure, f"component 1 ({found.shares[0]:.1%} of variance)",
               f"component 2 ({found.shares[1]:.1%})")  # fmt: skip
        figure.update_xaxes(range=ranges[0], zeroline=False)
        figure.update_yaxes(range=ranges[1], zeroline=False)
        charts.append(Chart("map-late" if late else "map-early", figure, 440))
    return charts


def _cloud(agent: str, number: int, points: Sequence[Point]) -> list[go.Scatter]:
    """Return an agent's points, and its entry in the legend: with its symbol filled."""
    symbol = SYMBOLS[number % len(SYMBOLS)]
    marker = {"color": COLOURS[number % len(COLOURS)], "size": 8, "opacity": 0.75}
    symbols = [f"{symbol}-open" if point.wrong else symbol for point in points]
    common: dict[str, Any] = {"mode": "markers", "name": hover(agent), "legendgroup": str(number)}
    return [
        go.Scatter(
            x=[point.x for point in points], y=[point.y for point in points], showlegend=False,
            hovertext=[hover_text("reply", point=point) for point in points], hoverinfo="text",
            marker={**marker, "symbol": symbols}, **common,
        ),
        go.Scatter(x=[None], y=[None], marker={**marker, "symbol": symbol}, **common),
    ]  # fmt: skip
