from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from agents.population import LoraPopulation
from evolution.cli import main
from evolution.errors import UsageError
from evolution.guard.records import GuardReport
from evolution.individuals.champion import averaged
from evolution.manager import EvolutionManager
from evolution.studies import run as playing
from evolution.studies.file import read_study
from evolution.studies.results import Results
from evolution.studies.run import Bases, play
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base
from tests.evolution.genetics import distance, updates
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
    # Three agents at three problems, a trial of two problems for two or three of them, and a last
    # one for all, their average and the champion.
    assert three.measured[0].generations == 2
    assert 18 <= three.measured[0].replies < 18 + 9 + 2 * 4 + 2 * 5
    assert {len(three.measured[0].champion), len(three.measured[0].average)} == {5}
    assert len(three.measured[0].members) == 3
    assert three.measured[0].leader in range(3)


def test_self_play_is_measured_by_its_solvers_and_its_proposals(study_file):
    text = study_file.read_text().replace("[settings]", "[settings]\npropose_tokens = 4")
    spec = "procedural:chain_sum(max_terms=2,max_digits=1)"
    text = text.replace(f'problems = "{spec}"', f'problems = "self-play:expressions"\n'
                        f'held_out_from = "{spec}"')  # fmt: skip
    text = text.replace("size = 1", "size = 3\nproposers = 1").replace("size = 3\noff", "size = 4\n"
                        "proposers = 2\nelites = 0\nparents = 1\noff")  # fmt: skip
    study_file.write_text(text)
    study = read_study(study_file)
    cell = play(study, study.arms["three"], 0, Bases())
    (found,) = cell.measured
    assert len(found.members) == 2
    assert found.replies >= 18
    assert found.training["valid"] == cell.curves["valid"][-1] == 0.0  # a random model
    assert found.training["return"] < 0
    assert "solve_rate" not in found.training


def test_several_budgets_are_one_run_measured_on_its_way(study_file):
    study_file.write_text(study_file.read_text().replace("replies = 18", "replies = [9, 18]"))
    study = read_study(study_file)
    cell = play(study, study.arms["one"], 0, Bases())
    assert [(found.budget, found.replies) for found in cell.measured] == [(9, 9), (18, 18)]
    assert cell.at(9).generations == 3
    assert cell.at(10) is None
    assert cell.at() is cell.measured[-1]


def test_when_the_time_is_up_no_generation_begins(study_file):
    text = study_file.read_text().replace("seeds = 2", "seeds = 2\nseconds = 1e-6")
    study_file.write_text(text)
    study = read_study(study_file)
    cell = play(study, study.arms["one"], 0, Bases())
    assert cell.cut_off
    assert cell.measured[0].generations == 1
    study_file.write_text(text.replace("replies = 18", "replies = [2, 18]"))
    study = read_study(study_file)
    cell = play(study, study.arms["three"], 0, Bases())
    assert [found.generations for found in cell.measured] == [1, 1]  # the first budget was reached
    assert [cell.cut_at(budget) for budget in (2, 18, None)] == [False, True, True]


def test_a_run_that_the_guard_stops_is_measured_as_it_is(study_file, monkeypatch):
    usual, stopping = EvolutionManager.run, GuardReport((), None, 0, 0, "agent_0: worse")

    def run(self, generations):
        return [replace(result, guard=stopping) for result in usual(self, generations)]

    monkeypatch.setattr(EvolutionManager, "run", run)
    study = read_study(study_file)
    cell = play(study, study.arms["one"], 0, Bases())
    assert cell.cut_off
    assert cell.measured[0].generations == 1
    assert cell.notes["stopped"] == "agent_0: worse"


def test_what_does_not_fit_a_base_is_said_before_anything_is_played(study_file, tmp_path, capsys):
    study_file.write_text(study_file.read_text().replace("size = 3", 'size = 3\ntargets = "nope"'))
    said = one_line_error(capsys, ["study", str(study_file), "--out", "out"])
    assert "arms.three: targets: 'nope' matches no linear layer" in said
    assert not (tmp_path / "out/results.jsonl").exists()
    study_file.write_text(study_file.read_text().replace("chain_sum(", "no_such_thing("))
    assert "no_such_thing" in one_line_error(capsys, ["study", str(study_file), "--dry-run"])


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


