from __future__ import annotations

import importlib.util
import json
import logging

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from agents.engine.adapters import Layout
from agents.engine.generation import Job, generate
from agents.loading.files import content_key
from agents.loading.linear import (
    FrozenLinear,
    MatmulPrecision,
    onednn,
    pack_linears,
    packs_bfloat16,
)
from agents.loading.models import ModelError, freeze, load_base
from agents.population import LoraPopulation
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")

four_bits = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.mark.skipif(onednn() is None, reason="this build of PyTorch has no oneDNN")
def test_bfloat16_products_are_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr("agents.loading.linear.packs_bfloat16", lambda: False)
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8))
    with pytest.raises(ValueError, match=r"products: got 'bfloat16'.*use 'float32', or 'auto'"):
        pack_linears(layers, MatmulPrecision.BFLOAT16)
    assert type(layers[0]) is torch.nn.Linear


@pytest.mark.skipif(onednn() is None, reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("products", "tolerance"), [(MatmulPrecision.FLOAT32, 1e-5), (MatmulPrecision.BFLOAT16, 2e-2)]
)
def test_packed_layer_equals_the_plain_one(bias, products, tolerance):
    if products == MatmulPrecision.BFLOAT16 and not packs_bfloat16():
        pytest.skip("this processor has no bfloat16 products")
    plain = torch.nn.Linear(96, 40, bias=bias).requires_grad_(False)
    packed = torch.nn.Linear(96, 40, bias=bias).requires_grad_(False)
    packed.load_state_dict(plain.state_dict())
    assert pack_linears(torch.nn.Sequential(packed), products) == 1
    assert isinstance(packed, FrozenLinear)
    assert set(packed.state_dict()) == set(plain.state_dict())
    x, up = (
        torch.randn(3, 7, 96, generator=torch.Generator().manual_seed(0)),
        torch.randn(3, 7, 40, generator=torch.Generator().manual_seed(1)),
    )
    results = []
    for layer in (plain, packed):
        given = x.clone().requires_grad_()
        out = layer(given)
        out.backward(up)
        results.append((out.detach(), given.grad, layer(x)))
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert ((ours - theirs).norm() / theirs.norm()).item() < tolerance


def test_only_float32_layers_on_a_cpu_are_packed():
    assert pack_linears(torch.nn.Sequential(torch.nn.Linear(4, 4).to(torch.bfloat16))) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "/no/such/folder"}, "neither an existing folder"),
        ({"name": "gone.gguf"}, "no file 'gone.gguf'"),
        ({"name": "just-a-word"}, "neither an existing folder"),
        ({"name": "nobody/no-such-model"}, "could not be loaded"),
        ({"dtype": "int3"}, "dtype: got 'int3'"),
        ({"products": "int3"}, "products: got 'int3'"),
    ],
)
def test_what_cannot_be_loaded_is_said(arguments, said):
    with pytest.raises(ModelError, match=said):
        load_base(**arguments)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_base(str(tmp_path))


def test_saved_folder_loads_and_speaks_its_chat_template(tiny_base, tmp_path):
    tiny_base.model.save_pretrained(tmp_path)
    tiny_base.tokenizer.save_pretrained(tmp_path)
    again = load_base(str(tmp_path))
    ids = torch.tensor([tiny_base.chat_ids("hello \ud800")])
    assert again.chat_ids("hello \ud800") == ids[0].tolist()
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, tiny_base.model(ids).logits)
    assert not any(p.requires_grad for p in again.model.parameters())
    assert again.stop_ids() == {tiny_base.tokenizer.eos_token_id}


