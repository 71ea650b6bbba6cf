"""A base without weights is to a population what the base with them is."""

from __future__ import annotations

import json

import pytest
import torch

from agents.loading.digest import base_digest, skeleton_digest
from agents.loading.models import ModelError, load_base
from agents.loading.skeleton import load_skeleton
from agents.population import LoraPopulation
from tests.agents.helpers import randomise
from tests.agents.table_engine import TableEngine

pytestmark = pytest.mark.usefixtures("shared_generators")


@pytest.fixture
def folder(tiny_base, tmp_path):
    tiny_base.model.save_pretrained(tmp_path)
    tiny_base.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def shown(lora):
    return [(f.name, f.A.shape, f.A.dtype, f.B.shape, f.B.device) for f in lora.layers()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_and_prompts_are_those_of_the_base(folder, dtype):
    base, skeleton = load_base(str(folder), dtype=dtype), load_skeleton(str(folder), dtype=dtype)
    assert (skeleton.is_skeleton, base.is_skeleton) == (True, False)
    assert skeleton.device == torch.device("cpu")
    assert (skeleton.precision, skeleton.context) == (base.precision, base.context)
    assert skeleton.path == base.path
    for text in ("2 + 2 = <end>", "hello \ud800"):
        assert skeleton.chat_ids(text) == base.chat_ids(text)
        assert skeleton.text_ids(text) == base.text_ids(text)
    assert skeleton.stop_ids() == base.stop_ids()
    engine = TableEngine()
    here = LoraPopulation(base, 3, [2, 3, 4])
    there = LoraPopulation(skeleton, 3, [2, 3, 4], engine=engine)
    assert shown(randomise(there.lora)) == shown(randomise(here.lora))
    assert there.lora.hashes(range(3)) == here.lora.hashes(range(3))
    assert len(set(here.lora.hashes(range(3)).values())) == 3
    here.save_adapters(folder / "adapters")
    there.lora.layers().__next__().A.zero_()
    there.load_adapters(folder / "adapters")
    assert there.lora.hashes(range(3)) == here.lora.hashes(range(3))
    here.lora.detach()


def test_its_digest_is_that_of_the_shapes(folder):
    base, skeleton = load_base(str(folder)), load_skeleton(str(folder))
    assert base_digest(skeleton) == ""
    assert base_digest(base) != skeleton_digest(base) == skeleton_digest(skeleton)
    before = skeleton_digest(base)
    population = LoraPopulation(base, 2, 2)
    assert skeleton_digest(base) == before
    population.lora.detach()
    wide = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 96}
    (folder / "config.json").write_text(json.dumps(wide))
    assert skeleton_digest(load_skeleton(str(folder))) != before


def test_adapters_of_a_base_in_4_bits_are_float32(folder):
    skeleton = load_skeleton(str(folder), dtype="bfloat16", load_in_4bit=True)
    population = LoraPopulation(skeleton, 2, 2, engine=TableEngine())
    assert {factors.A.dtype for factors in population.lora.layers()} == {torch.float32}
    assert skeleton_digest(skeleton) != ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"eos_token_id": 4000}, "ends its replies with the token 4000"),
        ({"max_position_embeddings": 2}, "has a context of 2 tokens"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "says rope_theta 0"),
        ({"vocab_size": 100}, "embeds 100 tokens, but its tokenizer has ids up to 258"),
        ({"num_hidden_layers": 3000}, "says num_hidden_layers 3000"),
        ({"model_type": "unheard-of"}, "could not be loaded"),
    ],
)
def test_what_the_base_would_be_refused_for_is_refused(folder, changed, said):
    settings = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=said) as told:
        load_skeleton(str(folder))
    assert "\n" not in str(told.value)


def test_arguments():
    with pytest.raises(ModelError, match="dtype: got 'int3'"):
        load_skeleton(dtype="int3")
    with pytest.raises(ModelError, match="model: got None, expected text"):
        load_skeleton(None)
    with pytest.raises(ModelError, match="neither an existing folder"):
        load_skeleton("just-a-word")


def test_the_embedded_model(smollm):
    skeleton = load_skeleton()
    assert skeleton_digest(skeleton) == skeleton_digest(smollm)
    assert skeleton.stop_ids() == smollm.stop_ids()
    assert skeleton.chat_ids("What is 2 + 2?") == smollm.chat_ids("What is 2 + 2?")


def test_nothing_generates_here(folder):
    with pytest.raises(ValueError, match=r"engine: got None, but the weights of '.*' are not here"):
        LoraPopulation(load_skeleton(str(folder)), 2, 2)
