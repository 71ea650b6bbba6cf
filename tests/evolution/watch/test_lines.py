"""Lines of a file that somebody else writes."""

from __future__ import annotations

import os

from evolution.watch.lines import GrowingLines


def read(lines):
    return [(line.number, line.offset, line.text) for line in lines.new()]


def test_only_what_was_appended_is_read_and_half_a_line_is_waited_for(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = GrowingLines(file)
    assert read(lines) == []
    file.write_bytes(b"one\ntw")
    assert read(lines) == [(1, 0, b"one\n")]
    assert read(lines) == []
    with file.open("ab") as more:
        more.write(b"o\nthree\n")
    assert read(lines) == [(2, 4, b"two\n"), (3, 8, b"three\n")]
    assert lines.again(4) == b"two\n"
    assert lines.times_begun_anew == 0


def test_a_file_cut_back_is_read_anew(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"one\ntwo\nthree\n")
    lines = GrowingLines(file)
    read(lines)
    os.truncate(file, 8)
    assert read(lines) == [(1, 0, b"one\n"), (2, 4, b"two\n")]
    assert lines.times_begun_anew == 1


def test_a_file_cut_back_and_grown_beyond_is_noticed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"one\ntwo\n")
    lines = GrowingLines(file)
    read(lines)
    with file.open("r+b") as other:
        other.truncate(4)
        other.seek(4)
        other.write(b"TWO\nthree\n")
    assert [text for *_, text in read(lines)] == [b"one\n", b"TWO\n", b"three\n"]
    assert lines.times_begun_anew == 1


def test_a_file_that_was_replaced_or_deleted_is_noticed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"one\n")
    lines = GrowingLines(file)
    read(lines)
    (tmp_path / "b").write_bytes(b"one\nmore\n")
    os.replace(tmp_path / "b", file)
    assert len(read(lines)) == 2
    file.unlink()
    assert read(lines) == []
    assert lines.times_begun_anew == 2