def test_the_embedded_model_is_a_language_model(smollm):
    ids = torch.tensor([smollm.tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        likeliest = smollm.model(ids).logits[0, -1].argmax()
    assert smollm.tokenizer.decode([int(likeliest)]).strip() == "Paris"


# Bases in 4 bits


@pytest.fixture
def tiny_base_32s():
    """All widths are multiples of 32, as 4-bit kernels need."""
    return make_tiny_base(hidden_size=64, intermediate_size=128)


@pytest.fixture
def tiny_folder(tiny_base_32s, tmp_path):
    tiny_base_32s.model.save_pretrained(tmp_path / "base")
    tiny_base_32s.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@four_bits
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_on_a_4_bit_base_equal_plain_peft(tiny_base_32s, tiny_folder, tmp_path, dtype):
    import bitsandbytes

    base = load_base(str(tiny_folder), dtype=dtype, device="cpu", load_in_4bit=True)
    q_proj = base.model.model.layers[0].self_attn.q_proj
    assert isinstance(q_proj, bitsandbytes.nn.Linear4bit)
    assert q_proj.weight.numel() == 64 * 64 // 2  # two weights a byte
    # The stored weights are the model's own, to 4 bits.
    stored = bitsandbytes.functional.dequantize_4bit(q_proj.weight.data, q_proj.weight.quant_state)
    original = tiny_base_32s.model.model.layers[0].self_attn.q_proj.weight
    assert 0.01 < ((stored - original).norm() / original.norm()).item() < 0.15

    population = LoraPopulation(base, 2, (2, 4), alpha=6.0)
    lora = randomise(population.lora)
    lora.enforce_ranks()
    assert {p.dtype for p in lora.parameters()} == {torch.float32}
    folders = population.save_adapters(tmp_path / "adapters")
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(2))
    with lora.active(Layout((0, 1), 1)):
        ours = base.model(ids).logits
    lora.detach()
    for agent, folder in enumerate(folders):
        peft = PeftModel.from_pretrained(base.model, folder)
        with torch.no_grad():
            theirs = peft(ids[agent : agent + 1]).logits
        peft.unload()
        error = (ours[agent] - theirs[0]).float().norm() / theirs.float().norm()
        assert error.item() <= (1e-5 if dtype == "float32" else 5e-2)


@four_bits
def test_gradients_pass_through_a_4_bit_base_that_has_decoded(tiny_folder):
    from bitsandbytes.functional import dequantize_4bit

    small = load_base(str(tiny_folder), device="cpu", load_in_4bit=True)
    whole = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    for name, module in small.model.named_modules():
        if type(module).__name__ == "Linear4bit":
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            whole.get_submodule(name).weight.data.copy_(weight)
    results = []
    for base in (small, freeze(whole, small.tokenizer)):
        lora = randomise(LoraPopulation(base, 1, 2).lora)
        generate(base, lora, [Job(0, base.chat_ids("hello"), 4, 0)])
        with lora.active(Layout((0,), 1)):
            base.model(torch.tensor([base.chat_ids("hello")])).logits.square().mean().backward()
        results.append([p.grad for p in lora.parameters()])
    for ours, wanted in zip(*results, strict=True):
        assert ((ours - wanted).norm() / wanted.norm()).item() < 1e-4


@four_bits
def test_a_model_saved_in_4_bits_loads_and_decodes(tiny_folder, tmp_path):
    base = load_base(str(tiny_folder), device="cpu", load_in_4bit=True)
    base.model.save_pretrained(tmp_path / "small")
    base.tokenizer.save_pretrained(tmp_path / "small")
    again = load_base(str(tmp_path / "small"), device="cpu")
    population = LoraPopulation(again, 2, 2)
    randomise(population.lora)
    ids = torch.tensor([again.chat_ids("hello")])
    with torch.no_grad():
        assert torch.allclose(again.model(ids).logits, base.model(ids).logits, atol=1e-4)
    jobs = [Job(agent, again.chat_ids(text), 8, 0) for text in ("a", "b c d") for agent in (0, 1)]
    crowd = generate(again, population.lora, jobs, temperature=0)
    alone = [generate(again, population.lora, [job], temperature=0)[0] for job in jobs]
    assert [r.ids for r in crowd] == [r.ids for r in alone]
    assert len({r.ids for r in crowd}) == 4


@pytest.mark.parametrize("missing", ["bitsandbytes", "accelerate"])
def test_4_bits_without_their_packages_say_what_to_install(tiny_folder, monkeypatch, missing):
    here = importlib.util.find_spec("json")  # a package that is there, whatever is installed
    with monkeypatch.context() as patched:
        patched.setattr(
            "agents.loading.models.importlib.util.find_spec",
            lambda name: None if name == missing else here,
        )
        with pytest.raises(ModelError, match=f"needs the package {missing}; pip install"):
            load_base(str(tiny_folder), load_in_4bit=True)
    load_base(str(tiny_folder))


def test_a_quantised_folder_whose_package_is_missing_is_said(tiny_folder):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    path = tiny_folder / "config.json"
    config = {"quant_method": "gptq", "bits": 4}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))
    with pytest.raises(ModelError, match=r"could not be loaded \(.*GPTQ"):
        load_base(str(tiny_folder))


