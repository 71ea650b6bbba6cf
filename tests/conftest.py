"""A tiny random Llama with a byte-level tokenizer, made afresh; nothing is downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest


def make_tiny_base(**overrides):
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from agents.models import freeze

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<user>", "<agent>", "<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}<agent>"
    settings = dict(
        vocab_size=len(fast), hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        eos_token_id=fast.eos_token_id, bos_token_id=None, pad_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **overrides}))
    return freeze(model, fast, name="tiny")


@pytest.fixture
def tiny_base():
    return make_tiny_base()


@pytest.fixture(scope="session")
def smollm():
    """The embedded model, loaded once; its user detaches what it attaches."""
    from agents.models import load_base

    return load_base("embedded")
