"""A long run holds no more at its end than at its beginning, but for the lineage."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from agents.population import LoraPopulation
from evolution import EvolutionConfig, EvolutionManager
from tests.conftest import make_tiny_base

# 200 in docs/results.md; fewer here, where a leak of a tensor would show as well.
GENERATIONS = int(os.environ.get("POPULORA_TEST_GENERATIONS", "16"))


def held():
    """Tensors that are alive, their numbers in all, and other objects."""
    gc.collect()
    everything = gc.get_objects()
    tensors = [thing for thing in everything if issubclass(type(thing), torch.Tensor)]
    return len(tensors), sum(tensor.numel() for tensor in tensors), len(everything)


def resident():
    """Resident memory in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("learner", ["none", "policy-gradient"])
@pytest.mark.slow
def test_nothing_but_the_lineage_grows(learner, tmp_path):
    config = EvolutionConfig(problems_per_generation=4, judged_problems=1, solve_tokens=6,
                             judge_tokens=3, learner=learner, evolve_every=1, offspring=2,
                             elites=1, confirm_problems=2)  # fmt: skip
    population = LoraPopulation(make_tiny_base(), 4, 2)
    spec = "procedural:chain_sum(max_terms=2,max_digits=1)"
    manager = EvolutionManager(population, spec, config, folder=tmp_path / "run")
    manager.run(4)
    before, memory = held(), resident()
    manager.run(GENERATIONS)
    after = held()
    print(f"{GENERATIONS} generations, {learner}: {resident() - memory:+.1f} MiB resident")
    assert after[0] == before[0]
    assert after[1] == before[1]
    # Two individuals a generation, each a record of a few objects, and ratings of the same agents.
    assert after[2] - before[2] < 40 * GENERATIONS
    manager.close()
