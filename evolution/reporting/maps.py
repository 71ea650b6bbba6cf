"""The report's family tree and its map of replies, as plotly figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from evolution.individuals.lineage import Individual
from evolution.reporting.charts import COLOURS, GREY, RED, SKY, SYMBOLS, Chart, hover, layout
from evolution.reporting.measures.data import RunData
from evolution.reporting.measures.family import Family, Life, is_copy, weights_of
from evolution.reporting.text import Point, TextMap

_CROWD = 100  # most births that are drawn large


def family_chart(run: RunData, tree: Family) -> Chart:
    """Return the family tree: a row per slot, a line per life, edges from parents to children."""
    figure = go.Figure()
    places = {life.birth.name: life for life in tree.lives}
    thick = 2.0 if len(tree.lives) <= _CROWD else 1.0
    for best, name in ((False, "parent to child"), (True, "ancestry of the best")):
        x: list[float | None] = []
        y: list[float | None] = []
        for life in tree.lives:
            born = life.birth
            for parent in born.parents:
                if parent in places and (best == (born.name in tree.ancestors)):
                    x += [born.generation - 1, born.generation, None]
                    y += [places[parent].birth.slot, born.slot, None]
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="lines", name=name, hoverinfo="skip",
                       line={"color": RED if best else GREY, "width": (0.6 + 0.4 * best) * thick},
                       opacity=0.9 if best else 0.6)
        )  # fmt: skip
    x, y = [], []
    for life in tree.lives:
        x += [life.birth.generation, life.last + 0.3 * life.living, None]
        y += [life.birth.slot, life.birth.slot, None]
    figure.add_trace(
        go.Scatter(x=x, y=y, mode="lines", name="life", hoverinfo="skip",
                   line={"color": SKY, "width": 4}, opacity=0.6)
    )  # fmt: skip
    measured = "accuracy" if any(life.accuracy is not None for life in tree.lives) else "fitness"
    values = [getattr(life, measured) for life in tree.lives]
    size = 11 if len(tree.lives) <= _CROWD else 7
    figure.add_trace(
        go.Scatter(
            x=[life.birth.generation for life in tree.lives],
            y=[life.birth.slot for life in tree.lives],
            mode="markers", name="birth",
            marker={
                "size": [size * 1.7 if life.birth.name == tree.best else size
                         for life in tree.lives],
                "symbol": ["star" if life.birth.name == tree.best else _symbol(life.birth)
                           for life in tree.lives],
                "color": values, "colorscale": "Cividis", "showscale": True,
                "line": {"color": GREY, "width": 1},
                "colorbar": {"title": {"text": measured, "side": "right"}, "thickness": 12,
                             "outlinewidth": 0},
            },
            hovertext=[_birth_text(life) for life in tree.lives], hoverinfo="text",
        )
    )  # fmt: skip
    layout(figure, "generation", "")
    figure.update_yaxes(
        tickvals=list(range(len(run.agents))), ticktext=[hover(agent) for agent in run.agents],
        range=[len(run.agents) - 0.5, -0.5], zeroline=False,
    )  # fmt: skip
    caption = (
        "A row for each slot of the population, a line for each life. A dot is a birth, coloured "
        f"by the individual's mean {measured} over its life on training problems (problems differ "
        "between generations, so colours far apart in time compare roughly). Thin lines lead from "
        "parents to children; orange ones are the ancestry of the best individual, the star. "
        "Diamonds are migrants, squares other copies of a parent, crosses what replaced a child "
        "whose operators failed."
    )
    return Chart(
        "family", "Lives and descent", caption, figure, 130 + max(34 * len(run.agents), 150)
    )


def _symbol(born: Individual) -> str:
    """Return the mark of a birth by how it came about."""
    if "failed" in born.parameters:
        return "x"
    if born.operator == "migration":
        return "diamond"
    return "square" if is_copy(born) else "circle"


def _birth_text(life: Life) -> str:
    born = life.birth
    lines = [f"<b>{hover(born.name)}</b> ({hover(born.operator)})"]
    for parent, weight in zip(born.parents, weights_of(born), strict=True):
        lines.append(f"parent {hover(parent)}, weight {weight:.2f}")
    for name, value in born.parameters.items():
        if name != "weights" and isinstance(value, int | float | str):
            lines.append(f"{hover(str(name))} {hover(str(value))}")
    lines.append(f"generations {born.generation} to {life.last}" + (", living" * life.living))
    if isinstance(undergone := born.parameters.get("mutations"), list) and undergone:
        lines.append("mutations " + hover(" + ".join(map(str, undergone))))
    for name in ("accuracy", "fitness"):
        if (value := getattr(life, name)) is not None:
            lines.append(f"mean {name} {value:.3f}")
    return "<br>".join(lines)


def map_charts(run: RunData, found: TextMap) -> list[Chart]:
    """Return the map of early and that of late attempts, with the same axes."""
    ranges: list[list[float]] = []
    for axis in ("x", "y"):
        values = [getattr(point, axis) for point in found.points]
        low, high = min(values), max(values)
        space = 0.06 * (high - low) or 1.0
        ranges.append([low - space, high + space])
    early = [point for point in found.points if not point.late]
    centre = [float(np.mean([getattr(point, axis) for point in early])) for axis in ("x", "y")]
    charts: list[Chart] = []
    eras = [(False, "early", found.early)] + ([(True, "late", found.late)] if found.late else [])
    for late, name, (first, last) in eras:
        points = [point for point in found.points if point.late is late]
        figure = go.Figure()
        for number, agent in enumerate(run.agents):
            own = [point for point in points if point.attempt.agent == agent]
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
        when = f"generation {first}" if first == last else f"generations {first} to {last}"
        wrong = sum(_is_wrong(point) for point in points)
        caption = (
            f"{len(points)} attempts of {when}, {wrong} of them wrong (hollow). Replies with the "
            "same words lie on each other."
        )
        title = f"{'Last' if late else 'First'} attempts ({when})"
        charts.append(Chart(f"map-{name}", title, caption, figure, 440))
    return charts


def _is_wrong(point: Point) -> bool:
    return point.attempt.grade is not None and point.attempt.grade.correct is False


def _cloud(agent: str, number: int, points: Sequence[Point]) -> list[go.Scatter]:
    """Return an agent's points, and its entry in the legend: with its symbol filled."""
    symbol = SYMBOLS[number % len(SYMBOLS)]
    texts: list[str] = []
    for point in points:
        grade = "not graded" if point.attempt.grade is None else point.attempt.grade.status.value
        texts.append(
            f"<b>{hover(agent)}</b>, generation {point.generation}, {hover(grade)}"
            f"<br><i>{hover(point.problem.prompt)}</i><br>{hover(point.attempt.text)}"
        )
    marker = {"color": COLOURS[number % len(COLOURS)], "size": 8, "opacity": 0.75}
    symbols = [f"{symbol}-open" if _is_wrong(point) else symbol for point in points]
    common: dict[str, Any] = {"mode": "markers", "name": hover(agent), "legendgroup": str(number)}
    return [
        go.Scatter(
            x=[point.x for point in points], y=[point.y for point in points], showlegend=False,
            hovertext=texts, hoverinfo="text", marker={**marker, "symbol": symbols}, **common,
        ),
        go.Scatter(x=[None], y=[None], marker={**marker, "symbol": symbol}, **common),
    ]  # fmt: skip
