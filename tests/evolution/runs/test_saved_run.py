"""A run is read by one reader: settings as they are now, and only what was saved."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from evolution.errors import CheckpointError, RunError, UsageError
from evolution.runs.saved_run import SavedRun, read_run, trained_on
from tests.evolution.runs.old_run import FOLDER


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(FOLDER / "before", tmp_path / "run")


def test_settings_are_those_of_a_generation_or_those_it_goes_on_with(folder):
    run = read_run(folder)
    assert run.first_settings["learning_rate"] == 3e-4
    assert run.settings(0).learning_rate == 3e-4
    assert run.config.learning_rate == run.settings().learning_rate == 1e-3
    later = {"generation": 2, "option": "epochs", "from": 1, "to": 3, "note": ""}
    with (folder / "changes.jsonl").open("a") as file:
        file.write(json.dumps(later) + "\n")
    run = SavedRun(folder)
    assert (run.config.epochs, run.settings().epochs) == (1, 3)


def test_rows_end_where_the_last_generation_was_saved(folder):
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"generation": 2, "agent": "half')
    run = SavedRun(folder)
    assert [row["generation"] for _, row in run.rows("history.jsonl")] == [0, 0, 0, 1, 1, 1]
    assert list(run.last_rows) == ["agent_0", "agent_1", "agent_2"]
    assert run.best_agent in run.ratings
    assert [number for number, *_ in run.episodes()] == [1, 2, 3, 4, 5, 6]
    assert [one.name for one in run.lineage(0, 3)] == ["g0-0", "g0-1", "g0-2"]
    assert list(run.rows("held_out_curve.jsonl")) == []


def test_adapters_are_the_last_generations(folder):
    run = SavedRun(folder)
    folders = run.adapters.values()
    assert [file.parent.parent.name for file in folders] == ["generation_0001"] * 3
    assert trained_on(run.adapters["agent_0"]) == run.config.problems
    shutil.rmtree(folder / "generation_0001")
    with pytest.raises(RunError, match=r"run: .* holds no complete generation"):
        SavedRun(folder).generation  # noqa: B018


def test_errors_name_the_option_and_are_of_both_kinds(tmp_path):
    run = SavedRun(tmp_path, "resume")
    assert run.tables == {}
    for kind in (RunError, UsageError, CheckpointError):
        with pytest.raises(kind, match=r"^resume: .* is no run folder \(run.toml is missing\)"):
            run.settings()
    (tmp_path / "run.toml").write_text("config = 7")
    with pytest.raises(RunError, match=r"run\.toml is damaged \(config is no table\)"):
        SavedRun(tmp_path).tables  # noqa: B018
    (tmp_path / "history.jsonl").write_text("[]\n")
    with pytest.raises(RunError, match=r"history\.jsonl, line 1 is damaged \(expected a JSON obj"):
        SavedRun(tmp_path).last_rows  # noqa: B018


def test_reading_takes_no_torch():
    code = "import sys, evolution.runs.saved_run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
