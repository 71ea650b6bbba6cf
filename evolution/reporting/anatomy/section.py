"""What the section on the inside of adapters shows."""

from typing import TYPE_CHECKING, Any

import numpy as np

from evolution.reporting.anatomy import sentences
from evolution.reporting.anatomy.charts import (
    ablation_chart,
    agent_map,
    drift_chart,
    drift_map,
    pair_map,
    place_map,
    rank_chart,
)
from evolution.reporting.anatomy.reading import STILL, Inside
from evolution.reporting.charts import Chart
from evolution.reporting.measures.data import RunData, Series

if TYPE_CHECKING:
    from evolution.lowrank.anatomy import Anatomy

Cell = str | int | float | None


def anatomy_section(run: RunData, inside: Inside | None) -> dict[str, Any] | None:
    """Return charts with their findings, and the table of agents; None without adapters."""
    if inside is None:
        return None
    found, moves = inside.anatomy, inside.moves
    parts: list[tuple[str, list[Chart], bool]] = []  # finding, charts, whether they are small
    if found.blocks.max(initial=-1) >= 0:
        parts.append((sentences.sizes(found), _sizes(found), False))
    if len(found.agents) > 1:
        if found.blocks.max(initial=-1) >= 0 and found.own.sum() > 0:
            parts.append((sentences.differences(found), _differences(found), False))
        pairs = [
            pair_map("inside-cosines", found.agents, found.cosines, signed=True),
            pair_map("inside-reads", found.agents, found.read_overlaps),
            pair_map("inside-writes", found.agents, found.write_overlaps),
        ]
        parts.append((sentences.overlaps(found), pairs, True))
    parts.append((sentences.ranks(found), [rank_chart(found)], False))
    if moves is not None:
        parts.append((sentences.drift(found, moves), _drift(run, inside), False))
    if inside.ablation is not None:
        finding = sentences.ablation(inside.ablation)
        parts.append((finding, [ablation_chart(inside.ablation)], False))
    return {
        "charts": [chart for _, own, _ in parts for chart in own],
        "parts": parts,
        "inside": inside,
        "errors": _errors(inside),
        "relative": bool(np.isfinite(found.base_norms).all()),
        "columns": ["agent", "individual", "size", "from the mean", "effective rank",
                    "stable rank", "most alike", "cosine", "since generation", "moved"],
        "rows": _rows(inside),
    }  # fmt: skip


def _sizes(found: "Anatomy") -> list[Chart]:
    """How large updates are: of all agents by place, and of each."""
    squares = found.norms**2
    each = np.stack([np.sqrt(found.by_place(own)) for own in squares.T])
    if np.isfinite(found.base_norms).all():
        base = found.by_place(found.base_norms**2)
        mean = np.sqrt(found.by_place(squares.mean(1)))
        share, norm = mean / np.sqrt(base), (mean, "norm", ".3g")
        return [
            place_map("inside-sizes", found, share, "of the base's weights", ".2%", norm),
            agent_map("inside-agents", found, each / np.sqrt(base), "of the base's weights", ".2%"),
        ]
    mean, weights = np.sqrt(found.by_place(squares.mean(1))), np.sqrt(found.by_place(found.weights))
    return [
        place_map(
            "inside-sizes", found, mean / weights, "per weight", ".2g", (mean, "norm", ".3g")
        ),
        agent_map("inside-agents", found, each / weights, "per weight", ".2g"),
    ]


def _differences(found: "Anatomy") -> list[Chart]:
    """Where agents differ: share of updates that is not common, and each agent's distance."""
    squares = found.by_place((found.norms**2).mean(1))
    share = _root(found.by_place(found.own.mean(1)), squares) ** 2
    part = (found.by_place(found.own.sum(1) / found.own.sum()), "of all difference", ".2%")
    each = np.stack([_root(found.by_place(own), squares) for own in found.own.T])
    return [
        place_map("inside-differences", found, share, "not common", ".1%", part),
        agent_map("inside-distances", found, each, "of the mean size", ".1%"),
    ]


def _drift(run: RunData, inside: Inside) -> list[Chart]:
    """How far agents have moved: over generations, by place, and in which directions."""
    found, moves = inside.anatomy, inside.moves
    assert moves is not None
    over_time = None if moves.exact else drift_chart(run, found.agents)
    charts = [] if over_time is None else [over_time]
    known = np.isfinite(moves.drift)
    if not known.any() or float(np.nanmax(moves.drift)) < STILL:
        return charts
    if found.blocks.max(initial=-1) >= 0:
        charts.append(drift_map(found, moves))
    if known.sum() > 1:
        charts.append(pair_map("inside-moves", found.agents, moves.cosines, signed=True))
    return charts


def _rows(inside: Inside) -> list[list[Cell]]:
    found, moves = inside.anatomy, inside.moves
    distances = np.sqrt(found.own.sum(0))
    effective, stable = (_means(v) for v in (found.effective_ranks, found.stable_ranks))
    cosines = np.where(np.eye(len(found.agents), dtype=bool), np.nan, found.cosines)
    rows: list[list[Cell]] = []
    for i, agent in enumerate(found.agents):
        near: list[Cell] = [None, None]
        if np.isfinite(cosines[i]).any():
            j = int(np.nanargmax(cosines[i]))
            near = [found.agents[j], f"{cosines[i, j]:+.2f}"]
        moved: list[Cell] = [None, None]
        if moves is not None and np.isfinite(moves.drift[i]):
            moved = [moves.since[i], f"{moves.drift[i]:.1%}"]
        rows.append(
            [agent, inside.individuals[i], f"{found.total_norms[i]:.3g}", f"{distances[i]:.3g}",
             _shown(effective[i]), _shown(stable[i]), *near, *moved]
        )  # fmt: skip
    return rows


def _errors(inside: Inside) -> tuple[float, float] | None:
    """Largest relative errors of estimated distances, in all layers and in one; None if exact."""
    if inside.moves is None or inside.moves.products is None:
        return None
    one = (2 / inside.moves.products) ** 0.5
    return one / len(inside.anatomy.layers) ** 0.5, one


def _means(values: Series) -> list[float]:
    """Mean over layers of what is known of each agent, from ``[L, N]``."""
    columns = [own[np.isfinite(own)] for own in values.T]
    return [float(own.mean()) if len(own) else np.nan for own in columns]


def _shown(value: float) -> str | None:
    return f"{value:.2f}" if np.isfinite(value) else None


def _root(above: Series, below: Series) -> Series:
    return np.sqrt(np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0))
