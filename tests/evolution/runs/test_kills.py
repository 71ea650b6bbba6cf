"""Runs that are killed at random moments; `python -m tests.evolution.kill_runs 100` kills more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evolution import kill_runs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ordinary", "self-play"])
def test_killed_runs_end_as_if_nothing_had_happened(kind):
    kills = os.environ.get("POPULORA_KILLS", "4")
    done = subprocess.run(
        [sys.executable, "-m", "tests.evolution.kill_runs", kills, kind],
        cwd=Path(__file__).parents[3], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{kills}  kills\n" in done.stdout


@pytest.mark.slow
def test_a_run_that_resumes_wrongly_is_noticed(tmp_path, monkeypatch):
    """The comparison itself can fail: here every resumed run forgets its standing."""
    from evolution.individuals.standing import Standing

    monkeypatch.setattr(Standing, "load", lambda self, saved: None)
    folder = tmp_path / "run"
    kill_runs.play(tmp_path / "whole")
    monkeypatch.setattr(kill_runs, "GENERATIONS", 3)
    kill_runs.play(folder)
    monkeypatch.setattr(kill_runs, "GENERATIONS", 6)
    kill_runs.play(folder)
    name = "history.jsonl"
    assert (folder / name).read_bytes() != (tmp_path / "whole" / name).read_bytes()
