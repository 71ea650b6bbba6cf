"""``populora report`` of a run whose files were edited at random: a page or one line."""

from __future__ import annotations

import os
import random
import shutil
import warnings

import pytest

from evolution.cli import main
from tests.evolution.random_edits import edit, files_of, write_full_run
from tests.evolution.synthetic_self_play import write_self_play_run

EDITS = int(os.environ.get("POPULORA_REPORT_EDITS", "40"))  # 600 take three minutes
FIRST = int(os.environ.get("POPULORA_REPORT_FIRST_EDIT", "0"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    shape = {"generations": 7, "proposals": 8, "judged": True}
    return [
        *(write_full_run(home / name, saved=name == "saved") for name in ("plain", "saved")),
        write_self_play_run(home / "self-play", **shape),
    ]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + EDITS))
def test_an_edited_run_is_a_page_or_one_line(runs, tmp_path, capfd, seed):
    rng = random.Random(seed)
    folder = tmp_path / "run"
    shutil.copytree(rng.choice(runs), folder)
    done = [edit(rng.choice(files_of(folder)), rng) for _ in range(rng.choice((1, 1, 2)))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning is lines on the terminal, too
        status = main(["report", str(folder)])
    said = capfd.readouterr()
    if status == 0:
        assert said.err == "", done
        assert (folder / "report.html").stat().st_size > 100_000
    else:
        assert status == 2, done
        (line,) = said.err.splitlines()
        assert line.startswith("populora: error: run: "), done
        assert len(line) < 600, done
        assert not (folder / "report.html").exists()
