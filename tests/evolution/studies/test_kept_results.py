"""Tables of the docs are what their study files make of kept results, by today's defaults too."""

from __future__ import annotations

import shutil

import pytest

from evolution.cli import main
from tests.test_rooms import ROOT

RESULTS = ROOT / "docs/results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/results.jsonl"))


@pytest.mark.parametrize("name", STUDIES)
def test_results_that_are_kept_count_for_their_study(name, tmp_path):
    shutil.copy(RESULTS / name / "results.jsonl", tmp_path)
    file = ROOT / f"examples/studies/{name}.toml"
    assert main(["study", str(file), "--out", str(tmp_path), "--table"]) == 0
    made, kept = sorted(tmp_path.iterdir()), sorted((RESULTS / name).iterdir())
    assert [file.name for file in made] == [file.name for file in kept]
    for new, old in zip(made, kept, strict=True):
        assert new.read_text() == old.read_text(), new.name
