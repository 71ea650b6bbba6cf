"""A population whose replies come from a vLLM server."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from agents.peft_io import read_adapter
from agents.population import LoraPopulation
from agents.vllm.engine import VllmEngine
from tests.agents.vllm.asking import ALL, asked, local_replies, randomise
from tests.agents.vllm.fake_server import COMPLETIONS, LOAD
from tests.conftest import make_tiny_base

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is missing"),
    pytest.mark.usefixtures("shared_generators"),
]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_are_those_of_the_same_adapters_here(server, connect, temperature):
    population = connect()
    randomise(population.lora)
    requests = asked(*ALL)
    told = {}
    given = population.generate(requests, temperature=temperature, done=told.__setitem__)
    expected = local_replies(population, requests, temperature=temperature)
    assert [reply.text for reply in given] == [reply.text for reply in expected]
    assert [reply.reply_ids for reply in given] == [reply.reply_ids for reply in expected]
    assert [reply.prompt_ids for reply in given] == [reply.prompt_ids for reply in expected]
    assert told == {i: reply.text for i, reply in enumerate(given)}
    assert len({reply.text for reply in given}) > 4
    assert population.stats.tokens == sum(len(reply.reply_ids) for reply in given)
    assert server.count(LOAD) == 3
    assert given[0].features == {}


def test_what_is_asked_for_is_said(server, connect):
    population = connect()
    population.top_p = 0.9
    request = replace(asked("base")[0], stop=("\n", "?"), seed=2**63 + 5)
    population.generate([request], temperature=0.7)
    ((_, body),) = [call for call in server.calls if call[0] == COMPLETIONS]
    assert body["model"] == "served"
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 5)
    assert (body["stop"], body["max_tokens"]) == (["\n", "?"], 12)
    assert body["prompt"] == population.base.chat_ids(request.prompt)
    assert body["stop_token_ids"] == sorted(population.base.stop_ids())
    assert (body["repetition_penalty"], body["top_k"], body["min_p"]) == (1.0, 0, 0.0)


def test_a_stop_text_stays_in_the_ids(connect):
    population = connect()
    whole = population.generate(asked("base"))[0]
    (request,) = asked("base")
    stop = whole.text[2]
    given = population.generate([replace(request, stop=(stop,))])[0]
    assert given.reply_ids == whole.reply_ids[: len(given.reply_ids)]
    assert given.text.endswith(stop)


# Adapters


def test_an_adapter_is_written_with_its_scale_folded_in(connect, tmp_path):
    population = connect()
    randomise(population.lora)
    population.act(asked(*ALL))
    folders = sorted((tmp_path / "adapters").iterdir())
    assert len(folders) == 3
    hashes = population.lora.hashes(range(3))
    for agent, name in enumerate(population.agents):
        (folder,) = [path for path in folders if path.name.endswith(hashes[agent])]
        ours, written = population.adapter(name), read_adapter(folder)
        assert (written.rank, written.alpha, written.scale) == (ours.rank, ours.rank, 1.0)
        for layer, (A, B) in ours.factors.items():
            assert torch.equal(written.factors[layer][0], A)
            assert torch.equal(written.factors[layer][1], B * ours.scale)  # by 2: exact


def test_an_adapter_in_bfloat16_with_any_scale_loses_nothing(server, tmp_path):
    base = make_tiny_base()
    with VllmEngine(base, server.url, tmp_path) as engine:
        population = LoraPopulation(base, 1, 3, alpha=0.7, adapter_dtype="bfloat16", engine=engine)
        randomise(population.lora)
        population.act(asked("agent_0"))
        (folder,) = tmp_path.iterdir()
        written = read_adapter(folder)
        for layer, (A, B) in population.adapter("agent_0").factors.items():
            exact = B.double() * (float(population.lora.alpha[0]) / 3)
            assert (written.factors[layer][1].double() - exact).abs().max() <= 2**-23 * exact.max()
            assert torch.equal(written.factors[layer][0], A.float())
    assert list(tmp_path.iterdir()) == []


def test_only_what_changed_travels(server, connect):
    population = connect()
    randomise(population.lora)
    for _ in range(3):
        population.act(asked(*ALL))
    assert server.count(LOAD) == 3
    next(population.lora.layers()).B[1] += 1
    population.act(asked(*ALL))
    assert server.count(LOAD) == 4


def test_what_nobody_names_any_more_is_forgotten(server, connect, tmp_path):
    population = connect()
    for seed in range(8):
        randomise(population.lora, seed=seed)
        population.act(asked(*ALL))
    assert server.count(LOAD) == 24
    assert 3 <= len(server.rows) <= 12
    names = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert names == set(server.rows)
    population.engine.close()
    assert server.rows == {}
    assert list((tmp_path / "adapters").iterdir()) == []
    population.engine.close()


def test_folders_of_others_stay_and_ones_own_that_were_left_go(server, connect, tmp_path):
    first = connect(owner="runs/a")
    randomise(first.lora)
    first.act(asked(*ALL))
    other = connect(owner="runs/b")
    other.act(asked("agent_0"))
    names = set(server.rows)
    assert len(names) == 4
    again = connect(owner="runs/a")  # as after a kill: nothing was cleared up
    (left,) = server.rows
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {left}
    randomise(again.lora)
    assert again.act(asked(*ALL)) == first.act(asked(*ALL))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("most", [1, 2])
def test_no_more_are_loaded_than_the_server_holds(make_server, connect, most, known):
    server = make_server(most=most)
    population = connect(server.url, size=5, rank=2, max_rows=4, max_loaded=most if known else None)
    randomise(population.lora)
    requests = asked(*[f"agent_{i % 5}" for i in range(15)], "base")
    given = population.generate(requests)
    expected = local_replies(population, requests)
    assert [reply.text for reply in given] == [reply.text for reply in expected]
    assert server.most_seen == most
    refused = server.count(LOAD) - 5
    assert refused == 0 if known else refused == 1
    assert population.generate(requests[::-1])[::-1][0].text == given[0].text


def test_requests_go_together_but_not_more_than_rows(server, connect):
    population = connect(max_rows=3)
    server.delay = 0.05
    population.act(asked(*ALL))
    assert server.most_running == 3
    population.max_rows = 2
    server.most_running = 0
    population.act(asked(*ALL))
    assert server.most_running == 2