def test_runs_on_another_base_of_the_same_name_are_not_mixed(study_file, tmp_path, capsys):
    words = ["study", str(study_file), "--out", "out", "--arms", "one"]
    assert main([*words, "--seeds", "0"]) == 0
    (kept,) = [row for row in cells(tmp_path / "out") if row["arm"] == "one"]
    assert len(kept["base"]) == 32
    file = tmp_path / "out/results.jsonl"
    text = file.read_text()
    file.write_text(text.replace(kept["base"], "0" * 32))
    capsys.readouterr()
    assert main([*words, "--seeds", "1"]) == 2
    assert "is another base now than in" in capsys.readouterr().err
    file.write_text(text.replace(f', "base": "{kept["base"]}"', ""))  # of an earlier version
    assert main([*words, "--seeds", "1"]) == 0


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


def test_defaults_of_training_have_no_part_in_the_base(study_file, tmp_path):
    study = read_study(study_file)
    main(["study", str(study_file), "--out", "out", "--seeds", "0", "--arms", "base"])
    file = tmp_path / "out/results.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"last_trial": 64', '"last_trial": 65'))
    assert Results(file.parent).cell(study, study.arms["base"], 0)
    file.write_text(text.replace('"solve_tokens": 4', '"solve_tokens": 5'))
    assert Results(file.parent).cell(study, study.arms["base"], 0) is None


def test_the_table_is_made_of_results_alone(study_file, tmp_path, capsys, monkeypatch):
    words = ["study", str(study_file), "--out", "out"]
    assert main([*words, "--table"]) == 0
    assert "nothing was played yet" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    main(words)
    table = (tmp_path / "out/table.md").read_bytes()
    said = capsys.readouterr().out
    assert "6/6 three learners, seed 1: accuracy" in said
    assert "Are three better than one?" in said
    assert "over all 2^2 ways to choose them, so at least 0.5" in said
    (tmp_path / "out/table.md").unlink()
    monkeypatch.setattr("evolution.commands.study.play", None)
    assert main([*words, "--table"]) == 0
    assert (tmp_path / "out/table.md").read_bytes() == table
    assert (tmp_path / "out/are-three-better-than-one.svg").read_bytes().startswith(b"<svg")


def test_only_one_process_writes(study_file, tmp_path, capsys):
    results = Results(tmp_path / "out")
    code = (
        "import sys; from evolution.studies.results import Results; r = Results(sys.argv[1]);"
        "r.open(); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(UsageError, match=f"is being written by process {other.pid}"):
            results.open()
    finally:
        other.communicate()
    results.open()
    results.close()


def test_what_is_measured_changes_nothing(study_file):
    """Of a run that holds trials in every generation anyway."""
    whole = read_study(study_file)
    text = study_file.read_text().replace("replies = 18", "replies = [9, 18]")
    study_file.write_text(text)
    parts = read_study(study_file)
    bases = Bases()
    once, twice = (play(study, study.arms["three"], 1, bases) for study in (whole, parts))
    assert once.curves == twice.curves
    assert once.measured[-1].vendi > 1
    assert replace(once.measured[-1], seconds=0.0) == replace(twice.measured[-1], seconds=0.0)


def test_the_average_is_of_updates_and_leaves_all_as_they_were():
    lora = LoraPopulation(make_tiny_base(), 3, 2)
    randomise(lora.lora)
    before = [updates(lora.lora, i) for i in range(3)]
    hashes = lora.lora.hashes([0, 1, 2])
    with averaged(lora, ["agent_1", "agent_2"]) as agent:
        assert agent == "agent_1"
        made = updates(lora.lora, 1)
        assert distance(updates(lora.lora, 2), before[2]) == 0
    mean = [(a + b) / 2 for a, b in zip(before[1], before[2], strict=True)]
    best = [_at_rank(whole, 2) for whole in mean]
    assert distance(made, best) < 1e-3
    assert lora.lora.hashes([0, 1, 2]) == hashes


def _at_rank(matrix, rank):
    U, S, V = torch.linalg.svd(matrix)
    return U[:, :rank] * S[:rank] @ V[:rank]


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
