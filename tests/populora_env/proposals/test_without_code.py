"""Functions where the extra ``code`` is missing, and what of them needs none."""

import subprocess
import sys

import numpy as np
import pytest

from populora_env.problems import ProblemSpecError, load_problems
from populora_env.proposals.mutated import derived


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_the_extra_one_line_names_it_when_the_kind_is_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProblemSpecError, match=r"^[^\n]*pip install 'populora-env\[code\]'$"):
        load_problems("self-play:functions")


def test_importing_the_package_imports_no_sandbox():
    code = (
        "import sys, populora_env, populora_env.proposals.source\n"
        "assert 'pydantic_monty' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_derived_inputs_differ_and_keep_their_types():
    given = (3, "ab", [1, 2], 0.5, True, (1, "x"), {"k": 2}, None)
    found = derived(given, rng(), 10)
    assert len({repr(entry) for entry in [*found, given]}) == 11
    for values in found:
        assert [type(value) for value in values] == [type(value) for value in given]
    assert derived((), rng(), 5) == []
    assert derived((None,), rng(), 5) == []
    assert derived(given, rng(1), 5) == derived(given, rng(1), 5)
