"""What doctor finds, and that it is told of every extra; no model."""

from __future__ import annotations

import io
import re
import sys
import tomllib
from pathlib import Path

import pytest

from agents.machine import resources
from evolution.commands.doctor import findings
from evolution.commands.doctor.command import _table, main
from evolution.commands.extras import EXTRAS, extra_of
from evolution.terminal import PlainConsole

EXTRAS_DECLARED = tomllib.loads(
    (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]["optional-dependencies"]
NOT_IN_ALL = {"dev", "docs", "peers"}


def names(requirements):
    return {re.split(r"[\[><=!~;]", need)[0].replace("-", "_") for need in requirements}


def test_every_extra_is_told_with_its_modules():
    assert {extra.name for extra in EXTRAS} == set(EXTRAS_DECLARED) - {"lora", "all"}, (
        "an extra of pyproject.toml takes a row of evolution/commands/extras.py"
    )
    for extra in EXTRAS:
        declared = names(EXTRAS_DECLARED[extra.name]) - {"populora_env"}  # another extra of it
        assert set(extra.modules) <= declared, extra.name
        assert extra.name == "dev" or set(extra.modules) == declared, extra.name


def test_all_is_everything_but_work_on_the_package_and_peers():
    (whole,) = EXTRAS_DECLARED["all"]
    held = set(re.findall(r"\[(.*)\]", whole)[0].split(","))
    assert held == {extra.name for extra in EXTRAS} - NOT_IN_ALL
    assert EXTRAS_DECLARED["lora"] == ["populora-env[evolve]"]


def test_an_extra_is_known_by_what_it_brings():
    assert extra_of("torch.nn").name == extra_of("tokenizers").name == "evolve"
    assert extra_of("pyarrow").name == "hub"
    assert extra_of("numpy") is extra_of("no_such_module") is None


def test_a_missing_extra_says_what_that_costs(monkeypatch):
    for module in ("plotly", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    rows = {row.what: row for row in findings.extra_findings()}
    assert rows["report"].found.startswith("missing (plotly): ")  # jinja2 is there
    assert rows["embeddings"].found.startswith("missing: ")
    assert rows["embeddings"].cost.endswith("; pip install 'populora-env[embeddings]'")


def test_few_processors_worth_of_time_have_their_cost_told(monkeypatch):
    monkeypatch.setattr(resources, "cores", lambda: resources.Cores(8, 3, 1.5))
    assert "OMP_NUM_THREADS=1" in findings._cores().cost


def test_instructions_by_the_names_that_people_use(monkeypatch):
    flags = "flags\t\t: fpu avx2 avx512f avx512_vnni\nflags\t: none\n"
    monkeypatch.setattr(resources, "_text", lambda path: flags)
    assert resources.instructions() == ("AVX2", "AVX-512", "AVX-512 VNNI")
    assert findings._instructions().cost == ""
    monkeypatch.setattr(resources, "_text", lambda path: "flags\t\t: fpu avx2\n")
    assert findings._instructions().cost.startswith("no AVX-512 VNNI: products in int8 take")
    monkeypatch.setattr(resources, "_text", lambda path: "flags\t\t: fpu avx512f\n")
    assert findings._instructions().cost.startswith("no AVX2: no products in int8")
    monkeypatch.setattr(resources, "_text", lambda path: "")
    assert resources.instructions() == ()


def test_no_compiler_says_what_is_lost(monkeypatch):
    monkeypatch.setenv("POPULORA_NATIVE", "0")
    monkeypatch.setitem(sys.modules, "torch", None)
    (row,) = findings._compiled()
    assert row.found == "no kernel"
    assert "install GCC with OpenMP (POPULORA_NATIVE is 0)" in row.cost


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(width):
    page = io.StringIO()
    rows = [*findings.extra_findings(), findings.Finding("here", "/" + "x" * 200)]
    PlainConsole(file=page, width=width).print(_table([rows]))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.count("x") for line in lines) >= 200  # a path is not cut


@pytest.mark.slow
def test_doctor_ends_well_and_names_the_next_command(capsys):
    assert main([]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for what in ("Python", "cores", "memory", "compiler", "products", "GPU", "hub cache", "disk"):
        assert what in said
    assert "populora evolve --preset quick" in said
