"""Base models of strangers: each ends loaded, or in one line, soon and in little memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import time

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, FalconConfig, GPT2Config

from agents.loading.gguf_header import check_gguf
from agents.loading.models import ModelError, freeze, load_base
from agents.population import LoraPopulation
from tests.conftest import forget_memory_peak, make_tiny_base, memory_peak

gguf = pytest.importorskip("gguf")

# PyTorch's layers draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
BLOCK = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
BLOCKS = {int(kind): size for kind, size in gguf.constants.GGML_QUANT_SIZES.items()}


def save(folder):
    base = make_tiny_base()
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def save_gguf(path):
    """A tiny Llama; its rows are not in llama.cpp's order, which nobody looks at here."""
    base = make_tiny_base(vocab_size=264)
    config = base.model.config
    tokens = sorted(base.tokenizer.get_vocab(), key=base.tokenizer.get_vocab().get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(config.vocab_size)
    writer.add_name("tiny")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(config.eos_token_id)
    for key, tensor in base.model.state_dict().items():
        name = key.removesuffix(".weight")
        if name not in OUTER:
            _, _, block, rest = name.split(".", 3)
        short = OUTER.get(name) or f"blk.{block}.{BLOCK[rest]}"
        writer.add_tensor(f"{short}.weight", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return save(tmp_path_factory.mktemp("known"))


def rope(**changes):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **changes}}


def ends_well(path):
    """Load a model; the error's text, or None."""
    began, held = time.monotonic(), forget_memory_peak()
    said = None
    try:
        load_base(str(path))
    except ModelError as error:
        said = str(error)
        assert said.isprintable(), said
        assert len(said) < 1500
    assert time.monotonic() - began < 5
    assert memory_peak() - held < 1 << 30
    return said


ODD = [
    None, True, -1, 0, 1, 3, 1.5, 10**5, 10**9, 10**12, 10**400, "x", "", [], {}, [[1]],
    {"rope_type": "yarn"}, "float64", "eager", "../x",
]  # fmt: skip


