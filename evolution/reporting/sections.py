"""The report's sections: what each of them shows.

To add one, write a function here that works out what is shown, with its charts under ``charts``; a
macro in ``assets/sections.html`` that says it, named after the key, with those parameters; and a
row of `SECTIONS`. A function that returns None leaves its section out.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agents.measuring.statistics import Estimate
from evolution.individuals.lineage import CHAMPION
from evolution.reporting.anatomy.section import anatomy_section
from evolution.reporting.anatomy.sentences import summary as inside_in_short
from evolution.reporting.charts import Chart, add_held_out, curve, judging_chart, matrix_chart
from evolution.reporting.examples import contrast, fooled
from evolution.reporting.findings import Findings
from evolution.reporting.guard import guard_section
from evolution.reporting.maps import family_chart, map_charts
from evolution.reporting.measures.audits import Verdict
from evolution.reporting.measures.data import row_means
from evolution.reporting.measures.family import family
from evolution.reporting.measures.games import games, judging_over_time
from evolution.reporting.measures.series import accuracy_error, ends
from evolution.reporting.page import counted, page
from evolution.reporting.self_play import (
    difficulty_section,
    examples_section,
    meetings_section,
    proposals_section,
)
from evolution.reporting.text import text_map
from populora_env.judges import JudgeStatistics, majority_figures
from populora_env.judges.bias import OUTSIDE, OVERALL
from populora_env.proposals.record import ProposalStatus

Shown = dict[str, Any]
Cell = str | int | float | None

# Of these the page says if one was not recorded.
_CURVES = ("fitness", "return", "accuracy", "diversity", "length")
# Shown elsewhere, or, as means over agents, the same at all times.
_HIDDEN = frozenset({"standing", "peer_strength", "rating", "update_norm", "drift"})
# Of the population as a whole: the history has the same value in each agent's row.
_WHOLE = frozenset({"vendi", "diversity_weight", "coverage", "qd_score", "archived"})
_MOST_FOUNDERS = 8
_ALL_AGENTS = "all agents"


def render(found: Findings) -> str:
    """Return the whole report as HTML."""
    worked = [(key, title, work(found)) for key, title, work in SECTIONS]
    shown = [(key, title, values) for key, title, values in worked if values is not None]
    charts: list[Chart] = [c for _, _, values in shown for c in values.get("charts", ())]
    return page(found.run.name, facts(found), shown, charts)


def facts(found: Findings) -> Mapping[str, object]:
    """Return what a page says of a run above everything else; None for what was not recorded."""
    run, config = found.run, found.run.config
    asked = config.get("generations")
    return {
        "base model": config.get("model"),
        "products": _precision(config),
        "problems": config.get("problems"),
        "population": counted(len(run.agents), "agent")
        + (f", rank {config['rank']}" if "rank" in config else ""),
        **({"roles": _roles(found)} if found.proposals else {}),
        "generations": f"{len(run.generations)}" + (f" of {asked} asked for" if asked else ""),
        "learner": config.get("learner"),
        "evaluation": config.get("evaluation"),
        "rewards": config.get("rewards"),
        "seed": config.get("seed"),
        "versions": ", ".join(f"{k} {v}" for k, v in run.versions.items()) or None,
    }


def _roles(found: Findings) -> str:
    proposers, solvers = found.run.proposers, found.run.solvers
    if not proposers:
        return "all propose and solve"
    return f"{len(proposers)} propose, {len(solvers)} solve"


def _precision(config: Mapping[str, Any]) -> str | None:
    """Return what a run's base multiplied in, as far as its settings say."""
    dtype, products = config.get("dtype"), config.get("products")
    said = products if dtype == "float32" and products is not None else dtype
    return f"{said}, weights of 4 bits" if said and config.get("load_in_4bit") else said


def _summary(found: Findings) -> Shown:
    run, held = found.run, found.held_out
    finished = run.generations[-1] + 1
    accuracy, first_and_last = run.mean("accuracy"), None
    if accuracy is not None and len(run.generations) > 1:
        first_and_last = ends(accuracy)
    by_verdict = {
        verdict: [audit.name for audit in found.audits if audit.verdict is verdict]
        for verdict in (Verdict.PROBLEM, Verdict.WATCH, Verdict.CANNOT_TELL, Verdict.FINE)
    }
    wrote = None
    if found.proposals:
        statuses = [entry.proposal.status for entry in found.proposals]
        kinds = (ProposalStatus.VALID, ProposalStatus.HELD_OUT)
        wrote = (len(statuses), *(statuses.count(status) for status in kinds))
    return {
        "run": run,
        "wrote": wrote,
        "held": held,
        "gain_is_clear": held and abs(held.gain.value) > 2 * held.gain.standard_error,
        "stale": held and held.after is not None and held.after != finished,
        "ends": first_and_last,
        "audits": {verdict: names for verdict, names in by_verdict.items() if names},
        "inside": inside_in_short(found.inside) if found.inside else "",
    }


