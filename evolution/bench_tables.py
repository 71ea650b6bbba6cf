"""Results of a benchmark as tables that fit 80 columns."""

from collections.abc import Collection, Sequence
from typing import Any

from rich.table import Table

from agents.benchmark import BenchmarkResult
from agents.figures import Estimate, Mark, difference
from agents.population import BASE

_SHORT = {
    "default": "any rule", "strict": "strict", "gsm8k-strict": "gsm8k strict",
    "gsm8k-flexible": "gsm8k flex.",
}  # fmt: skip
_NAME_WIDTH = 20
_SPEC_WIDTH = 26


def heading(result: BenchmarkResult) -> str:
    """Return in one line what was measured, and how."""
    how = f"T={result.sampling.temperature:g}" if result.sampling.temperature else "greedy"
    if result.sampling.samples > 1:
        how += f", {result.sampling.samples} samples"
    return f"{result.task}: {len(result.problems)} problems, {result.preset.name}, {how}"


def result_table(result: BenchmarkResult) -> Table:
    """Return a row for every entrant and for the population's mean, best and votes."""
    table = Table(caption="accuracy ± s.e.; the best is chosen on these very problems")
    table.add_column("who", max_width=_NAME_WIDTH, overflow="fold")
    for rule in result.figures:
        table.add_column(_SHORT.get(rule, rule), justify="right", no_wrap=True)

    entries = list(result.figures.values())
    for entrant in result.entrants:
        row = [estimate_text(entry.accuracy[entrant.name]) for entry in entries]
        table.add_row(entrant.name, *row)
    if sum(not entrant.apart for entrant in result.entrants) > 1:
        table.add_section()
        table.add_row("mean", *(estimate_text(entry.mean) for entry in entries))
        best = [entry.accuracy[result.main.best] for entry in entries]
        table.add_row(f"best ({result.main.best})", *map(estimate_text, best))
        table.add_row("majority vote", *(estimate_text(entry.vote) for entry in entries))
        if result.main.weighted_vote is not None:
            table.add_row("vote by rating", *(estimate_text(e.weighted_vote) for e in entries))
    return table


def totals_lines(result: BenchmarkResult) -> list[str]:
    """Return pass@k and agreement under the main rule, a line each."""
    main = result.main
    most = len(main.pass_at_k)
    lines: list[str] = []
    if most > 1:
        shown = sorted({k for k in (1, 2, 4, 8, 16, 32, 64) if k < most} | {most})
        values = (f"@{k} {main.pass_at_k[k - 1].value:.3f}" for k in shown)
        lines.append(f"pass{'  '.join(values)}  (of {most} replies of the population)")
    if main.agreement is not None:
        strict = result.figures.get("strict", main).agreement
        lines.append(
            f"agreement between two agents: {main.agreement:.3f} of answers equal"
            + ("" if strict is None else f"; read by strict rules {strict:.3f}")
        )
    unread = [f"{name} {1 - share:.2f}" for name, share in main.answered.items() if share < 1]
    if unread:
        lines.append(f"replies without an answer: {', '.join(unread)}")
    return lines


def comparison(result: BenchmarkResult) -> dict[str, Any] | None:
    """Return how the population's mean differs from the base's, paired by problem.

    None if the base, or anybody beside it, was not measured.
    """
    members = [entrant.name for entrant in result.entrants if not entrant.apart]
    if BASE not in result.replies or BASE in members:
        return None
    rule = result.preset.extractions[0]
    marks = {
        name: [[Mark(*row.marks[rule]) for row in own] for own in rows]
        for name, rows in result.replies.items()
    }
    change = difference([marks[name] for name in members], [marks[BASE]])
    return {
        "base": result.main.accuracy[BASE].value,
        "mean": result.main.mean.value,
        "change": change.value,
        "standard_error": change.standard_error,
    }


def forgetting_table(results: Sequence[BenchmarkResult], outside: Collection[str]) -> Table:
    """Return what a run changed, inside and outside what it was trained on."""
    table = Table(
        title="What the run changed: population mean against the base",
        caption="change ± standard error, paired by problem; a fall outside is forgetting",
    )
    table.add_column("task", max_width=_SPEC_WIDTH, overflow="fold")
    table.add_column("trained on")
    for name in ("base", "mean", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in sorted(results, key=lambda result: result.task in outside):
        change = comparison(result)
        trained = "no" if result.task in outside else "yes"
        if change is None:
            table.add_row(result.task, trained, "", f"{result.main.mean.value:.3f}", "")
            continue
        table.add_row(
            result.task,
            trained,
            f"{change['base']:.3f}",
            f"{change['mean']:.3f}",
            f"{change['change']:+.3f} ± {change['standard_error']:.3f}",
        )
    return table


def estimate_text(estimate: Estimate | None) -> str:
    """Return an estimate as ``0.523 ±.044``, without an error where none can be told."""
    if estimate is None:
        return ""
    if estimate.standard_error == 0:  # all values are equal, which is no exactness
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ±{estimate.standard_error:.3f}".replace("±0.", "±.")
