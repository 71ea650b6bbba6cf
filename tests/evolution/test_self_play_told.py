"""What is told of a self-play run: loggers, the table at its end, what can be made of it later."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from evolution import ConsoleLogger, JsonlLogger
from evolution.cli import main
from evolution.commands.distill import command as distill
from evolution.commands.distill.replies import from_transcripts
from evolution.commands.evolve.final_table import show_proposals
from evolution.commands.evolve.judging_table import judging_table
from evolution.loggers.base import aggregates
from evolution.loggers.tensorboard import as_markdown
from evolution.reporting.measures.data import read_run_data
from evolution.runs.checkpoint import RunFolder
from evolution.runs.saved_run import SavedRun, read_run
from populora_env.judges import judge_statistics
from populora_env.proposals.record import ProposalStatus
from tests.conftest import make_tiny_base
from tests.evolution.synthetic_self_play import write_self_play_run
from tests.evolution.test_self_play import SPEC, counts, make  # noqa: F401

HELD_OUT = "procedural:chain_sum(max_terms=2,max_digits=1)"


def test_loggers_tell_of_proposals(tmp_path):
    out = io.StringIO()
    console = Console(file=out, width=300, highlight=False)
    manager = make(tmp_path / "run")
    manager.loggers += [ConsoleLogger(console), JsonlLogger(tmp_path / "log.jsonl")]
    (result,) = manager.run(1)
    manager.close()
    proposals = result.proposals
    (row,) = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert row["proposals/valid"] == pytest.approx(proposals.valid / 6)
    assert 0 < row["proposals/valid"] < 1
    assert row["proposals/solve_rate"] == pytest.approx(proposals.solve_rate)
    assert row["proposals/learnable"] == pytest.approx(proposals.learnable)
    assert row["proposals/novelty"] == pytest.approx(proposals.novelty)
    assert row["proposals/held_out"] == 0
    assert row["proposals/measures/tokens"] == pytest.approx(proposals.measures["tokens"])
    assert out.getvalue().rstrip().endswith(str(proposals))
    assert str(proposals).startswith("valid ")


def test_runs_without_proposals_tell_of_none():
    manager = make(size=3, problems=HELD_OUT, proposers=0, rewards="default", elites=1)
    (result,) = manager.run(1)
    manager.close()
    assert not [name for name in aggregates(result) if name.startswith("proposals")]


def test_an_episode_as_markdown_says_what_became_of_the_proposal():
    manager = make(tries=2)
    transcripts = manager.play(manager.ask())
    valid = next(t for t in transcripts if t.proposal.valid)
    refused = next(t for t in transcripts if not t.proposal.valid)
    said = as_markdown(valid)
    author = valid.proposal.agent
    assert said.startswith(f"**{author}** proposes — valid, solved in ")
    assert f"> {valid.problem.prompt}" in said
    assert said.count("**agent_2**") == 2
    said = as_markdown(refused)
    assert "proposes — unreadable: of a length that is not wanted, return -1.00" in said
    assert "Known answer" not in said
    assert "Write." not in said  # the request is no problem
    manager.close()


def test_held_out_proposals_are_counted_over_the_whole_run(tmp_path):
    manager = make(tmp_path)
    manager.run(2)
    manager.close()
    file = tmp_path / "history.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:  # as if so many had been held out
        row["proposals"]["statuses"] = {"valid": 4, "held_out": 1 + row["generation"]}
    console = Console(file=io.StringIO())
    assert show_proposals(RunFolder(tmp_path), console)["count"] == 12
    other = RunFolder(tmp_path / "other")
    other.write("history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = show_proposals(other, console)
    assert found == {"count": 11, "held_out": 3, "statuses": {"valid": 8, "held_out": 3}}
    said = console.file.getvalue()
    assert "3 of 11 proposals were held-out problems; none was learned from." in said


def test_nobody_counts_proposals_where_there_are_none(tmp_path):
    row = {"generation": 0, "agent": "agent_0"}
    folder = RunFolder(tmp_path)
    folder.write("history.jsonl", json.dumps(row) + "\n")
    assert show_proposals(folder, Console(file=io.StringIO())) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    base = make_tiny_base()
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def played(model, tmp_path, capsys, monkeypatch):
    """A run of two proposers and three solvers by the command, and what it printed."""
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "run"
    words = ["--model", str(model), "--problems", SPEC, "--size", "5", "--rank", "2",
             "--proposers", "2", "--tries", "2", "--problems-per-generation", "10",
             "--spread", "0.5",
             "--judged-problems", "0", "--solve-tokens", "4", "--propose-tokens", "5",
             "--rewards", "learnability", "--elites", "1", "--offspring", "1",
             "--diversity-bar", "none", "--confirm-problems", "3", "--last-trial", "3",
             "--generations", "2",
             "--held-out", "3", "--held-out-from", HELD_OUT, "--held-out-every", "1"]  # fmt: skip
    assert main(["evolve", *words, "--out", str(folder)]) == 0
    return folder, capsys.readouterr().out


def test_only_solvers_are_measured(played):
    folder, said = played
    curve = [json.loads(line) for line in (folder / "held_out_curve.jsonl").open()]
    assert {row["agent"] for row in curve} == {"base", "agent_2", "agent_3", "agent_4"}
    kept = [json.loads(line) for line in (folder / "held_out.jsonl").open()]
    asked = {row["agent"] for row in kept}
    assert asked == {"base", "agent_2", "agent_3", "agent_4", "champion", "average"}
    lines = {cells[0]: cells[1:] for line in said.splitlines() if "│" in line
             for cells in [[cell.strip() for cell in line.split("│")[1:-1]]]}  # fmt: skip
    assert lines["agent_0"][:4] == ["proposer", "", "", ""]
    assert lines["agent_0"][4]  # its standing
    assert lines["agent_2"][0] == "solver"
    marks = [row["correct"] for row in kept if row["agent"] in ("agent_2", "agent_3", "agent_4")]
    assert lines["mean of the solvers"][1] == f"{np.mean(marks):.3f}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["held_out"]["mean"] == pytest.approx(np.mean(marks))
    assert summary["proposals"]["count"] == 20
    held_out = summary["proposals"]["statuses"].get(ProposalStatus.HELD_OUT.value, 0)
    assert summary["proposals"]["held_out"] == held_out
    assert f"{held_out} of 20 proposals were held-out problems; none was learned from." in said
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "of 20 proposals were valid" in page
    assert "2 propose, 3 solve" in page


def test_only_solvers_are_merged_and_measured_later(played):
    run = read_run(played[0])
    assert list(run.solvers) == ["agent_2", "agent_3", "agent_4"]
    assert list(run.adapters)[:2] == ["agent_0", "agent_1"]


def test_of_several_tries_the_right_one_is_learned_from(played, monkeypatch):
    folder, _ = played
    file = folder / "transcripts.jsonl"
    rows = [json.loads(line) for line in file.open()]
    row = next(row for row in rows if len(row["attempts"]) == 6)
    first, second = (a for a in row["attempts"] if a["agent"] == "agent_3")
    one, two = (t for t in row["turns"] if t["agent"] == "agent_3")
    first["grade"] = {"correct": True, "extracted": "1", "status": "correct", "strict": True}
    second["grade"] = {"correct": False, "extracted": "2", "status": "wrong", "strict": False}
    first["text"], second["text"], one["reply"], two["reply"] = "good", "bad", "good", "bad"
    for attempt in row["attempts"]:
        if attempt["agent"] != "agent_3":
            attempt["grade"] = {**second["grade"]}
    file.write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(SavedRun, "lengths", {})
    found = from_transcripts(SavedRun(folder), make_tiny_base(), [])
    assert [reply.text for reply in found] == ["good"]


def test_fresh_replies_are_to_problems_that_have_answers_by_those_who_solve(
    played, tmp_path, capsys, monkeypatch
):
    asked = []

    def sampled(population, agents, problems, *_, **__):
        asked.append((population.lora.size, problems))
        return []

    monkeypatch.setattr(distill, "sampled", sampled)
    words = [str(played[0]), "--out", str(tmp_path / "out"), "--sample", "1"]
    assert main(["distill", *words, "--sample-problems", "2"]) == 2
    assert "none of the fresh replies is right" in capsys.readouterr().err
    ((size, problems),) = asked
    assert size == 3
    assert problems
    assert all(problem.answer is not None for problem in problems)


def test_those_who_judge_nothing_are_in_no_table_of_judges(tmp_path):
    transcripts = read_run_data(write_self_play_run(tmp_path, judged=True)).transcripts
    table = judging_table(judge_statistics(transcripts))
    assert list(table.columns[0].cells) == ["agent_3", "agent_4", "agent_5", "overall"]
    bare = read_run_data(write_self_play_run(tmp_path / "bare")).transcripts
    assert judging_table(judge_statistics(bare)) is None
