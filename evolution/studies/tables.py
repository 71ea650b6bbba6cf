"""The tables of a study, for a terminal and as Markdown, and what their columns mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.measuring.paired import EXACT, Interval
from evolution.fitness.task import mean_of
from evolution.studies.comparing import Answer, Row
from evolution.studies.design import Study
from evolution.studies.measured import FIGURES, Cell


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts.

    Attributes:
        head: Names of its columns; all but the first hold numbers.
        rows: Their texts.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def means(answer: Answer) -> Grid:
    """Each entry by itself."""
    curve = answer.question.over_replies
    head = ["arm", *(["budget"] if curve else []), "seeds", answer.words, "95 % interval",
            "replies", "seconds"]  # fmt: skip
    return Grid(
        tuple(head),
        tuple(
            (
                row.label,
                *([_budget(row)] if curve else []),
                str(row.interval.seeds),
                f"{row.interval.mean:.3f}",
                _ends(row.interval, ".3f"),
                f"{row.replies:.0f}" + (f" ({row.cut_off} cut off)" if row.cut_off else ""),
                f"{row.seconds:.0f}",
            )
            for row in answer.rows
        ),
    )


def differences(answer: Answer) -> Grid | None:
    """Each entry less the one that it is compared with; None where nothing is compared."""
    curve = answer.question.over_replies
    rows: list[tuple[str, ...]] = []
    for row in answer.rows:
        if (found := row.comparison) is None:
            continue
        rows.append(
            (
                row.label,
                *([_budget(row)] if curve else []),
                str(found.difference.seeds),
                f"{found.difference.mean:+.3f}",
                _ends(found.difference, "+.3f"),
                "" if found.problem_error is None else f"{found.problem_error:.3f}",
                p_text(found.p),
                p_text(found.corrected),
            )
        )
    if not rows:
        return None
    head = ["arm", *(["budget"] if curve else []), "seeds", f"less {answer.against}",
            "95 % interval", "s.e., problems", "p", "p, Holm"]  # fmt: skip
    return Grid(tuple(head), tuple(rows))


def overview(study: Study, cells: Mapping[str, Mapping[int, Cell]]) -> Grid:
    """Every arm and every figure at its last budget, means over seeds."""
    last = {name: [cell.measured[-1] for cell in own.values()] for name, own in cells.items()}
    values = {
        name: [mean_of([mean_of(figure.values(one)) for one in found]) for found in last.values()]
        for name, figure in FIGURES.items()
    }
    shown = [name for name in FIGURES if any(map(math.isfinite, values[name]))]
    rows: list[tuple[str, ...]] = []
    for place, (name, arm) in enumerate(study.arms.items()):
        if not (found := last[name]):
            continue
        own = [values[figure][place] for figure in shown]
        rows.append(
            (
                arm.label,
                str(len(found)),
                *("" if math.isnan(value) else f"{value:.3f}" for value in own),
                f"{mean_of([one.replies for one in found]):.0f}",
                f"{mean_of([one.seconds for one in found]):.0f}",
            )
        )
    head = ("arm", "seeds", *(FIGURES[name].short for name in shown), "replies", "seconds")
    return Grid(head, tuple(rows))


def p_text(p: float | None) -> str:
    """A p value; empty where there is none."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def explained(study: Study, answers: Sequence[Answer]) -> list[str]:
    """What the columns mean, as sentences."""
    rows = [row for answer in answers for row in answer.rows]
    said = [
        f"Each seed has {study.held_out} held-out problems, answered greedily. Intervals of 95 % "
        "are t intervals over seeds. Replies are those of training, trials included; seconds are "
        "those of training."
    ]
    if any(row.interval.seeds == 1 for row in rows):
        said.append("A single seed has no interval and no p.")
    found = [row.comparison for row in rows if row.comparison is not None]
    if found:
        most = max(comparison.difference.seeds for comparison in found)
        how = f"all 2^{most} ways to choose them" if most <= EXACT else "random ways to choose them"
        said.append(
            "Differences are paired: same seed, same problems. p is that of a permutation test "
            "of the signs of the seeds' differences, two-sided, over "
            f"{how}" + (f", so at least {2 / 2**most:.2g}" if most <= EXACT else "")
            + "; p, Holm is corrected for all comparisons of its table. s.e., problems is what "
            "the choice of problems alone would do to a difference."
        )  # fmt: skip
    return said


def markdown(grid: Grid) -> list[str]:
    """A table as lines of Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---", *["---:"] * (len(grid.head) - 1)]
    return [line(grid.head), line(rule), *(line(row) for row in grid.rows)]


def _budget(row: Row) -> str:
    return "" if row.budget is None else f"{row.budget}"


def _ends(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return "one seed"
    return f"{interval.low:{form}} to {interval.high:{form}}"
