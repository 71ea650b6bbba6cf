"""The report's sections: findings in words, tables and charts."""

from collections.abc import Sequence

import numpy as np

from agents.measuring.statistics import Estimate
from evolution.reporting.charts import (
    Chart,
    add_held_out,
    curve,
)
from evolution.reporting.findings import Findings
from evolution.reporting.measures.audits import Audit, Verdict
from evolution.reporting.measures.data import Series
from evolution.reporting.measures.measured import HeldOut
from evolution.reporting.members import (
    family_section,
    games_section,
    judges_section,
    map_section,
    transcripts_section,
)
from evolution.reporting.page import (
    NOT_RECORDED,
    Cell,
    details,
    figures,
    page,
    paragraph,
    section,
    table,
    text,
    verdict,
)
from evolution.runs.changes import read_changes

_CURVES = {
    "fitness": (
        "Fitness", "What selection goes by: mean return, scaled if the run says so, plus what "
        "diversity adds. Line: mean "
        "of the population; band: from the lowest to the highest agent. Problems differ between "
        "generations, so single steps say little.",
    ),
    "return": ("Return", "Mean reward of an agent's episodes. Line and band as for fitness."),
    "accuracy": (
        "Accuracy", "Share of right final answers on the generation's training problems, where "
        "the answer is known. Outer band: from the lowest to the highest agent; inner band: one "
        "standard error of the mean, over problems. Held-out problems are answered greedily.",
    ),
    "diversity": (
        "Diversity", "Mean distance, 0 to 1, of an agent's attempts from the others' at the same "
        "problem by the run's measures, among attempts that count. Line and band as for fitness.",
    ),
    "length": ("Length of replies", "Mean characters of an attempt. Line and band as for fitness."),
}  # fmt: skip
# Drawn where a run recorded them.
_OPTIONAL = {
    "bonus": (
        "Bonus for diversity", "What diversity adds to an agent's return in fitness. Line and "
        "band as for fitness.",
    ),
    "vendi": (
        "Vendi score", "How many different attempts at a problem there are in effect, among those "
        "that count: 1 if all are the same, at most as many as count. Mean over problems.",
    ),
    "diversity_weight": ("Weight of diversity", "What a unit of diversity was worth."),
    "counted": (
        "Attempts that count for diversity", "Share of an agent's attempts above the quality bar "
        "and known to all measures. Line and band as for fitness.",
    ),
    "coverage": (
        "MAP-Elites coverage", "Share of the archive's cells that were ever reached.",
    ),
    "qd_score": (
        "QD score", "Sum over the archive's cells of how far the best return is above the floor.",
    ),
    "archived": ("Novelty archive", "Behaviours that novelty is measured against."),
}  # fmt: skip
# Shown elsewhere, or, as means over agents, the same at all times.
_HIDDEN = frozenset({"standing", "peer_strength", "rating"})


def render(found: Findings) -> str:
    """Return the whole report as HTML."""
    charts: list[Chart] = []
    sections = {
        "summary": ("Summary", _summary(found)),
        "audits": ("Audits", _audits(found.audits)),
        "curves": ("Over generations", _curves(found, charts)),
        "measured": ("Held-out accuracy", _measured(found)),
        "family-tree": ("Family tree", family_section(found, charts)),
        "games": ("Who beats whom", games_section(found, charts)),
        "judges": ("Judges", judges_section(found, charts)),
        "map": ("Map of replies", map_section(found, charts)),
        "transcripts": ("Transcripts", transcripts_section(found)),
        "settings": ("Settings", _settings(found)),
    }
    return page(f"{found.run.name}: PopuLoRA run", _header(found), sections, charts)


