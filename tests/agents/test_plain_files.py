from __future__ import annotations

import os

import pytest

from agents.plain_files import appending, whole_file, whole_folder, write_whole


@pytest.fixture
def flushed(monkeypatch):
    """Paths that were flushed to disk, in order."""
    seen = []
    fsync = os.fsync

    def noted(handle):
        seen.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return seen


def fail(making, fill):
    """Fill what is made, and fail."""
    with making as work:
        fill(work)
        raise KeyError


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_appears_whole_and_flushed_or_not_at_all(tmp_path, flushed, shared):
    file = tmp_path / "out.txt"
    file.write_text("before")
    with pytest.raises(KeyError):
        fail(whole_file(file, shared=shared), lambda work: work.write_text("half"))
    assert (entries(tmp_path), file.read_text(), flushed) == (["out.txt"], "before", [])
    with whole_file(file, shared=shared) as work:
        work.write_text("after")
        assert file.read_text() == "before"
    assert (entries(tmp_path), file.read_text()) == (["out.txt"], "after")
    assert flushed == [str(work), str(tmp_path)]


def test_text_is_written_as_it_is_and_through_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    for name in ("out.txt", ".out.txt.tmp"):
        (tmp_path / name).symlink_to(outside)
    write_whole(tmp_path / "out.txt", "one\ntwo\r\n")
    assert (tmp_path / "out.txt").read_bytes() == b"one\ntwo\r\n"
    assert not (tmp_path / "out.txt").is_symlink()
    assert outside.read_text() == "precious"


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_appears_whole_and_flushed_or_not_at_all(tmp_path, flushed, shared):
    folder = tmp_path / "made"
    with pytest.raises(KeyError):
        fail(whole_folder(folder, shared=shared), lambda work: (work / "file").write_text("half"))
    assert (entries(tmp_path), flushed) == ([], [])
    with whole_folder(folder, shared=shared) as work:
        (work / "below").mkdir()
        (work / "below" / "file").write_text("x")
        assert not folder.exists()
    assert entries(tmp_path) == ["made"]
    assert sorted(flushed) == sorted(
        [str(work), f"{work}/below", f"{work}/below/file", str(tmp_path)]
    )
    assert flushed[-1] == str(tmp_path)


def test_what_is_there_is_replaced_where_that_is_asked_for_alone(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    with whole_folder(folder) as work:  # over an empty one
        (work / "first").write_text("1")
    with pytest.raises(OSError, match="not empty"), whole_folder(folder) as work:
        (work / "second").write_text("2")
    assert (entries(tmp_path), entries(folder)) == (["made"], ["first"])
    with whole_folder(folder, replace=True) as work:
        (work / "second").write_text("2")
    assert (entries(tmp_path), entries(folder)) == (["made"], ["second"])


def test_a_folder_of_links_is_refused_and_those_in_the_way_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (tmp_path / ".made.tmp").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"), whole_folder(tmp_path / "made") as work:
        (work / "link").symlink_to(outside / "file")
    assert entries(tmp_path) == ["outside"]
    assert (outside / "file").read_text() == "precious"


def test_others_may_make_a_shared_one_at_the_same_time(tmp_path):
    folder = tmp_path / "made"

    def be_late():
        with whole_folder(folder, shared=True) as late:
            (late / "late").write_text("")
            with whole_folder(folder, shared=True) as early:
                (early / "early").write_text("")
            assert entries(late) == ["late"]

    with pytest.raises(OSError, match="not empty"):
        be_late()
    assert (entries(tmp_path), entries(folder)) == (["made"], ["early"])


def test_what_is_appended_is_flushed(tmp_path, flushed):
    file = tmp_path / "rows.jsonl"
    for row in "ab":
        with appending(file) as rows:
            rows.write(f"{row}\n")
    assert file.read_text() == "a\nb\n"
    assert flushed == [str(file)] * 2
