"""What the wheel and the source archive hold; built without a network."""

from __future__ import annotations

import email
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("populora_env", "agents", "evolution")
BESIDE = (
    "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff",
    "CONTRIBUTING.md", "Makefile", "constraints.txt", "docs", "examples", "tests",
)  # fmt: skip
MADE = shutil.ignore_patterns("__pycache__", "*.pyc", "_build", ".pytest_cache")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Names in the wheel and in the source archive, and the wheel's metadata."""
    pytest.importorskip("setuptools", minversion="77")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in (*PACKAGES, *BESIDE):
        here = ROOT / name
        if here.is_dir():
            shutil.copytree(here, tree / name, ignore=MADE)
        else:
            shutil.copy(here, tree / name)
    for kind in ("wheel", "sdist"):
        code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
        subprocess.run(
            [sys.executable, "-c", code, str(out)], cwd=tree, check=True, capture_output=True
        )
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        held = file.namelist()
        (about,) = [name for name in held if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(file.read(about))
        (points,) = [name for name in held if name.endswith("entry_points.txt")]
        commands = file.read(points).decode()
    with tarfile.open(source) as file:
        sources = [name.partition("/")[2] for name in file.getnames()]
    return set(held), set(sources), metadata, commands


def files(*folders):
    return {
        str(file.relative_to(ROOT))
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not {"__pycache__", "_build"} & set(file.parts)
    }


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(archives):
    held, _, metadata, commands = archives
    own = {name for name in held if ".dist-info/" not in name}
    assert own == files(*PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= own
    assert "agents/compiled/forward.c" in own
    assert "evolution/presets/quick.toml" in own
    assert "populora = evolution.cli:main" in commands
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"evolve", "lora", "all"} <= set(metadata.get_all("Provides-Extra"))


@pytest.mark.slow
def test_the_source_archive_holds_what_the_tests_need(archives):
    _, sources, _, _ = archives
    needed = files(*PACKAGES, "tests", "examples", "docs") | {*BESIDE} - {"docs", "examples"}
    assert needed <= sources


def test_the_dev_container_makes_the_environment():
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert "3.11" in settings["image"]
    assert settings["postCreateCommand"] == "make .venv/.installed"
