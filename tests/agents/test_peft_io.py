"""Adapter folders to and from plain PEFT."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from agents.engine.adapters import Layout
from agents.peft_io import AdapterError, read_adapter, write_adapter
from agents.population import LoraPopulation
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IDS = torch.arange(18).view(2, 9) * 7


@pytest.fixture(autouse=True)
def _seed():
    """PEFT draws its factors from PyTorch's global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


@pytest.fixture
def population(tiny_base):
    """Three agents of ranks 4, 2 and 3, all different."""
    population = LoraPopulation(
        tiny_base, 3, (4, 2, 3), alpha=(8.0, 5.0, 1.1), dropout=(0, 0.05, 0.1)
    )
    randomise(population.lora)
    population.lora.enforce_ranks()
    return population


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def logits_of(population, agent):
    with torch.no_grad(), population.lora.active(Layout((agent,), len(IDS))):
        return population.base.model(IDS).logits


def factors_of(lora):
    return [(layer.A.clone(), layer.B.clone()) for layer in lora.layers()]


def same(lora, factors):
    return all(
        torch.equal(layer.A, A) and torch.equal(layer.B, B)
        for layer, (A, B) in zip(lora.layers(), factors, strict=True)
    )


def state(lora):
    return [*lora.ranks.tolist(), *lora.alpha.tolist(), *lora.scale.tolist()]


def made_by_peft(base, folder, *, dtype=None, **options):
    """Save an adapter of plain PEFT with random factors; return its logits."""
    settings = {"r": 2, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    settings = {**settings, "init_lora_weights": False, **options}
    peft = get_peft_model(base.model, LoraConfig(**settings)).eval()
    if dtype is not None:
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(dtype).float()
    peft.save_pretrained(folder)
    with torch.no_grad():
        wanted = peft(IDS).logits
    peft.unload()
    vars(base.model).pop("peft_config", None)
    return wanted


def edit_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    save_file(dict(edit(dict(tensors))), folder / WEIGHTS, metadata={"format": "pt"})


# What is written


def test_agents_survive_the_round_trip_to_disk(population, tmp_path):
    lora = population.lora
    wanted, settings = factors_of(lora), state(lora)
    folders = population.save_adapters(tmp_path)
    assert [f.name for f in folders] == ["agent_0", "agent_1", "agent_2"]
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]
    for agent in range(3):
        lora.set_rank(agent, 1)
        lora.set_alpha(agent, 0.5)
    assert not same(lora, wanted)
    population.load_adapters(tmp_path)
    assert same(lora, wanted)
    assert state(lora) == settings


@pytest.mark.parametrize("agent", [0, 1, 2])
def test_saved_folders_are_what_peft_itself_writes(population, tmp_path, agent):
    wanted = logits_of(population, agent)
    ours = population.save_adapter(f"agent_{agent}", tmp_path / "ours")
    population.lora.detach()
    peft = PeftModel.from_pretrained(population.base.model, ours)
    with torch.no_grad():
        assert relative_error(peft(IDS).logits, wanted) <= 1e-5
    theirs = tmp_path / "theirs"
    peft.save_pretrained(theirs)
    mine, its = load_file(ours / WEIGHTS), load_file(theirs / WEIGHTS)
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert {t.shape[0] for name, t in mine.items() if "lora_A" in name} == {(4, 2, 3)[agent]}
    mine, its = (json.loads((folder / CONFIG).read_text()) for folder in (ours, theirs))
    mine["target_modules"], its["target_modules"] = (
        sorted(config["target_modules"]) for config in (mine, its)
    )
    assert mine.items() <= its.items()
    assert (mine["r"], mine["lora_dropout"]) == ((4, 2, 3)[agent], (0.0, 0.05, 0.1)[agent])
    assert mine["lora_alpha"] == pytest.approx((8, 5, 1.1)[agent], rel=1e-7)
    assert type(mine["lora_alpha"]) is (int, int, float)[agent]
    assert "rank_pattern" not in mine
    assert "alpha_pattern" not in mine


