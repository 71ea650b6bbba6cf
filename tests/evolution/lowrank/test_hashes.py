"""Adapters' content hashes: kept until something is written, by whatever way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.compiled import native
from agents.engine import adapters
from agents.engine.adapters import factors_hash
from agents.learning.learners import LearnerConfig, PolicyGradient, Sample
from agents.population import LoraPopulation
from evolution.lowrank.genomes import clear, content_hash, read_genome, write_genome
from evolution.lowrank.layers import recombine
from evolution.operators.crossover import CROSSOVERS
from evolution.operators.mutation import Offspring
from evolution.operators.mutation_weights import MUTATIONS, mutate, spread
from tests.conftest import make_tiny_base
from tests.evolution.genetics import random_lora, step


def afresh(lora):
    """The hashes of all agents, with nothing kept."""
    layers = list(lora.layers())
    return {
        agent: factors_hash(
            float(lora.alpha[agent]),
            [(y.A[agent, :rank].clone(), y.B[agent, :, :rank].clone()) for y in layers],
        )
        for agent, rank in enumerate(lora.ranks.tolist())
    }


def crossed(name):
    return lambda lora: CROSSOVERS[name](lora, step([1], [[0, 2]], fitness=[[2.0, 1.0]]))


def mutated(name):
    return lambda lora: mutate(lora, [MUTATIONS.read(name)], [Offspring(1)], 0, 1)


def raw(lora):
    next(lora.layers()).B[1, 0, 0] += 1


INHERITED = {"hyperparameters", "self_adaptation"}  # of what is inherited beside weights
CHANGES = {
    **{name: crossed(name) for name in CROSSOVERS},
    **{name: mutated(name) for name in MUTATIONS if name not in INHERITED},
    "spread": lambda lora: spread(lora, 0.5, 3),
    "one number": raw,
    "alpha": lambda lora: lora.set_alpha(1, 77.0),
    "rank": lambda lora: lora.set_rank(1, 1),
    "clear": lambda lora: clear(lora, 1),
    "a copy": lambda lora: write_genome(lora, 1, read_genome(lora, 0)),
    "inference mode": torch.inference_mode()(raw),
    "all that is loaded": lambda lora: lora.load_state_dict(
        {name: tensor + 1 for name, tensor in lora.state_dict().items()}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_writes_an_adapter_changes_its_hash(change):
    lora = random_lora((4, 4, 4))
    before = lora.hashes(range(3))
    assert before == afresh(lora)
    CHANGES[change](lora)
    after = lora.hashes(range(3))
    assert after == afresh(lora)
    assert after[1] != before[1]


@pytest.mark.parametrize("kernel", ["native", "torch"])
def test_recombination_by_the_kernel_and_without_it(kernel, monkeypatch):
    if kernel == "native" and native.kernel() is None:
        pytest.skip("no compiler")
    if kernel == "torch":
        monkeypatch.setattr(native, "kernel", lambda: None)
    lora = random_lora((4, 4, 4))
    before = lora.hashes(range(3))
    recombine(lora, [2], [[0, 1]], np.array([[0.5, 0.5]]))
    assert lora.hashes(range(3)) == afresh(lora)
    assert lora.hashes([2])[2] != before[2]


def test_learning_changes_those_that_learned():
    population = LoraPopulation(make_tiny_base(), 3, 2)
    spread(population.lora, 0.5, 3)
    before = population.lora.hashes(range(3))
    learner = PolicyGradient(population.base, population.lora, LearnerConfig(learning_rate=0.1))
    learner.step([Sample(1, [5, 6, 7], [8, 9], 1.0)])
    after = population.lora.hashes(range(3))
    assert [before[i] == after[i] for i in range(3)] == [True, False, True]
    assert after == afresh(population.lora)


def test_a_hash_is_of_the_adapter_at_its_own_rank():
    lora = random_lora((4, 2))
    found = lora.hashes(range(2))
    assert found[0] == content_hash(lora, 0)
    small = random_lora((4, 2)).layers()
    assert found[1] == factors_hash(3.0, [(y.A[1, :2], y.B[1, :, :2]) for y in small])
    lora.set_rank(1, 4)  # the same numbers at half the scale
    assert lora.hashes([1])[1] != found[1]


def test_a_hash_is_computed_once_after_a_change(monkeypatch):
    counted = []
    monkeypatch.setattr(
        adapters, "factors_hash", lambda *given: counted.append(1) or factors_hash(*given)
    )
    lora = random_lora((4, 4, 4))
    for _ in range(3):
        lora.hashes([0, 2, 2])
    assert len(counted) == 2
    lora.hashes(range(3))
    assert len(counted) == 3
    raw(lora)
    lora.hashes([1])
    assert len(counted) == 4