def saved(folder, base):
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "lacks the weights model.layers.1.mlp.up"),
        ("lm_head.weight", None, "lacks the weights lm_head"),
        ("model.norm.weight", torch.ones(3), "could not be loaded|another shape"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, key, value, said):
    folder = saved(tmp_path, make_tiny_base())

    def edit(weights):
        del weights[key]
        if value is not None:
            weights[key] = value

    edit_weights(folder, edit)
    with pytest.raises(ModelError, match=said):
        load_base(str(folder))


def test_tied_weights_are_not_missing(tmp_path):
    folder = saved(tmp_path, make_tiny_base(tie_word_embeddings=True))
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    base = load_base(str(folder))
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight


@pytest.mark.parametrize("damage", ["truncated", "empty", "junk"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_of_a_folder_is_said_in_one_line(tmp_path, file, damage):
    folder = saved(tmp_path, make_tiny_base())
    whole = (folder / file).read_bytes()
    data = {"truncated": whole[: len(whole) // 2], "empty": b"", "junk": bytes(range(256))}
    (folder / file).write_bytes(data[damage])
    with pytest.raises(ModelError) as caught:
        load_base(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + bytes(60), b"junk" * 99])
def test_a_damaged_gguf_file_is_said_in_one_line(tmp_path, monkeypatch, data):
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.gguf") as caught:
        load_base(str(file))
    assert "\n" not in str(caught.value)


def test_a_gguf_file_is_known_by_its_whole_content(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(3 << 20))
    first = content_key(file)
    other = tmp_path / "new.gguf"
    other.write_bytes(b"GGUF" + bytes((3 << 20) - 1) + b"x")
    other.rename(file)
    assert content_key(file) != first


def test_a_name_that_is_no_text_and_a_tokenizer_too_large_are_said(tiny_base):
    with pytest.raises(ModelError, match=r"model: got 7, expected text"):
        load_base(7)
    with pytest.raises(ModelError, match=r"embeds 100 tokens, but its tokenizer has ids up to 258"):
        make_tiny_base(vocab_size=100, eos_token_id=1)
    tiny_base.tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ModelError, match=r"refuses a user turn"):
        freeze(tiny_base.model, tiny_base.tokenizer)


def test_a_head_of_more_than_one_matrix_is_refused(tiny_base):
    tiny_base.model.lm_head.register_forward_hook(lambda *_: None)
    freeze(tiny_base.model, tiny_base.tokenizer)
    forward = tiny_base.model.forward

    def shifted(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits.roll(1, -1)
        return out

    tiny_base.model.forward = shifted
    with pytest.raises(ModelError, match="more to its logits"):
        freeze(tiny_base.model, tiny_base.tokenizer)


def test_longrope_bounds_the_context():
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6,
               "original_max_position_embeddings": 64, "factor": 32.0,
               "rope_theta": 1e4}  # fmt: skip
    base = make_tiny_base(rope_parameters=scaling)
    assert base.context == 64
    with pytest.raises(ValueError, match="context of 64"):
        generate(base, None, [Job(None, [1] * 60, 5, 0)])
