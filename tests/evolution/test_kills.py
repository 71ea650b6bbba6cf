"""Runs that are killed at random moments; `python -m tests.evolution.kill_runs 100` kills more."""

from __future__ import annotations

import os

import pytest

from tests.evolution import kill_runs

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def test_killed_runs_end_as_if_nothing_had_happened(tmp_path):
    kills = int(os.environ.get("POPULORA_KILLS", "4"))
    assert kill_runs.kill_runs(kills, tmp_path)["kills"] == kills


def test_a_run_that_resumes_wrongly_is_noticed(tmp_path, monkeypatch):
    """The comparison itself can fail: here every resumed run forgets its standing."""
    from evolution.standing import Standing

    monkeypatch.setattr(Standing, "load", lambda self, saved: None)
    folder = tmp_path / "run"
    kill_runs.play(tmp_path / "whole")
    monkeypatch.setattr(kill_runs, "GENERATIONS", 3)
    kill_runs.play(folder)
    monkeypatch.setattr(kill_runs, "GENERATIONS", 6)
    kill_runs.play(folder)
    name = "history.jsonl"
    assert (folder / name).read_bytes() != (tmp_path / "whole" / name).read_bytes()
