from __future__ import annotations

import json

import pytest

from evolution.cli import main
from evolution.guard.anchors import Anchors
from evolution.guard.forgetting import Forgetting

QUICK = [
    "--size", "2", "--rank", "2", "--problems-per-generation", "2", "--judged-problems", "0",
    "--evaluation", "none", "--solve-tokens", "4", "--offspring", "0", "--elites", "1",
    "--held-out", "0", "--problems", "procedural:chain_sum(max_terms=2,max_digits=1)",
    "--guard-anchors", "12", "--last-trial", "2",
]  # fmt: skip


@pytest.mark.slow
def test_a_guarded_run_says_what_was_measured(tmp_path, model_folder, capsys):
    run = str(tmp_path / "run")
    words = ["--model", model_folder, "--out", run, "--guard", "note", "--guard-every", "2",
             "--generations", "2"]  # fmt: skip
    assert main(["evolve", *QUICK, *words]) == 0
    said = capsys.readouterr().out
    assert "guard: 2 measured:" in said
    assert "Guard: 2 verdicts, " in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["guard"]
    assert summary["replies"] == 12 * (1 + 2 + 2)
    assert summary["stopped"] == ""
    assert main(["evolve", *QUICK, "--model", model_folder, "--out", f"{run}2",
                 "--generations", "1"]) == 0  # fmt: skip
    assert "guard" not in capsys.readouterr().out.lower().replace(f"{tmp_path}".lower(), "")


@pytest.mark.slow
def test_a_run_that_the_guard_stops_ends_well_and_can_go_on(
    tmp_path, model_folder, capsys, monkeypatch
):
    def marks(self, agents):
        self.replies += 12 * len(agents)
        return {agent: (agent != "agent_1",) * 12 for agent in agents}

    monkeypatch.setattr(Anchors, "marks", marks)
    monkeypatch.setattr(Forgetting, "losses", lambda *_: {})
    run = tmp_path / "run"
    words = ["--model", model_folder, "--out", str(run), "--guard", "act", "--generations", "20"]
    assert main(["evolve", *QUICK, *words]) == 0
    said = capsys.readouterr().out
    assert "Stopped by the guard: agent_1: 12 anchors lost and 0 won against the " in said
    assert "guard: agent_1 (g0-1): noted as worse; 12 anchors lost" in said
    assert "Continue with: populora evolve --resume" in said
    summary = json.loads((run / "summary.json").read_text())
    assert summary["generations"] < 10
    assert summary["guard"]["stopped"].startswith("agent_1: 12 anchors lost")
    more = str(summary["generations"] + 1)
    assert main(["evolve", "--resume", str(run), "--generations", more, "--guard", "note"]) == 0
    changes = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    assert {change["option"] for change in changes} >= {"guard"}