def test_factors_that_are_not_finite_are_not_saved(population, tmp_path):
    next(population.lora.layers()).B[1, 0, 0] = float("nan")
    with pytest.raises(AdapterError, match="agent_1: its factors are not finite; nothing was"):
        population.save_adapters(tmp_path / "all")
    with pytest.raises(AdapterError, match=r"factors of .*q_proj are not finite; not saved"):
        population.save_adapter("agent_1", tmp_path / "one")
    assert not list(tmp_path.iterdir())


def test_the_base_has_no_folder(population, tmp_path):
    with pytest.raises(AdapterError, match="'base' has no adapter to save"):
        population.save_adapter("base", tmp_path)
    with pytest.raises(AdapterError, match="'base' has no adapter to replace"):
        population.load_adapter("base", tmp_path)


# What is read

READABLE = {
    "smaller rank": ({}, 2, 6.0),
    "same rank": ({"r": 4, "lora_alpha": 1}, 4, 1.0),
    "rank-stabilised": ({"r": 3, "lora_alpha": 6, "use_rslora": True}, 3, 6 * 3**0.5),
    "rank and alpha by layer": (
        {
            "rank_pattern": {"q_proj": 4, "layers.1.mlp.down_proj": 1},
            "alpha_pattern": {"v_proj": 20, r".*\.1\..*up_proj": 0.5},
        },
        4,
        40.0,  # the largest scale is 20 / 2
    ),
    "rank-stabilised by layer": (
        {"use_rslora": True, "rank_pattern": {"k_proj": 4}, "alpha_pattern": {"k_proj": 3}},
        4,
        4 * 6 / 2**0.5,
    ),
    "negative and zero alpha": ({"alpha_pattern": {"q_proj": 0, "k_proj": -9}}, 2, 9.0),
    "two modules": ({"target_modules": ["v_proj", "up_proj"]}, 2, 6.0),
    "regular expression": ({"target_modules": r".*\.(0\.mlp\.up|1\.self_attn\.[qk])_proj"}, 2, 6.0),
    "excluded modules": ({"exclude_modules": ["o_proj"]}, 2, 6.0),
    "some layers": (
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        2,
        6.0,
    ),
    "bfloat16": ({"dtype": torch.bfloat16}, 2, 6.0),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, 2, 6.0),
    "gaussian": ({"init_lora_weights": "gaussian"}, 2, 6.0),
    "trained with dropout": ({"lora_dropout": 0.5}, 2, 6.0),
}


@pytest.mark.parametrize("name", READABLE)
def test_an_adapter_of_plain_peft_is_a_member(tiny_base, tmp_path, name):
    options, rank, alpha = READABLE[name]
    with torch.no_grad():
        bare = tiny_base.model(IDS).logits
    wanted = made_by_peft(tiny_base, tmp_path / "theirs", **options)
    population = LoraPopulation(tiny_base, 3, 4, dropout=0.25)
    lora = randomise(population.lora)
    before = factors_of(lora)
    population.load_adapter("agent_1", tmp_path / "theirs")
    got = logits_of(population, 1)
    assert relative_error(got, wanted) <= 1e-5
    assert name in ("gaussian", "orthogonal") or relative_error(got, bare) > 1e-2
    assert lora.ranks.tolist() == [4, rank, 4]
    assert lora.alpha.tolist() == pytest.approx([8.0, alpha, 8.0], rel=1e-6)
    assert lora.dropout == (0.25, 0.25, 0.25)
    for layer, (A, B) in zip(lora.layers(), before, strict=True):
        assert torch.equal(layer.A[[0, 2]], A[[0, 2]])
        assert torch.equal(layer.B[[0, 2]], B[[0, 2]])
        assert not layer.A[1, rank:].any()
        assert not layer.B[1, :, rank:].any()
    # And back: plain PEFT computes the same from what is saved.
    again = population.save_adapter("agent_1", tmp_path / "again")
    lora.detach()
    peft = PeftModel.from_pretrained(tiny_base.model, again)
    with torch.no_grad():
        assert relative_error(peft(IDS).logits, got) <= 1e-5


