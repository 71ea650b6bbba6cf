"""Results of a benchmark as tables that fit 80 columns."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rich.table import Table

from agents.measuring.benchmark import BenchmarkResult
from agents.measuring.statistics import Changes, Estimate, Mark, difference
from agents.population import BASE

_SHORT = {
    "default": "any rule", "strict": "strict", "gsm8k-strict": "gsm8k strict",
    "gsm8k-flexible": "gsm8k flex.",
}  # fmt: skip
_NAME_WIDTH = 20
_RULES_BESIDE = 2  # most rules of extraction beside which a column of differences fits
_SPEC_WIDTH = 26


def heading(result: BenchmarkResult, precision: str) -> str:
    """Return in one line what was measured, and how.

    Args:
        result: What came of it.
        precision: What the base multiplied in.
    """
    how = f"T={result.sampling.temperature:g}" if result.sampling.temperature else "greedy"
    if result.sampling.samples > 1:
        how += f", {result.sampling.samples} samples"
    return (
        f"{result.task}: {len(result.problems)} problems, {result.preset.name}, {how}, {precision}"
    )


def result_table(result: BenchmarkResult) -> Table:
    """Return a row for every participant and for the population's mean, best and votes.

    Where an agent is measured beside the population, every row says how much better it is, paired
    by problem, under the main rule; with many rules that is a table of its own, `changes_table`.
    """
    changes = None if len(result.figures) > _RULES_BESIDE else result.main.changes
    caption = "accuracy ± s.e."
    if _has_summary(result):
        caption += "; the best is chosen on these very problems"
    table = Table(caption=caption if changes is None else f"{caption}\n{_changes_words(changes)}")
    table.add_column("who", max_width=_NAME_WIDTH, overflow="fold")
    for rule in result.figures:
        table.add_column(_SHORT.get(rule, rule), justify="right", no_wrap=True)
    if changes is not None:
        table.add_column(f"vs {changes.base}", justify="right", no_wrap=True)
    for name, estimates, change, starts in _rows(result):
        if starts:
            table.add_section()
        beside = [] if changes is None else [_text(change, "+.3f")]
        table.add_row(name, *map(_text, estimates), *beside)
    return table


def changes_table(result: BenchmarkResult) -> Table | None:
    """Return every row's paired difference; None if there is none or `result_table` has it."""
    changes = result.main.changes
    if changes is None or len(result.figures) <= _RULES_BESIDE:
        return None
    rule = result.preset.extractions[0]
    table = Table(caption=_changes_words(changes))
    table.add_column("who", max_width=_NAME_WIDTH, overflow="fold")
    table.add_column(f"vs {changes.base}, {_SHORT.get(rule, rule)}", justify="right", no_wrap=True)
    for name, _, change, starts in _rows(result):
        if starts:
            table.add_section()
        if name != changes.base:
            table.add_row(name, _text(change, "+.3f"))
    return table


def _has_summary(result: BenchmarkResult) -> bool:
    """Whether there are several agents, so that the table has their mean, best and vote."""
    return sum(not participant.apart for participant in result.participants) > 1


def _rows(
    result: BenchmarkResult,
) -> Iterator[tuple[str, list[Estimate | None], Estimate | None, bool]]:
    """Yield a row's name, estimate under each rule, change, and whether it starts a section."""
    entries, changes = list(result.figures.values()), result.main.changes
    single = {} if changes is None else changes.accuracy
    for participant in result.participants:
        own = [entry.accuracy[participant.name] for entry in entries]
        yield participant.name, [*own], single.get(participant.name), False
    if not _has_summary(result):
        return
    best = result.main.best
    yield "mean", [entry.mean for entry in entries], changes and changes.mean, True
    leading = [entry.accuracy[best] for entry in entries]
    yield f"best ({best})", [*leading], single.get(best), False
    yield "majority vote", [entry.vote for entry in entries], changes and changes.vote, False
    if result.main.weighted_vote is not None:
        weighted = [entry.weighted_vote for entry in entries]
        yield "vote by rating", weighted, changes and changes.weighted_vote, False


def _changes_words(changes: Changes) -> str:
    return f"vs {changes.base}: difference ± s.e., paired by problem"


def _text(estimate: Estimate | None, form: str = ".3f") -> str:
    """Return an estimate as ``0.523 ±.044``, without an error where none can be told."""
    return "" if estimate is None else estimate.text(form, short=True)


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
    members = [participant.name for participant in result.participants if not participant.apart]
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
            Estimate(change["change"], change["standard_error"]).text("+.3f"),
        )
    return table
