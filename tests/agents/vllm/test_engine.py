"""A population whose replies come from a vLLM server, and from one that misbehaves."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from agents.engine.jobs import EngineError, Feature
from agents.peft_io import read_adapter
from agents.policy import Request
from agents.population import LoraPopulation
from agents.vllm.engine import VllmEngine
from populora_env.records import Phase
from tests.agents.helpers import randomise as randomise_all
from tests.agents.vllm.fake_server import (
    COMPLETIONS,
    LOAD,
    MODELS,
    UNLOAD,
    VERSION,
    Answer,
    FakeVllm,
    error,
)
from tests.conftest import make_tiny_base

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is missing"),
    pytest.mark.usefixtures("shared_generators"),
]


@pytest.fixture
def make_server():
    made = []

    def make(**settings):
        made.append(FakeVllm(make_tiny_base(), **settings))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def connect(server, tmp_path):
    made = []

    def connect(url=server.url, folder=tmp_path / "adapters", size=3, rank=(2, 3, 4), **settings):
        base = make_tiny_base()
        engine = VllmEngine(base, url, folder, **{"timeout": 20.0, **settings})
        made.append(engine)
        return LoraPopulation(base, size, rank, engine=engine, temperature=0.0)

    yield connect
    for engine in made:
        engine.close()


def randomise(lora, seed=0):
    """Give every adapter its own factors, up to its own rank."""
    randomise_all(lora, seed=seed).enforce_ranks()


def asked(*agents, tokens=12):
    return [
        Request(agent, Phase.SOLVE, f"{seed} + 2 =", tokens, seed)
        for seed, agent in enumerate(agents)
    ]


ALL = ("agent_0", "agent_1", "agent_2", "base") * 2


def local_replies(population, requests, **how):
    """What the same adapters say in this process."""
    here = LoraPopulation(
        make_tiny_base(), population.size, population.lora.ranks.tolist(), temperature=0.0
    )
    for there, ours in zip(population.lora.layers(), here.lora.layers(), strict=True):
        ours.A[:], ours.B[:] = there.A, there.B
    for agent, alpha in enumerate(population.lora.alpha.tolist()):
        here.lora.set_alpha(agent, alpha)
    return here.generate(requests, **how)


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


# What the server says at the start


def test_what_it_is_and_lacks_is_one_line(server, connect):
    said = str(connect().engine)
    assert said.startswith(f"vLLM 0.11.0 at {server.url}, model served, context 2048; it gives no")
    assert "hidden states" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"version": "0.9.1"}, r"runs vLLM 0\.9\.1, expected 0\.10\.2 or later"),
        ({"version": "0.10.1.1"}, r"runs vLLM 0\.10\.1\.1, expected 0\.10\.2 or later"),
        ({"context": 3}, r"has a context of 3 tokens, expected at least \d, for a prompt and a re"),
    ],
)
def test_a_server_that_will_not_do_is_refused(make_server, connect, settings, said):
    with pytest.raises(EngineError, match=said) as told:
        connect(make_server(**settings).url)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "version", ["0.10.2", "v0.11.1rc2.dev3", "0.1.dev9+gabc", "nightly", "1.0"]
)
def test_versions_that_will_do(make_server, connect, version):
    connect(make_server(version=version).url)


def test_another_base_model_is_refused(server, connect):
    server.name, server.root = "other", "/models/other"
    with pytest.raises(EngineError, match=r"serves other \(from /models/other\), expected tiny; s"):
        connect()
    with pytest.raises(EngineError, match=r"served_model: got 'tiny', but .* serves other"):
        connect(model="tiny")
    assert connect(model="other").act(asked("base"))


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        (VERSION, Answer(404, {"detail": "Not Found"}), "says no version of vLLM at /version, exp"),
        (VERSION, Answer(body="<html>hello</html>"), "/version: got no JSON, but '<html>hello"),
        (MODELS, Answer(body={"models": []}), "lists no models, expected a list under data"),
        (MODELS, Answer(401, {"error": "Unauthorized"}), "models: got status 401: Unauthorized"),
        (UNLOAD, Answer(404, {"detail": "Not Found"}), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    ],
)
def test_what_is_no_such_server_is_refused(server, connect, path, answer, said):
    server.always(path, answer)
    with pytest.raises(EngineError, match=said) as told:
        connect()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "", "http://x:a"])
def test_an_address_that_is_none(connect, url):
    with pytest.raises(EngineError, match="expected the address of a vLLM server such as http"):
        connect(url)


def test_nobody_listens(connect, monkeypatch):
    monkeypatch.setattr("agents.vllm.engine._GREETING", 0.5)
    with pytest.raises(EngineError, match=r"/version gave no reply within 0\.5 s; the last: .*Con"):
        connect("http://127.0.0.1:9")


def test_a_folder_that_cannot_be_written(connect, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"adapter_folder: cannot write to .*file"):
        connect(folder=tmp_path / "file")


def test_with_v1_at_the_end(server, connect):
    assert connect(f"{server.url}/v1/").act(asked("agent_0"))


def test_features_are_refused(connect):
    population = connect()
    with pytest.raises(EngineError, match="features: got hidden_states, but VllmEngine gives none"):
        population.generate(asked("agent_0"), features={Feature.HIDDEN_STATES})


def test_a_rank_above_the_servers_is_said_before_anything_is_played(make_server, connect):
    population = connect(make_server(rank=3).url)
    hashes = population.lora.hashes([2])
    with pytest.raises(EngineError, match=r"rank 4 is greater than max_lora_rank 3.*; start it wi"):
        population.engine.check({hashes[2]: population.adapter("agent_2")})


def test_a_smaller_context_than_the_bases_is_kept_to(make_server, connect):
    server = make_server(context=60)
    population = connect(server.url)
    assert population.context == 60
    long = replace(asked("agent_0")[0], prompt="x" * 60)
    assert population.act([long, *asked("agent_1")])[0] == ""
    assert population.stats.overlong == 1


# Misbehaviour


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
