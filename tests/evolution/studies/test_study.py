from __future__ import annotations

import json

import pytest

from evolution.cli import main
from evolution.studies import run as playing
from evolution.studies.file import read_study
from evolution.studies.results import Results
from evolution.studies.run import Bases, play
from tests.evolution.test_cli import one_line_error

TIMES = ("seconds", "measuring_seconds")


def rows(folder):
    """Lines of the results, without what differs from call to call."""
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in found:
        for part in (row, *row.get("measured", [])):
            for name in TIMES:
                part.pop(name, None)
    return found


def cells(folder):
    return [row for row in rows(folder) if "arm" in row]


def test_a_study_that_was_killed_goes_on_and_finds_the_same(study_file, tmp_path, monkeypatch):
    assert main(["study", str(study_file), "--out", "whole"]) == 0
    play_one, calls = playing.play, []

    def killed(study, arm, seed, *given, **how):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append((arm.name, seed))
        return play_one(study, arm, seed, *given, **how)

    monkeypatch.setattr("evolution.commands.study.play", killed)
    assert main(["study", str(study_file), "--out", "parts"]) == 130
    assert len(cells(tmp_path / "parts")) == 2
    with (tmp_path / "parts/results.jsonl").open("a") as file:
        file.write('{"arm": "three", "se')  # as one that was killed while it wrote
    monkeypatch.setattr("evolution.commands.study.play", play_one)
    assert main(["study", str(study_file), "--out", "parts"]) == 0
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    order = [(row["arm"], row["seed"]) for row in cells(tmp_path / "whole")]
    assert order == [(arm, seed) for seed in (0, 1) for arm in ("base", "one", "three")]


def test_arms_of_a_seed_are_measured_on_the_same_problems(study_file, tmp_path):
    main(["study", str(study_file), "--out", "out"])
    by_seed = {
        seed: {row["problems"] for row in cells(tmp_path / "out") if row["seed"] == seed}
        for seed in (0, 1)
    }
    assert [len(found) for found in by_seed.values()] == [1, 1]
    assert by_seed[0] != by_seed[1]


def test_budgets_count_trials_and_are_passed_by_a_generation_at_most(study_file):
    study = read_study(study_file)
    bases = Bases()
    one, three = (play(study, study.arms[name], 0, bases) for name in ("one", "three"))
    assert one.measured[0].replies == 18
    assert one.measured[0].generations == 6
    assert len(one.curves["replies"]) == 6
    # Three agents at three problems, and a trial of two problems for two or three of them.
    assert three.measured[0].generations == 2
    assert 18 <= three.measured[0].replies < 18 + 9 + 2 * 4
    assert {len(three.measured[0].champion), len(three.measured[0].average)} == {5}
    assert len(three.measured[0].members) == 3


def test_several_budgets_are_one_run_measured_on_its_way(study_file):
    study_file.write_text(study_file.read_text().replace("replies = 18", "replies = [9, 18]"))
    study = read_study(study_file)
    cell = play(study, study.arms["one"], 0, Bases())
    assert [(found.budget, found.replies) for found in cell.measured] == [(9, 9), (18, 18)]
    assert cell.at(9).generations == 3
    assert cell.at(10) is None
    assert cell.at() is cell.measured[-1]


def test_when_the_time_is_up_no_generation_begins(study_file):
    study_file.write_text(study_file.read_text().replace("seeds = 2", "seeds = 2\nseconds = 1e-6"))
    study = read_study(study_file)
    cell = play(study, study.arms["one"], 0, Bases())
    assert cell.cut_off
    assert cell.measured[0].generations == 1


def test_only_what_changed_is_played_again(study_file, tmp_path, capsys):
    main(["study", str(study_file), "--out", "out", "--seeds", "0"])
    assert [row["seed"] for row in cells(tmp_path / "out")] == [0, 0, 0]
    text = study_file.read_text().replace('"one learner"', '"renamed"')
    study_file.write_text(text.replace("size = 3", "size = 4"))
    capsys.readouterr()
    main(["study", str(study_file), "--out", "out", "--seeds", "0", "--dry-run"])
    said = capsys.readouterr().out
    assert "1 of 3 runs are left" in said
    assert "three learners" in said
    main(["study", str(study_file), "--out", "out", "--seeds", "0"])
    assert [row["arm"] for row in cells(tmp_path / "out")] == ["base", "one", "three", "three"]


def test_a_default_that_changes_makes_no_two_runs_alike(study_file, tmp_path):
    study = read_study(study_file)
    main(["study", str(study_file), "--out", "out", "--seeds", "0", "--arms", "one"])
    file = tmp_path / "out/results.jsonl"
    assert Results(file.parent).cell(study, study.arms["one"], 0)
    text = file.read_text()
    file.write_text(text.replace('"learning_rate": 0.0003', '"learning_rate": 0.5'))
    assert Results(file.parent).cell(study, study.arms["one"], 0) is None
    file.write_text(text.replace('"learning_rate": 0.0003, ', ""))  # one that came later
    assert Results(file.parent).cell(study, study.arms["one"], 0)


def test_a_damaged_line_is_named(study_file, tmp_path, capsys):
    main(["study", str(study_file), "--out", "out", "--seeds", "0", "--arms", "base"])
    file = tmp_path / "out/results.jsonl"
    file.write_text(file.read_text() + '{"arm": 3}\n')
    said = one_line_error(capsys, ["study", str(study_file), "--out", "out"])
    assert "results.jsonl:3 is damaged" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "tree"], "--arms: got 'tree', expected some of base, one, three"),
        (["--seeds", "0,7"], "--seeds: got '7', expected some of 0, 1"),
        (["--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(study_file, capsys, words, said):
    assert said in one_line_error(capsys, ["study", str(study_file), *words])
