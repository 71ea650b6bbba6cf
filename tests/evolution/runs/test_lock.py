"""A run is played by one process at a time, and nothing is written through links in its folder."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from evolution.errors import CheckpointError
from evolution.runs.checkpoint import RunFolder
from tests.evolution.runs.test_faults import SETTINGS, make

HOLD = """
import sys
from pathlib import Path
from evolution.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


PLAY = """
import sys
from evolution.errors import CheckpointError
from tests.evolution.runs.test_faults import SETTINGS, make
print("ready", flush=True)
for line in sys.stdin:
    try:
        manager = make(line.strip(), SETTINGS)
        manager.run(2)
        manager.close()
        print("played", flush=True)
    except CheckpointError as error:
        print(f"refused {error}", flush=True)
"""
TRIES = int(os.environ.get("POPULORA_TRIES", "3"))


def hold(folder):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_process_is_told_who_plays_the_run(tmp_path):
    (tmp_path / "run").mkdir()
    child = hold(tmp_path / "run")
    try:
        with pytest.raises(CheckpointError) as caught:
            RunFolder(tmp_path / "run")
        said = str(caught.value)
        held = json.loads((tmp_path / "run" / "run.lock").read_text())
        assert held["pid"] == child.pid
        assert f"process {child.pid} on {held['host']} since {held['since']}" in said
        assert "\n" not in said
        with pytest.raises(CheckpointError, match=f"process {child.pid} on"):
            make(settings=SETTINGS).resume(tmp_path / "run")
    finally:
        child.kill()
        child.communicate()
    RunFolder(tmp_path / "run").close()  # what a killed process held is free at once


@pytest.mark.slow
def test_of_two_processes_at_once_one_plays_and_the_other_is_told(tmp_path):
    """`POPULORA_TRIES` sets how often (3 unless set)."""
    players = [
        subprocess.Popen(
            [sys.executable, "-c", PLAY],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        assert [player.stdout.readline() for player in players] == ["ready\n"] * 2
        for number in range(TRIES):
            folder = tmp_path / str(number)
            for player in players:
                player.stdin.write(f"{folder}\n")
                player.stdin.flush()
            refused, played = sorted(
                (player.stdout.readline() for player in players),
                key=lambda said: said == "played\n",
            )
            assert played == "played\n"
            assert refused.startswith("refused ")
            for name in ("history.jsonl", "transcripts.jsonl"):
                rows = (folder / name).read_text().splitlines()
                assert len(rows) == len(set(rows)) > 0
    finally:
        for player in players:
            player.kill()
            player.communicate()


def test_closing_lets_another_process_in_and_a_fork_holds_nothing(tmp_path):
    folder, again = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    folder.close()
    folder.close()
    reads, writes = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(writes)
        os.read(reads, 1)  # lives on until its parent is done
        os._exit(0)
    try:
        with pytest.raises(AssertionError):
            hold(tmp_path / "run")
        again.close()
        child = hold(tmp_path / "run")  # although the forked child is alive
        child.communicate("")
    finally:
        os.close(writes)
        os.waitpid(pid, 0)


LINKS = (
    ".writable", "run.lock", ".lineage.json.tmp", ".run.toml.tmp", "lineage.json", "history.jsonl",
    "transcripts.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("begun", [False, True])
def test_a_link_is_not_followed(tmp_path, name, begun):
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious\n" * 1000)
    run.mkdir()
    if begun:
        manager = make(run, SETTINGS)
        manager.run(1)
        manager.close()
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    with suppress(CheckpointError):
        manager = make(None if begun else run, SETTINGS)
        if begun:
            manager.resume(run)
        manager.run(1)
        manager.folder.write("run.toml", "")
    assert victim.read_text() == "precious\n" * 1000


@pytest.mark.parametrize("name", [".best.tmp", ".generation_0000.tmp", ".best.old.tmp", "best"])
def test_a_linked_folder_is_not_written_to(tmp_path, name):
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    (victim / "adapter_config.json").write_text("precious")
    run.mkdir()
    (run / "run.lock").touch()  # of a run that was begun
    (run / name).symlink_to(victim)
    make(run, SETTINGS).run(2)
    assert [file.name for file in victim.iterdir()] == ["adapter_config.json"]
    assert (victim / "adapter_config.json").read_text() == "precious"


def test_a_pipe_in_place_of_a_growing_file_does_not_hang(tmp_path):
    folder = RunFolder(tmp_path / "run")
    os.mkfifo(tmp_path / "run" / "history.jsonl")
    with pytest.raises(CheckpointError, match=r"history\.jsonl could not be written"):
        folder.append("history.jsonl", [{"a": 1}])
