"""Damage to a run: whichever byte of whichever file, every command names the file."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from agents.population import LoraPopulation
from evolution import CheckpointError, EvolutionManager
from evolution.cli import main
from evolution.commands.evolve.options import read_options, run_toml
from evolution.errors import DamageError, UsageError
from evolution.runs.branching import branch
from evolution.runs.checkpoint import RunFolder
from evolution.runs.files import digest_of, saved_generations
from evolution.runs.integrity import check_adapters, check_run, declared, read_checksums
from evolution.runs.saved_run import read_run
from populora_env.keys import generator
from populora_env.problems import load_problems
from tests.conftest import make_tiny_base
from tests.evolution.test_manager import SPEC, config, make

SETTINGS = dict(evolve_every=1, confirm_problems=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with every file that `populora evolve` writes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    manager = make(folder, config(**SETTINGS))
    rest = RunFolder(folder)
    options = ["--problems", SPEC, "--size", "4", "--rank", "2", "--held-out", "0"]
    rest.write("run.toml", run_toml(read_options(options)))
    manager.run(2)
    manager.close()
    resumed = make(settings=config(**{**SETTINGS, "mutation": 0.2}))
    resumed.resume(folder, note="broader")
    resumed.run(1)
    resumed.close()
    rows = [{"agent": who, "problem": "1+1", "correct": True} for who in ("base", "agent_0")]
    rest.write("held_out.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    row = {"generation": 1, "agent": "base", "accuracy": 0.5, "problems": 1}
    rest.write("held_out_curve.jsonl", json.dumps(row) + "\n")
    rest.write("summary.json", json.dumps({"generations": 3}) + "\n")
    rest.close()
    return folder


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("evolution.runs.integrity._PAUSE", 0)
    return Path(shutil.copytree(whole, tmp_path / "run"))


def covered(folder):
    """All files but the lock."""
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.name != "run.lock")


def flip(file, rng):
    data = bytearray(file.read_bytes())
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def commands(run, out):
    return {
        "resume": ["evolve", "--resume", str(run)],
        "report": ["report", str(run), "--out", str(out / "page.html")],
        "bench": ["bench", "--run", str(run)],
        "bench of its best": ["bench", "gsm8k", "--adapters", f"{run}/best"],
        "export": ["export", str(run), "--out", str(out / "export")],
        "play": ["play", "--agents", f"{run}:agent_1,random"],
        "play of its best": ["play", "--agents", f"{run},random"],
        "distill": ["distill", str(run), "--out", str(out / "distilled")],
    }


def test_every_file_of_a_run_is_covered(whole):
    assert {f.relative_to(whole).parts[0] for f in covered(whole)} == {
        "run.toml", "history.jsonl", "transcripts.jsonl", "lineage.json", "changes.jsonl",
        "held_out.jsonl", "held_out_curve.jsonl", "summary.json", "checksums.json", "best",
        "generation_0001", "generation_0002",
    }  # fmt: skip
    assert check_run(whole)["generation"] == 2
    assert all(len(digests) == 1 for digests in read_checksums(whole).values())


def test_a_flipped_byte_of_any_file_is_named(run, whole):
    rng, manager = generator("flips", 0), make(settings=config(**SETTINGS))
    for file in covered(whole):
        mine = run / file.relative_to(whole)
        for _ in range(3):
            flip(mine, rng)
            with pytest.raises(CheckpointError) as caught:
                check_run(run)
            assert str(mine) in str(caught.value)
            with pytest.raises(CheckpointError) as caught:
                manager.resume(run)
            assert str(mine) in str(caught.value)
            shutil.copyfile(file, mine)
    check_run(run)


KINDS = (
    "history.jsonl", "transcripts.jsonl", "lineage.json", "changes.jsonl", "held_out.jsonl",
    "run.toml", "summary.json", "checksums.json", "best/adapter_model.safetensors",
    "best/manifest.json", "generation_0002/adapters/agent_1/adapter_model.safetensors",
    "generation_0002/state.json", "generation_0002/state.safetensors",
    "generation_0002/manifest.json", "generation_0001/adapters/agent_0/adapter_config.json",
)  # fmt: skip


@pytest.mark.slow
def test_every_command_names_it_in_one_line(run, whole, tmp_path, capsys, monkeypatch):
    pytest.importorskip("plotly")
    monkeypatch.setattr(
        "evolution.commands.evolve.engine.load_base", lambda *a, **k: make_tiny_base()
    )
    rng = generator("flips", 1)
    for kind in KINDS:
        flip(run / kind, rng)
        for command, words in commands(run, tmp_path).items():
            assert main(words) == 2, (command, kind)
            said = capsys.readouterr().err
            assert str(run / kind) in said, (command, kind, said)
            assert said.count("\n") == 1, (command, kind, said)
        shutil.copyfile(whole / kind, run / kind)
    assert not (tmp_path / "page.html").exists()
    assert main(commands(run, tmp_path)["report"]) == 0
    assert main(commands(run, tmp_path)["export"]) == 0


def test_what_a_run_can_do_without_may_be_deleted(run):
    for name in ("summary.json", "held_out.jsonl", "held_out_curve.jsonl", "lineage.json"):
        (run / name).unlink()
    shutil.rmtree(run / "best")
    shutil.rmtree(run / "generation_0001")
    manager = make(settings=config(**{**SETTINGS, "mutation": 0.2}))
    manager.resume(run)
    manager.keep_best()
    manager.close()
    assert (run / "best" / "adapter_model.safetensors").exists()
    for name in ("run.toml", "changes.jsonl", "history.jsonl", "best/manifest.json"):
        aside = (run / name).rename(run / "aside")
        with pytest.raises(DamageError, match=name):
            check_run(run)
        aside.rename(run / name)
    (run / "checksums.json").unlink()  # then there is nothing to check against
    (run / "run.toml").write_text("[config]\n")
    check_run(run)


def test_a_kill_between_a_digest_and_its_file_is_no_damage(run):
    old = (run / "summary.json").read_bytes()
    for text in (b"{}\n", b"[]\n"):
        with pytest.raises(KeyboardInterrupt), declared(run, "summary.json", digest_of(text)):
            raise KeyboardInterrupt
        check_run(run)
    (run / "summary.json").write_bytes(b"[]\n")
    check_run(run)
    (run / "summary.json").write_bytes(b"{ }")
    with pytest.raises(DamageError, match=r"summary\.json is damaged \(its checksum differs\)"):
        check_run(run)
    (run / "summary.json").write_bytes(old)
    with pytest.raises(KeyboardInterrupt), declared(run, "new", digest_of(b"x")):
        raise KeyboardInterrupt
    check_run(run)


@pytest.mark.slow
def test_a_run_that_is_being_written_is_not_damaged(tmp_path):
    """Read without a pause while generations are saved, deleted and replaced."""
    manager = make(tmp_path, config(**SETTINGS, keep_generations=1))
    manager.run(1)
    over, read, failed = threading.Event(), [], []

    def look():
        while not over.is_set():
            try:
                read.append(check_run(tmp_path))
            except CheckpointError as error:
                failed.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        manager.run(6)
        for number in range(40):
            manager.folder.write("summary.json", str(number))
            manager.folder.replace("best", lambda path: None)
    finally:
        over.set()
        reader.join()
    assert not failed
    assert len(read) > 20
    manager.close()


def test_a_run_of_the_version_before_is_read_and_goes_on(run):
    """Without seals and digests there is less to check against."""
    import hashlib

    (run / "checksums.json").unlink()
    (run / "best" / "manifest.json").unlink()
    for number in saved_generations(run):
        folder = run / f"generation_{number:04d}"
        state = json.loads((folder / "state.json").read_text())
        state = {k: v for k, v in state.items() if k not in ("digests", "rests_on")} | {"format": 4}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "manifest.json").unlink()
        sums = {
            str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.rglob("*")
            if file.is_file()
        }
        (folder / "manifest.json").write_text(json.dumps(sums))
    check_run(run)
    manager = make(settings=config(**{**SETTINGS, "mutation": 0.2}))
    manager.resume(run)
    manager.run(1)
    manager.close()
    flip(run / "history.jsonl", generator("flips", 2))
    with pytest.raises(DamageError, match=r"history\.jsonl"):
        check_run(run)


def test_a_branch_is_checked_for_what_it_copies(run, tmp_path):
    lines = (run / "history.jsonl").read_bytes()
    (run / "history.jsonl").write_bytes(lines[:-5] + b"7" + lines[-4:])
    with pytest.raises(CheckpointError, match=r"generation 1 is whole: go on from it"):
        make(settings=config(**SETTINGS)).resume(run)
    new = branch(run, 1, tmp_path / "new")  # the damage is after it
    check_run(new)
    flip(new / "run.toml", generator("flips", 3))
    with pytest.raises(DamageError, match=r"run\.toml"):
        check_run(new)
    flip(run / "run.toml", generator("flips", 3))
    with pytest.raises(CheckpointError, match=r"branch: .*run\.toml is damaged"):
        branch(run, 1, tmp_path / "other")


def test_an_adapter_folder_that_left_its_run_and_one_of_strangers(run, tmp_path):
    copy = Path(shutil.copytree(run / "best", tmp_path / "copy"))
    check_adapters([copy])
    flip(copy / "adapter_model.safetensors", generator("flips", 4))
    with pytest.raises(DamageError, match="adapter_model"):
        check_adapters([copy])
    for text in ("{}", "[1]", "nonsense", '{"adapter_model.safetensors": "00"}'):
        (copy / "manifest.json").write_text(text)
        check_adapters([copy])


@pytest.mark.parametrize("text", ["[", "[1]", '{"x": 1}', "[" * 100_000, '{"../../x": ["a"]}'])
def test_a_strangers_checksums(run, text):
    (run / "checksums.json").write_text(text)
    with pytest.raises(DamageError, match=r"checksums\.json is damaged"):
        check_run(run)


def test_a_pipe_in_place_of_a_file_holds_nobody_up(run):
    for name in ("history.jsonl", "run.toml", "best/manifest.json", "generation_0002/state.json"):
        aside = (run / name).rename(run / "aside")
        os.mkfifo(run / name)
        with pytest.raises(DamageError, match=name):
            check_run(run)
        (run / name).unlink()
        aside.rename(run / name)


@pytest.mark.parametrize("name", ["run.toml", "lineage.json", "history.jsonl"])
def test_a_pipe_in_a_run_without_checksums_holds_nobody_up(run, name):
    (run / "checksums.json").unlink(missing_ok=True)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(UsageError, match=rf"{name} (cannot be read .it is no|is damaged)"):
        [saved := read_run(run), saved.tables, *saved.rows("history.jsonl"), saved.lineage(4, 4)]


def resume(folder, base=None, problems=SPEC, **options):
    population = LoraPopulation(base or make_tiny_base(), 4, 2)
    manager = EvolutionManager(population, problems, config(**SETTINGS), **options)
    try:
        manager.resume(folder)
    finally:
        manager.close()


def test_another_base_or_other_problems_under_the_same_name(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"question": f"What is {i}+1?", "answer": str(i + 1)} for i in range(30)]

    def load(part):
        return load_problems(str(file), split=part)

    def write():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write()
    held_out = load("test").distinct(3)
    population = LoraPopulation(make_tiny_base(), 4, 2)
    run = tmp_path / "run"
    manager = EvolutionManager(
        population, load("train"), config(**SETTINGS), folder=run, exclude=held_out
    )
    manager.run(1)
    manager.close()
    resume(run, problems=load("train"), exclude=held_out)
    base = make_tiny_base()
    base.model.get_input_embeddings().weight.data[3, 5] += 1e-4
    with pytest.raises(CheckpointError, match=r"resume: the base model's weights .*\(tiny\)"):
        resume(run, base, load("train"))
    base = make_tiny_base()
    base.tokenizer.chat_template = base.tokenizer.chat_template.replace("<agent>", "<agent> ")
    with pytest.raises(CheckpointError, match="tokenizer"):
        resume(run, base, load("train"))
    first = load("train")[0].prompt
    changed = next(row for row in rows if row["question"] == first)
    right, changed["answer"] = changed["answer"], "77"
    write()
    with pytest.raises(CheckpointError, match=r"the training problems \(.*own\.jsonl\)"):
        resume(run, problems=load("train"))
    changed["answer"] = right
    rows[:] = [row for row in rows if row["question"] != held_out[0].prompt]
    write()
    with pytest.raises(CheckpointError, match="the held-out problems"):
        resume(run, problems=load("train"), exclude=load("test").distinct(3))
