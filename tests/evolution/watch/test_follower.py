"""What is known of a run while it is written."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evolution.reporting.measures.data import read_run_data
from evolution.runs.lock import LOCK_FILE, RunLock, is_played
from evolution.watch import follower as follower_module
from evolution.watch.conversation import episodes_shown
from evolution.watch.follower import Follower
from evolution.watch.sections import SECTIONS, find_live
from evolution.watch.view import View
from tests.evolution.synthetic_run import write_run
from tests.evolution.synthetic_self_play import write_self_play_run
from tests.evolution.watch.bit_by_bit import Writer


@pytest.fixture
def writer(tmp_path):
    return Writer(write_run(tmp_path / "whole", generations=5), tmp_path / "copy")


def test_an_empty_folder_fills_itself(writer):
    follower = Follower(writer.copy)
    assert not follower.poll() or follower.run() is None
    assert follower.run() is None
    assert follower.written() is None
    writer.begin()
    assert follower.poll()
    assert follower.run() is None
    assert follower.asked_for() == 5
    writer.go_on()
    assert follower.poll()
    assert follower.run().generations == (0,)
    assert follower.notices == []


def test_a_run_that_was_followed_is_the_run_that_is_read_whole(writer, tmp_path):
    follower = Follower(writer.copy)
    writer.begin()
    for _ in range(5):
        writer.go_on()
        assert follower.poll()
        assert not follower.poll()
    followed, whole = follower.run(), read_run_data(tmp_path / "whole")
    assert followed.generations == whole.generations
    assert followed.episodes == whole.episodes
    assert followed.lineage == whole.lineage
    assert followed.best == whole.best
    assert all((followed.series[name] == whole.series[name]).all() for name in whole.series)


def test_bytes_that_come_piece_by_piece_are_never_damage(writer):
    follower = Follower(writer.copy)
    writer.begin()
    writer.go_on()
    follower.poll()
    data = writer.data("history.jsonl", 1)
    for i in range(0, len(data), 61):
        writer.append("history.jsonl", data[i : i + 61])
        follower.poll()
        # All four agents, or none of them: means over some would be of others than before.
        assert follower.run().generations == ((0,) if i + 61 < len(data) else (0, 1))
        assert follower.notices == []


def test_a_run_that_was_cut_back_and_goes_on(writer):
    follower = Follower(writer.copy)
    writer.begin()
    for _ in range(4):
        writer.go_on()
    follower.poll()
    writer.cut_back()
    writer.append("history.jsonl", writer.data("history.jsonl", 3)[:20])
    assert follower.poll()
    assert follower.run().generations == (0, 1, 2)
    assert sorted(follower.episodes()) == [0, 1, 2]
    writer.cut_back()
    for _ in range(3):
        writer.go_on()
    assert follower.poll()
    assert follower.run().generations == (0, 1, 2, 3, 4)
    assert len(follower.run().episodes) == 15


@pytest.mark.parametrize("known", [0, 1])
def test_no_episode_is_lost_where_both_files_grow_between_two_reads(writer, monkeypatch, known):
    follower, read = Follower(writer.copy), Follower._follow
    writer.begin()
    rows = writer.data("history.jsonl", 0).splitlines(keepends=True)
    writer.append("history.jsonl", b"".join(rows[:known]))
    grown = []

    def follow(self, name, how):
        changed = read(self, name, how)
        if name == "history.jsonl" and not grown:
            grown.append(name)
            writer.append("history.jsonl", b"".join(rows[known:]))
            writer.append("transcripts.jsonl", writer.data("transcripts.jsonl", 0))
        return changed

    monkeypatch.setattr(Follower, "_follow", follow)
    follower.poll()
    follower.poll()
    assert follower.notices == []
    assert follower.run().generations == (0,)
    assert len(follower.run().episodes) == 3


def test_nothing_is_left_of_a_run_that_begins_anew(writer):
    follower = Follower(writer.copy)
    writer.begin()
    writer.go_on()
    follower.poll()
    assert len(follower.episodes()[0]) == 3
    writer.cut_back()
    follower.poll()
    assert follower.episodes() == {}
    writer.go_on()
    follower.poll()
    assert len(follower.run().episodes) == 3
    assert follower.notices == []


def test_a_damaged_line_is_left_out_and_said(writer):
    follower = Follower(writer.copy)
    writer.begin()
    writer.go_on()
    writer.append("transcripts.jsonl", b'{"generation": 0, "turns": []}\n{"genera\n')
    writer.append("history.jsonl", b"[1, 2]\n")
    writer.go_on()
    follower.poll()
    assert follower.run().generations == (0, 1)
    assert len(follower.run().episodes) == 6
    assert len(follower.notices) == 2
    assert "history.jsonl, line 5, is damaged and left out" in follower.notices[0]


def test_damaged_settings_and_births_are_said_and_can_be_mended(writer):
    follower = Follower(writer.copy)
    writer.begin()
    writer.go_on()
    (writer.copy / "run.toml").write_text("[config")
    follower.poll()
    assert follower.run() is None
    assert any("run.toml is damaged" in said for said in follower.notices)
    writer.begin()
    (writer.copy / "lineage.json").write_text("[")
    assert follower.poll()
    assert follower.run() is None
    assert [said for said in follower.notices if "lineage.json is damaged" in said]
    writer.go_on()
    assert follower.poll()
    assert follower.run().generations == (0, 1)
    assert follower.notices == []


def test_an_unreadable_file_is_said(writer):
    (writer.copy / "history.jsonl").mkdir()
    follower = Follower(writer.copy)
    assert follower.poll()
    assert follower.notices == ["history.jsonl cannot be read (Is a directory)"]


def test_nothing_is_sent_twice(writer):
    view = View(writer.copy)
    first = json.loads(view.state())
    assert "No whole generation" in first["sections"][0][2]
    writer.begin()
    writer.go_on()
    second = json.loads(view.state(first["version"]))
    assert [key for key, *_ in second["sections"]][:2] == ["agents", "curves"]
    assert second["done"] == 1
    third = json.loads(view.state(second["version"]))
    assert "sections" not in third
    assert third["version"] == second["version"]
    assert "sections" in json.loads(View(writer.copy).state(second["version"]))


def test_a_long_run_is_read_bit_by_bit(writer, monkeypatch):
    monkeypatch.setattr(follower_module, "_AT_ONCE", 5)
    writer.begin()
    for _ in range(5):
        writer.go_on()
    view = View(writer.copy)
    shares = []
    while "reading" in (told := json.loads(view.state())):
        shares.append(told["reading"])
    assert shares == sorted(shares)
    assert len(shares) == 4
    assert 0 < shares[0] < 0.4
    assert told["done"] == 5
    assert told["version"].endswith("-1")
    writer.cut_back()
    writer.go_on()
    while "reading" in (told := json.loads(view.state())):
        pass
    assert told["done"] == 5


def test_sections_of_self_play(tmp_path):
    folder = write_self_play_run(tmp_path / "run", generations=3, judged=True)
    state = json.loads(View(folder).state())
    keys = [key for key, *_ in state["sections"]]
    assert keys == ["agents", "curves", "proposals", "meetings", "games", "family-tree", "report"]
    assert {"curve-standing", "meetings-matrix", "family", "matrix"} <= set(state["charts"])


def test_many_agents_have_lines_of_their_own_and_room_for_their_names(tmp_path):
    def standing(agents):
        folder = write_run(tmp_path / str(agents), generations=2, agents=agents, problems=1)
        follower = Follower(folder)
        follower.poll()
        run = follower.run()
        work = {key: work for key, _, work in SECTIONS}["curves"]
        return work(follower, find_live(follower, run))["charts"][-1]

    many, few = standing(32), standing(4)
    lines = {(trace.line.color, trace.line.dash) for trace in many.figure.data}
    assert len(lines) == 32
    assert many.height > few.height + 100


def test_an_episode_is_read_with_its_turns_and_chosen_by_number(tmp_path):
    folder = write_run(tmp_path / "run", generations=3)
    lines = [json.loads(line) for line in (folder / "transcripts.jsonl").open()]
    turn = {"agent": "agent_1", "phase": "solve", "round": 0, "prompt": "p", "reply": "r",
            "status": "ok", "reward": 0.5, "parts": {"correctness": 0.5}}  # fmt: skip
    lines[4]["turns"] = [turn]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "transcripts.jsonl").write_text(text)
    follower = Follower(folder)
    assert episodes_shown(follower) is None
    follower.poll()
    assert (episodes_shown(follower)["generation"], episodes_shown(follower)["later"]) == (2, None)
    shown = episodes_shown(follower, 1, 1)
    assert [own.earned for own in shown["attempts"]] == [None, 0.5, None, None]
    assert (shown["earlier"], shown["later"], shown["number"]) == (0, 2, 1)
    assert [own.judge for own in shown["judges"]] == [f"agent_{i}" for i in range(4)]
    assert episodes_shown(follower, 99, 99)["number"] == 0


def test_who_plays_a_run_is_seen_without_touching_the_lock(tmp_path):
    if not Path("/proc/locks").exists():
        pytest.skip("this system does not tell of locks")
    assert is_played(tmp_path) is False
    lock = RunLock(tmp_path)
    assert is_played(tmp_path) is True
    lock.release()
    assert is_played(tmp_path) is False
    with (tmp_path / LOCK_FILE).open("r+") as file:  # locked by one who does not say so in it
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"pid": os.getpid() + 1, "host": socket.gethostname()}))
        file.truncate()
        file.flush()
        assert is_played(tmp_path) is False
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    assert is_played(tmp_path) is None


@pytest.mark.slow
def test_it_starts_without_torch():
    code = "import sys, evolution.watch.server; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