def test_keys_may_hold_the_adapters_name(tiny_base, tmp_path):
    wanted = made_by_peft(tiny_base, tmp_path)
    edit_tensors(
        tmp_path, lambda t: {k.replace(".weight", ".default.weight"): v for k, v in t.items()}
    )
    population = LoraPopulation(tiny_base, 1, 2)
    population.load_adapter("agent_0", tmp_path)
    assert relative_error(logits_of(population, 0), wanted) <= 1e-5


def test_what_was_read_says_which_layers_it_adapts(tiny_base, tmp_path):
    made_by_peft(tiny_base, tmp_path, target_modules=r".*1\.mlp\.(up|down)_proj", r=3)
    adapter = read_adapter(tmp_path)
    assert adapter.targets == ("down_proj", "up_proj")
    assert (adapter.rank, adapter.alpha) == (3, 6.0)
    assert sorted(adapter.factors) == ["model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj"]


def test_written_and_read_factors_are_the_same(tmp_path):
    factors = {
        "a.b": (
            torch.rand(2, 5, generator=torch.Generator().manual_seed(0)),
            torch.rand(7, 2, generator=torch.Generator().manual_seed(1)),
        ),
        "a.c": (
            torch.rand(2, 3, generator=torch.Generator().manual_seed(2)),
            torch.rand(4, 2, generator=torch.Generator().manual_seed(3)),
        ),
    }
    write_adapter(tmp_path / "new", factors, alpha=3.5, dropout=0.1, base="my/base")
    adapter = read_adapter(tmp_path / "new")
    assert (adapter.rank, adapter.alpha, adapter.base) == (2, 3.5, "my/base")
    for name, (A, B) in factors.items():
        assert torch.equal(adapter.factors[name][0], A)
        assert torch.equal(adapter.factors[name][1], B)


# What is refused


def refused(population, folder, said):
    """Loading raises one line that names the folder, and changes nothing."""
    before, settings = factors_of(population.lora), state(population.lora)
    with pytest.raises(AdapterError, match=said) as caught:
        population.load_adapter("agent_1", folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}: ")
    assert same(population.lora, before)
    assert state(population.lora) == settings


