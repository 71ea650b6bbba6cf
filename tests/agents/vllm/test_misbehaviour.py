"""A vLLM server that misbehaves: a right result, or one clear line."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from agents.engine.jobs import EngineError
from tests.agents.vllm.asking import ALL, asked, local_replies, randomise
from tests.agents.vllm.fake_server import COMPLETIONS, LOAD, UNLOAD, Answer, error

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is missing"),
    pytest.mark.usefixtures("shared_generators"),
]


def right(server, connect, **settings):
    """Replies under faults are those without them."""
    population = connect(**settings)
    randomise(population.lora)
    requests = asked(*ALL)
    assert population.act(requests) == [r.text for r in local_replies(population, requests)]
    return population


def spoil(**changes):
    """A fault that changes the first choice of a completion."""

    def answer(body, right):
        right.body["choices"][0].update(changes)
        return right

    return answer


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (COMPLETIONS, error(500, "EngineCore encountered an issue")),
        (COMPLETIONS, error(503, "warming up")),
        (COMPLETIONS, Answer(429, "slow down", {"retry-after": "0.05"})),
        (COMPLETIONS, lambda body, right: replace(right, cut=20)),
        (COMPLETIONS, Answer(body='{"id": "cmpl", "choi')),
        (COMPLETIONS, Answer(502, "<html><h1>Bad Gateway</h1></html>")),
        (COMPLETIONS, Answer(body="<html>proxy</html>", headers={"content-type": "text/html"})),
        (LOAD, error(503, "busy")),
        (LOAD, lambda body, right: replace(right, cut=3)),  # loaded, and not said: asked again
    ],
)
def test_what_passes_is_waited_for(server, connect, path, answer):
    server.fault(path, answer)
    right(server, connect)
    assert server.faults[path] == []


def test_a_pause_that_is_asked_for_is_kept(server, connect):
    server.fault(COMPLETIONS, Answer(429, "", {"retry-after": "0.7"}))
    population = connect()
    population.act(asked("base"))
    assert population.stats.seconds > 0.7


def test_a_server_that_is_started_again_is_told_its_adapters_anew(server, connect):
    population = right(server, connect)
    server.forget()
    requests = asked(*ALL)
    assert population.act(requests) == [r.text for r in local_replies(population, requests)]
    assert server.count(LOAD) >= 6

    def restart(body, right):
        server.forget()
        return right

    server.fault(COMPLETIONS, restart)
    assert population.act(requests) == [r.text for r in local_replies(population, requests)]


def test_an_adapter_that_is_loaded_already_is_taken(server, connect):
    population = connect()
    randomise(population.lora)
    name = population.engine._folders.name(population.lora.hashes([0])[0])
    server.fault(LOAD, lambda body, right: error(400, f"'{name}' has already been loaded."))
    assert population.act(asked("agent_0")) == [
        r.text for r in local_replies(population, asked("agent_0"))
    ]


def test_an_adapter_that_it_will_not_unload_does_no_harm(server, connect):
    population = connect()
    server.always(UNLOAD, error(400, "no"))
    for seed in range(5):
        randomise(population.lora, seed=seed)
        requests = asked(*ALL)
        assert population.act(requests) == [r.text for r in local_replies(population, requests)]


def test_room_that_is_not_made_is_said(make_server, connect):
    server = make_server(most=1)
    population = connect(server.url)
    randomise(population.lora)
    server.always(UNLOAD, error(400, "it is in use"))
    with pytest.raises(EngineError, match="unload_lora_adapter: got status 400: it is in use"):
        population.act(asked(*ALL))


def named_otherwise(body, right):
    right.body["model"] = "served" if body["model"] != "served" else "another"
    return right


def twice(body, right):
    right.body["choices"] *= 2
    return right


def none_at_all(body, right):
    right.body["choices"] = []
    return right


def longer(body, right):
    right.body["choices"][0]["token_ids"] = [5] * 40
    return right


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        (COMPLETIONS, named_otherwise, "was asked, and 'served' replied; expected the adapter tha"),
        (COMPLETIONS, none_at_all, "got 0 replies to one prompt, expected one"),
        (COMPLETIONS, twice, "got 2 replies to one prompt, expected one"),
        (COMPLETIONS, spoil(token_ids=None), "a reply has None for token_ids, expected them"),
        (COMPLETIONS, spoil(token_ids=[]), r"a reply has \[\] for token_ids, expected them"),
        (COMPLETIONS, spoil(token_ids=[4, 99999]), "holds the token 99999, expected one of the b"),
        (COMPLETIONS, spoil(token_ids=[4, -1]), "holds the token -1, expected one of the base's"),
        (COMPLETIONS, spoil(token_ids=[4, "a"]), "holds the token 'a', expected one of the base"),
        (COMPLETIONS, spoil(token_ids=[258, 4]), "a reply goes on after the token 258, which ends"),
        (COMPLETIONS, longer, "got a reply of 40 tokens, expected at most 12"),
        (
            COMPLETIONS,
            spoil(finish_reason="stop", token_ids=[4, 5]),
            r"a reply ended with the token 5, expected one of \[258\]",
        ),
        (COMPLETIONS, spoil(finish_reason="abort"), "ended with finish_reason 'abort', expected"),
        (COMPLETIONS, spoil(prompt_token_ids=[1, 2]), "it read another prompt than was sent"),
        (COMPLETIONS, Answer(body={"error": "x"}), "for a completion, expected choices"),
        (COMPLETIONS, Answer(body="[1]"), r"got \[1\] for a completion, expected choices"),
        (COMPLETIONS, Answer(body="<html>"), "completions: got no JSON, but '<html>'"),
        (COMPLETIONS, error(500, "dead"), "completions: got status 500: dead"),
        (COMPLETIONS, error(400, "bad\nrequest"), "completions: got status 400: bad request"),
        (LOAD, error(400, "Unsupported\nmodules"), "got status 400: Unsupported modules; expected"),
        (LOAD, error(500, "LoRA is not enabled"), "it needs --enable-lora, the same base model"),
        (LOAD, error(404, "No adapter found for /x"), "a folder that the server sees under the sa"),
        (LOAD, error(400, "no free slot"), "the server holds no adapter of ours that could go"),
        (LOAD, Answer(404, {"detail": "Not Found"}), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and"),
    ],
)
def test_what_does_not_pass_is_one_line_and_the_next_call_is_right(
    server, connect, path, answer, said
):
    population = connect()
    randomise(population.lora)
    server.always(path, answer)
    requests = asked("agent_0", "agent_1")
    with pytest.raises(EngineError, match=said) as told:
        population.act(requests)
    assert "\n" not in str(told.value)
    server.faults.clear()
    assert population.act(requests) == [r.text for r in local_replies(population, requests)]


def test_an_adapter_that_is_forgotten_at_once_is_said(server, connect):
    population = connect()

    def forgetful(body, right):
        server.forget()
        return error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")

    server.always(COMPLETIONS, forgetful)
    with pytest.raises(EngineError, match=r"does not exist., after the adapter was loaded 3 times"):
        population.act(asked("agent_0"))


def test_what_takes_too_long_is_said(server, connect):
    population = connect(timeout=0.3)
    server.delay = 2.0
    with pytest.raises(EngineError, match=r"completions gave no reply within 0\.3 s.*or give it m"):
        population.act(asked("base"))
    server.fault(COMPLETIONS, Answer(429, "later", {"retry-after": "60"}))
    server.delay = 0.0
    with pytest.raises(EngineError, match=r"within 0\.3 s; the last: status 429: later; see that"):
        population.act(asked("base"))


def test_an_adapter_that_changes_on_its_way_is_not_sent(server, connect):
    population = connect()
    randomise(population.lora)
    held = {"0" * 16: population.adapter("agent_0")}
    with pytest.raises(EngineError, match=r"got one of hash \w{16} under 0{16}, expected what it"):
        population.engine.check(held)


def test_weights_that_are_no_numbers_are_not_sent(server, connect):
    population = connect()
    next(population.lora.layers()).B[0] = torch.inf
    with pytest.raises(EngineError, match="are not finite; not saved"):
        population.act(asked("agent_0"))
    assert server.count(LOAD) == 0