def _header(found: Findings) -> str:
    run, config = found.run, found.run.config
    asked = config.get("generations")
    facts = {
        "base model": config.get("model"),
        "problems": config.get("problems"),
        "population": f"{len(run.agents)} agents"
        + (f", rank {config['rank']}" if "rank" in config else ""),
        "generations": f"{len(run.generations)}" + (f" of {asked} asked for" if asked else ""),
        "learner": config.get("learner"),
        "evaluation": config.get("evaluation"),
        "rewards": config.get("rewards"),
        "seed": config.get("seed"),
        "versions": ", ".join(f"{k} {v}" for k, v in run.versions.items()) or None,
    }
    rows = "".join(
        f"<dt>{text(name)}</dt><dd>{text('not recorded' if value is None else value)}</dd>"
        for name, value in facts.items()
    )
    return (
        f'<p class="kicker">Report of a PopuLoRA run</p>\n<h1>{text(run.name)}</h1>\n'
        f'<dl class="facts">{rows}</dl>'
    )


def _summary(found: Findings) -> str:
    run = found.run
    words = [
        f"{len(run.generations)} generations of {len(run.agents)} agents. {_held_out_words(found)}"
    ]
    if (accuracy := run.mean("accuracy")) is not None and len(run.generations) > 1:
        first, last = _ends(accuracy)
        words.append(
            f"On training problems, drawn anew for each generation, the population's mean accuracy "
            f"was {first:.3f} at the start and {last:.3f} at the end (means of the first and last "
            "fifth of the generations)."
        )
    for level in (Verdict.PROBLEM, Verdict.WATCH, Verdict.CANNOT_TELL, Verdict.FINE):
        names = [audit.name for audit in found.audits if audit.verdict is level]
        if names:
            words.append(f"Audits, {level}: {', '.join(names)}.")
    body = "\n".join(map(paragraph, words))
    return section("summary", "Summary", f'<div class="summary">{body}</div>')


def _held_out_words(found: Findings) -> str:
    held = found.held_out
    if held is None:
        return (
            "Held-out accuracy is not recorded: populora evolve measures it when a run ends, "
            "unless told --held-out 0."
        )
    clear = abs(held.gain.value) > 2 * held.gain.standard_error
    said = (
        f"That is {'more' if clear else 'no more'} than two standard errors from 0."
        if held.gain.error_text()
        else "Its standard error cannot be told, as it is the same on every problem."
    )
    stale = ""
    if held.after is not None and held.after != found.run.generations[-1] + 1:
        stale = f" This was measured after {held.after} generations, before the run went on."
    return (
        f"On {held.problems} held-out problems the best agent by standing"
        + (f" ({held.best_agent})" if held.best_agent else "")
        + f" solves {held.best.text()}, the base {held.base.text()}: a difference of "
        + held.gain.text("+.3f")
        + (", paired by problem" if held.paired else "")
        + f". {said}{stale}"
    )