UNREADABLE = {
    "DoRA": ({"use_dora": True}, "use_dora is set, which cannot be stacked: DoRA rescales"),
    "biases of the base": ({"bias": "all"}, "bias is 'all', expected 'none'"),
    "biases of the factors": ({"lora_bias": True}, "lora_bias is set, .* its factors have biases"),
    "whole modules": ({"modules_to_save": ["norm"]}, "modules_to_save is set, .* whole modules"),
    "embeddings": ({"target_modules": ["embed_tokens", "q_proj"]}, "it adapts embeddings"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is set"),
    "output layer": (
        {"target_modules": ["lm_head", "q_proj"]},
        "lm_head.* cannot be stacked: it adapts the output layer",
    ),
    "PiSSA": ({"init_lora_weights": "pissa"}, "'pissa', which changes the base's weights"),
    "OLoRA": ({"init_lora_weights": "olora"}, "'olora', .* convert it: .*path_initial_model_for"),
    "higher rank": ({"r": 5}, "rank 5 is above the population's 4; make .* with rank=5"),
    "higher rank of one layer": ({"rank_pattern": {"q_proj": 6}}, "with rank=6"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_plain_peft_can_make_and_we_cannot_stack(tmp_path, name):
    options, said = UNREADABLE[name]
    made_by_peft(make_tiny_base(), tmp_path / "theirs", **options)
    population = LoraPopulation(make_tiny_base(), 3, 4)
    randomise(population.lora)
    refused(population, tmp_path / "theirs", said)


def test_another_kind_of_adapter(tiny_base, tmp_path):
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    peft = get_peft_model(tiny_base.model, config)
    peft.save_pretrained(tmp_path / "a")
    peft.unload()
    population = LoraPopulation(tiny_base, 3, 4)
    refused(population, tmp_path / "a", "peft_type is 'IA3', expected 'LORA'")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 3}, r"_proj has rank 2, but adapter_config\.json says 3"),
        ({"r": None}, r"adapter_config\.json: r is None, expected a number"),
        ({"lora_alpha": "16"}, "lora_alpha is '16', expected a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, expected a number"),
        ({"lora_alpha": 1e39}, "lora_alpha makes alpha 1e.39, which is not usable"),
        ({"alpha_pattern": {"q_proj": "x"}}, r"alpha_pattern\['q_proj'\] is 'x'"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern cannot be read"),
        ({"rank_pattern": [2]}, "rank_pattern cannot be read"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA', expected 'LORA'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
    ],
)
def test_settings_that_do_not_fit(tiny_base, tmp_path, changes, said):
    made_by_peft(tiny_base, tmp_path / "a")
    edit_config(tmp_path / "a", **changes)
    population = LoraPopulation(tiny_base, 3, 4)
    refused(population, tmp_path / "a", said)


HOSTILE = {
    "nested repetitions": ({"rank_pattern": {"([a-z_.0-9]+)+!": 2}}, "takes over 3 s"),
    "room for a pattern": ({"rank_pattern": {"(" * 9999: 2}}, "rank_pattern can"),
    "a pattern with a line": ({"alpha_pattern": {"(\n\x1b[31m": 2}}, "alpha_pattern cannot"),
    "a huge rank": ({"r": 10**9}, "has rank 2, but adapter_config.json says 1e"),
    "more than a float": ({"r": 10**400}, "r is a?.*, expected a number"),
    "more than a float, for a layer": ({"rank_pattern": {"q_proj": 10**400}}, "expected a number"),
    "a long value": ({"lora_alpha": "x" * 10**6}, r"lora_alpha is 'xxx.*\.\.\., expected"),
    "a line in a value": ({"peft_type": "a\nb\x1b[31m"}, r"peft_type is 'a\\nb\\x1b"),
    "a list for a word": ({"init_lora_weights": [[1]]}, r"init_lora_weights is \[\[1\]\]"),
    "an object for a word": ({"bias": {"a": 1}}, "bias is {'a': 1}, expected 'none'"),
    "a large file": ({"note": "x" * (5 << 20)}, "has over 4 MiB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_settings_end_in_one_short_line_soon(tiny_base, tmp_path, name):
    changes, said = HOSTILE[name]
    population = LoraPopulation(tiny_base, 3, 4)
    population.save_adapter("agent_0", tmp_path / "a")
    edit_config(tmp_path / "a", **{"r": 2 if name != "nested repetitions" else 4, **changes})
    if name.startswith("a huge rank"):
        said = said.replace("rank 2", "rank 4")
    began = time.monotonic()
    refused(population, tmp_path / "a", said)
    assert time.monotonic() - began < 5
    with pytest.raises(AdapterError) as caught:
        read_adapter(tmp_path / "a")
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000


def test_nesting_and_pipes(tiny_base, tmp_path):
    population = LoraPopulation(tiny_base, 3, 4)
    population.save_adapter("agent_0", tmp_path / "a")
    for content in ("[" * 100_000, '{"a":' * 100_000, f'{{"r": {"9" * 5000}}}'):
        (tmp_path / "a" / CONFIG).write_text(content)
        refused(population, tmp_path / "a", "not a readable PEFT adapter folder")
    for name in (CONFIG, WEIGHTS):
        population.save_adapter("agent_0", tmp_path / "b")
        (tmp_path / "b" / name).unlink()
        os.mkfifo(tmp_path / "b" / name)
        refused(population, tmp_path / "b", f"{name} is no regular file")
        (tmp_path / "b" / name).unlink()


def random_edit(draw, folder):
    """Change settings and the header of the tensors at random, as text and as values."""
    odd = [None, True, -1, 0, 1.5, 10**9, 10**400, "x", "", [], {}, [[1]], {"q_proj": 3}, "\x1b["]
    if draw.random() < 0.5:
        config = json.loads((folder / CONFIG).read_text())
        for _ in range(draw.randint(1, 4)):
            name = draw.choice([*config, "rank_pattern", "alpha_pattern", "use_rslora"])
            config[name] = draw.choice([*odd, {draw.choice(["(", "a+", ".*", "[", ""]): 2}])
        text = json.dumps(config)
        if draw.random() < 0.3:
            at = draw.randrange(len(text))
            text = text[:at] + draw.choice(["{", "]", '"', "\x00", "9"]) + text[at + 1 :]
        (folder / CONFIG).write_text(text)
        return
    data = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(list(header))
        if draw.random() < 0.3:
            new = draw.choice([name + ".x", "\x1b[2J", "a" * 3000, name.replace("layers", "l")])
            header[new] = header.pop(name)
        else:
            field = draw.choice(["dtype", "shape", "data_offsets"])
            value = draw.choice([*odd, [0, 10**12], [2**63, 2], [0, 0], "F4", "C64", "I8", "BOOL"])
            header[name] = {**header[name], field: value}
    text = json.dumps(header).encode()
    size = draw.choice([len(text)] * 4 + [2**63, 2**27, len(text) + 8, 0])
    (folder / WEIGHTS).write_bytes(size.to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("stored", [0, 1 << 20])
def test_a_file_of_holes_is_not_read(tmp_path, stored):
    wide = 1 << 28  # of a layer, so that the factors have 16 GiB
    names = [f"base_model.model.model.layers.0.mlp.up_proj.lora_{letter}.weight" for letter in "AB"]
    header = json.dumps(
        {
            names[0]: {"dtype": "F32", "shape": [8, wide], "data_offsets": [0, 32 * wide]},
            names[1]: {"dtype": "F32", "shape": [wide, 8], "data_offsets": [32 * wide, 64 * wide]},
        }
    ).encode()
    with (tmp_path / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + bytes(stored))
        file.truncate(8 + len(header) + 64 * wide)
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8}))
    began = time.monotonic()
    with pytest.raises(AdapterError, match=r"claims 17,179,869,\d+ bytes, of which [\d,]+ are"):
        read_adapter(tmp_path)
    assert time.monotonic() - began < 5


def test_factors_that_the_settings_do_not_name_are_refused(tmp_path):
    factors = {"model.layers.0.self_attn.q_proj": (torch.ones(2, 4), torch.ones(4, 2))}
    write_adapter(tmp_path, factors, alpha=2.0, dropout=0.0, base="b")
    settings = json.loads((tmp_path / CONFIG).read_text())
    for named, fits in (
        (["o_proj"], False), (["proj"], False), (["q_proj", "x"], True), ([], True),
        (["self_attn.q_proj"], True), (["model.layers.0.self_attn.q_proj"], True),
        (["layers.1.mlp.up_proj"], False), ("all-linear", True), (None, True),
    ):  # fmt: skip
        (tmp_path / CONFIG).write_text(json.dumps({**settings, "target_modules": named}))
        if fits:
            assert list(read_adapter(tmp_path).factors) == list(factors)
        else:
            with pytest.raises(AdapterError, match=r"q_proj, but target_modules of") as caught:
                read_adapter(tmp_path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": ["q_proj"]}, "of model.0.up_proj, but target_modules of .* are q_proj"),
        ({"target_modules": ["up_proj"]}, "of model.0.q_proj and 1 more layers, but target"),
        ({"exclude_modules": ["1.q_proj"]}, "of model.1.q_proj, but exclude_modules of .* are 1.q"),
        ({"layers_to_transform": [0]}, "of model.1.q_proj, but layers_to_transform of .* are 0,"),
        ({"layers_to_transform": 1}, "of model.0.q_proj and 1 more layers, but layers_to_tr"),
        (
            {"layers_to_transform": [0, 1], "layers_pattern": "blocks"},
            "of model.0.q_proj and 2 more layers, but layers_to_transform",
        ),
    ],
)
def test_factors_of_which_the_settings_name_a_part_are_refused(tmp_path, changes, said):
    pair = (torch.ones(2, 4), torch.ones(4, 2))
    layers = ("model.0.q_proj", "model.0.up_proj", "model.1.q_proj")
    write_adapter(tmp_path, dict.fromkeys(layers, pair), alpha=2.0, dropout=0.0, base="b")
    settings = json.loads((tmp_path / CONFIG).read_text())
    assert list(read_adapter(tmp_path).factors) == list(layers)
    whole = {"layers_to_transform": [1, 0], "layers_pattern": ["model"]}
    (tmp_path / CONFIG).write_text(json.dumps({**settings, **whole}))
    assert list(read_adapter(tmp_path).factors) == list(layers)
    (tmp_path / CONFIG).write_text(json.dumps({**settings, **changes}))
    with pytest.raises(AdapterError, match=said) as caught:
        read_adapter(tmp_path)
    assert "\n" not in str(caught.value)


