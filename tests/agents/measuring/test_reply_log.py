from __future__ import annotations

import json

import pytest

from agents.measuring.reply_log import Key, LoggedReply, ReplyLog, ReplyLogError, text_hash

SETTINGS = {"temperature": 0.0, "model": "tiny"}


def reply(problem="p", **changes):
    values = {
        "key": Key("gsm8k", "arena-v1", "agent_0", problem, 0), "content": "c", "asked": "a",
        "max_new_tokens": 8, "reply": "say 5\n\u2028", "marks": {"default": ("5", True)},
        "drawn": "greedy",
    }  # fmt: skip
    return LoggedReply(**{**values, **changes})


def find(log, row, **changes):
    values = {"content": "c", "asked": "a", "max_new_tokens": 8, "drawn": "greedy"}
    return log.find(row.key, **{**values, **changes})


def test_what_was_added_is_found_again(tmp_path):
    file = tmp_path / "new" / "replies.jsonl"
    log = ReplyLog(file, SETTINGS)
    rows = [reply("p"), reply("q", marks={"default": (None, False)})]
    assert find(log, rows[0]) is None
    log.add(rows)
    again = ReplyLog(file, SETTINGS)
    assert len(again) == 2
    assert [find(again, row) for row in rows] == rows
    assert find(again, reply("r")) is None
    first = json.loads(file.read_text(encoding="utf-8").split("\n")[0])
    assert first == {"settings": SETTINGS}


def test_memory_needs_no_file():
    log = ReplyLog()
    log.add([reply()])
    assert find(log, reply()) == reply()
    with pytest.raises(ReplyLogError, match=r"log: it holds replies .*; pass another ReplyLog"):
        find(log, reply(), content="d")


def test_a_line_of_an_earlier_version_does_not_say_how_it_was_drawn(tmp_path):
    row = reply().to_dict()
    del row["drawn"]
    file = tmp_path / "replies.jsonl"
    file.write_text(json.dumps({"settings": SETTINGS}) + "\n" + json.dumps(row) + "\n")
    found = find(ReplyLog(file, SETTINGS), reply(), drawn="temperature 1, seed 3")
    assert found is not None
    assert found.drawn == ""


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path, cut):
    file = tmp_path / "replies.jsonl"
    ReplyLog(file, SETTINGS).add([reply("p"), reply("q")])
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    log = ReplyLog(file, SETTINGS)
    assert len(log) == 1
    log.add([reply("q")])
    assert file.read_bytes() == whole


def test_killed_before_the_first_line_was_whole(tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text('{"settings": {"temp')
    ReplyLog(file, SETTINGS).add([reply()])
    assert len(ReplyLog(file, SETTINGS)) == 1


def test_other_settings_are_refused(tmp_path):
    file = tmp_path / "replies.jsonl"
    ReplyLog(file, SETTINGS)
    with pytest.raises(ReplyLogError, match=r"temperature: got 0.5, but .* was made with 0.0; set"):
        ReplyLog(file, {**SETTINGS, "temperature": 0.5})
    with pytest.raises(ReplyLogError, match=r"seed: got 1, but .* was made with None"):
        ReplyLog(file, {**SETTINGS, "seed": 1})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"content": "d"}, r"other weights \(c, now d\)"),
        ({"asked": "b"}, r"other prompt \(a, now b\)"),
        ({"max_new_tokens": 9}, r"other max_new_tokens \(8, now 9\)"),
        ({"drawn": "seed 1"}, r"other sampling \(greedy, now seed 1\)"),
    ],
)
def test_replies_made_under_other_conditions_are_refused(tmp_path, change, said):
    log = ReplyLog(tmp_path / "replies.jsonl", SETTINGS)
    log.add([reply()])
    with pytest.raises(ReplyLogError, match=said + "; choose another out folder"):
        find(log, reply(), **change)


@pytest.mark.parametrize(
    "line", ["nonsense", "[1]", '{"task": "gsm8k"}', '{"settings": 3}']
)  # fmt: skip
def test_a_file_of_something_else(tmp_path, line):
    file = tmp_path / "replies.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ReplyLogError, match=r"line 1 of .* is no reply"):
        ReplyLog(file, SETTINGS)
    file.write_text(json.dumps({"settings": SETTINGS}) + "\n" + line + "\n")
    with pytest.raises(ReplyLogError, match=r"line 2 of .* is no reply"):
        ReplyLog(file, SETTINGS)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReplyLogError, match="cannot be used"):
        ReplyLog(tmp_path / "file" / "replies.jsonl", SETTINGS)


def test_hashes_take_any_text():
    assert len({text_hash(text) for text in ("a", "b", "\ud800", "")}) == 4