def _curves(found: Findings) -> Shown:
    run, error = found.run, accuracy_error(found.run)
    others = [name for name in run.series if name not in _CURVES and name not in _HIDDEN]
    known = {name: run.recorded(name) for name in (*_CURVES, *others)}
    names = [name for name, values in known.items() if values is not None]
    absent = [name for name, values in known.items() if values is None]
    charts: list[Chart] = []
    for name, values in known.items():
        if values is None:
            continue
        key, share = f"curve-{len(charts)}", name == "accuracy"
        values = row_means(values)[:, None] if name in _WHOLE else values
        charts.append(curve(key, run, values, error=error if share else None, share=share))
        if share:
            add_held_out(charts[-1], run, found.held_out, found.curve)
    means = {name: run.mean(name) for name in (*_CURVES, "bonus", "vendi")}
    if run.proposers and (paid := run.recorded("return")) is not None:
        means["return of proposers"] = row_means(paid[:, run.columns(run.proposers)])
    columns = {name: values for name, values in means.items() if values is not None}
    if error is not None:
        # 0 where all agents' accuracies are equal, which is no exactness
        columns["s.e. of accuracy"] = np.where(error < 0.0005, np.nan, error)
    if found.identical is not None:
        columns["identical"] = found.identical
        if np.isfinite(found.identical).any():
            names.append("identical replies")
            charts.append(curve("curve-identical", run, found.identical[:, None], share=True))
    cells = [[v if np.isfinite(v) else None for v in own.tolist()] for own in columns.values()]
    return {
        "charts": charts,
        "names": names,
        "missing": [name for name in absent if run.mean_as_recorded(name) is None],
        "unknown": [name for name in absent if run.mean_as_recorded(name) is not None],
        "columns": ["generation", *columns, "best by standing"],
        "rows": list(zip(run.generations, *cells, run.best, strict=True)),
        "of": "those who solve" if run.proposers else "the population",
        "proposed": bool(found.proposals),
    }


def _measured(found: Findings) -> Shown:
    held, bench, rows = found.held_out, found.bench, list[list[Cell]]()
    if held is not None:
        base = held.base.value
        rows.append(["base", base, _error(held.base), None])
        shown = dict(held.agents)
        if held.agent not in shown:
            shown[held.agent or CHAMPION] = held.best
        for name, own in shown.items():
            rows.append([name, own.value, _error(own), f"{own.value - base:+.3f}"])
        if held.vote is not None and len(found.run.solvers) > 1:  # of one it is its own answer
            rows.append(["majority vote", held.vote, None, f"{held.vote - base:+.3f}"])
        if (own := held.average) is not None:
            change = f"{own.value - base:+.3f}"
            rows.append(["average, as one adapter", own.value, _error(own), change])
    changes = sorted(bench.changes if bench else (), key=lambda change: change.outside)
    table = [
        [c.task, "no" if c.outside else "yes", c.problems, c.base, c.mean, f"{c.change.value:+.3f}",
         _error(c.change)]
        for c in changes
    ]  # fmt: skip
    return {"held": held, "rows": rows, "bench": bench, "changes": table}


def _error(estimate: Estimate) -> float | None:
    """Return a standard error; None where it would be shown as 0."""
    return estimate.standard_error if estimate.error_text() else None


def _family_tree(found: Findings) -> Shown:
    tree = family(found.run)
    if tree is None:
        return {"charts": [], "tree": None, "left": 0, "most": []}
    left = [(name, share) for name, share in tree.founders.items() if share > 0]
    left.sort(key=lambda entry: -entry[1])
    return {
        "charts": [family_chart(found.run, tree)],
        "tree": tree,
        "left": len(left),
        "most": left[:_MOST_FOUNDERS],
    }


