"""The figures in the comments of the presets for one GPU of 24 GB are the plan's.

``python -m tests.evolution.planning.test_presets`` prints them anew.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from evolution.planning.demand import demand_of
from evolution.planning.memory import plan_memory
from evolution.planning.shapes import BaseShapes
from evolution.runs.settings_files import read_preset
from populora_env.records import Phase

GIB, ROOM, SPARE = 2**30, 24e9 / 2**30, 1.0
MODELS = {
    "mistral-7b": MistralConfig(
        vocab_size=32768, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, sliding_window=None,
    ),
    "llama2-7b": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32,
    ),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False,
    ),
}  # fmt: skip
# A problem of GSM8K in a chat template has up to 256 tokens; two attempts to compare have 512 more.
PROMPTS = {Phase.SOLVE: 256, Phase.COMPARE: 768}


def planned(name, **changes):
    options = replace(read_preset(name), **changes)
    shapes = BaseShapes.of(MODELS[name])
    return shapes, options, plan_memory(shapes, demand_of(options, PROMPTS, on_gpu=True))


def figures(name):
    """The lines of a preset's comment that hold figures."""
    shapes, options, plan = planned(name)
    demand = demand_of(options, PROMPTS, on_gpu=True)
    rows = min(demand.rows, demand.replies)
    again = "activations, computed again layer by layer, and gradients"
    table = [
        (f"base, {shapes.weights:.2e} weights of 2 bytes", plan.always["base"]),
        (
            f"{options.size} adapters of {shapes.adapter(options.rank):.2e} weights, and the best",
            plan.always["adapters"] + plan.always["champion"],
        ),
        ("their means and squares of gradients, float32", plan.always["optimiser"]),
        (
            f"decoding: keys, values: {rows} rows of {demand.prompt + demand.reply} tokens, "
            "prompts being read",
            plan.phases["decoding"]["keys and values"],
        ),
        (
            "decoding: passes, logits, factors picked",
            sum(plan.phases["decoding"].values()) - plan.phases["decoding"]["keys and values"],
        ),
        (f"learning: {again}", sum(plan.phases["learning"].values())),
        ("saving: copies", plan.phases["saving"]["copies"]),
    ]
    lines = [f"#   {what:76} {size / GIB:4.1f}" for what, size in table]
    most = ", ".join(f"{phase} {plan.total(phase) / GIB:.1f}" for phase in list(plan.phases)[1:])
    return [*lines, f"# At most {most} of {ROOM:.1f}."]


@pytest.mark.parametrize("name", MODELS)
def test_the_figures_in_the_comments_are_those_of_the_plan(name):
    text = files("evolution").joinpath(f"presets/{name}.toml").read_text(encoding="utf-8")
    assert [line for line in figures(name) if line not in text.splitlines()] == []


@pytest.mark.parametrize("name", MODELS)
def test_they_fit_24_gb(name):
    assert planned(name)[2].peak / GIB < ROOM - SPARE


@pytest.mark.parametrize("name", MODELS)
def test_they_would_not_fit_with_all_activations(name):
    plan = planned(name, gradient_checkpointing=False)[2]
    assert plan.fullest == "learning"
    assert plan.peak / GIB > ROOM


if __name__ == "__main__":
    for each in MODELS:
        print(each, *figures(each), sep="\n")
