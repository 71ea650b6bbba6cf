"""What is shown of a run while it goes on, and of its answers; no model."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest

from agents.measuring.evaluate import AgentScore
from agents.progress import Answered, teller
from evolution.commands.evolve.answers import show_first_answers, show_side_by_side
from evolution.commands.live_table import AgentsTable
from evolution.commands.progress import Bars
from evolution.terminal import PlainConsole
from populora_env.grading import Grader
from populora_env.problems import load_problems
from populora_env.records import Phase, Problem, Request


def answered(agent, text, tokens, seconds, phase=Phase.SOLVE):
    return Answered(Request(agent, phase, "2 + 2 =", 24, 0), text, tokens, seconds)


def drawn(shown, width=100):
    page = PlainConsole(file=io.StringIO(), width=width)
    page.print(shown)
    return page.file.getvalue().splitlines()


def cells(shown, agent):
    (line,) = [line for line in drawn(shown) if line.startswith(agent)]
    return [cell.strip() for cell in line.split("│")]


def result(standing, accuracy, returns):
    scores = SimpleNamespace(accuracy=np.array(accuracy), returns=np.array(returns))
    return SimpleNamespace(
        agents=("agent_0", "agent_1"),
        scores=scores,
        standing=np.array(standing),
        standing_errors=np.array([0.01, 0.02]),
    )


def test_a_row_says_what_an_agent_is_worth_and_what_it_just_answered():
    table = AgentsTable(["agent_0", "agent_1"])
    assert cells(table, "agent_0")[1:] == ["", "", "", "", ""]
    table.played(result([0.1, -0.1], [0.5, np.nan], [1.25, 0.5]))
    table.answered(answered("agent_0", "It is\n\x1b[31m4.", 10, 2.0))
    assert cells(table, "agent_0") == ["agent_0", "0.100 ± 0.010", "0.50", "1.25", "5",
                                       "It is �[31m4."]  # fmt: skip
    assert cells(table, "agent_1")[2] == "?"
    assert cells(table, "agent_1")[4:] == ["", ""]


def test_speed_is_that_of_all_batches_of_a_generation():
    table = AgentsTable(["agent_0", "agent_1"])
    table.answered(answered("agent_0", "four", 30, 2.0))
    table.answered(answered("agent_0", "A", 1, 1.0, Phase.COMPARE))  # another batch
    table.answered(answered("base", "five", 99, 1.5))  # not an agent
    assert cells(table, "agent_0")[4:] == ["10", "four"]  # 31 tokens in 3 s; judging is no answer
    table.played(result([0.0, 0.0], [1.0, 1.0], [0.0, 0.0]))
    assert cells(table, "agent_0")[4:] == ["", "four"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_answer_is_cut_to_the_width(width):
    table = AgentsTable(["agent_0"])
    table.answered(answered("agent_0", "word " * 100, 10, 2.0))
    lines = drawn(table, width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert lines[-1].rstrip().endswith("…")


def test_the_table_stands_above_the_bars_and_logs_hold_neither():
    table = AgentsTable(["agent_0"])
    terminal = PlainConsole(file=io.StringIO(), force_terminal=True, width=90, color_system=None)
    with Bars(terminal, above=table) as bars:
        bars.count("generations", 1, 4)
        lines = drawn(bars._live.get_renderable(), 90)
    assert lines[0].startswith("agent")
    assert lines[-1].startswith("generations")
    log = PlainConsole(file=io.StringIO(), width=90)
    with Bars(log, above=table) as bars:
        bars.count("generations", 1, 4)
    assert log.file.getvalue() == ""


def test_an_engine_tells_those_who_ask_and_those_who_watch():
    request = Request("agent_0", Phase.SOLVE, "2 + 2 =", 24, 0)
    reply = SimpleNamespace(id="reply 7", text="4", ids=(5, 6))
    done, seen = [], []
    assert teller([request], {"reply 7": 0}, None, None) is None
    for who, watcher in ((None, seen.append), (lambda *told: done.append(told), seen.append),
                         (lambda *told: done.append(told), None)):  # fmt: skip
        teller([request], {"reply 7": 0}, who, watcher)(reply)
    assert done == [(0, "4")] * 2
    assert [(told.request, told.text, told.tokens) for told in seen] == [(request, "4", 2)] * 2


class Always4:
    """A population whose base says that everything is 4."""

    def __init__(self):
        self.forgotten = 0

    def greedy(self):
        return self

    def act(self, requests):
        assert {request.agent for request in requests} == {"base"}
        return ["It is 4." for _ in requests]

    def forget(self):
        self.forgotten += 1


def test_the_base_answers_first():
    console, population = PlainConsole(file=io.StringIO(), width=80), Always4()
    known = [Problem.create(f"{a} + 2 =", str(a + 2)) for a in range(1, 4)]
    unknown = [Problem.create(f"Why {a}?") for a in range(3)]
    with Grader() as grader:
        for source in (known, unknown, known[:2], "self-play:expressions"):
            show_first_answers(population, load_source(source), 24, grader, console)
    said = console.file.getvalue()
    assert said.count("What the base answers before the run") == 1
    assert (said.count("right: It is 4."), said.count("wrong: It is 4.")) == (1, 2)
    assert population.forgotten == 1


def load_source(given):
    from populora_env.problems import as_source

    return load_problems(given) if isinstance(given, str) else as_source(given)


def test_base_and_champion_stand_side_by_side():
    problems = [Problem.create(f"{a} + 1 =", str(a + 1)) for a in range(4)]
    with Grader() as grader:
        scores = [
            AgentScore(0.0, 0.0, tuple(grader.grade_many([(p, r) for p in problems])), (r,) * 4)
            for r in ("Answer: 1", "Answer: 3 \x1b[2J" + "z" * 500)
        ]
    console = PlainConsole(file=io.StringIO(), width=120)
    show_side_by_side(problems, *scores, console)
    said = console.file.getvalue()
    assert "\x1b" not in said
    assert "3 + 1 =" not in said  # the first three
    assert said.count("right: Answer: 1") == said.count("right: Answer: 3") == 1
