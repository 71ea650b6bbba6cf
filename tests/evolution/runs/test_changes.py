"""Settings that change on resume, and branches."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from types import SimpleNamespace

import pytest

from evolution import CheckpointError, cli
from evolution.cli import main
from evolution.commands.evolve.options import read_options
from evolution.commands.usage import Interrupts
from evolution.errors import UsageError
from evolution.runs.branching import branch, split_branch
from evolution.runs.changes import Change, read_changes
from evolution.runs.files import saved_generations
from evolution.runs.saved_run import read_run
from tests.conftest import make_tiny_base
from tests.evolution.test_cli import QUICK
from tests.evolution.test_manager import config, make

FILES = ("history.jsonl", "transcripts.jsonl", "lineage.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the command: five generations of which all are on disk."""
    folder = tmp_path_factory.mktemp("runs")
    base = make_tiny_base()
    base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    arguments = ["--model", str(folder / "model"), "--generations", "4", "--keep-generations", "9"]
    arguments += [*QUICK, "--held-out", "0", "--out", str(folder / "run")]
    assert main(["evolve", *arguments]) == 0
    return folder / "run"


def test_changes_are_recorded_once_with_their_note(tmp_path):
    before, after = config(), config(learning_rate=6e-4, mutation=0.2)
    make(tmp_path, before).run(1)
    manager = make(settings=after)
    manager.resume(tmp_path, note="too slow")
    manager = make(settings=after)  # killed before the next generation, and resumed
    manager.resume(tmp_path)
    found = [(c.generation, c.option, c.before, c.after, c.note) for c in read_changes(tmp_path)]
    assert found == [
        (1, "mutation", 0.1, 0.2, "too slow"),
        (1, "learning_rate", 3e-4, 6e-4, "too slow"),
    ]
    rates = [i.hyperparameters["learning_rate"] for i in manager.lineage]
    assert rates == [6e-4] * 4
    assert manager._learner.learning_rates.tolist() == pytest.approx([6e-4] * 4)
    manager.run(1)
    make(settings=after).resume(tmp_path)
    assert len(read_changes(tmp_path)) == 2
    make(settings=before).resume(tmp_path)  # and back
    assert [c.after for c in read_changes(tmp_path) if c.generation == 2] == [0.1, 3e-4]


def test_a_change_that_was_taken_back_before_it_was_played_is_no_change(tmp_path):
    make(tmp_path, config()).run(1)
    make(settings=config(mutation=0.2)).resume(tmp_path)
    make(settings=config()).resume(tmp_path)
    assert read_changes(tmp_path) == []


def test_what_cannot_change_is_refused_with_the_reason(tmp_path):
    make(tmp_path, config()).run(1)
    with pytest.raises(CheckpointError, match=r"--seed cannot change .* every draw"):
        make(settings=config(seed=3)).resume(tmp_path)


@pytest.mark.slow
def test_a_branch_goes_on_as_the_original_did(tmp_path):
    settings = config(keep_generations=9, evolve_every=2)
    make(tmp_path / "run", settings).run(4)
    original = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    branch(tmp_path / "run", 1, tmp_path / "new")
    manager = make(settings=settings)
    manager.resume(tmp_path / "new")
    assert manager.generation == 2
    manager.run(2)
    for name in FILES:
        assert (tmp_path / "new" / name).read_bytes() == original[tmp_path / "run" / name]
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == original


@pytest.mark.slow
def test_a_branch_that_ends_before_it_is_resumed_has_its_settings(run, tmp_path):
    options = read_options(["--branch", f"{run}@1", "--mutation", "0.3", "--note", "broader"])
    new = branch(run, 1, tmp_path / "new", options, options.note)
    assert [(row.option, row.after, row.note) for row in read_changes(new)] == [
        ("mutation", 0.3, "broader")
    ]
    again = read_options(["--resume", str(new)])
    assert again.mutation == 0.3
    with pytest.raises(CheckpointError, match="--seed cannot change"):
        branch(run, 1, tmp_path / "other", read_options(["--branch", f"{run}@1", "--seed", "8"]))
    assert not (tmp_path / "other").exists()


