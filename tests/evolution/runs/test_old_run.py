"""A run of the code before the rooms goes on as it would have gone on then.

Texts, names, problems and plans are compared bit for bit everywhere, numbers to a tolerance: sums
of floats differ in their last bits from processor to processor. Where this machine's sums are those
of the machine that made the run, every byte is compared.
"""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from evolution.runs.files import GROWING
from evolution.runs.integrity import check_run
from evolution.runs.saved_run import read_run
from tests.evolution.runs.old_run import ARITHMETIC, FOLDER, arithmetic, make_manager

STATE, MANIFEST = "generation_0002/state.json", "generation_0002/manifest.json"
DIGESTS = {"content_hash", "digests", "lengths"}  # of what holds numbers


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The run after its third generation, played by the code of today."""
    folder = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(FOLDER / "before", folder)
    manager = make_manager(read_run(folder).config)
    manager.resume(folder)
    manager.run(1)
    manager.close()
    (folder / "run.lock").unlink()
    return folder


def expected(name):
    data = (FOLDER / "after" / name).read_bytes()
    return (FOLDER / "before" / name).read_bytes() + data if name in GROWING else data


def new_files():
    return sorted(
        str(file.relative_to(FOLDER / "after"))
        for file in (FOLDER / "after").rglob("*")
        if file.is_file()
    )


def with_settings_of(found, wanted):
    """A state without the settings and digests that came later, which the old one cannot have."""
    later = {
        part: {name: found[part][name] for name in wanted[part]} for part in ("config", "rests_on")
    }
    return {**found, **later}


def alike(found, wanted):
    """Whether two JSON values are the same, but for the last digits of numbers."""
    if isinstance(wanted, dict):
        names = list(wanted)
        return list(found) == names and all(
            name in DIGESTS or alike(found[name], wanted[name]) for name in names
        )
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    if isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-3, abs_tol=1e-5)
    return found == wanted and type(found) is type(wanted)


def test_settings_are_those_it_was_played_with_last():
    run = read_run(FOLDER / "before")
    assert (run.generation, run.config.learning_rate) == (1, 1e-3)
    assert [folder.name for folder in run.adapters.values()] == ["agent_0", "agent_1", "agent_2"]
    check_run(FOLDER / "before")


@pytest.mark.parametrize(
    "name", [name for name in new_files() if "json" in name.rpartition(".")[2]]
)
def test_texts_are_the_same_and_numbers_nearly(resumed, name):
    text, then = (resumed / name).read_text("utf-8"), expected(name).decode()
    if name.endswith("jsonl"):
        text, then = (f"[{','.join(filter(None, rows.split(chr(10))))}]" for rows in (text, then))
    found, wanted = json.loads(text), json.loads(then)
    if name == STATE:
        assert found["config"].keys() > wanted["config"].keys()
        found = with_settings_of(found, wanted)
    if name in ("checksums.json", MANIFEST):
        assert list(found) == list(wanted)
    else:
        assert alike(found, wanted)


@pytest.mark.parametrize("name", [name for name in new_files() if name.endswith(".safetensors")])
def test_tensors_are_nearly_the_same(resumed, name):
    found, wanted = load_file(resumed / name), load_file(FOLDER / "after" / name)
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-5)


def test_files_are_the_same(resumed):
    kept = {
        str(file.relative_to(FOLDER / "before"))
        for file in (FOLDER / "before").rglob("*")
        if file.is_file() and "generation_" not in str(file.relative_to(FOLDER))
    }
    there = {str(file.relative_to(resumed)) for file in resumed.rglob("*") if file.is_file()}
    assert there == kept | set(new_files())
    if arithmetic() != ARITHMETIC:
        pytest.skip("this machine's sums differ in their last bits from the recording one's")
    found, wanted = (json.loads(data) for data in ((resumed / STATE).read_bytes(), expected(STATE)))
    assert with_settings_of(found, wanted) == wanted
    for name in set(new_files()) - {STATE, MANIFEST}:
        assert (resumed / name).read_bytes() == expected(name), name
    for name in kept - set(new_files()):
        assert (resumed / name).read_bytes() == (FOLDER / "before" / name).read_bytes(), name
