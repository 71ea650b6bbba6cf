"""A study of two arms over two seeds, on a tiny model, in seconds."""

from __future__ import annotations

import pytest

STUDY = """
name = "tiny"
seeds = 2
replies = 18
held_out = 5
[settings]
model = "{model}"
rank = 2
problems_per_generation = 3
judged_problems = 0
evaluation = "none"
confirm_problems = 2
last_trial = 2
solve_tokens = 4
problems = "procedural:chain_sum(max_terms=2,max_digits=1)"
[arms.one]
label = "one learner"
size = 1
elites = 0
parents = 1
offspring = 0
[arms.three]
label = "three learners"
size = 3
offspring = 1
evolve_every = 1
[[questions]]
title = "Are three better than one?"
arms = ["one", "three", "three:vote"]
against = "one"
"""


@pytest.fixture
def study_file(tmp_path, model_folder, monkeypatch):
    """A study's file; what commands write goes beside it."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.toml"
    file.write_text(STUDY.replace("{model}", model_folder))
    return file
