"""Each model family against plain PEFT, which holds one adapter at a time."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft import PeftModel

from agents.engine.adapters import Layout
from agents.engine.generation import Job, generate
from agents.loading.models import ModelError, freeze
from agents.policy import Request
from agents.population import LoraPopulation
from populora_env.records import Phase
from tests.agents.helpers import randomise

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")

# Family: its configuration class, and what a tiny one needs besides the common sizes.
FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral-window": ("MistralConfig", {"sliding_window": 96}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-tied": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma": ("GemmaConfig", {"head_dim": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "tie_word_embeddings": False,
            "sliding_window": 96,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma4-unified": (  # the heads of its layers differ in size
        "Gemma4UnifiedTextConfig",
        {
            "head_dim": 16,
            "global_head_dim": 24,
            "tie_word_embeddings": False,
            "sliding_window": 96,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
    ),
}
PROMPTS = ["short", "a rather longer prompt", "x", "yet another one, the longest of them all"]
AGENTS = 3
WINDOW = {"sliding_window": 20}


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def tiny_model(tokenizer, kind, **settings):
    """A random model, of which every parameter matters and whose replies end at some point."""
    common = dict(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    config = getattr(transformers, kind)(**{**common, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = transformers.AutoModelForCausalLM.from_config(config)
        drawn = torch.Generator().manual_seed(5)
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.data += 0.3 * torch.randn(parameter.shape, generator=drawn)
        model.get_output_embeddings().weight.data[tokenizer.eos_token_id] *= 2.5
    return model


QUICK = ("llama", "mistral-window", "gemma3")  # the others are slow tests


@pytest.fixture(
    params=[
        *QUICK,
        *(pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES if n not in QUICK),
    ]
)
def family(request, tiny_base):
    kind, settings = FAMILIES[request.param]
    model = tiny_model(tiny_base.tokenizer, kind, **settings)
    return freeze(model, tiny_base.tokenizer, name=request.param)


@pytest.fixture
def population(family):
    """Agents that differ in rank and scale."""
    population = LoraPopulation(family, AGENTS, (4, 2, 3), alpha=(8.0, 5.0, 3.0))
    randomise(population.lora)
    population.lora.enforce_ranks()
    return population


def reference(peft, prompt_ids, limit, end):
    """Transformers' own greedy generation, one prompt at a time."""
    ids = torch.tensor([prompt_ids])
    out = peft.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False,
        pad_token_id=end,
    )  # fmt: skip
    reply = out[0, ids.shape[1] :].tolist()
    return reply[: reply.index(end)] if end in reply else reply


def test_logits_and_gradients_equal_plain_peft(population, tmp_path):
    lora, model = population.lora, population.base.model
    folders = population.save_adapters(tmp_path)
    ids = torch.randint(0, 200, (2 * AGENTS, 11), generator=torch.Generator().manual_seed(1))
    with lora.active(Layout(tuple(range(AGENTS)), 2)):
        ours = model(ids).logits
    ours.log_softmax(-1)[..., 7].sum().backward()
    grads = {
        name: (group.A.grad.split(lora.rank, 1)[which], group.B[which].grad)
        for names, group in zip(lora._names, lora.groups, strict=True)
        for which, name in enumerate(names)
    }
    lora.detach()
    bare = model(ids).logits
    for agent, folder in enumerate(folders):
        rows = slice(2 * agent, 2 * agent + 2)
        peft = PeftModel.from_pretrained(model, folder, is_trainable=True)
        theirs = peft(ids[rows]).logits
        theirs.log_softmax(-1)[..., 7].sum().backward()
        assert relative_error(ours[rows], theirs) <= 1e-5
        assert relative_error(ours[rows], bare[rows]) > 1e-2
        own = int(lora.ranks[agent])
        for name, (A, B) in grads.items():
            layer = peft.base_model.model.get_submodule(name)
            assert relative_error(A[agent, :own], layer.lora_A["default"].weight.grad) <= 1e-4, name
            assert relative_error(B[agent, :, :own], layer.lora_B["default"].weight.grad) <= 1e-4
        peft.unload()