def _ends(values: Series) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    part = max(len(known) // 5, 1)
    return float(known[:part].mean()), float(known[-part:].mean())


def _audits(audits: Sequence[Audit]) -> str:
    cards = "".join(
        f'<article class="card"><h3>{text(audit.name.capitalize())} {verdict(audit.verdict.value)}'
        f"</h3>{paragraph(audit.reason)}{details('How it decides', paragraph(audit.rule))}"
        "</article>"
        for audit in audits
    )
    intro = (
        "Alarms, not proofs. Errors after ± are standard errors. Five audits at these thresholds "
        "raise an alarm now and then where nothing is wrong."
    )
    return section("audits", "Audits", paragraph(intro), f'<div class="cards">{cards}</div>')


def _curves(found: Findings, charts: list[Chart]) -> str:
    run = found.run
    own: list[Chart] = []
    missing: list[str] = []
    others = [name for name in run.series if name not in _CURVES and name not in _HIDDEN]
    for name in (*_CURVES, *others):
        values = run.recorded(name)
        plain = name.replace("_", " ").capitalize(), "As the run recorded it, by agent."
        title, caption = {**_CURVES, **_OPTIONAL}.get(name, plain)
        if values is None:
            missing.append(name)
            continue
        is_share = name == "accuracy"
        error = found.accuracy_error if is_share else None
        chart = curve(f"curve-{len(own)}", title, caption, run, values, error=error, share=is_share)
        if is_share:
            add_held_out(chart, run, found.held_out, found.curve)
        own.append(chart)
    if found.identical is not None and np.isfinite(found.identical).any():
        caption = (
            "Share of pairs of attempts at the same problem whose texts are the same but for white "
            "space, mean over problems."
        )
        values = found.identical[:, None]
        own.append(curve("curve-identical", "Identical replies", caption, run, values, share=True))
    charts += own
    note = f"Not recorded: {', '.join(missing)}." if missing else ""
    return section(
        "curves", "Over generations", paragraph("Generations count from 0."), figures(own),
        paragraph(note) if note else "", details("Numbers by generation", _numbers(found)),
    )  # fmt: skip


def _numbers(found: Findings) -> str:
    run = found.run
    columns = {name: run.mean(name) for name in _CURVES if run.recorded(name) is not None}
    columns |= {n: run.mean(n) for n in ("bonus", "vendi") if run.recorded(n) is not None}
    if found.accuracy_error is not None:
        # 0 where all agents' accuracies are equal, which is no exactness
        error = found.accuracy_error
        columns["s.e. of accuracy"] = np.where(error < 0.0005, np.nan, error)
    if found.identical is not None:
        columns["identical"] = found.identical
    rows: list[list[Cell]] = []
    for place, generation in enumerate(run.generations):
        values = [float(column[place]) for column in columns.values() if column is not None]
        cells = [value if np.isfinite(value) else None for value in values]
        rows.append([generation, *cells, run.best[place]])
    names = ["generation", *columns, "best by standing"]
    return table("Means over the population.", names, rows)


def _measured(found: Findings) -> str:
    held, parts = found.held_out, list[str]()
    if held is None:
        parts.append(paragraph(NOT_RECORDED))
    else:
        rows: list[list[Cell]] = [["base", held.base.value, _error(held.base), None]]
        for name, own in held.agents.items() or [(held.best_agent or "best", held.best)]:
            rows.append([name, own.value, _error(own), _change(own.value, held)])
        if held.vote is not None:
            rows.append(["majority vote", held.vote, None, _change(held.vote, held)])
        caption = (
            f"Accuracy on {held.problems} problems that were never trained on, greedy. The best "
            f"agent, {held.best_agent or 'not recorded'}, was chosen on training problems. s.e.: "
            "standard error over problems."
        )
        parts.append(table(caption, ["who", "accuracy", "s.e.", "vs base"], rows,
                           marked=held.best_agent))  # fmt: skip
    if found.bench is not None:
        caption = (
            f"Population mean against the base after generation {found.bench.generation}, from "
            "populora bench; paired by problem. A fall on a task that was not trained on is "
            "forgetting."
        )
        changes = sorted(found.bench.changes, key=lambda change: change.outside)
        rows = [
            [c.task, "no" if c.outside else "yes", c.problems, c.base, c.mean,
             f"{c.change.value:+.3f}", _error(c.change)]
            for c in changes
        ]  # fmt: skip
        names = ["task", "trained on", "problems", "base", "mean", "change", "s.e."]
        parts.append(table(caption, names, rows))
    return section("measured", "Held-out accuracy", *parts)


def _error(estimate: Estimate) -> float | None:
    """Return a standard error; None where it would be shown as 0."""
    return estimate.standard_error if estimate.error_text() else None


def _change(accuracy: float, held: HeldOut) -> str:
    return f"{accuracy - held.base.value:+.3f}"


def _settings(found: Findings) -> str:
    if not found.run.config:
        return section("settings", "Settings", paragraph(NOT_RECORDED))
    rows = [[name, str(value)] for name, value in sorted(found.run.config.items())]
    body = table("As saved in run.toml; what is not listed was left to its default.",
                 ["setting", "value"], rows, texts=True)  # fmt: skip
    parts = [details("All settings", body)]
    if changes := read_changes(found.run.path):
        rows = [[str(c.generation), c.option, str(c.before), str(c.after), c.note] for c in changes]
        names = ["from generation", "setting", "from", "to", "note"]
        parts.insert(0, table("Changed while the run went on.", names, rows, texts=True))
    return section("settings", "Settings", *parts)
