"""``populora push`` and the model card: true to the run, loadable, uploaded to a local hub."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import pytest
import tomli_w
from huggingface_hub import HfApi, ModelCard

from agents.population import LoraPopulation
from evolution.cli import main
from evolution.commands.export.card import base_name
from evolution.operators import mutation_weights as mutation
from evolution.runs.checkpoint import RunFolder
from evolution.runs.settings_files import read_toml
from tests.conftest import make_tiny_base, save_base

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and a finished run of two agents with a champion, births and held-out replies."""
    folder = tmp_path_factory.mktemp("push")
    base = make_tiny_base()
    config = {"model": save_base(base, folder / "model"), "size": 2, "rank": 2, "seed": 11,
              "problems": SPEC, "solve_tokens": 24, "out": str(folder / "run")}  # fmt: skip
    population = LoraPopulation(base, 2, 2)
    mutation.spread(population.lora, 0.5, 1)
    run = RunFolder(folder / "run")
    run.save(4, population, {}, {}, keep=2)
    population.save_adapter("agent_1", folder / "run" / "best")
    population.lora.detach()
    versions = {"populora-env": "0.1.0", "torch": "2.0"}
    run.write("run.toml", tomli_w.dumps({"config": config, "versions": versions}))
    rows = [
        {"generation": 4, "agent": f"agent_{i}", "individual": f"g{3 * i}-{i}", "best": i == 1,
         "champion": "g0-0"}  # trials at the end changed that
        for i in range(2)
    ]  # fmt: skip
    run.append("history.jsonl", rows)
    births = [
        {"name": "g0-0", "slot": 0, "generation": 0, "operator": "spread", "parents": []},
        {"name": "g3-1", "slot": 1, "generation": 3, "operator": "dare", "parents": ["g0-0"]},
    ]
    filled = {"parameters": {}, "content_hash": "", "mutation_strength": 1.0, "fitness": None,
              "hyperparameters": {}, "broken": None}  # fmt: skip
    run.write("lineage.json", json.dumps([{**birth, **filled} for birth in births]))
    marks = {"base": [1, 0, 0, 0], "agent_0": [1, 1, 0, 0], "champion": [1, 1, 1, 0]}
    lines = [{"agent": who, "correct": bool(m)} for who, own in marks.items() for m in own]
    run.write("held_out.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    measured = {
        "problems": 4,
        "champion": "g3-1",
        "base": 0.25,
        "best": 0.75,
        "mean": 0.5,
        "vote": 0.5,
    }
    run.write("summary.json", json.dumps({"generations": 5, "held_out": measured}))
    run.close()
    return folder


def push(made, out, *more, to="me/tiny"):
    return main(["push", str(made / "run"), "--to", to, "--out", str(out), *more])


def test_the_card_says_what_the_run_says(made, tmp_path, capsys):
    assert push(made, tmp_path / "out", "--dry-run", "--license", "apache-2.0") == 0
    said = capsys.readouterr().out
    assert "Dry run: nothing was uploaded" in said
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["license"]) == ("peft", "apache-2.0")
    assert {"lora", "populora"} <= set(data["tags"])
    assert "base_model" not in data  # a local folder is nothing that a hub knows
    assert "datasets" not in data
    assert "| base, `model` | 0.250 | 0.250 |" in card.text
    assert "| the champion, g3-1 | 0.750 | 0.250 |" in card.text
    assert "agent_0" not in card.text
    assert "- g3-1: `dare` of g0-0, born in generation 3\n- g0-0: `spread`" in card.text
    assert f"`{SPEC}`, training split; seed 11" in card.text
    assert "populora-env 0.1.0, torch 2.0" in card.text
    assert str(made) not in card.text  # where the run lies is nobody's business
    settings = read_toml(tmp_path / "out" / "settings.toml")
    assert (settings.seed, settings.model, settings.out) == (11, "model", "")


def test_all_agents_go_along(made, tmp_path):
    assert push(made, tmp_path / "out", "--dry-run", "--agents") == 0
    files = {str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*.*")}
    assert files == {
        "README.md", "settings.toml", "adapter_config.json", "adapter_model.safetensors",
        *(f"agents/agent_{i}/{name}" for i in range(2)
          for name in ("adapter_config.json", "adapter_model.safetensors")),
    }  # fmt: skip
    for file in (tmp_path / "out").rglob("adapter_config.json"):  # no path of this machine
        assert json.loads(file.read_text())["base_model_name_or_path"] == "model"
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| agent_0, g0-0 | 0.500 | 0.289 |" in text
    assert "Not measured: agent_1, g3-1." in text


def test_a_folder_with_anything_else_in_it_is_left(made, tmp_path, capsys):
    out = tmp_path / "out"
    assert push(made, out, "--dry-run") == push(made, out, "--dry-run") == 0
    (out / "model").mkdir()  # as `export --merge-into-base` writes it, beside the same names
    assert push(made, out, "--dry-run") == 2
    assert "out" in capsys.readouterr().err
    assert (out / "model").is_dir()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_generators")  # PEFT draws its first weights from them
@pytest.mark.parametrize("to", ["me/tiny", "merged"])
def test_the_four_lines_work(made, tmp_path, monkeypatch, to):
    shutil.copytree(made / "model", tmp_path / "model")
    if to == "merged":
        monkeypatch.chdir(tmp_path)
        assert main(["export", str(made / "run"), "--out", to]) == 0
    else:
        assert push(made, tmp_path / "me" / "tiny", "--dry-run") == 0
    monkeypatch.chdir(tmp_path)
    card = ModelCard.load(tmp_path / to / "README.md")
    code = card.text.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) == 4
    scope = {}
    exec(code, scope)
    reply = scope["model"].generate(
        **scope["tokenizer"]("1 + 2 =", return_tensors="pt"), max_new_tokens=2, do_sample=False
    )
    assert reply.shape[0] == 1
    assert scope["model"].active_adapter == "default"