@pytest.mark.slow
def test_cached_decoding_equals_plain_peft(population, tmp_path):
    base, limit = population.base, 30
    folders = population.save_adapters(tmp_path)
    jobs = [
        Job(agent, base.chat_ids(f"{prompt} {i}"), limit, 0)
        for i in range(2)
        for prompt in PROMPTS
        for agent in range(AGENTS)
    ]
    replies = generate(base, population.lora, jobs, temperature=0)
    lengths = [len(reply.ids) for reply in replies]
    assert len(set(lengths)) > 2  # rows that end early, at different steps
    assert any(reply.finished for reply in replies)
    population.lora.detach()
    wanted = {}
    for agent, folder in enumerate(folders):
        peft = PeftModel.from_pretrained(base.model, folder)
        for i, job in enumerate(jobs):
            if job.agent == agent:
                wanted[i] = reference(peft, job.prompt_ids, limit, base.tokenizer.eos_token_id)
        peft.unload()
    assert [list(reply.ids) for reply in replies] == [wanted[i] for i in range(len(jobs))]
    assert len({tuple(r.ids for r in replies[agent::AGENTS]) for agent in range(AGENTS)}) == AGENTS


def test_a_sliding_window_bounds_the_context(tiny_base):
    model = tiny_model(tiny_base.tokenizer, "MistralConfig", sliding_window=20)
    base = freeze(model, tiny_base.tokenizer, name="m")
    assert base.context == 20
    ids = torch.randint(0, 200, (1, 22), generator=torch.Generator().manual_seed(2))
    # Past the window the model itself looks at other tokens than all before.
    free = tiny_model(tiny_base.tokenizer, "MistralConfig", sliding_window=None)
    assert torch.allclose(model(ids).logits[:, :20], free(ids).logits[:, :20], atol=1e-4)
    assert not torch.allclose(model(ids).logits[:, 20:], free(ids).logits[:, 20:], atol=1e-1)
    population = LoraPopulation(base, 1, 2)
    prompt = "ten tokens"
    tokens = len(base.chat_ids(prompt))
    fits = [Request("agent_0", Phase.SOLVE, prompt, 20 - tokens, 0)]
    population.act(fits)
    too_long = [Request("agent_0", Phase.SOLVE, prompt, 21 - tokens, 0)]
    with pytest.raises(
        ValueError, match=f"{tokens} prompt tokens .* exceed the model's context of 20"
    ):
        population.generate(too_long)
    with pytest.warns(RuntimeWarning, match="do not fit the model's context of 20"):
        assert population.act(too_long) == [""]
    assert population.stats.overlong == 1


@pytest.mark.parametrize(
    ("kind", "settings", "context"),
    [
        ("LlamaConfig", {}, 512),
        ("Qwen2Config", {**WINDOW, "use_sliding_window": False}, 512),
        ("Qwen2Config", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}, 20),
        ("Qwen3Config", {**WINDOW, "use_sliding_window": True, "max_window_layers": 2}, 512),
        ("MistralConfig", {"sliding_window": None}, 512),
    ],
)  # fmt: skip
def test_context_of_each_kind(tiny_base, kind, settings, context):
    model = tiny_model(tiny_base.tokenizer, kind, **settings)
    assert freeze(model, tiny_base.tokenizer).context == context


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("Gemma2Config", {"head_dim": 16}, "computes attention by 'eager', expected 'sdpa'"),
        ("CohereConfig", {"logit_scale": 0.1}, r"after its output layer \(logit_scale is 0\.1\)"),
        ("GraniteConfig", {"logits_scaling": 8.0}, r"\(logits_scaling is 8\.0\)"),
        (
            "Gemma3TextConfig",
            {"head_dim": 16, "final_logit_softcapping": 30.0},
            r"\(final_logit_softcapping is 30\.0\)",
        ),
        (
            "Qwen3NextConfig",
            {"num_experts": 2, "layer_types": ["linear_attention", "full_attention"]},
            "layers of kind linear_attention",
        ),
    ],
)  # fmt: skip
def test_models_that_would_be_decoded_wrongly_are_refused(tiny_base, kind, settings, said):
    model = tiny_model(tiny_base.tokenizer, kind, **settings)
    with pytest.raises(ModelError, match=said) as caught:
        freeze(model, tiny_base.tokenizer, name="their/model")
    assert "\n" not in str(caught.value)
    assert "their/model" in str(caught.value)


def test_a_model_that_cannot_run_on_tokens_alone_is_refused_in_one_line(tiny_base):
    config = transformers.CamembertConfig(
        vocab_size=len(tiny_base.tokenizer), hidden_size=32, intermediate_size=48,
        num_hidden_layers=1, num_attention_heads=2, pad_token_id=None, is_decoder=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=r"camembert.* cannot be run on a row of tok") as caught:
        freeze(model, tiny_base.tokenizer, name="camembert")
    assert "\n" not in str(caught.value)
