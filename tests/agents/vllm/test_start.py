"""What a vLLM server is checked for before anything is asked of it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from agents.engine.jobs import EngineError, Feature
from evolution.config.run import RunConfig
from evolution.errors import ConfigError
from tests.agents.vllm.asking import ALL, asked, local_replies, randomise
from tests.agents.vllm.fake_server import COMPLETIONS, MODELS, UNLOAD, VERSION, Answer

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is missing"),
    pytest.mark.usefixtures("shared_generators"),
]


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


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "", "http://x:a", "http://a\tb:1"])
def test_an_address_that_is_none(connect, url):
    with pytest.raises(EngineError, match="expected the address of a vLLM server such as http"):
        connect(url)


def test_a_password_in_the_address_is_refused_and_not_shown(connect):
    with pytest.raises(EngineError, match="with a user before it, expected none") as told:
        connect("http://me:PASSW0RD@127.0.0.1:9")
    assert "PASSW0RD" not in str(told.value)
    with pytest.raises(ConfigError, match="server: got 'http://127") as told:
        RunConfig(
            engine="vllm", server="http://me:PASSW0RD@127.0.0.1:9", adapter_folder="x"
        ).check()
    assert "PASSW0RD" not in str(told.value)


def test_a_key_is_never_shown(server, connect):
    for wrong in ("sk-a\nb", "sk-schlüssel"):
        with pytest.raises(EngineError, match="api_key must be printable ASCII") as told:
            connect(api_key=wrong)
        assert "sk-" not in str(told.value)
    key = "sk-" + "7" * 40
    server.always(MODELS, Answer(401, {"error": {"message": "x" * 380 + f"Invalid: {key}"}}))
    with pytest.raises(EngineError, match="got status 401") as told:
        connect(api_key=key)
    assert "777" not in str(told.value)


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


def test_the_key_is_vllms_and_no_other(server, connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-server")
    connect()
    assert server.keys == {"Bearer no-key-needed"}
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    connect()
    connect(api_key="given")
    assert server.keys == {"Bearer no-key-needed", "Bearer secret", "Bearer given"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"timeout": 0}, "timeout: got 0, expected seconds above 0"),
        ({"max_loaded": 0}, "max_loaded: got 0, expected at least 1"),
    ],
)
def test_arguments_out_of_range(connect, settings, said):
    with pytest.raises(EngineError, match=said):
        connect(**settings)


def test_without_its_client_it_says_what_to_install(connect, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "openai" else find(n))
    with pytest.raises(EngineError, match=r"vllm needs the package openai: pip install \"populora"):
        connect()


def test_giving_up_on_the_way_leaves_it_usable(server, connect):
    population = connect(max_rows=1)
    randomise(population.lora)
    server.delay = 0.1

    def stop(place, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        population.generate(asked(*ALL), done=stop)
    server.delay = 0.0
    seen = server.count(COMPLETIONS)
    assert seen < len(ALL)
    assert population.act(asked(*ALL)) == [r.text for r in local_replies(population, asked(*ALL))]


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
