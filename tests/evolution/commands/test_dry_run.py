"""``populora evolve --dry-run`` beside the run itself, on a tiny model."""

from __future__ import annotations

import json
import re

import pytest

from evolution.cli import main
from evolution.commands.evolve.forecast_table import most_resident
from evolution.planning.memory import MemoryPlan

QUICK = [
    "--size", "4", "--rank", "4", "--problems-per-generation", "6", "--judged-problems", "2",
    "--solve-tokens", "8", "--judge-tokens", "3", "--offspring", "1", "--held-out", "6",
    "--evolve-every", "2", "--generations", "4",
    "--problems", "procedural:chain_sum(max_terms=2,max_digits=1)",
]  # fmt: skip
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    monkeypatch.setattr("evolution.commands.evolve.dry_run.SECONDS", 0.5)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def said(capsys, *words):
    assert main(["evolve", *words, "--dry-run"]) == 0
    return capsys.readouterr().out


def number_of(text, row):
    """The last cell of a row."""
    line = next(line for line in text.splitlines() if row in line)
    return line.rstrip("│ ").rpartition("│")[2].strip()


def bytes_of(words):
    number, unit = re.search(r"([\d.,]+) ([KMG]?i?B)$", words).groups()
    return float(number.replace(",", "")) * UNITS[unit]


def test_it_says_what_a_run_then_takes_and_writes_nothing(model_folder, tmp_path, capsys):
    words = ["--model", model_folder, *QUICK, "--out", "run"]
    text = said(capsys, *words)
    assert list(tmp_path.iterdir()) == []
    assert max(map(len, text.splitlines()[:30])) <= 80
    assert number_of(text, "replies: solve") == str(4 * 6 * 4)
    assert number_of(text, "replies: compare") == str(4 * 2 * 4 * 2)
    assert "4 generations, 4 agents" in text
    assert "Memory at most: " in text
    assert main(["evolve", *words]) == 0
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    held = sum(file.stat().st_size for file in files)
    assert bytes_of(number_of(text, "disk: all")) == pytest.approx(held, rel=0.2)
    rows = (tmp_path / "run/transcripts.jsonl").read_text().splitlines()
    turns = [turn for row in rows for turn in json.loads(row)["turns"]]
    assert sum(turn["phase"] == "solve" for turn in turns) == 4 * 6 * 4

    # What is left of it, without a change to the folder.
    before = {file: file.read_bytes() for file in files}
    capsys.readouterr()
    text = said(capsys, "--resume", "run", "--generations", "7")
    assert "3 generations that are left of 7" in text
    assert number_of(text, "replies: solve") == str(3 * 6 * 4)
    text = said(capsys, "--resume", "run")
    assert "Nothing is left: 4 generations were played" in text
    assert main(["evolve", *words, "--dry-run"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()} == before


def test_self_play_says_how_many_proposals_were_valid(model_folder, tmp_path, capsys):
    text = said(
        capsys, "--preset", "self-play", "--model", model_folder, "--products", "float32",
        "--problems-per-generation", "6", "--solve-tokens", "6", "--propose-tokens", "6",
    )  # fmt: skip
    assert number_of(text, "replies: propose") == str(24 * 6)
    assert "Proposals: 0% were valid" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "device: got 'cuda', expected auto or one of this machine"),
        (["--elites", "9"], "elites + offspring: got"),
        (["--targets", "nothing"], "targets: 'nothing' matches no linear layer"),
        (["--solve-tokens", "5000"], "exceeds the model's context"),
        (["--problems", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--resume", "nowhere"], "nowhere"),
        (["--proposers", "2", "--elites", "1"], "expected a spec such as self-play:expressions"),
    ],
)
def test_what_a_run_refuses_is_refused(words, message, model_folder, tmp_path, capsys):
    given = words if "--resume" in words else ["--model", model_folder, *QUICK, *words]
    if "--solve-tokens" in words:
        rows = '{"prompt": "What is 1+1?", "answer": 2}\n{"prompt": "What is 1+2?", "answer": 3}\n'
        (tmp_path / "own.jsonl").write_text(rows)
        given += ["--problems", "own.jsonl", "--held-out", "0"]
    assert main(["evolve", *given, "--dry-run"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--exchange", "average"], ["--learn-from", "population"]])
def test_what_goes_with_a_learner_is_no_fault(words, model_folder, capsys):
    assert main(["evolve", "--model", model_folder, *QUICK, *words, "--dry-run"]) == 0
    assert capsys.readouterr().err == ""


def test_what_will_not_fit_is_said_in_a_line(model_folder, monkeypatch, capsys):
    monkeypatch.setattr("evolution.commands.evolve.dry_run._room", lambda *_: 2**20)
    text = said(capsys, "--model", model_folder, *QUICK)
    assert re.search(r"Warning: [\d.,]+ [MG]iB will not fit into 1.0 MiB; lower \w+", text)


def test_the_time_limit_is_said(model_folder, capsys):
    text = said(capsys, "--model", model_folder, *QUICK, "--max-minutes", "0.0001")
    assert "max_minutes = 0.0001 ends the run after generation 1 of 4." in text
    text = said(capsys, "--model", model_folder, *QUICK, "--max-minutes", "1000")
    assert "max_minutes = 1000 is not reached." in text


def test_the_fullest_phase_is_the_peak():
    plan = MemoryPlan(
        {"process": 5, "base": 10, "adapters": 2},
        {"loading": {"packing": 9}, "decoding": {"keys and values": 3, "logits": 4}},
    )
    assert (plan.total("loading"), plan.total("decoding")) == (24, 24)
    assert plan.peak == 24


def test_what_the_allocator_keeps_is_of_rounding_and_of_learning():
    always = {"process": 5, "base": 10}
    plan = MemoryPlan(always, {"loading": {"packing": 9}, "decoding": {"logits": 4}})
    assert most_resident(plan) == 15 + 9 + 9
    plan = MemoryPlan(always, {**plan.phases, "learning": {"activations": 40}})
    assert most_resident(plan) == 15 + 40 + 20
