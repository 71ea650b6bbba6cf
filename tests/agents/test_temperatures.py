"""Agents of one population that sample at temperatures of their own."""

from __future__ import annotations

import numpy as np
import pytest

from agents.policy import Request
from agents.population import LoraPopulation
from populora_env.records import Phase
from tests.agents.helpers import randomise

HEAT = [0.0, 0.7, 3.0]
AGENTS = ("agent_0", "agent_1", "agent_2")
REQUESTS = [
    Request(AGENTS[i % 3], Phase.SOLVE, f"what is {i // 6}?", 8, i) for i in range(24)
]  # agents 0 to 2 in turn


@pytest.fixture
def population(tiny_base):
    made = LoraPopulation(tiny_base, 3, 4)
    randomise(made.lora)
    yield made
    made.lora.detach()


def ids(population, requests=REQUESTS, **how):
    return [reply.reply_ids for reply in population.generate(requests, **how)]


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_each_reply_is_the_one_at_its_agents_temperature(population, top_p):
    population.top_p = top_p
    population.temperature = HEAT
    mixed = ids(population)
    for agent, heat in enumerate(HEAT):
        population.temperature = heat
        assert mixed[agent::3] == ids(population)[agent::3]
    assert mixed != ids(population)


def test_equal_ones_are_one_number(population):
    population.temperature = 0.7
    assert population.temperature == 0.7
    assert population.temperatures.tolist() == [0.7] * 3
    expected = ids(population)
    population.temperature = [0.7] * 3
    assert population.temperature == 0.7
    assert ids(population) == expected
    population.temperatures[1] = 0.1  # in place
    assert np.array_equal(population.temperature, [0.7, 0.1, 0.7])


def test_one_that_is_given_goes_for_all(population):
    population.temperature = HEAT
    mixed = ids(population, temperature=0.7)
    population.temperature = 0.7
    assert ids(population) == mixed


def test_the_bare_base_has_their_mean(population):
    request = [Request("base", Phase.SOLVE, "what is it?", 8, 1)]
    population.temperature = HEAT
    mixed = ids(population, [*request, *REQUESTS])[0]
    population.temperature = sum(HEAT) / 3
    assert [mixed] == ids(population, request)


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[1.0, 1.0, 1.0]]])
def test_as_many_as_agents(population, bad):
    with pytest.raises(ValueError, match=r"temperature: got \d values, expected one, or one"):
        population.temperature = bad


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_out_of_range(population, bad):
    population.temperature = [1.0, bad, 1.0]
    with pytest.raises(ValueError, match=r"temperature: got .*, expected a finite number"):
        population.generate(REQUESTS)


def test_what_is_refused_leaves_the_base_free(tiny_base):
    with pytest.raises(ValueError, match="temperature: got 3 values"):
        LoraPopulation(tiny_base, 2, 2, temperature=[1, 2, 3])
    LoraPopulation(tiny_base, 2, 2).lora.detach()