def test_a_merged_adapter_is_not_said_to_be_measured(made, tmp_path):
    assert main(["export", str(made / "run"), "--out", str(tmp_path / "out")]) == 0
    text = ModelCard.load(tmp_path / "out" / "README.md").text
    assert "Not measured: the merged adapter; agent_1, weight 0.5." in text
    assert "relative error" in text
    held_out = tmp_path / "run" / "held_out.jsonl"
    shutil.copytree(made / "run", held_out.parent)
    (held_out.parent / "checksums.json").unlink()
    with held_out.open("a") as file:  # as where evolve has measured the average
        file.writelines(
            f'{{"agent": "average", "correct": {m}}}\n' for m in ["true"] * 3 + ["false"]
        )
    words = ["export", str(held_out.parent), "--out"]
    assert main([*words, str(tmp_path / "same")]) == 0
    text = ModelCard.load(tmp_path / "same" / "README.md").text
    assert "| the merged adapter | 0.750 | 0.250 |" in text
    assert main([*words, str(tmp_path / "other"), "--weights", "1", "3"]) == 0
    assert "Not measured: the merged" in (tmp_path / "other" / "README.md").read_text()
    adapters = [str(made / "run" / "generation_0004" / "adapters" / f"agent_{i}") for i in (0, 1)]
    assert main(["export", *adapters, "--out", str(tmp_path / "two")]) == 0
    card = ModelCard.load(tmp_path / "two" / "README.md")
    assert "data, seeds and lineage are not known here" in card.text
    assert "## Accuracy" not in card.text


@pytest.mark.parametrize(("generations", "said"), [
    (3, "are of 3 generations, the adapters of 5; so they are left out"), (None, "has no figures"),
])  # fmt: skip
def test_figures_that_are_not_of_these_adapters_are_left_out(made, tmp_path, generations, said):
    shutil.copytree(made / "run", tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary["generations"] = generations
    run.write("summary.json", json.dumps(summary if generations else {"generations": 5}))
    run.close()
    assert push(tmp_path, tmp_path / "out", "--dry-run") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert said in text
    assert "0.750" not in text
    assert "- the champion\n" in text  # whom it is of is not recorded either


def test_a_base_and_data_of_the_hub_are_in_the_header(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    config = {"model": "embedded", "size": 2, "rank": 2, "problems": "gsm8k"}
    run.write("run.toml", tomli_w.dumps({"config": config}))
    run.close()
    assert push(tmp_path, tmp_path / "out", "--dry-run") == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct" == base_name("embedded")
    assert card.data.datasets == ["openai/gsm8k"]
    assert read_toml(tmp_path / "out" / "settings.toml").model == "embedded"


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as takes an upload of small files."""

    files: dict[str, bytes]
    made: list[dict]

    def do_POST(self):
        text = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/repos/create"):
            self.made.append(json.loads(text))
            return self.answer({"url": f"http://{self.headers['host']}/me/tiny"})
        if "/preupload/" in self.path:
            asked = json.loads(text)["files"]
            return self.answer({"files": [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]})  # fmt: skip
        if "/commit/" in self.path:
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['host']}/me/tiny/commit/0123456"
            return self.answer({"success": True, "commitOid": "0123456", "commitUrl": url})
        return self.answer({"errors": [], "warnings": []})  # of the card's header

    def answer(self, data):
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def online(monkeypatch):
    """The tests set the library offline; the hubs of these are on this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(online):
    handler = type("OwnHub", (Hub,), {"files": {}, "made": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with mock.patch("huggingface_hub.HfApi", partial(HfApi, endpoint=address, token="hf_made_up")):
        yield handler
    server.shutdown()
    server.server_close()


def test_everything_arrives_at_the_hub(made, tmp_path, hub, capsys):
    assert push(made, tmp_path / "out", "--private") == 0
    assert "Uploaded: http" in capsys.readouterr().out
    assert hub.made[0]["visibility"] == "private"
    here = {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()}
    assert hub.files == here
    assert push(made, tmp_path / "out") == 0  # a former one is replaced


def test_a_failed_upload_is_one_line_and_leaves_the_folder(made, tmp_path, capsys, online):
    gone = partial(HfApi, endpoint="http://127.0.0.1:9", token="hf_made_up")
    with mock.patch("huggingface_hub.HfApi", gone):
        assert push(made, tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("populora: error: to: me/tiny could not be uploaded (")
    assert "offline" not in line
    assert (tmp_path / "out" / "README.md").is_file()


def test_what_cannot_be_pushed_is_refused_in_a_line(made, tmp_path, capsys):
    assert push(made, tmp_path / "out", to="a/b/c") == 2
    assert "to: got 'a/b/c', expected NAME or OWNER/NAME" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    assert push(made, tmp_path / "mine", "--dry-run") == 2
    assert "is there already; choose another folder" in capsys.readouterr().err
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "best")
    assert push(tmp_path, tmp_path / "out", "--dry-run") == 2
    assert "has no champion yet" in capsys.readouterr().err