def _games(found: Findings) -> Shown:
    played = games(found.run.solvers, found.run.transcripts)
    if played is None:
        return {"charts": [], "rows": []}
    strength = played.strengths
    rows: list[list[Cell]] = [
        [agent, int(played.wins[i].sum()), int(played.ties[i].sum()), int(played.wins[:, i].sum()),
         int(played.abstained[i].sum()), f"{strength.strengths[i]:+.2f}",
         f"{strength.standard_errors[i]:.2f}"]
        for i, agent in enumerate(played.agents)
    ]  # fmt: skip
    rows.sort(key=lambda row: -float(str(row[5])))
    decided = bool(np.isfinite(played.shares).any())
    return {"charts": [matrix_chart(played)] if decided else [], "rows": rows}


def _judges(found: Findings) -> Shown:
    names = {OVERALL: _ALL_AGENTS, OUTSIDE: "judge from outside"}
    lines = {
        names.get(name, name): _judged(entry)
        for name, entry in found.judges.items()
        if name not in found.run.proposers
    }
    columns = [
        column
        for column in next(iter(lines.values()), {})
        if any(line[column] is not None for line in lines.values())
    ]
    bins = judging_over_time(found.run.episodes) if lines else []
    return {
        "charts": [judging_chart(bins)] if len(bins) > 1 else [],
        "columns": ["judge", *columns],
        "rows": [[who, *(line[column] for column in columns)] for who, line in lines.items()],
        "all": _ALL_AGENTS,
        "groups": len(bins) if any(part.last > part.first for part in bins) else None,
        "majority": majority_figures(found.run.transcripts),
    }


def _judged(entry: JudgeStatistics) -> dict[str, Cell]:
    share, pairs = entry.agreement, entry.agreement_pairs
    error = None  # of a share of pairs; none where it would be 0, as if exact
    if share is not None and pairs > 1:
        error = math.sqrt(max(share * (1 - share), 0.0) / (pairs - 1)) or None
    return {
        "asked": entry.comparisons + entry.assessments,
        "unreadable": entry.abstention_rate,
        "flips": entry.flip_rate,
        "says A": entry.first_rate,
        "ties": entry.tie_rate,
        "length r, pairs": entry.pair_length_correlation,
        "length r, scores": entry.score_length_correlation,
        "own - peers": entry.own_peer_gap,
        "agrees with truth": share,
        "s.e.": error,
        "pairs with a truth": pairs,
        "score if right": entry.right_score,
        "score if wrong": entry.wrong_score,
        "verdicts right": entry.verdict_accuracy,
    }


def _map(found: Findings) -> Shown:
    placed = text_map(found.run)
    if placed is None:
        return {"charts": [], "found": None, "eras": []}
    eras: list[tuple[int, int, int, int]] = []
    for late, era in ((False, placed.early), (True, placed.late)):
        if era is not None:
            own = [point for point in placed.points if point.late is late]
            eras.append((*era, len(own), sum(point.wrong for point in own)))
    return {"charts": map_charts(found.run, placed), "found": placed, "eras": eras}


def _transcripts(found: Findings) -> Shown:
    run, judged = found.run, bool(found.judges)
    return {"contrast": contrast(run), "fooled": fooled(run), "judged": judged}


def _settings(found: Findings) -> Shown:
    changes = found.run.saved.changes() if found.run.config else []
    return {
        "changes": [(str(c.generation), c.option, str(c.before), str(c.after), c.note)
                    for c in changes],
        "rows": [(name, str(value)) for name, value in sorted(found.run.config.items())],
    }  # fmt: skip


SECTIONS: tuple[tuple[str, str, Callable[[Findings], Shown | None]], ...] = (
    ("summary", "Summary", _summary),
    ("audits", "Audits", lambda found: {"audits": found.audits}),
    ("curves", "Over generations", _curves),
    ("proposals", "Proposals", proposals_section),
    ("difficulty", "Difficulty of proposals", difficulty_section),
    ("meetings", "Who proposes for whom", meetings_section),
    ("examples", "Proposals to read", examples_section),
    ("measured", "Held-out accuracy", _measured),
    ("family-tree", "Family tree", _family_tree),
    ("games", "Who beats whom", _games),
    ("judges", "Judges", _judges),
    ("guard", "Guard", guard_section),
    ("anatomy", "Anatomy", lambda found: anatomy_section(found.run, found.inside)),
    ("map", "Map of replies", _map),
    ("transcripts", "Transcripts", _transcripts),
    ("settings", "Settings", _settings),
)
"""Key, title and function of each section, in the order of the page."""