def test_zeros_that_are_stored_are_read(tmp_path):
    A, B = torch.zeros(8, 1 << 18), torch.zeros(1 << 21, 8)  # 72 MiB
    write_adapter(tmp_path, {"model.up": (A, B)}, alpha=8.0, dropout=0.0, base="b")
    assert read_adapter(tmp_path).factors["model.up"][1].shape == (1 << 21, 8)


def test_random_edits_load_or_end_in_one_line(tiny_base, tmp_path):
    draw = random.Random(5)
    population = LoraPopulation(tiny_base, 1, 4)
    known = population.save_adapter("agent_0", tmp_path / "known")
    ends = []
    for i in range(200):
        folder = shutil.copytree(known, tmp_path / str(i))
        random_edit(draw, folder)
        began = time.monotonic()
        try:
            population.load_adapter("agent_0", folder)
        except AdapterError as error:
            ends.append(str(error))
            assert ends[-1].isprintable(), ends[-1]
            assert len(ends[-1]) < 2000
        assert time.monotonic() - began < 5
    assert 100 < len(ends) < 200


A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB")
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda t: t | {A: t[A] * float("nan")},
            "not finite",
        ),
        (lambda t: t | {B: t[B] / 0}, "not finite"),
        (
            lambda t: {k: v for k, v in t.items() if k != B},
            "q_proj has no lora_B",
        ),
        (
            lambda t: t | {B: torch.ones(48, 3)},
            "are no factors of a linear layer",
        ),
        (lambda t: t | {f"{Q}.lora_A.other.weight": torch.ones(2, 48)}, "has two adapters"),
        (
            lambda t: t | {A: torch.ones(2, 48).char()},
            "got torch.int8, expected",
        ),
        (lambda t: t | {f"{Q}.lora_magnitude_vector": torch.ones(48)}, "DoRA rescales"),
        (lambda t: t | {f"{Q}.lora_B.bias": torch.ones(48)}, "its factors have biases"),
        (lambda t: t | {"base_model.model.lm_head.weight": torch.ones(2)}, "no factor of a linear"),
        (lambda t: {}, "holds no factors"),
        (
            lambda t: {k.replace("layers.1", "layers.7"): v for k, v in t.items()},
            r"layers\.7\..* has no place in this population: .*another base \(the adapter names "
            "'their/base', this is 'tiny'",
        ),
    ],
)
def test_tensors_that_do_not_fit(tiny_base, tmp_path, edit, said):
    made_by_peft(tiny_base, tmp_path / "a")
    edit_config(tmp_path / "a", base_model_name_or_path="their/base")
    edit_tensors(tmp_path / "a", edit)
    population = LoraPopulation(tiny_base, 3, 4)
    refused(population, tmp_path / "a", said)