def test_an_exchange_that_needs_shared_rows_is_not_changed_to(tmp_path):
    make(tmp_path, config(learner="none")).run(1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = config(learner="none", exchange="evolution_strategy(sigma=0.1)")
    with pytest.raises(CheckpointError, match="--exchange cannot change to 'evolution_strategy"):
        make(settings=other).resume(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_a_branch_that_cannot_be(run, tmp_path):
    with pytest.raises(CheckpointError, match="no generation 7 on disk; expected one of: 0, 1, 2"):
        branch(run, 7, tmp_path / "new")
    with pytest.raises(CheckpointError, match="is in use"):
        branch(run, 1, run)
    with pytest.raises(CheckpointError, match=r"expected RUN@GENERATION; .* has on disk: 0, 1"):
        split_branch(str(run))
    assert not list(tmp_path.iterdir())


def test_the_command_branches_and_changes(run, tmp_path, capsys):
    new = tmp_path / "new"
    arguments = ["--branch", f"{run}@1", "--out", str(new), "--note", "broader"]
    assert main(["evolve", *arguments, "--mutation", "0.3", "--generations", "5"]) == 0
    said = capsys.readouterr().out
    assert "mutation: None until now, 0.3 from generation 3 on" in said
    data = tomllib.loads((new / "run.toml").read_text())
    assert data["origin"] == {"run": str(run), "generation": 1}
    assert saved_generations(new) == [1, 2, 3, 4]
    rows = [json.loads(line) for line in (new / "changes.jsonl").open()]
    assert [(r["option"], r["from"], r["to"]) for r in rows] == [
        ("mutation", None, 0.3),
        ("generations", 4, 5),
    ]
    assert {row["note"] for row in rows} == {"broader"}
    assert not (run / "changes.jsonl").exists()
    again = read_options(["--resume", str(new)])
    assert (again.mutation, again.generations) == (0.3, 5)


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (["--rank", "3"], CheckpointError, "rank cannot change"),
        (["--problems", "gsm8k"], CheckpointError, "problems cannot change"),
        (["--out", "elsewhere"], CheckpointError, "goes on in its own folder"),
        (["--preset", "quick"], UsageError, "--preset and --resume: expected one of them"),
    ],
)
def test_what_a_resumed_command_refuses(run, more, error, said):
    with pytest.raises(error, match=said):
        read_options(["--resume", str(run), *more])
    with pytest.raises(UsageError, match="--note: only with"):
        read_options(["--note", "x"])


@pytest.mark.slow
def test_the_report_shows_changes(run, tmp_path):
    pytest.importorskip("plotly")
    new = branch(run, 1, tmp_path / "new")
    row = {"generation": 2, "option": "mutation", "from": 0.1, "to": 0.3, "note": "<b>broader"}
    (new / "changes.jsonl").write_text(json.dumps(row) + "\n")
    page = tmp_path / "page.html"
    assert main(["report", str(new), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Changed while the run went on." in text
    assert "&lt;b&gt;broader" in text
    (new / "changes.jsonl").write_text("[]\n")
    assert main(["report", str(new), "--out", str(page)]) == 2


@pytest.mark.parametrize("note", ["a\u2028b", "a\u2029b", "a\x85b", "a\x0cb", "a\nb\rc"])
def test_a_note_with_any_line_end_is_read_back(tmp_path, note):
    rows = [Change(1, "kl", 0.0, 0.1, note), Change(2, "kl", 0.1, 0.2, "")]
    text = "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "changes.jsonl").write_text(text, encoding="utf-8")
    assert read_changes(tmp_path) == rows


def test_what_reads_a_run_knows_its_changed_settings(tmp_path):
    (tmp_path / "generation_0002" / "adapters").mkdir(parents=True)
    (tmp_path / "history.jsonl").write_text("")
    (tmp_path / "run.toml").write_text("[config]\nsolve_tokens = 64\n")
    rows = [Change(1, "solve_tokens", 64, 32), Change(3, "solve_tokens", 32, 16)]
    text = "".join(json.dumps(row.to_dict()) + "\n" for row in rows)
    (tmp_path / "changes.jsonl").write_text(text)
    assert read_run(tmp_path).config.solve_tokens == 32  # the second was never played with
    (tmp_path / "changes.jsonl").write_text("{\n")
    with pytest.raises(UsageError, match=r"run: .*changes\.jsonl is damaged"):
        read_run(tmp_path)


def test_a_branch_goes_where_it_is_told(tmp_path):
    (tmp_path / "generation_0000").mkdir()
    text = f"[config]\nout = {json.dumps(str(tmp_path))}\n"
    (tmp_path / "run.toml").write_text(text)
    words = ["--branch", f"{tmp_path}@0"]
    assert read_options(words).out != str(tmp_path)
    assert read_options([*words, "--out", str(tmp_path)]).out == str(tmp_path)  # then refused


def test_a_terminated_run_ends_like_an_interrupted_one():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # another's would stay
    try:
        with Interrupts() as interrupts:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("command", ["evolve", "bench", "distill"])
def test_a_terminated_command_ends_like_an_interrupted_one(monkeypatch, capsys, command):
    def run(words):
        with Interrupts():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli, "_module", lambda name: SimpleNamespace(main=run))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert cli.main([command]) == 130
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "populora: interrupted\n"
