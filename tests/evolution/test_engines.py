"""A run whose replies come from an engine that has no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import evolution
from evolution import ConfigError, EvolutionManager
from evolution.errors import OperatorError
from evolution.fitness.diversity import KERNELS, cosine_kernel
from populora_env import Problem
from tests.agents.table_engine import TableEngine, table_population
from tests.evolution.test_manager import config

PROBLEMS = [Problem.create(f"What is {i} + {4 - i}?", "4") for i in range(5)]


def make(folder=None, **settings):
    settings = {"learner": "none", "diversity_bar": "none", "solve_tokens": 20, **settings}
    population = table_population(TableEngine(), size=4)
    return EvolutionManager(population, PROBLEMS, config(**settings), folder=folder)


@pytest.mark.parametrize("diversity", ["answers", "none"])
def test_generations_are_played_and_bred(diversity):
    manager = make(diversity=diversity, evolve_every=1, confirm_problems=3)
    first, second = manager.run(2)
    assert np.isfinite(first.scores.fitness).all()
    assert 0 < first.scores.accuracy.mean() < 1
    assert np.isfinite(first.scores.vendi) == (diversity == "answers")
    assert {individual.generation for individual in second.individuals} == {0, 1}
    assert manager.champion is not None
    manager.close()


def test_such_a_run_is_saved_and_resumed(tmp_path):
    settings = {"diversity": "answers", "evolve_every": 1}
    for name in ("whole", "parts"):
        manager = make(tmp_path / name, **settings)
        manager.run(3 if name == "whole" else 2)
        manager.close()
    manager = make(**settings)
    manager.resume(tmp_path / "parts")
    manager.run(1)
    manager.close()
    for name in ("history.jsonl", "transcripts.jsonl", "lineage.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        ({}, "hidden_states"),
        ({"diversity": "answers+0.5*token_distributions"}, "distributions"),
        ({"diversity": "answers", "fitness": "novelty"}, "hidden_states"),
    ],
)
def test_what_the_engine_does_not_give_is_said_in_one_line_before_anything_is_played(
    settings, lacking
):
    with pytest.raises(ConfigError, match=f"features: got {lacking}, but TableEngine gives none"):
        make(**settings)


def test_learning_without_the_bases_weights_is_refused():
    with pytest.raises(ConfigError, match="learner: got 'rejection', but the base's weights are"):
        make(diversity="answers", learner="rejection")


def test_evolution_generates_through_a_population_alone():
    room = Path(evolution.__file__).parent
    decoding = ("agents.engine.generation", "agents.engine.local")
    beside = ("engine_benchmark", "planning")  # what measures the engine, and what plans for it
    files = [f for f in room.rglob("*.py") if f.parent.name not in beside]
    assert len(files) > 50
    assert [f.name for f in files if any(name in f.read_text("utf-8") for name in decoding)] == []


def test_novelty_by_descriptors_asks_nothing_of_an_engine():
    assert len(make(diversity="answers", fitness="novelty(behaviour='length')").run(1)) == 1


def test_a_measure_of_ones_own_is_told_that_there_are_no_hidden_states():
    KERNELS.add("mine")(lambda attempts: cosine_kernel(attempts.hidden_states))
    try:
        manager = make(diversity="mine")
        with pytest.raises(OperatorError, match="needs hidden states, which the population's eng"):
            manager.run(1)
    finally:
        del KERNELS["mine"]