def test_an_adapter_of_another_base(tiny_base, tmp_path):
    made_by_peft(make_tiny_base(hidden_size=64), tmp_path / "a")
    edit_config(tmp_path / "a", base_model_name_or_path="their/base")
    refused(
        LoraPopulation(tiny_base, 3, 4),
        tmp_path / "a",
        r"got factors for 64 inputs and 64 outputs, expected 48 and 48; .* names 'their/base'",
    )


def rename(old, new):
    return lambda tensors: {key.replace(old, new): tensor for key, tensor in tensors.items()}


LAYERS = "base_model.model.model.layers"
OTHER_NAMES = {
    "of a text part": (
        rename(LAYERS, "base_model.model.model.language_model.layers"),
        r"model\.language_model\.layers\.0\..*_proj has no place in this population: this base has "
        r"it under another prefix, as 'model\.layers\.0\..*_proj': the adapter's names begin with "
        r"'model\.language_model\.', expected 'model\.'",
    ),
    "of a backbone alone": (
        rename(LAYERS, "base_model.model.layers"),
        r"the adapter's names begin with '', expected 'model\.'; rename its tensors",
    ),
    "wrapped twice": (
        rename(LAYERS, "base_model.model.base_model.model.model.layers"),
        r"as 'model\.layers.*: the adapter's names begin with 'base_model\.model\.', expected ''",
    ),
    "of a deeper base": (
        rename("layers.1.", "layers.31."),
        r"layers\.31\..* this base has no such layer \(its own are named like 'model\.layers\.0\.",
    ),
    "of another family": (
        rename(LAYERS, "base_model.model.transformer.h"),
        r"transformer\.h\.0\..* the adapter's names begin with 'transformer\.h\.'|no such layer",
    ),
    "of no linear layer": (
        rename("layers.0.mlp.gate_proj", "norm"),
        r"model\.norm has no place .* in this base it is a LlamaRMSNorm, no linear layer",
    ),
    "of the output layer": (
        rename("model.layers.0.self_attn.q_proj", "lm_head"),
        r"lm_head has no place in this population: it is the output layer",
    ),
}