def edited(draw, folder):
    """Change one file of a model's folder at random, as values or as bytes."""
    names = ["config.json"] * 4 + ["model.safetensors"] * 2
    file = folder / draw.choice(
        [*names, "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
    )
    data = file.read_bytes()
    if draw.random() < 0.3:
        changed = bytearray(data)
        changed[draw.randrange(len(data))] = draw.randrange(256)
        data = bytes(changed[: draw.randrange(len(data))] if draw.random() < 0.4 else changed)
    elif file.suffix == ".json":
        values = json.loads(data)
        for _ in range(draw.randint(1, 2)):
            values[draw.choice(list(values))] = draw.choice(ODD)
        data = json.dumps(values).encode()
    else:
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        tensor = draw.choice([name for name in header if name != "__metadata__"])
        field = draw.choice(["dtype", "shape", "data_offsets"])
        header[tensor][field] = draw.choice([*ODD, [2, 3], [10**12, 2], "F16", "I8", [0, 10**12]])
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + body
    file.write_bytes(data)


@pytest.mark.slow
def test_random_edits_of_a_folder_load_or_end_in_one_line(known, tmp_path):
    draw = random.Random(11)
    ends = []
    for i in range(60):
        folder = shutil.copytree(known, tmp_path / str(i))
        edited(draw, folder)
        ends.append(ends_well(folder))
    assert 20 < sum(end is not None for end in ends) < 60


@pytest.mark.slow
def test_random_edits_of_a_gguf_file_load_or_end_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    whole = save_gguf(file)
    assert ends_well(file) is None
    header = whole.index(b"blk.1.ffn_up.weight")
    draw = random.Random(12)
    ends = []
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 2)):
            at = draw.randrange(4, draw.choice([900, header]))
            width = draw.choice([1, 4, 8])
            value = draw.choice([0, 1, 7, 2**31, 2**40, 2**63, 10**6, 10**9])
            data[at : at + width] = (value % 256**width).to_bytes(width, "little")
        if draw.random() < 0.1:
            del data[draw.randrange(len(data)) :]
        file.write_bytes(data)
        ends.append(ends_well(file))
    assert 20 < sum(end is not None for end in ends) < 60


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (
            "config.json",
            {"num_hidden_layers": 10**6},
            "num_hidden_layers 1000000, expected at most",
        ),
        ("config.json", {"vocab_size": 10**9}, "describes .* weights, but its files hold"),
        ("config.json", {"intermediate_size": 10**8}, "describes .* weights, but its files hold"),
        ("config.json", {"hidden_size": 2**40}, "could not be loaded|describes"),
        ("config.json", {"head_dim": 2**24}, "describes .* weights"),
        (
            "config.json",
            {"intermediate_size": 100},
            "has another shape for the weights model.layer",
        ),
        ("config.json", {"max_position_embeddings": -1}, "has a context of -1 tokens"),
        ("config.json", {"use_cache": "x"}, r"Validation error for field 'use_cache': TypeError"),
        ("generation_config.json", {"eos_token_id": {"a": 1}}, "the token {'a': 1}, expected one"),
        ("generation_config.json", {"eos_token_id": 259}, "token 259, expected one of its 259"),
        ("generation_config.json", {"eos_token_id": [258, 10**6]}, "with the token 1000000, exp"),
        ("generation_config.json", {"eos_token_id": -1}, "with the token -1, expected one of"),
        ("generation_config.json", {"eos_token_id": True}, "with the token True, expected one"),
        ("generation_config.json", {"eos_token_id": 2.5}, "with the token 2.5, expected one of"),
        ("config.json", {"eos_token_id": 10**6}, "ends its replies with the token 1000000"),
        ("config.json", {"max_position_embeddings": 0}, "has a context of 0 tokens"),
        ("config.json", {"max_position_embeddings": 1}, "of 1 tokens, expected at least 4, for"),
        ("config.json", rope(rope_theta=0), "says rope_theta 0, expected a finite number of at"),
        ("config.json", rope(rope_theta=-1.0), "says rope_theta -1.0, expected a finite number"),
        ("config.json", rope(rope_theta=float("nan")), "says rope_theta nan, expected a finite"),
        ("config.json", rope(rope_theta=float("inf")), "says rope_theta inf, expected a finite"),
        ("config.json", {"rope_theta": 0, "rope_parameters": None}, "says rope_theta 0, expected"),
        ("config.json", rope(rope_type="linear", factor=0.0), "angles that are not numbers"),
        ("tokenizer_config.json", {"model_max_length": "x"}, "could not be loaded"),
    ],
)
def test_settings_of_another_model(known, tmp_path, file, changes, said):
    folder = shutil.copytree(known, tmp_path / "m")
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=said):
        load_base(str(folder))
    assert ends_well(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "m.gguf"])
def test_a_file_that_is_mostly_holes(known, tmp_path, file):
    folder = shutil.copytree(known, tmp_path / "m")
    with (folder / file).open("ab") as opened:
        opened.write(b"GGUF")
        opened.truncate(1 << 34)
    said = ends_well(folder / file if file == "m.gguf" else folder)
    assert f"{file} claims 17,179,869,184 bytes, of which " in said


