"""Held-out accuracy while a run goes on: measured as told, and without influence on the run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from agents.measuring.evaluate import evaluate
from agents.population import LoraPopulation
from evolution.cli import main
from evolution.config import EvolutionConfig
from evolution.loggers.held_out import HeldOutLogger
from evolution.manager import EvolutionManager
from evolution.reporting.measures import measured
from evolution.reporting.measures.data import read_run_data
from evolution.runs.checkpoint import RunFolder
from evolution.runs.files import CURVE_FILE
from populora_env.grading import Grader
from populora_env.problems import load_problems
from tests.conftest import make_tiny_base

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"
CONFIG = EvolutionConfig(
    problems_per_generation=2, judged_problems=1, solve_tokens=4, judge_tokens=2, seed=5
)


@pytest.fixture(scope="module")
def grader():
    with Grader() as made:
        yield made


def run(folder, grader, generations, *, every=2, resume=False):
    """Play a run with a tiny model; return what was measured and the manager."""
    held_out = load_problems(SPEC, split="test").distinct(3)
    population = LoraPopulation(make_tiny_base(), 2, 2)
    manager = EvolutionManager(
        population, load_problems(SPEC, split="train"), CONFIG,
        folder=folder, grader=grader, exclude=held_out,
    )  # fmt: skip
    if resume:
        manager.resume(folder)
    if every:
        logger = HeldOutLogger(RunFolder(folder), population, held_out, every, 4, grader)
        logger.catch_up(manager.generation - 1)
        manager.loggers.append(logger)
    manager.run(generations)
    manager.close()
    file = folder / CURVE_FILE
    rows = [json.loads(line) for line in file.open()] if file.exists() else []
    return rows, population, held_out


def test_rows_for_every_agent_and_once_for_the_base(tmp_path, grader):
    rows, population, held_out = run(tmp_path, grader, 4)
    assert [(row["generation"], row["agent"]) for row in rows] == [
        (1, "base"), (1, "agent_0"), (1, "agent_1"), (3, "agent_0"), (3, "agent_1")
    ]  # fmt: skip
    assert all(row["problems"] == 3 for row in rows)
    again = evaluate(
        population.greedy(), held_out, agents=population.agents, grader=grader, max_new_tokens=4
    )
    assert [row["accuracy"] for row in rows[-2:]] == [s.accuracy for s in again.scores.values()]
    found = measured.read_curve(read_run_data(tmp_path))
    assert found.base == rows[0]["accuracy"]
    assert found.values[3].tolist() == [row["accuracy"] for row in rows[-2:]]


@pytest.mark.slow
def test_measuring_has_no_influence_and_resuming_writes_nothing_twice(tmp_path, grader):
    whole, *_ = run(tmp_path / "whole", grader, 4)
    run(tmp_path / "plain", grader, 4, every=0)
    for name in ("history.jsonl", "transcripts.jsonl"):
        same = (tmp_path / "plain" / name).read_bytes()
        assert (tmp_path / "whole" / name).read_bytes() == same
    run(tmp_path / "cut", grader, 2)
    file = tmp_path / "cut" / CURVE_FILE
    stale = {"generation": 3, "agent": "agent_0", "accuracy": 9.0, "problems": 3}
    # As a life leaves it that is cut off before its third generation is saved.
    RunFolder(tmp_path / "cut").write(CURVE_FILE, file.read_text() + json.dumps(stale) + "\n")
    rows, *_ = run(tmp_path / "cut", grader, 2, resume=True)
    assert rows == whole


@pytest.mark.slow
def test_a_generation_that_was_saved_and_not_measured_is_measured_on_resuming(tmp_path, grader):
    whole, *_ = run(tmp_path / "whole", grader, 4)
    run(tmp_path / "cut", grader, 2)
    (tmp_path / "cut" / CURVE_FILE).unlink()  # as if it was killed right after saving
    assert run(tmp_path / "cut", grader, 2, resume=True)[0] == whole
    assert run(tmp_path / "cut", grader, 0, resume=True)[0] == whole


@pytest.mark.slow
def test_the_command_measures_and_reports(tmp_path, capsys):
    base = make_tiny_base()
    base.model.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--problems", SPEC, "--size", "3", "--rank", "2",
             "--problems-per-generation", "2", "--judged-problems", "1", "--solve-tokens", "4",
             "--judge-tokens", "2", "--held-out", "3", "--generations", "3",
             "--last-trial", "2"]  # fmt: skip
    folder = tmp_path / "run"
    assert main(["evolve", *words, "--held-out-every", "1", "--out", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    assert f"Report: {folder / 'report.html'}" in capsys.readouterr().out
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "On 3 held-out problems the champion (" in page
    assert "held out: mean" in page
    assert main(["evolve", *words, "--held-out-every", "-1", "--out", str(tmp_path / "x")]) == 2
    assert "held_out_every: got -1, expected an integer >= 0" in capsys.readouterr().err


def test_the_base_is_measured_again_where_replies_may_be_longer(tmp_path, grader):
    rows, population, held_out = run(tmp_path, grader, 2)
    logger = HeldOutLogger(RunFolder(tmp_path), population, held_out, 1, 8, grader)
    logger.log(SimpleNamespace(generation=2), ())
    logger.log(SimpleNamespace(generation=3), ())
    rows = [json.loads(line) for line in (tmp_path / CURVE_FILE).open()]
    assert [(r["generation"], r["max_new_tokens"]) for r in rows if r["agent"] == "base"] == [
        (1, 4),
        (2, 8),
    ]
