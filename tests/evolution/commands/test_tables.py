"""Tables of results: paired differences in every row, and no error that reads as exactness."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from agents.measuring.benchmark import Participant, benchmark
from agents.measuring.evaluate import evaluate
from agents.measuring.statistics import Estimate
from evolution.commands.bench.tables import changes_table, forgetting_table, result_table
from evolution.commands.distill.measure import table as distill_table
from evolution.commands.evolve import final_table
from evolution.reporting.measures.trends import trend
from populora_env.problems.fewshot import PRESETS
from populora_env.records import Problem

PROBLEMS = [Problem.create(f"{n} + 1 =", str(n + 1)) for n in range(4)]
EXACT = re.compile(r"± ?0?\.0+(?!\d)")  # an error of nothing but zeros


class Says:
    """Answers right where a text of an agent has a 1, wrong where it has another digit."""

    def __init__(self, **marks):
        self.marks = marks

    def act(self, requests):
        found = []
        for request in requests:
            n = int(re.search(r"(\d+) \+ 1", request.prompt)[1])
            mark = self.marks[request.agent][n]
            found.append(f"Answer: {n + 1}" if mark == "1" else f"Answer: 1{mark}{n}")
        return found


def shown(table, width=80):
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def row_of(text, who):
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    (found,) = (cells[1:] for cells in rows if cells[:1] == [who])
    return found


@pytest.mark.parametrize(
    ("value", "error", "form", "long", "short"),
    [
        (0.5234, 0.0441, ".3f", "0.523 ± 0.044", "0.523 ±.044"),
        (0.25, 0.0, "+.3f", "+0.250", "+0.250"),
        (1.0, 0.0, ".3f", "1.000", "1.000"),
        (0.0, 0.0004, ".3f", "0.000", "0.000"),
        (0.9, 0.0006, ".3f", "0.900 ± 0.001", "0.900 ±.001"),
        (-2.5, 1.25, "+.3f", "-2.500 ± 1.250", "-2.500 ±1.250"),
        (0.5, math.nan, ".3f", "0.500", "0.500"),
    ],
)
def test_an_error_that_cannot_be_told_is_left_out(value, error, form, long, short):
    estimate = Estimate(value, error)
    assert estimate.text(form) == long
    assert estimate.text(form, short=True) == short


def test_every_row_of_a_benchmark_has_its_paired_difference():
    policy = Says(base="1222", agent_0="1112", agent_1="1111", agent_2="1333")
    who = [
        Participant("base", apart=True),
        *(Participant(f"agent_{n}", weight=1.0) for n in range(3)),
    ]
    text = shown(result_table(benchmark(policy, PROBLEMS, who)))
    assert "vs base" in text
    assert row_of(text, "base") == ["0.250 ±.250", "0.250 ±.250", ""]
    assert row_of(text, "agent_0")[-1] == "+0.500 ±.289"  # 0 1 1 0
    assert row_of(text, "agent_1") == ["1.000", "1.000", "+0.750 ±.250"]  # 0 1 1 1
    assert row_of(text, "agent_2")[-1] == "+0.000"  # the same on every problem
    assert row_of(text, "best (agent_1)")[-1] == "+0.750 ±.250"
    assert row_of(text, "mean")[-1] == "+0.417 ±.160"  # 0 2/3 2/3 1/3
    vote = Estimate.of([0, 1, 1, 1 / 3])  # three answers to the last one, one of them right
    assert row_of(text, "majority vote")[-1] == vote.text("+.3f", short=True)
    assert row_of(text, "vote by rating")[-1] == row_of(text, "majority vote")[-1]


def test_nobody_to_compare_with():
    text = shown(result_table(benchmark(Says(a="1112", b="1212"), PROBLEMS, ["a", "b"])))
    assert "vs" not in text
    assert len(row_of(text, "mean")) == 2


@pytest.mark.parametrize(
    "rules", [("strict",), ("default", "strict"), PRESETS["gsm8k-5shot-v1"].extractions]
)
def test_the_widest_tables_fit_a_terminal(rules):
    names = [f"a_name_that_is_rather_long_{n}" for n in range(2)]
    policy = Says(base="1222", **dict(zip(names, ("1112", "1211"), strict=True)))
    who = [Participant("base", apart=True), *(Participant(name, weight=1.0) for name in names)]
    preset = replace(PRESETS["arena-v1"], extractions=rules)
    result = benchmark(policy, PROBLEMS, who, preset=preset)
    tables = [table for table in (result_table(result), changes_table(result)) if table]
    assert len(tables) == (2 if len(rules) > 2 else 1)
    text = "".join(map(shown, tables))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert row_of(shown(tables[-1]), "majority vote")[-1].startswith("+")


@pytest.mark.parametrize("marks", ["1111", "2222"])
def test_no_table_shows_an_error_of_zero(marks):
    policy = Says(base=marks, agent_0=marks, agent_1=marks)
    who = [Participant("base", apart=True), Participant("agent_0"), Participant("agent_1")]
    result = benchmark(policy, PROBLEMS, who)
    right = [float(mark == "1") for mark in marks]
    names = ("base", "agent_0", "agent_1", "merged", "distilled", "vote")
    base, agents = (evaluate(policy, PROBLEMS, agents=a) for a in (["base"], names[1:3]))
    made = SimpleNamespace(
        generation=1,
        standing=SimpleNamespace(tolist=lambda: [0.25, 0.5]),
        standing_errors=SimpleNamespace(tolist=lambda: [0.0, 0.125]),
        population=SimpleNamespace(
            agents=names[1:3], base=SimpleNamespace(precision="int8"), engine=None
        ),
    )
    champion = SimpleNamespace(who="agent_0", generation=1)
    last = final_table._table(base, agents, champion, agents.scores["agent_0"], None, made)
    assert "greedy, int8 (1 generations)" in last.title
    for table in (
        result_table(result),
        forgetting_table([result], {"problems"}),
        distill_table(dict.fromkeys(names, right), "agent_0", 2),
        last,
    ):
        text = shown(table)
        assert f"{right[0]:.3f}" in text
        assert not EXACT.search(text.replace("± s.e.", "").replace("± standard", ""))
    assert row_of(shown(last), "agent_0") == [f"{right[0]:.3f}", "", "+0.000", "0.250"]
    assert row_of(shown(last), "agent_1")[-1] == "0.500 ± 0.125"


def test_a_line_through_equal_values_has_no_error_to_show():
    assert str(trend(list(range(9)), [0.5] * 9)) == "+0"