def test_a_pipe_in_a_folder(known, tmp_path):
    folder = shutil.copytree(known, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "'model.safetensors' in" in ends_well(folder)


@pytest.mark.parametrize(
    ("at", "number", "width", "said"),
    [
        (4, 9, 4, "version 9, expected 2 or 3"),
        (8, 2**60, 8, "announces 1152921504606846976 entries|cut short"),
        (16, 2**60, 8, "announces 1152921504606846976 entries"),
        (24, 2**60, 8, "a name of 1152921504606846976 bytes"),
    ],
)
def test_counts_and_lengths_that_a_gguf_file_has_no_room_for(tmp_path, at, number, width, said):
    file = tmp_path / "model.gguf"
    data = bytearray(save_gguf(file))
    check_gguf(file, BLOCKS)
    data[at : at + width] = number.to_bytes(width, "little")
    file.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        check_gguf(file, BLOCKS)


def test_every_cut_of_a_gguf_file_is_seen(tmp_path):
    file = tmp_path / "model.gguf"
    data = save_gguf(file)
    for length in [*range(0, 400, 7), len(data) // 2, len(data) - 40]:
        file.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut short|no room|bytes"):
            check_gguf(file, BLOCKS)


CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import LlamaConfig as Theirs, LlamaForCausalLM as Model
from transformers import PreTrainedTokenizerFast as Words
"""


@pytest.mark.parametrize("kind", ["llama", "theirs"])
def test_a_models_own_code_is_never_run(known, tmp_path, monkeypatch, kind):
    folder, mark = shutil.copytree(known, tmp_path / "m"), tmp_path / "ran"
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    for name, auto in (
        ("config.json", {"AutoConfig": "code.Theirs", "AutoModelForCausalLM": "code.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["code.Words", "code.Words"]}),
    ):
        values = json.loads((folder / name).read_text())
        extra = {"model_type": kind} if name == "config.json" else {}
        (folder / name).write_text(json.dumps({**values, **extra, "auto_map": auto}))

    def ask(*_):
        raise AssertionError("somebody asked whether to run it")

    monkeypatch.setattr("builtins.input", ask)
    if kind == "llama":  # known here: Transformers' own code reads it
        load_base(str(folder))
    else:
        assert ends_well(folder)
    assert not mark.exists()


def test_no_reader_may_run_a_models_code(known, tmp_path, monkeypatch):
    """Also not those that convert a GGUF file."""
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    seen = []

    def watched(kind, method):
        plain = getattr(kind, method).__func__

        def call(cls, *args, **options):
            seen.append(options.get("trust_remote_code"))
            return plain(cls, *args, **options)

        monkeypatch.setattr(kind, method, classmethod(call))

    for kind in (AutoConfig, AutoModelForCausalLM, agents_tokenizer()):
        watched(kind, "from_pretrained")
    save_gguf(tmp_path / "model.gguf")
    load_base(str(tmp_path / "model.gguf"))
    load_base(str(known))
    assert len(seen) >= 6
    assert set(seen) == {False}


def agents_tokenizer():
    from agents.loading import models

    return models.AutoTokenizer


def test_falcon_with_alibi_is_refused(tiny_base):
    config = FalconConfig(**SMALL, alibi=True, new_decoder_architecture=False)
    with pytest.raises(
        ModelError, match=r"\(falcon\) cannot have several texts in one row"
    ) as caught:
        freeze(AutoModelForCausalLM.from_config(config), tiny_base.tokenizer, name="their/model")
    assert "\n" not in str(caught.value)
    turning = FalconConfig(**SMALL, alibi=False)
    freeze(AutoModelForCausalLM.from_config(turning), tiny_base.tokenizer)


def test_a_model_that_ignores_where_its_tokens_are_is_refused(tiny_base):
    forward = tiny_base.model.model.forward

    def deaf(*args, position_ids=None, attention_mask=None, **options):
        return forward(*args, **options)

    tiny_base.model.model.forward = deaf
    with pytest.raises(ModelError, match="mixes up texts that share a row"):
        freeze(tiny_base.model, tiny_base.tokenizer)


def test_the_layers_of_gpt2_are_no_linear_layers(tiny_base):
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match=r"Conv1D") as caught:
        LoraPopulation(freeze(model, tiny_base.tokenizer, name="gpt2"), 2, 2)
    assert "\n" not in str(caught.value)
    assert isinstance(model.transformer.h[0].attn.c_attn.weight, torch.nn.Parameter)
