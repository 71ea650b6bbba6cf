"""``populora evolve --engine vllm``: a run whose replies come from a server."""

from __future__ import annotations

import importlib.util
import json

import pytest

from evolution.cli import main
from tests.agents.vllm.fake_server import COMPLETIONS, LOAD, Answer, FakeVllm
from tests.conftest import make_tiny_base

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is missing"),
    pytest.mark.usefixtures("shared_generators"),
]

QUICK = [
    "--size", "4", "--rank", "2", "--problems-per-generation", "2", "--judged-problems", "1",
    "--solve-tokens", "6", "--judge-tokens", "2", "--offspring", "1", "--held-out", "3",
    "--evolve-every", "1", "--confirm-problems", "2", "--last-trial", "2", "--diversity", "answers",
    "--diversity-bar", "none", "--problems", "procedural:chain_sum(max_terms=2,max_digits=1)",
]  # fmt: skip
LEARN = ["--learner", "policy-gradient", "--temperature", "1.0", "--learning-rate", "0.01"]
LEARNERS = [["--learner", "none"], LEARN]


@pytest.fixture
def model(tmp_path):
    base = make_tiny_base()
    base.model.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def server(model):
    base = make_tiny_base()
    served = FakeVllm(base, rank=4)
    served.root = model
    yield served
    served.close()


def evolve(model, out, *words):
    return main(["evolve", "--model", model, "--out", str(out), *QUICK, *words])


def there(server, tmp_path):
    return [
        "--engine",
        "vllm",
        "--server",
        server.url,
        "--adapter-folder",
        str(tmp_path / "shared"),
    ]


def told(folder):
    """What a run came to, without times."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
    return rows, (folder / "transcripts.jsonl").read_text(), (folder / "lineage.json").read_text()


@pytest.mark.parametrize("learner", LEARNERS, ids=["none", "policy-gradient"])
def test_a_run_with_a_server_is_the_run_without_one(model, server, tmp_path, capsys, learner):
    words = [*learner, "--generations", "2"]
    assert evolve(model, tmp_path / "here", *words) == 0
    capsys.readouterr()
    assert evolve(model, tmp_path / "there", *words, *there(server, tmp_path)) == 0
    said = capsys.readouterr().out
    assert f"engine: vLLM 0.11.0 at {server.url}" in said
    assert ("weights on the server" in said) == ("none" in learner)
    assert "greedy, vLLM 0.11.0 (2" in " ".join(said.split())
    assert told(tmp_path / "there") == told(tmp_path / "here")
    assert server.count(LOAD) > 4
    assert server.rows == {}
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.parametrize("learner", LEARNERS, ids=["none", "policy-gradient"])
def test_a_run_whose_server_dies_goes_on(model, server, tmp_path, capsys, learner):
    words = [*learner, *there(server, tmp_path)]
    assert evolve(model, tmp_path / "whole", *words, "--generations", "3") == 0
    assert evolve(model, tmp_path / "parts", *words, "--generations", "1") == 0
    server.fault(COMPLETIONS, *[lambda body, right: right] * 5, *[Answer(400, "dead")] * 1000)
    resume = ["evolve", "--resume", str(tmp_path / "parts"), "--generations", "3"]
    capsys.readouterr()
    assert main(resume) == 2
    said = capsys.readouterr()
    assert "The engine failed; 1 generations are complete. Continue with: populora" in said.out
    assert "populora: error: server: " in said.err
    assert "completions: got status 400: dead" in said.err
    server.faults.clear()
    assert main(resume) == 0
    assert told(tmp_path / "parts") == told(tmp_path / "whole")


def test_the_engine_may_change_on_the_way(model, server, tmp_path, capsys):
    words = ["--learner", "none", "--generations", "1"]
    assert evolve(model, tmp_path / "run", *words) == 0
    resume = ["evolve", "--resume", str(tmp_path / "run")]
    capsys.readouterr()
    assert main([*resume, *there(server, tmp_path), "--generations", "2"]) == 0
    assert "engine: local until now, vllm from generation 2 on" in capsys.readouterr().out
    assert main([*resume, "--engine", "local", "--generations", "3"]) == 0
    changes = [json.loads(line) for line in (tmp_path / "run/changes.jsonl").open()]
    assert [(c["option"], c["from"], c["to"]) for c in changes if c["option"] == "engine"] == [
        ("engine", "local", "vllm"), ("engine", "vllm", "local"),
    ]  # fmt: skip
    state = json.loads((tmp_path / "run/generation_0002/state.json").read_text())
    assert state["rests_on"]["base"]
    (tmp_path / "model/generation_config.json").unlink()
    other = make_tiny_base(initializer_range=0.2)
    other.model.save_pretrained(model)
    capsys.readouterr()
    assert main([*resume, "--generations", "4"]) == 2
    assert "the base model's weights or tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--server", ""], "server: got none with engine = vllm, expected the address of a vLLM"),
        (["--adapter-folder", ""], "adapter_folder: got none with engine = vllm, expected a fol"),
        (["--engine", "sglang"], "engine"),
        (["--server", "nowhere"], "server: got 'nowhere', expected the address of a vLLM server"),
        (["--rank", "8"], "rank 8 is greater than max_lora_rank 4.; start it with a larger --max"),
        (["--served-model", "x"], "served_model: got 'x', but "),
        (["--diversity", "hidden_states"], "VllmEngine gives none; ask for less, or use another "
         "engine; measures without it are answers, strategies, embeddings and none"),
        (["--fitness", "novelty"], "behaviours length and strategy"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_before_anything_is_played(
    model, server, tmp_path, capsys, words, said
):
    words = [*there(server, tmp_path), *words, "--learner", "none"]
    assert evolve(model, tmp_path / "run", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert server.count(COMPLETIONS) == 0
    shared = tmp_path / "shared"
    assert not shared.exists() or list(shared.iterdir()) == []