@pytest.mark.parametrize("named", ["tiny", "their/base"])
@pytest.mark.parametrize("name", OTHER_NAMES)
def test_which_names_were_found_and_which_expected(tiny_base, tmp_path, name, named):
    edit, said = OTHER_NAMES[name]
    made_by_peft(tiny_base, tmp_path / "a")
    edit_config(tmp_path / "a", base_model_name_or_path=named)
    edit_tensors(tmp_path / "a", edit)
    population = LoraPopulation(tiny_base, 3, 4)
    refused(population, tmp_path / "a", said)
    with pytest.raises(AdapterError) as caught:
        population.load_adapter("agent_0", tmp_path / "a")
    text = str(caught.value)
    # Two equal names tell nothing.
    assert ("this is 'tiny'" in text) == (named != "tiny")
    population.lora.detach()
    with pytest.raises(AdapterError) as caught:  # of some of these no layer at all fits
        LoraPopulation.from_adapters(tiny_base, [tmp_path / "a"])
    assert str(caught.value) == text
    LoraPopulation(tiny_base, 3, 4)


def mlx_folder(folder, config):
    folder.mkdir(parents=True)
    save_file({"model.layers.0.lora_a": torch.ones(48, 2)}, folder / "adapters.safetensors")
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    "config",
    [
        {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0}},
        {"peft_type": "LORA", "r": 2, "lora_alpha": 2},
        {},
    ],
)
def test_a_folder_of_mlx_lm_is_recognised(tiny_base, tmp_path, config):
    mlx_folder(tmp_path / "a", config)
    said = "adapters.safetensors is mlx-lm's own format: convert it to PEFT's"
    refused(LoraPopulation(tiny_base, 3, 4), tmp_path / "a", said)


