from __future__ import annotations

import json
import shutil

import pytest
import tomli_w
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.population import WEIGHTS_FILE, LoraPopulation
from evolution.cli import main
from evolution.commands.export import command as export
from evolution.commands.participants import vote_weights
from evolution.operators import mutation_weights as mutation
from evolution.runs.checkpoint import RunFolder
from tests.conftest import make_tiny_base

STANDINGS, RATINGS = (0.1, -0.2, 0.4), (25.0, 26.0, 24.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and a run of three agents whose updates share no rows."""
    folder = tmp_path_factory.mktemp("export")
    base = make_tiny_base()
    base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    population = LoraPopulation(base, 3, 2)
    mutation.spread(population.lora, 0.5, 1)
    generator = torch.Generator().manual_seed(0)
    for layer in population.lora.layers():
        layer.A[:] = torch.randn(layer.A.shape, generator=generator) / 7
    run = RunFolder(folder / "run")
    run.save(4, population, {}, {}, keep=2)
    population.save_adapter("agent_2", folder / "run" / "best")
    population.lora.detach()
    config = {"model": str(folder / "model"), "size": 3, "rank": 2}
    run.write("run.toml", tomli_w.dumps({"config": config}))
    run.append(
        "history.jsonl",
        (
            {
                "generation": generation, "agent": f"agent_{i}", "individual": f"g1-{i}",
                "parents": ["g0-0"], "operator": "crossover", "best": i == generation - 2,
                "standing": STANDINGS[i] * (generation == 4), "rating": RATINGS[i],
            }
            for generation in (3, 4)
            for i in range(3)
        ),
    )  # fmt: skip
    return folder


def agent(saved, i):
    return saved / "run" / "generation_0004" / "adapters" / f"agent_{i}"


def exported(saved, out, *more, source="run"):
    assert main(["export", str(saved / source), "--out", str(out), *more]) == 0
    return json.loads((out / "export.json").read_text(encoding="utf-8"))


def updates(folder):
    """Every layer's update, straight from the files."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / WEIGHTS_FILE)
    scale = config["lora_alpha"] / config["r"]
    return {
        name.removesuffix(".lora_A.weight"): scale
        * tensors[name.replace("lora_A", "lora_B")].double()
        @ tensors[name].double()
        for name in tensors
        if name.endswith("lora_A.weight")
    }


def weighted(saved, weights):
    parts = [updates(agent(saved, i)) for i in range(3)]
    return {n: sum(w * p[n] for w, p in zip(weights, parts, strict=True)) for n in parts[0]}


def distance(folder, exact):
    got = updates(folder)
    lost = sum((got[name] - exact[name]).square().sum() for name in exact)
    return (lost / sum(update.square().sum() for update in exact.values())).sqrt().item()


def test_a_whole_run_at_full_rank_is_exact(saved, tmp_path, capsys):
    record = exported(saved, tmp_path / "out", "--rank", "full")
    exact = weighted(saved, [1 / 3] * 3)
    assert distance(tmp_path / "out", exact) < 1e-5
    assert record["relative_error"] == pytest.approx(0, abs=1e-5)
    assert record["rank"] == 6
    assert (record["run"], record["generation"]) == (str(saved / "run"), 4)
    assert [source["individual"] for source in record["sources"]] == ["g1-0", "g1-1", "g1-2"]
    assert record["sources"][1]["parents"] == ["g0-0"]
    said = capsys.readouterr().out
    assert "rank 6: relative error" in said
    assert exported(saved, tmp_path / "zero", "--rank", "0")["rank"] == 6


def test_the_default_rank_and_its_measured_error(saved, tmp_path, capsys):
    record = exported(saved, tmp_path / "out")
    exact = weighted(saved, [1 / 3] * 3)
    assert record["rank"] == 2
    assert record["relative_error"] == pytest.approx(distance(tmp_path / "out", exact), rel=1e-4)
    assert 0.1 < record["relative_error"] < 1
    assert record["energy_kept"] == pytest.approx(1 - record["relative_error"] ** 2, rel=1e-3)
    worst = max(record["layers"], key=record["layers"].get)
    assert record["worst_layer"] == worst
    assert worst in "".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("shared_generators")  # PEFT draws its first weights from them
def test_plain_peft_reads_it(saved, tmp_path):
    exported(saved, tmp_path / "out", "--rank", "full", "--weights", "0.5", "-1", "2")
    model = AutoModelForCausalLM.from_pretrained(saved / "model").eval()
    ids = torch.randint(0, 200, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare = model(ids).logits
        for name, update in weighted(saved, [0.5, -1, 2]).items():
            layer = name.removeprefix("base_model.model.")
            model.get_submodule(layer).weight += update.float()
        wanted = model(ids).logits
        again = AutoModelForCausalLM.from_pretrained(saved / "model").eval()
        got = PeftModel.from_pretrained(again, tmp_path / "out")(ids).logits
    assert ((got - wanted).norm() / (wanted - bare).norm()).item() < 1e-4


@pytest.mark.usefixtures("shared_generators")  # PEFT draws its first weights from them
def test_a_model_with_the_adapter_merged_into_it(saved, tmp_path):
    exported(saved, tmp_path / "out", "--merge-into-base")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").eval()
    plain = AutoModelForCausalLM.from_pretrained(saved / "model").eval()
    ids = torch.randint(0, 200, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare, got = plain(ids).logits, merged(ids).logits
        wanted = PeftModel.from_pretrained(plain, tmp_path / "out")(ids).logits
    assert ((got - wanted).norm() / (wanted - bare).norm()).item() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert tokenizer.chat_template


def test_one_agent_is_copied_as_it_is(saved, tmp_path, capsys):
    record = exported(saved, tmp_path / "out", "--agents", "best")
    assert record["copied"]
    assert record["relative_error"] == 0
    assert [source["name"] for source in record["sources"]] == ["agent_2"]
    for name in ("adapter_config.json", WEIGHTS_FILE):
        assert (tmp_path / "out" / name).read_bytes() == (agent(saved, 2) / name).read_bytes()
    assert "a copy of the only adapter" in capsys.readouterr().out
    smaller = exported(saved, tmp_path / "less", "--agents", "agent_0", "--rank", "1")
    assert not smaller["copied"]
    assert smaller["relative_error"] > 0
    half = exported(saved, tmp_path / "half", "--agents", "agent_0", "--weights", "0.5")
    assert not half["copied"]


def test_weights_by_rating_and_standing(saved, tmp_path):
    record = exported(saved, tmp_path / "rating", "--weights", "rating")
    got = [source["weight"] for source in record["sources"]]
    odds = list(vote_weights({str(i): rating for i, rating in enumerate(RATINGS)}).values())
    assert got == pytest.approx([value / sum(odds) for value in odds])
    record = exported(saved, tmp_path / "standing", "--weights", "standing")
    got = torch.tensor([source["weight"] for source in record["sources"]])
    standing = torch.tensor(STANDINGS)
    wanted = torch.softmax((standing - standing.max()) / standing.std(correction=0), 0)
    assert torch.allclose(got, wanted, atol=1e-6)
    some = ["--agents", "agent_2", "agent_0", "--weights", "rating"]
    record = exported(saved, tmp_path / "some", *some)
    assert [source["name"] for source in record["sources"]] == ["agent_2", "agent_0"]
    assert sum(source["weight"] for source in record["sources"]) == pytest.approx(1)


def test_adapter_folders_and_a_runs_best(saved, tmp_path):
    words = ["export", str(agent(saved, 0)), str(saved / "run"), "--out", str(tmp_path / "out")]
    assert main([*words, "--rank", "full"]) == 0
    exact = weighted(saved, [0.5, 0, 0.5])  # the run's best is agent_2
    assert distance(tmp_path / "out", exact) < 1e-5
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["run"] is None
    assert record["sources"][0]["folder"] == str(agent(saved, 0))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "--rank", "-1"], "rank: got -1, expected an integer >= 0, or full"),
        (["RUN", "--weights", "1", "x"], "weights: got '1 x', expected equal, standing, rating"),
        (["RUN", "--weights", "1", "nan"], "weights: got '1 nan'"),
        (["RUN", "--weights", "1", "2"], "weights: got 2 numbers for 3 adapters"),
        (["RUN", "--agents", "agent_3"], "agents: got agent_3, expected all, best, or different"),
        (["RUN", "--agents", "agent_0", "agent_0"], "agents: got agent_0, agent_0"),
        (["/no/run"], "sources: /no/run is neither a PEFT adapter folder"),
        (["A0", "A1", "--weights", "rating"], "weights: rating needs a run folder"),
        (["A0", "A1", "--agents", "best"], "agents: only of a single run folder"),
        (["A0", "A0"], "the same folder is given twice"),
        (["A0", "--merge-into-base", "--model", "/no/model"], "neither an existing folder"),
        ([], "sources"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(saved, capsys, tmp_path, arguments, said):
    places = {"RUN": saved / "run", "A0": agent(saved, 0), "A1": agent(saved, 1)}
    words = [str(places.get(word, word)) for word in arguments]
    assert main(["export", *words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_base_of_other_shapes_is_refused(saved, capsys, tmp_path):
    other = make_tiny_base(hidden_size=32)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    words = ["export", str(saved / "run"), "--out", str(tmp_path / "out"), "--merge-into-base"]
    assert main([*words, "--model", str(tmp_path / "other")]) == 2
    assert "floats, neither quantised nor of another model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("init", ["pissa", "olora", "pissa_niter_4", "loftq"])
def test_adapters_that_changed_the_base_are_refused_as_in_a_population(
    saved, capsys, tmp_path, init
):
    for i in range(2):
        shutil.copytree(agent(saved, i), tmp_path / str(i))
    path = tmp_path / "1" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": init}))
    folders = [str(tmp_path / str(i)) for i in range(2)]
    for sources in (folders, folders[1:]):
        assert main(["export", *sources, "--out", str(tmp_path / "out")]) == 2
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert f"'{init}', which changes the base's weights" in said
        assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("shared_generators")  # PEFT draws its first weights from them
def test_scales_and_ranks_of_layers_are_peft_s(saved, tmp_path):
    """Rank-stabilised, with ranks and alphas of some layers: what PEFT adds is what is summed."""

    def delta(folder):
        base = make_tiny_base().model
        before = {n: p.clone() for n, p in base.named_parameters()}
        merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
        return {n: p.detach() - before[n] for n, p in merged.named_parameters()}

    torch.manual_seed(0)
    settings = {"target_modules": "all-linear", "init_lora_weights": False, "r": 2,
                "use_rslora": True, "rank_pattern": {"q_proj": 5, r"layers\.1\.mlp\.up_proj": 1},
                "alpha_pattern": {"v_proj": 7}}  # fmt: skip
    for i, alpha in enumerate((3, 8)):
        config = LoraConfig(lora_alpha=alpha, task_type="CAUSAL_LM", **settings)
        get_peft_model(make_tiny_base().model, config).save_pretrained(tmp_path / str(i))
    folders = [str(tmp_path / str(i)) for i in range(2)]
    out = tmp_path / "out"
    words = ["--weights", "0.25", "2", "--rank", "full", "--out", str(out)]
    assert main(["export", *folders, *words]) == 0
    one, two, both = (delta(folder) for folder in (*folders, str(out)))
    for name in both:
        wanted = 0.25 * one[name] + 2 * two[name]
        assert (both[name] - wanted).norm() <= 1e-5 * wanted.norm()


def test_a_folder_in_use_is_left_alone(saved, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert main(["export", str(saved / "run"), "--out", str(tmp_path)]) == 2
    assert "is there already; choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert main(["export", str(saved / "run"), "--out", "/proc/nowhere"]) == 2
    assert "out: cannot write to /proc/nowhere" in capsys.readouterr().err


def test_interrupted_leaves_nothing(saved, capsys, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "merge", interrupt)
    assert main(["export", str(saved / "run"), "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []
    assert "interrupted" in capsys.readouterr().err
