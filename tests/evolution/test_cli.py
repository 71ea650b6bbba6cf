from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from agents.machine import resources
from evolution import cli
from evolution.cli import main
from evolution.commands.export.card import card_of_champion
from evolution.commands.usage import Interrupts
from evolution.runs.saved_run import read_run
from evolution.runs.settings_files import presets, read_preset

QUICK = [
    "--size", "3", "--rank", "2", "--problems-per-generation", "2", "--judged-problems", "1",
    "--solve-tokens", "4", "--judge-tokens", "2", "--offspring", "1", "--held-out", "5",
    "--confirm-problems", "2", "--last-trial", "2",
    "--problems", "procedural:chain_sum(max_terms=2,max_digits=1)",
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.jsonl", "--foo", "3"], "Unrecognized options: --foo"),
        (["x.jsonl", "--limit", "many"], "Error parsing --limit: no type"),
        (["x.jsonl", "--split", "dev"], "invalid choice 'dev' for argument"),
        ([], "Missing from populora validate: STR"),
    ],
)
def test_titles_are_not_repeated_whatever_the_terminal(words, said, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "evolution.cli", "validate", *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert run.returncode == 2
    lines = run.stderr.splitlines()
    assert len(lines) == 1
    assert re.match(rf"populora: error: (?:{said})", lines[0])


def test_help_is_a_word_too(capsys):
    assert main(["help"]) == main(["--help"]) == 0
    first, _, second = (
        capsys.readouterr()
        .out.partition("usage: populora COMMAND")[2]
        .partition("usage: populora COMMAND")
    )
    assert first == second


@pytest.mark.parametrize(
    ("given", "quota", "found"),
    [(None, 2.5, "2"), (None, 0.5, "1"), (None, 16.0, None), (None, None, None), ("7", 2.5, "7")],
)
def test_threads_are_as_many_as_a_container_has_time_for(monkeypatch, given, quota, found):
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that what is set below is undone
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(resources, "cores", lambda: resources.Cores(64, 8, quota))
    cli._bound_threads()
    assert os.environ.get("OMP_NUM_THREADS") == found


def test_a_warning_is_one_line_without_code_or_escapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = '{"prompt": "%s is 2+2?", "answer": %d}\n'
    (tmp_path / "x.jsonl").write_text(row % ("What", 4) + row % ("WHAT", 5))
    command = [sys.executable, "-m", "evolution.cli", "validate", "x.jsonl"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert run.stderr.startswith("populora: warning: x.jsonl:2: question 'WHAT is 2+2?' differs")
    assert run.stderr.count("\n") == 1


def one_line_error(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("populora: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evlove"], "unknown command 'evlove'; expected one of evolve"),
        (["evolve", "--generation", "3"], "--generations"),
        (["evolve", "--generations", "many"], "many"),
        (["evolve", "--generations", "0"], "generations: got 0, expected an integer >= 1"),
        (["evolve", "--learner", "magic"], "policy-gradient"),
        (["evolve", "--model", "/no/such/folder"], "neither an existing folder"),
        (["evolve", "--model", "nowhere.gguf"], "no file 'nowhere.gguf'"),
        (["evolve", "--problems", "procedural:chain_sun"], "chain_sum"),
        (["evolve", "--problems", "procedural:chain_sum(max_term=2)"], "max_terms"),
        (["evolve", "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["evolve", "--resume", "/no/run"], "is no run folder"),
        (["evolve", "--config", "/no/file.toml"], "cannot be read"),
        (["evolve", "--preset", "nope"], "expected one of llama2-7b, mistral-7b, quick"),
        (["evolve", "--offspring", "9"], "elites + offspring"),
        (["evolve", "--dtype", "int3"], "dtype: got 'int3'"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in one_line_error(capsys, arguments)


def test_unknown_setting_in_a_file(capsys, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("generatoins = 3\n")
    said = one_line_error(capsys, ["evolve", "--config", str(file)])
    assert "unknown setting 'generatoins'" in said


def test_help_lists_commands_and_options(capsys):
    assert main(["--help"]) == 0
    assert "evolve" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["evolve", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--diversity-weight" in text


def test_presets_can_be_read():
    assert "quick" in presets()
    for name in presets():
        assert read_preset(name).generations >= 1


def evolve(folder, model_folder, *more):
    return main(["evolve", "--model", model_folder, "--out", str(folder), *QUICK, *more])


def last_trial_kept(folder):
    return json.loads((folder / "summary.json").read_text())["last_trial"]["kept"]


@pytest.mark.slow
def test_the_end_of_a_run_that_comes_to_a_mean_shows_it_once(tmp_path, model_folder, capsys):
    folder = tmp_path / "run"
    more = ("--generations", "1", "--exchange", "average", "--learner", "policy-gradient")
    assert evolve(folder, model_folder, *more) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "champion (average)" in said
    assert "average, as one adapter" not in said
    assert f"Champion (average of the agents): {folder / 'best'}" in said
    assert "populora export" not in said
    found = json.loads((folder / "summary.json").read_text())["held_out"]
    assert (found["champion_is"], found["average"]) == ("average", found["best"])
    card = card_of_champion(read_run(folder))
    assert (card.what, len(card.individuals)) == ("the champion, the average of the agents", 3)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(tmp_path, model_folder, capsys):
    folder = tmp_path / "run"
    assert evolve(folder, model_folder, "--generations", "2") == 0
    said = capsys.readouterr().out
    assert f"--resume {folder} --generations 4" in " ".join(said.split())
    assert said.startswith("Evolving 3 adapters: 2 generations of 2 problems\n")
    first, live, last = (
        said.find(words)
        for words in ("What the base answers", "generation   1/2", "The first held-out problems")
    )
    assert 0 < first < live < last
    assert "tokens/s" not in said  # the table of agents is for terminals
    assert f"Report: {folder / 'report.html'}" in " ".join(said.split())
    assert (folder / "report.html").is_file()
    assert f"populora play --agents {folder},base*2" in " ".join(said.split())
    assert "majority vote" in said
    shown = last_trial_kept(folder) != "average"  # else it is the champion, and shown as that
    assert ("average, as one adapter" in said) == shown
    assert "How the agents judged" in said
    assert "Majority answers: " in said
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {
        "held_out", "last_trial", "seconds", "generations", "arena", "peak_memory_mib"
    }  # fmt: skip
    last = summary["last_trial"]
    assert last["problems"] == 2
    assert {"champion", "average"} < set(last["accuracy"])
    assert last["accuracy"][last["kept"]] == max(last["accuracy"].values())
    assert "Last trial, on 2 fresh training problems: " in said
    assert summary["peak_memory_mib"]["process"] > 50
    assert f"Memory at most: {summary['peak_memory_mib']['process']:,.0f} MiB" in said
    assert summary["arena"]["majority"]["episodes"] == 4
    assert summary["arena"]["judges"]["overall"]["comparisons"] > 0
    assert set(summary["held_out"]) == {
        "problems", "base", "best", "champion", "champion_is", "mean", "vote", "average",
        "standard_error",
    }  # fmt: skip
    assert summary["held_out"]["champion_is"] in ("agent_0", "agent_1", "agent_2", "average")
    assert summary["generations"] == 2
    assert summary["held_out"]["problems"] == 5
    config = tomllib.loads((folder / "run.toml").read_text())
    assert config["config"]["size"] == 3
    assert config["versions"]["torch"]
    assert (folder / "best" / "adapter_model.safetensors").exists()
    assert list((folder / "tensorboard").iterdir())
    trained = {json.loads(line)["problem"]["id"] for line in (folder / "transcripts.jsonl").open()}
    prompts = {json.loads(line)["problem"] for line in (folder / "held_out.jsonl").open()}
    seen = {json.loads(line)["problem"]["prompt"] for line in (folder / "transcripts.jsonl").open()}
    assert trained
    assert not prompts & seen


def test_a_folder_in_use_and_a_changed_option(tmp_path, model_folder, capsys):
    folder = tmp_path / "run"
    assert evolve(folder, model_folder, "--generations", "1", "--held-out", "0") == 0
    capsys.readouterr()
    arguments = ["evolve", "--model", model_folder, "--out", str(folder), *QUICK]
    assert "already holds a run" in one_line_error(capsys, arguments)
    said = one_line_error(capsys, ["evolve", "--resume", str(folder), "--rank", "3"])
    assert "--rank cannot change in a saved run (2 to 3): the adapters" in said


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "evolution.cli", "evolve", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Where the tests run in the background Ctrl-C is ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(path, process, seconds=120):
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_and_resumed_equals_never_killed(tmp_path, model_folder):
    common = ["--model", model_folder, "--generations", "5", *QUICK]
    whole = start("--out", str(tmp_path / "whole"), *common)
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    folder = tmp_path / "killed"
    process = start("--out", str(folder), *common)
    for generation in (0, 2):
        wait_for(folder / f"generation_{generation:04d}", process)
        time.sleep(0.03 * generation)  # somewhere within the next generation
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start("--resume", str(folder))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "Going on after generation " in said
    for name in ("history.jsonl", "transcripts.jsonl", "lineage.json", "held_out.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_interrupt_ends_at_once_and_says_how_to_resume(tmp_path, model_folder):
    folder = tmp_path / "run"
    common = ["--model", model_folder, "--generations", "10000", *QUICK]
    process = start("--out", str(folder), *common)
    wait_for(folder / "generation_0001", process)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"populora evolve --resume {folder}" in " ".join(said.split())
    done = sorted(folder.glob("generation_*"))[-1]
    assert (done / "manifest.json").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_is_dropped_ends_the_run_at_its_next_step():
    class Dropping:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)  # what is raised here, Python ignores

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            interrupts.check()
            Dropping()
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_ctrl_c_is_ignored_it_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--proposers", "1", "--parents", "1", "--elites", "0"], "with proposers = 1, expected"),
        (["--guard", "note", "--guard-from", "procedural:nonsense"], "guard_from: unknown"),
        (["--temperature", "1e-39"], "temperature: got 1e-39, expected 0, which is greedy, or at"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_written(words, said, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["evolve", "--model", str(tmp_path), *QUICK, *words, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_weights_that_overflow_when_used_end_no_run(model_folder, tmp_path, capsys):
    words = ["--adapter-dtype", "float16", "--learning-rate", "1", "--learner", "policy-gradient"]
    run = tmp_path / "run"
    given = ["--model", model_folder, *QUICK, *words, "--generations", "3", "--out", str(run)]
    assert main(["evolve", *given]) == 0
    assert main(["evolve", "--resume", str(run), "--generations", "4"]) == 0
