"""Mixtures of experts against plain PEFT, which rewrites some of their adapters at load."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers.conversion_mapping as conversions
from peft import LoraConfig, PeftModel
from peft.utils.transformers_weight_conversion import _convert_peft_config_moe
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from agents.engine.adapters import Layout, RowLayout, StackedLora
from agents.engine.targets import rewritten_names
from agents.loading.models import ModelError, freeze
from agents.peft_io import AdapterError, write_adapter
from agents.policy import Request
from agents.population import LoraPopulation
from evolution.config import EvolutionConfig
from evolution.manager import EvolutionManager
from populora_env.records import Phase
from tests.agents.helpers import randomise

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")

IDS = torch.arange(9)[None] * 3
SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
    "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_num_experts": 4, "moe_k": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "n_shared_experts": 1, "shared_expert_intermediate_size": 24,
    "moe_layer_start_index": 1, "max_position_embeddings": 512, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
ATTENTION = {
    "deepseek_v3": "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj",
    "glm4_moe": "q_proj k_proj v_proj o_proj",
    "dots1": "q_proj k_proj v_proj o_proj",
    "ernie4_5_moe": "q_proj k_proj v_proj o_proj",
}


def tiny(kind, tokenizer):
    fields = AutoConfig.for_model(kind).to_dict()
    settings = {name: value for name, value in SIZES.items() if name in fields}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    return freeze(model, tokenizer, name=kind)


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def errors_in_peft(population, folder):
    """How far plain PEFT with the folder, and the bare base, are from our agent."""
    model = population.base.model
    with torch.no_grad():
        with population.lora.active(Layout((0,), 1)):
            ours = model(IDS).logits
        population.lora.detach()
        bare = model(IDS).logits
        theirs = PeftModel.from_pretrained(model, folder).eval()(IDS).logits
    return relative_error(theirs, ours), relative_error(bare, ours)


@pytest.mark.parametrize("kind", ATTENTION)
def test_what_peft_would_misread_is_not_saved(tiny_base, tmp_path, kind):
    population = LoraPopulation(tiny(kind, tiny_base.tokenizer), 1, 2)
    randomise(population.lora)
    with pytest.raises(AdapterError, match=r"^targets: got .*gate_proj, .* PEFT takes") as caught:
        population.save_adapters(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()
    config = EvolutionConfig(elites=1, parents=1)
    with pytest.raises(AdapterError, match="PEFT takes"):  # before a generation is played
        EvolutionManager(population, "procedural:chain_sum", config, folder=tmp_path / "run")
    # The reason: what plain PEFT reads is another model, without a word.
    factors = {layer.name: (layer.A[0], layer.B[0]) for layer in population.lora.layers()}
    write_adapter(tmp_path / "b", factors, alpha=4.0, dropout=0.0, base="b")
    assert errors_in_peft(population, tmp_path / "b")[0] > 0.1


@pytest.mark.parametrize("kind", ATTENTION)
def test_the_targets_that_the_message_names_are_read_by_peft(tiny_base, tmp_path, kind):
    base = tiny(kind, tiny_base.tokenizer)
    with pytest.raises(AdapterError) as caught:
        LoraPopulation(base, 1, 2).check_saving()
    base = tiny(kind, tiny_base.tokenizer)
    targets = str(caught.value).split("such as ")[1].split("+")
    assert sorted(targets) == sorted(ATTENTION[kind].split())
    population = LoraPopulation(base, 1, 2, targets=targets)
    randomise(population.lora)
    error, effect = errors_in_peft(population, population.save_adapter("agent_0", tmp_path))
    assert error < 1e-5 < 1e-2 < effect


@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen2_moe", "mixtral", "olmoe"])
def test_other_experts_keep_all_their_linear_layers(tiny_base, tmp_path, kind):
    base = tiny(kind, tiny_base.tokenizer)
    population = LoraPopulation(base, 1, 2)
    randomise(population.lora)
    error, effect = errors_in_peft(population, population.save_adapter("agent_0", tmp_path))
    assert error < 1e-5 < 1e-2 < effect


def test_the_names_are_those_that_this_peft_rewrites():
    names = ["q_proj", "o_proj", "gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"]
    names += ["shared_expert_gate", "gate_up_proj", "fc1"]
    kinds = {*conversions._MODEL_TO_CONVERSION_PATTERN, "mixtral", "qwen2_moe", "llama", "gpt_oss"}
    rewriting = 0
    for kind in kinds:
        config = LoraConfig(target_modules=list(names))
        _convert_peft_config_moe(config, SimpleNamespace(config=SimpleNamespace(model_type=kind)))
        gone = set(names) - set(config.target_modules)
        assert gone == rewritten_names(kind), kind
        rewriting += bool(gone)
    assert rewriting >= 20


@pytest.mark.parametrize("kind", ["hunyuan_v1_moe", "phimoe", "afmoe", "qwen2_moe"])
def test_rows_in_any_order_get_their_own_agents(tiny_base, kind):
    # Their layers see tokens without rows, are asked for the type of their weights, or are routers
    # that give more than a product.
    population = LoraPopulation(tiny(kind, tiny_base.tokenizer), 2, 2)
    randomise(population.lora)
    ids = torch.arange(27).view(3, 9) * 7 % 250
    model = population.base.model
    with torch.no_grad():
        bare = model(ids).logits
        with population.lora.active(RowLayout((1, 0, 1))):
            mixed = model(ids).logits
        for row, agent in enumerate((1, 0, 1)):
            with population.lora.active(Layout((agent,), 1)):
                alone = model(ids[row : row + 1]).logits
            assert relative_error(mixed[row : row + 1], alone) < 1e-5
    assert relative_error(bare, mixed) > 1e-2
    with population.lora.active(Layout((0, 1, 1), 1)):
        model(ids).logits.log_softmax(-1)[..., 7].sum().backward()
    assert any(group.A.grad is not None for group in population.lora.groups)
    population.act([Request(f"agent_{i % 2}", Phase.SOLVE, "x" * (3 + 9 * i)) for i in range(3)])


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
def test_attention_that_picks_tokens_is_refused_at_once(tiny_base, kind):
    with pytest.raises(ModelError, match=rf"{kind}.* layers of kind indexed_attention") as caught:
        tiny(kind, tiny_base.tokenizer)
    assert "\n" not in str(caught.value)


class Sparse(nn.Module):
    """Each expert sees the tokens that were sent to it, as in models of one's own."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(4, 4)}) for _ in range(3))

    def forward(self, x):
        flat = x.reshape(-1, 4)
        chosen = self.gate(flat).argmax(-1)
        out = flat.clone()
        for number, expert in enumerate(self.experts):
            out[chosen == number] = expert["up"](flat[chosen == number])
        return out.view(x.shape)


def test_layers_of_single_experts_are_refused():
    with pytest.raises(ValueError, match=r"experts\.0\.up and 2 more .*, such as gate$") as caught:
        StackedLora(Sparse(), 2, 2)
    assert "\n" not in str(caught.value)
    StackedLora(Sparse(), 2, 2, targets="gate")


def test_a_layer_that_sees_some_tokens_says_so():
    model = Sparse()
    model.branches = model.experts
    del model.experts
    model.forward = lambda x: model.branches[0]["up"](x.reshape(-1, 4)[:5])
    lora = StackedLora(model, 2, 2, targets="up")
    with lora.active(Layout((0, 1), 1)), pytest.raises(ValueError, match="saw 5 tokens of a batch"):
        model(torch.ones(2, 3, 4))