def test_a_folder_one_level_above_is_recognised(tiny_base, tmp_path):
    population = LoraPopulation(tiny_base, 3, 4)
    population.save_adapter("agent_0", tmp_path / "run" / "checkpoint-500")
    hint = f"one level down: did you mean {tmp_path / 'run' / 'checkpoint-500'}"
    refused(population, tmp_path / "run", re.escape(hint) + r"\?$")
    population.save_adapter("agent_0", tmp_path / "run" / "checkpoint-60")
    refused(population, tmp_path / "run", r"checkpoint-\d+ \(2 such folders\)\?$")
    refused(population, tmp_path, "expected adapter_config.json and adapter_model.safetensors$")


def test_an_adapter_with_more_targets_than_the_population(tiny_base, tmp_path):
    made_by_peft(tiny_base, tmp_path / "a")
    population = LoraPopulation(tiny_base, 3, 4, targets=("q_proj", "v_proj"))
    refused(population, tmp_path / "a", "make it with targets that include it")


def test_factors_that_overflow_the_populations_type(tiny_base, tmp_path):
    made_by_peft(tiny_base, tmp_path / "a")
    edit_tensors(tmp_path / "a", lambda t: {k: v * 1e9 for k, v in t.items()})
    LoraPopulation(tiny_base, 1, 4).load_adapter("agent_0", tmp_path / "a")
    other = make_tiny_base()
    population = LoraPopulation(other, 3, 4, adapter_dtype="float16")
    refused(population, tmp_path / "a", "its factors overflow torch.float16")


def test_a_pickle_is_never_opened(tiny_base, tmp_path):
    made_by_peft(tiny_base, tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).rename(tmp_path / "a" / "adapter_model.bin")
    refused(
        LoraPopulation(tiny_base, 3, 4), tmp_path / "a", r"adapter_model\.bin is a pickle, which"
    )


def test_the_line_that_converts_a_pickle_works(tiny_base, tmp_path, monkeypatch):
    wanted = made_by_peft(tiny_base, tmp_path)
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "adapter_model.bin")
    (tmp_path / WEIGHTS).unlink()
    population = LoraPopulation(tiny_base, 3, 4)
    with pytest.raises(AdapterError) as caught:
        population.load_adapter("agent_1", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(str(caught.value).split('python -c "')[1].rstrip('"'), {})
    population.load_adapter("agent_1", tmp_path)
    assert relative_error(logits_of(population, 1), wanted) <= 1e-5


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (CONFIG, b"{"),
        (CONFIG, b"[]"),
        (CONFIG, b"\xff\xfe"),
        (WEIGHTS, b"not safetensors"),
        (WEIGHTS, b""),
        (WEIGHTS, None),
        (CONFIG, None),
    ],
)
def test_damaged_and_missing_files(tiny_base, tmp_path, file, content):
    made_by_peft(tiny_base, tmp_path / "a")
    (tmp_path / "a" / file).unlink()
    if content is not None:
        (tmp_path / "a" / file).write_bytes(content)
    refused(LoraPopulation(tiny_base, 3, 4), tmp_path / "a", "not a readable PEFT adapter folder")


def test_a_truncated_file(tiny_base, tmp_path):
    made_by_peft(tiny_base, tmp_path / "a")
    whole = (tmp_path / "a" / WEIGHTS).read_bytes()
    (tmp_path / "a" / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(LoraPopulation(tiny_base, 3, 4), tmp_path / "a", "not a readable PEFT adapter folder")


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"r": 9}, {"lora_alpha": 1e39}])
def test_loading_all_agents_changes_all_or_none(population, tmp_path, changes):
    population.save_adapters(tmp_path)
    edit_config(tmp_path / "agent_2", **changes)
    randomise(population.lora, seed=9)
    before, settings = factors_of(population.lora), state(population.lora)
    with pytest.raises(AdapterError, match="agent_2: "):
        population.load_adapters(tmp_path)
    assert same(population.lora, before)
    assert state(population.lora) == settings
