"""``populora report``: the command, what it reads of a run, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from evolution.cli import main
from evolution.commands import report
from evolution.reporting.findings import find
from evolution.reporting.measures.audits import Verdict
from evolution.reporting.measures.data import read_run_data
from evolution.reporting.measures.measured import read_bench, read_curve, read_held_out
from evolution.reporting.sections import facts
from tests.evolution.synthetic_run import write_measured, write_run


def error_of(capsys, *arguments):
    assert main(["report", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    return line.removeprefix("populora: error: ")


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "my run", generations=8)


@pytest.mark.slow
def test_the_command_writes_a_page_and_says_what_it_found(folder, capsys):
    assert main(["report", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "reward hacking", "mode collapse", "forgetting", "length drift", "judge collusion", "Report"
    ]  # fmt: skip
    assert lines[-1] == f"Report: {folder / 'report.html'}"
    before = (folder / "report.html").read_bytes()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == before


def test_another_file_and_a_browser(folder, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(report.webbrowser, "open", opened.append)
    out = tmp_path / "a page.html"
    assert main(["report", str(folder), "--out", str(out), "--open"]) == 0
    assert opened == [out.resolve().as_uri()]
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert not (folder / "report.html").exists()


def test_only_finished_generations_are_read(folder):
    state = folder / "generation_0007"
    state.mkdir()
    names = ("history.jsonl", "transcripts.jsonl")
    lengths = {name: (folder / name).stat().st_size for name in names}
    (state / "state.json").write_text(json.dumps({"lengths": lengths}))
    for name in names:
        with (folder / name).open("a") as file:
            file.write('{"generation": 8, "ag')  # killed while it wrote
    assert read_run_data(folder).generations == tuple(range(8))
    (folder / "history.jsonl").write_text("")
    with pytest.raises(report.UsageError, match=r"history.jsonl is damaged \(0 bytes long"):
        read_run_data(folder)


@pytest.mark.parametrize("whose", ["agent_0", "average", ""])
def test_the_champion_is_what_a_run_came_to(folder, whose):
    run = read_run_data(write_measured(folder))
    before = read_held_out(run)
    assert before.who == f"the best agent by standing ({before.agent})"
    rows = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["agent"] == before.agent]
    more = [{**row, "agent": "champion", "correct": True} for row in own]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, *more])
    (folder / "held_out.jsonl").write_text(text)
    summary = json.loads((folder / "summary.json").read_text())
    summary["held_out"]["best"] = 1.0
    if whose:  # earlier versions do not say it
        summary["held_out"]["champion_is"] = whose
    (folder / "summary.json").write_text(json.dumps(summary))
    found = read_held_out(run)
    assert found.best.value == 1.0
    assert found.gain.value == pytest.approx(1 - found.base.value)
    assert found.agent is None  # not an agent as it is now: its replies are others
    assert "champion" not in found.agents
    said = {"agent_0": " (agent_0)", "average": " (average of the agents)", "": ""}[whose]
    assert found.who == f"the champion{said}"
    file, _ = report.write_report(folder)
    assert f"held-out problems {found.who} solves 1.000" in file.read_text()


def test_what_was_held_out_is_read(folder):
    run = read_run_data(write_measured(folder))
    found = read_held_out(run)
    assert found.agent == run.best[-1]
    assert found.paired
    assert found.gain.value == pytest.approx(0.375)
    curve = read_curve(run)
    assert curve.base == pytest.approx(0.35)
    assert curve.values[1] == pytest.approx([0.35] * 4)
    assert curve.values[7] == pytest.approx([0.65] * 4)
    (folder / "held_out.jsonl").unlink()
    apart = read_held_out(run)
    assert not apart.paired
    assert apart.gain.standard_error == pytest.approx((0.164**2 + 0.183**2) ** 0.5, abs=1e-3)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "generations": 5}))
    assert read_held_out(run).agent == run.best[4]
    file, _ = report.write_report(folder)
    assert "was measured after 5 generations, before the run went on" in file.read_text()


def test_the_latest_benchmark_with_other_tasks_is_taken(folder):
    assert read_bench(read_run_data(folder)) is None
    write_measured(folder)
    newer = folder / "bench" / "generation_0099"
    newer.mkdir()
    change = {"base": 0.5, "mean": 0.2, "change": -0.3, "standard_error": 0.05}
    result = {"task": "inside", "outside": False, "problems": 50, "change": change}
    (newer / "results.json").write_text(json.dumps({"results": [result]}))
    found = read_bench(read_run_data(folder))
    assert found.generation == 7
    assert [entry.task for entry in found.changes] == ["inside", "elsewhere"]


def test_held_out_accuracy_while_the_run_went_on_is_what_the_audit_goes_by(tmp_path):
    folder = write_run(tmp_path / "a", generations=30)
    assert find(folder).audits[0].verdict is Verdict.FINE
    rows = [
        {"generation": g, "agent": f"agent_{i}", "accuracy": 0.5 + 0.01 * (g % 4), "problems": 8}
        for g in range(1, 30, 3)
        for i in range(4)
    ]
    (folder / "held_out_curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    audit = find(folder).audits[0]
    assert audit.name == "reward hacking"
    assert "accuracy on held-out problems did not" in audit.reason
    assert audit.verdict is Verdict.PROBLEM


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: shutil.rmtree(f), "is no folder; expected one that populora evolve made"),
        (lambda f: [file.unlink() for file in f.iterdir()], "is no run folder"),
        (lambda f: (f / "run.toml").write_text("[config"), "run.toml is damaged"),
        (lambda f: (f / "history.jsonl").unlink(), "holds no finished generation"),
        (lambda f: (f / "history.jsonl").write_text(""), "holds no finished generation"),
        (lambda f: _spoil(f / "history.jsonl", '{"generation'), "history.jsonl, line 3 is damaged"),
        (lambda f: _spoil(f / "history.jsonl", "[]"), "line 3 is damaged (expected a JSON object)"),
        (lambda f: _spoil(f / "history.jsonl", '{"generation": 0}'), "line 3 is damaged (no 'agen"),
        (lambda f: _spoil(f / "history.jsonl", '{"generation": "x", "agent": "a"}'),
         "line 3 is damaged (generation is no integer)"),
        (lambda f: _spoil(f / "history.jsonl", "\x80"), "history.jsonl, line 3 is damaged"),
        (lambda f: _spoil(f / "transcripts.jsonl", '{"generation": 0, "turns": []}'),
         "transcripts.jsonl, line 3 is damaged (data is not a stored transcript"),
        (lambda f: (f / "lineage.json").write_text('[{"name": "x"}]'), "lineage.json is damaged"),
        (lambda f: (f / "summary.json").write_text('{"held_out": {"problems": 0}}'),
         "summary.json is damaged"),
        (lambda f: (f / "held_out_curve.jsonl").write_text("x\n"),
         "held_out_curve.jsonl, line 1 is damaged"),
        (lambda f: _spoil(f / "history.jsonl", '{"generation": true, "agent": "a"}'),
         "line 3 is damaged (generation is no integer)"),
        (lambda f: _spoil(f / "history.jsonl", '{"generation": -1, "agent": "a"}'),
         "line 3 is damaged (generation is not from 0 to"),
        (lambda f: _spoil(f / "history.jsonl", '{"generation": 0, "agent": ["a"]}'),
         "line 3 is damaged (agent is no name)"),
        (lambda f: _spoil(f / "history.jsonl",
                          f'{{"generation": 0, "agent": "agent_0", "return": {10**400}}}'),
         "line 3 is damaged ('return' is out of range)"),
        (lambda f: _spoil(f / "history.jsonl", "[" * 100_000),
         "history.jsonl, line 3 is damaged (maximum recursion"),
        (lambda f: _change(f / "transcripts.jsonl", lambda row: row["attempts"][0].update(text=7)),
         "text: expected str, got 7"),
        (lambda f: _change(f / "transcripts.jsonl", lambda row: row["rewards"].update(agent_0=[])),
         "rewards: expected float, got []"),
        (lambda f: _change(f / "transcripts.jsonl",
                           lambda row: row["assessments"][0].update(value=3)),
         "value: expected a number from 0 to 1, got 3.0"),
        (lambda f: _change(f / "transcripts.jsonl", lambda row: row["agents"].append("zoe")),
         "agent 'zoe' is not in the history"),
        (lambda f: _change(f / "transcripts.jsonl",
                           lambda row: row["evaluations"][0].update(judge="zoe")),
         "agent 'zoe' is not in the history"),
        (lambda f: _change(f / "lineage.json", lambda data: data[1].update(parameters="x")),
         "lineage.json is damaged (parameters: expected dict, got 'x')"),
        (lambda f: _change(f / "lineage.json", lambda data: data[1].update(parents=[["g0-0"]])),
         "lineage.json is damaged (parents: expected str"),
        (lambda f: _change(f / "lineage.json", lambda data: data[1].update(slot=4)),
         "g0-1: slot or generation is out of range"),
        (lambda f: _change(f / "lineage.json", lambda data: data.append(data[1])),
         "two individuals have one name"),
        (lambda f: (f / "run.toml").write_text("config = 7"), "run.toml is damaged (config is no"),
        (lambda f: (f / "changes.jsonl").write_text('{"generation": 1, "option": [7]}'),
         "changes.jsonl is damaged (KeyError: 'from')"),
        (lambda f: (f / "guard.jsonl").write_text(
            '{"generation": 1, "agent": "agent_0", "rung": "note"}\n'),
         "guard.jsonl is damaged (KeyError: 'anchors')"),
        (lambda f: (f / "summary.json").write_text(
            '{"held_out": {"problems": 8, "base": 0.5, "best": 7}}'),
         "summary.json is damaged (expected a number from 0 to 1, got 7)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(folder, capsys, spoil, said):
    spoil(folder)
    line = error_of(capsys, folder)
    assert said in line
    assert str(folder) in line


def test_a_run_that_went_on_is_shown_with_its_settings_of_now(tmp_path):
    folder = write_run(tmp_path / "run", generations=3)
    row = {"generation": 2, "option": "generations", "from": 3, "to": 9, "note": ""}
    (folder / "changes.jsonl").write_text(json.dumps(row) + "\n")
    assert facts(find(folder))["generations"] == "3 of 9 asked for"


def _spoil(file, line):
    lines = file.read_text().splitlines()
    lines[2] = line
    file.write_bytes("\n".join(lines).encode("latin-1") + b"\n")


def _change(file, change):
    """Change the first row of JSONL, or the content of JSON."""
    first, newline, rest = file.read_text().partition("\n")
    data = json.loads(first)
    change(data)
    file.write_text(json.dumps(data) + newline + rest)


def test_what_was_not_finite_is_unknown(folder):
    _change(folder / "history.jsonl", lambda row: row.update(grad_norm=float("inf")))
    assert not np.isfinite(read_run_data(folder).series["grad_norm"][0, 0])
    _change(folder / "transcripts.jsonl", lambda row: row["rewards"].update(agent_0="nan"))
    (first, *_) = read_run_data(folder).transcripts
    assert np.isnan(first.rewards["agent_0"])
    assert report.write_report(folder)[0].exists()


def test_a_judgement_about_nobody_is_damage(folder, capsys):
    lines = [json.loads(line) for line in (folder / "transcripts.jsonl").open()]
    lines[1]["evaluations"][0]["first_author"] = "nobody"
    (folder / "transcripts.jsonl").write_text("".join(json.dumps(li) + "\n" for li in lines))
    assert "line 2 is damaged (a judgement about nobody" in error_of(capsys, folder)


@pytest.mark.slow
def test_files_that_cannot_be_written_are_one_line(folder, capsys, monkeypatch):
    said = error_of(capsys, folder, "--out", "/proc/nowhere.html")
    assert said.startswith("out: cannot write to /proc/nowhere.html (")
    assert "is a folder" in error_of(capsys, folder, "--out", folder)
    assert "no/such/x.html" in error_of(capsys, folder, "--out", folder / "no/such/x.html")
    assert error_of(capsys) != ""
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert 'pip install "populora-env[report]"' in error_of(capsys, folder)
    assert not (folder / "report.html").exists()


@pytest.mark.slow
def test_no_model_library_is_imported(folder):
    code = (
        "import sys; from evolution.cli import main; "
        f"main(['report', {str(folder)!r}]); print({{'torch', 'transformers'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
