"""Anyone's adapters of one base side by side: `LoraPopulation.from_adapters`."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.peft_io import AdapterError
from agents.population import WEIGHTS_FILE, LoraPopulation
from tests.agents.test_peft_io import logits_of, made_by_peft, relative_error
from tests.conftest import make_tiny_base

KINDS = (
    {"r": 4, "lora_alpha": 8},
    {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
    {"r": 1, "lora_alpha": 2.5, "target_modules": ["down_proj"], "use_rslora": True},
)


@pytest.fixture
def folders(tiny_base, tmp_path):
    """Three adapters of plain PEFT, and what PEFT itself computes with each."""
    wanted = []
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for i, kind in enumerate(KINDS):
            wanted.append(made_by_peft(tiny_base, tmp_path / str(i), **kind))
    return [tmp_path / str(i) for i in range(3)], wanted


def test_each_computes_what_peft_computes_with_it(tiny_base, folders):
    paths, wanted = folders
    population = LoraPopulation.from_adapters(tiny_base, paths, temperature=0.5)
    lora = population.lora
    assert (population.size, lora.rank, population.temperature) == (3, 4, 0.5)
    assert lora.ranks.tolist() == [4, 2, 1]
    for agent, logits in enumerate(wanted):
        assert relative_error(logits_of(population, agent), logits) <= 1e-5
    assert relative_error(wanted[0], wanted[1]) > 1e-2  # they are not alike


def test_only_layers_that_some_of_them_adapt_are_there(tiny_base, folders):
    paths, _ = folders
    lora = LoraPopulation.from_adapters(tiny_base, paths[1:]).lora
    kinds = {layer.name.rpartition(".")[2] for layer in lora.layers()}
    assert kinds == {"q_proj", "v_proj", "down_proj"}
    assert lora.rank == 2


def test_a_base_may_be_named(folders, tmp_path):
    base = make_tiny_base()
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    paths, wanted = folders
    population = LoraPopulation.from_adapters(str(tmp_path / "base"), paths[:1])
    assert relative_error(logits_of(population, 0), wanted[0]) <= 1e-5


def test_what_does_not_fit_names_its_folder_and_leaves_the_base_as_it_was(tiny_base, folders):
    paths, _ = folders
    weights = load_file(paths[1] / WEIGHTS_FILE)
    name = next(key for key in weights if "lora_A" in key)
    for changed, said in (
        ({name: torch.ones(2, 7)}, "got factors for 7 inputs"),
        ({name.replace("q_proj", "x_proj"): weights[name].clone()}, "has no lora_"),
        ({name: weights[name] * float("nan")}, "not finite"),
    ):
        save_file({**weights, **changed}, paths[1] / WEIGHTS_FILE, metadata={"format": "pt"})
        with pytest.raises(AdapterError, match=said) as caught:
            LoraPopulation.from_adapters(tiny_base, paths)
        assert str(caught.value).startswith(f"{paths[1]}: ")
        assert "\n" not in str(caught.value)
    save_file(weights, paths[1] / WEIGHTS_FILE, metadata={"format": "pt"})
    assert LoraPopulation.from_adapters(tiny_base, paths).size == 3


@pytest.mark.parametrize("given", [[], "runs/x/best"])
def test_a_list_of_folders_is_asked_for(tiny_base, given):
    with pytest.raises(ValueError, match="expected a list of at least one PEFT adapter folder"):
        LoraPopulation.from_adapters(tiny_base, given)
