"""``populora play`` of self-play: watching proposals, proposing, and solving what others wrote."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from agents import FunctionPolicy
from evolution.cli import main
from evolution.commands.play import players as playing

SUMS = ["--problems", "self-play:expressions(digits=2,terms=2)", "--rewards", "learnability"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def give(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def watch(capsys, *arguments):
    assert main(["play", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def total_of(said, row):
    line = next(line for line in said.splitlines() if re.match(row, line))
    *added, total = map(float, re.findall(r"-?\d+\.\d{3}", line))
    assert sum(added) == pytest.approx(total, abs=0.002)
    return total


def proposes(prompt):
    """Writes problems, each another one, and answers all with 30."""
    if "arithmetic problem" not in prompt or "Begin" not in prompt:
        return "Answer: 30"
    return f"Problem: {13 + prompt.count('solved it')} + 17 ="


def test_a_proposal_is_watched_and_the_pool_remembers_it(capsys, monkeypatch):
    monkeypatch.setattr(playing, "RandomPolicy", lambda: FunctionPolicy(proposes))
    words = ["--agents", "random*3", "--proposers", "1", "--tries", "2", "--evaluation", "none"]
    said = watch(capsys, *words, *SUMS, "--episodes", "3")
    first, second, third = said.split("episode ")[1:]
    parts = ["Write a new arithmetic problem", "round 0: propose",
             "agent_0 (random), proposal valid",
             "13 + 17", "round 1: solve", "agent_1 (random), read as 30 (ok)", "round 2: solve",
             "agent_0 proposes '13 + 17': valid", "known answer: 30"]  # fmt: skip
    places = [first.index(part) for part in parts]
    assert places == sorted(places)
    assert "agent_0 (random), read" not in first  # it had nothing to solve
    assert total_of(first, "agent_0 random +proposed") == 0.0
    assert total_of(first, "agent_1 random +30 +correct") == 2.0
    assert "13 + 17 (100% solved it)" in second
    assert "agent_0 proposes '14 + 17': valid" in second
    assert "agent_0 proposes '15 + 17': valid" in third


def test_a_refused_proposal_ends_the_episode_and_says_why(capsys):
    words = ["--agents", "random*3", "--proposers", "all", *SUMS]
    said = watch(capsys, *words)
    assert "agent_0 (random), proposal unreadable: no arithmetic expression in it" in said
    assert "round 1" not in said
    assert "known answer" not in said
    assert total_of(said, "agent_0 random +proposed") == -1.0


def test_a_person_proposes_and_another_solves(capsys, monkeypatch, tmp_path):
    give(monkeypatch, "17 + 19\n\n36\n\n")
    file = tmp_path / "t.jsonl"
    words = ["--agents", "human*2,random", "--proposers", "1", "--evaluation", "none", *SUMS]
    said = watch(capsys, *words, "--transcript", str(file))
    assert "agent_0, it is your turn (propose)" in said
    assert "agent_1, it is your turn (solve)" in said
    assert "agent_0 (human), proposal valid" in said
    assert said.count("it is your turn") == 2
    (row,) = (json.loads(line) for line in file.open())
    assert row["proposal"]["text"] == "17 + 19"
    assert row["rewards"]["agent_0"] == total_of(said, "agent_0 human +proposed") == 0.5


def test_a_person_solves_what_another_wrote_without_its_answer(capsys, monkeypatch):
    monkeypatch.setattr(playing, "RandomPolicy", lambda: FunctionPolicy(proposes))
    give(monkeypatch, "1\n\n")
    words = ["--agents", "random,human", "--proposers", "1", "--evaluation", "none", *SUMS]
    said = watch(capsys, *words)
    before, after = said.split("what the others wrote")
    assert "13 + 17" in before  # in the prompt
    assert "proposal valid" not in before
    assert "known answer" not in before
    assert "agent_0 (random), proposal valid" in after
    assert "known answer: 30" in after


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (SUMS, "proposers: got 0 with problems 'self-play:expressions"),
        (["--proposers", "1"], "proposers: got 1 with problems"),
        ([*SUMS, "--proposers", "3"], "proposers must be 'all' or an integer from 0 to"),
        ([*SUMS, "--proposers", "some"], "proposers must be 'all' or an integer"),
        ([*SUMS, "--proposers", "1", "--solvers", "3"], "solvers must be at most 2"),
        (["--solvers", "2"], "solvers is for proposals"),
        ([*SUMS, "--proposers", "1", "--propose-tokens", "0"], "propose_tokens: got 0"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(capsys, arguments, said):
    assert main(["play", "--agents", "random*3", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("populora: error: ")
    assert said in line
