"""The report's sections on a population's members: descent, games, judging, and what they wrote."""

import math

from evolution.reporting.charts import Chart, judging_chart, matrix_chart
from evolution.reporting.examples import Example
from evolution.reporting.findings import Findings
from evolution.reporting.maps import family_chart, map_charts
from evolution.reporting.page import (
    NOT_RECORDED,
    Cell,
    figure,
    figures,
    paragraph,
    section,
    table,
    text,
)
from populora_env.judges import JudgeStatistics
from populora_env.judges.bias import OUTSIDE, OVERALL


def family_section(found: Findings, charts: list[Chart]) -> str:
    """Who descends from whom."""
    tree = found.tree
    if tree is None:
        return section("family-tree", "Family tree", paragraph(NOT_RECORDED))
    chart = family_chart(found.run, tree)
    charts.append(chart)
    left = {name: share for name, share in tree.founders.items() if share > 0}
    most = sorted(left.items(), key=lambda entry: -entry[1])[:8]
    words = (
        f"{len(tree.lives)} individuals were born. The living descend from {len(left)} of "
        f"{len(tree.founders)} founders; by the weights of the crossovers their shares are "
        + ", ".join(f"{name} {share:.0%}" for name, share in most)
        + (" and less of others." if len(left) > len(most) else ".")
    )
    return section("family-tree", "Family tree", paragraph(words), figure(chart))


def games_section(found: Findings, charts: list[Chart]) -> str:
    """Who beats whom."""
    games = found.games
    if games is None:
        words = "No comparisons are kept: who beats whom needs the evaluation compare."
        return section("games", "Who beats whom", paragraph(words))
    chart = matrix_chart(games)
    charts.append(chart)
    rows: list[list[Cell]] = []
    for i, agent in enumerate(games.agents):
        strength = games.strengths
        rows.append([
            agent, int(games.wins[i].sum()), int(games.ties[i].sum()),
            int(games.wins[:, i].sum()), int(games.abstained[i].sum()),
            f"{strength.strengths[i]:+.2f}", f"{strength.standard_errors[i]:.2f}",
        ])  # fmt: skip
    rows.sort(key=lambda row: -float(str(row[5])))
    caption = (
        "Comparisons of each agent's attempts. Strength: Bradley and Terry's model with ties, in "
        "natural logarithms of odds, mean 0; comparisons without a result are left out."
    )
    names = ["agent", "won", "tied", "lost", "without a result", "strength", "s.e."]
    return section("games", "Who beats whom", figure(chart), table(caption, names, rows))


def judges_section(found: Findings, charts: list[Chart]) -> str:
    """How everybody judged."""
    if not found.judges:
        return section("judges", "Judges", paragraph("Nobody judged anything in what is kept."))
    judges = {
        ("all agents" if name == OVERALL else "judge from outside" if name == OUTSIDE else name): e
        for name, e in found.judges.items()
    }
    lines = {who: _judged(entry) for who, entry in judges.items()}
    names = [name for name in next(iter(lines.values()))
             if any(line[name] is not None for line in lines.values())]  # fmt: skip
    rows: list[list[Cell]] = [[who, *(line[n] for n in names)] for who, line in lines.items()]
    caption = (
        "How each agent judged over the whole run. Flips: pairs read in both orders whose verdict "
        "changed with the order. Says A: among verdicts for A or B; 1/2 is no position bias. "
        "Length r: correlation of the verdict with the difference in length, or of the score with "
        "the length. Agrees with truth: pairs with a result of which exactly one attempt is "
        "right, a tie as half. Empty: too little to count."
    )
    parts = [table(caption, ["judge", *names], rows, marked="all agents")]
    if len(found.judging) > 1:
        chart = judging_chart(found.judging)
        charts.append(chart)
        parts.append(figure(chart))
    majority = found.majority
    if majority.right_rate is not None and majority.accuracy is not None:
        parts.append(
            paragraph(
                f"The majority's answer was right in {majority.right} of {majority.decided} "
                f"episodes that had one ({majority.right_rate:.2f}; a single attempt "
                f"{majority.accuracy:.2f}), and wrong in {majority.misled} of {majority.hard} "
                "episodes in which most attempts were wrong."
            )
        )
    return section("judges", "Judges", *parts)


def _share_error(share: float | None, pairs: int) -> float | None:
    """Return the standard error of a share of pairs; None where it would be 0, as if exact."""
    if share is None or pairs < 2:
        return None
    return math.sqrt(max(share * (1 - share), 0.0) / (pairs - 1)) or None


def _judged(entry: JudgeStatistics) -> dict[str, Cell]:
    share, pairs = entry.agreement, entry.agreement_pairs
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
        "s.e.": _share_error(share, pairs),
        "pairs with a truth": pairs,
        "score if right": entry.right_score,
        "score if wrong": entry.wrong_score,
        "verdicts right": entry.verdict_accuracy,
    }


def map_section(found: Findings, charts: list[Chart]) -> str:
    """Early and late replies on a map."""
    if found.map is None:
        return section("map", "Map of replies", paragraph(NOT_RECORDED))
    own = map_charts(found.run, found.map)
    charts += own
    explained = sum(found.map.shares)
    words = (
        "Each point is a reply, coloured by agent; point at one to read it. Replies that use the "
        "same words and turns are near each other. Computed from the texts (hidden features are "
        "not kept): words, pairs of words and runs of 3 to 5 characters, digits all alike, hashed "
        "TF-IDF, first two principal components of both charts' replies together, which explain "
        f"{explained:.0%} of the variance: what is far apart here is different, what is near "
        "need not be alike."
    )
    if found.map.drift is not None:
        words += (
            f" The mean reply moved by {found.map.drift:.2f} times the first replies' own spread "
            "(root mean square distance from their mean, in all dimensions)."
        )
    return section("map", "Map of replies", paragraph(words), figures(own))


def transcripts_section(found: Findings) -> str:
    """Attempts side by side."""
    cards: list[str] = []
    if found.contrast is None:
        words = (
            "No problem has two different right attempts, one of them by the best agent, in what "
            "is kept."
        )
    else:
        both = found.contrast
        right = "right " if both.graded else ""
        words = (
            f"The best agent's {right}attempt and the {right}attempt at the same problem farthest "
            f"from it in words: distance {both.distance:.2f}, from 0 (same words) to 1 (none in "
            "common), digits all alike. Of the best individual's latest episodes this is the "
            "pair farthest apart."
        )
        cards.append(_card("The best agent's", both.best))
        cards.append(_card("The most different", both.other))
    if found.fooled is not None:
        cards.append(_card("Wrong, and taken for good", found.fooled))
    elif found.judges:
        words += " No wrong attempt was taken for good by a judge in what is kept."
    return section(
        "transcripts", "Transcripts", paragraph(words), f'<div class="cards">{"".join(cards)}</div>'
    )


def _card(title: str, example: Example) -> str:
    attempt, problem = example.attempt, example.problem
    grade = "not graded" if attempt.grade is None else attempt.grade.status.value.replace("_", " ")
    known = "unknown" if problem.answer is None else problem.answer
    said = "".join(f"<li>{text(line)}</li>" for line in example.opinions)
    return (
        f'<article class="card"><h3>{text(title)}</h3><p class="soft">{text(attempt.agent)}, '
        f"generation {example.generation}; read as {text(attempt.answer)}, {text(grade)}; known "
        f"answer {text(known)}</p>Problem<pre>{text(problem.prompt)}</pre>Reply"
        f"<pre>{text(attempt.text)}</pre>" + (f"<ul>{said}</ul>" if said else "") + "</article>"
    )
