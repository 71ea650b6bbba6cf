"""Compiled passes against the model of Transformers, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from agents.compiled.products import PRECISIONS as WRITTEN
from agents.compiled.products import library
from agents.engine import compiled_pass, generation
from agents.engine.adapters import StackedLora
from agents.engine.compiled_pass import CompiledPass, compiled_forward
from agents.engine.general_pass import GeneralPass
from agents.engine.generation import Job, generate
from agents.engine.sampling import choose
from agents.loading.linear import is_compiled
from agents.loading.models import freeze
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base, make_tiny_tokenizer

pytestmark = [
    pytest.mark.skipif(library() is None, reason="no compiled code here"),
    pytest.mark.usefixtures("shared_generators"),
]
PRECISIONS = [name for name in WRITTEN if is_compiled(name)]
FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "llama-bias": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-scaled": (
        "LlamaConfig",
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": 96}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
}  # fmt: skip


def made(family="llama", products="float32", **overrides):
    """A tiny model of a family, whose heads are as wide as registers."""
    name, extra = FAMILIES[family]
    fast = make_tiny_tokenizer()
    settings = dict(
        vocab_size=len(fast), hidden_size=64, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
        eos_token_id=fast.eos_token_id, bos_token_id=None, pad_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    config = getattr(transformers, name)(**{**settings, **extra, **overrides})
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key or key.endswith("bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return freeze(model, fast, name=family, products=products)


def prompts(base, count=5):
    return [base.chat_ids("What is " + "7 + " * i + "5?") for i in range(1, count + 1)]


def passes(base, lora, room=8, longest=96):
    forward = compiled_forward(base, lora, longest)
    assert forward is not None
    return CompiledPass(forward, room, longest), GeneralPass(base, lora, room, longest)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bare", [True, False])
def test_states_and_logits_are_those_of_transformers(family, precision, bare):
    base = made(family, precision)
    lora = None if bare else randomise(StackedLora(base.model, 3, (2, 3, 1)))
    block = [(None if bare else i % 3, ids) for i, ids in enumerate(prompts(base))]
    block.sort(key=lambda entry: entry[0] or 0)
    with torch.inference_mode():
        ours, theirs = passes(base, lora)
        pairs = [(each.read(block, [1] * 5, 0)) for each in (ours, theirs)]
        lengths, agents = [len(ids) for _, ids in block], [agent for agent, _ in block]
        for _ in range(3):
            tokens = torch.tensor([5, 9, 2, 7, 1])
            pairs += [each.step(tokens, lengths, agents) for each in (ours, theirs)]
            lengths = [length + 1 for length in lengths]
        theirs.close()
    # Keys and values are bfloat16 beside products that are not float32.
    most = 2e-5 if precision == "float32" else 6e-2
    for (states, logits), (wanted, expected) in zip(pairs[::2], pairs[1::2], strict=True):
        assert (states - wanted).norm() < most * wanted.norm()
        assert (logits - expected).norm() < most * expected.norm()


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("o_proj", "up_proj")])
def test_any_layers_may_carry_adapters(targets):
    base = made("qwen2")
    lora = randomise(StackedLora(base.model, 2, 3, targets=targets))
    jobs = [Job(i % 2, ids, 8, i) for i, ids in enumerate(prompts(base))]
    assert ids_of(base, lora, jobs) == ids_of(base, lora, jobs, general=True)


def ids_of(base, lora, jobs, *, general=False, **options):
    with pytest.MonkeyPatch.context() as patch:
        if general:
            patch.setattr(generation, "compiled_forward", lambda *_: None)
        return [reply.ids for reply in generate(base, lora, jobs, **{"temperature": 0, **options})]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_reply_is_the_same_to_the_last_bit_whatever_is_beside_it(precision):
    base = made("llama", precision)
    lora = randomise(StackedLora(base.model, 3, 2))
    asked = [prompts(base)[i % 5] for i in range(23)]  # the same prompt of one agent, too
    jobs = [Job(i % 4 if i % 4 < 3 else None, ids, 3 + i % 9, i) for i, ids in enumerate(asked)]
    together = generate(base, lora, jobs, max_rows=23)
    for options in ({"max_rows": 6}, {"max_rows": 1}):
        for one, other in zip(generate(base, lora, jobs, **options), together, strict=True):
            assert one.ids == other.ids
            assert torch.equal(one.feature, other.feature)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_token_read_is_a_token_decoded(precision):
    base = made("llama", precision)
    ids = prompts(base)[4] * 3
    with torch.inference_mode():
        whole, part = (passes(base, None, longest=len(ids) + 1)[0] for _ in range(2))
        states, logits = whole.read([(None, ids)], [1], 0)
        part.read([(None, ids[:7])], [1], 0)
        for i in range(7, len(ids)):
            stepped = part.step(torch.tensor([ids[i]]), [i], [None])
    assert torch.equal(states, stepped[0])
    assert torch.equal(logits, stepped[1])


def test_more_rows_than_go_together_and_prompts_longer_than_that():
    base = made("llama")
    lora = randomise(StackedLora(base.model, 3, 2))
    jobs = [Job(i * 7 % 3, prompts(base)[i % 5], 3, i) for i in range(300)]
    jobs += [Job(1, [3 + i % 50 for i in range(400)], 4, 1)]
    assert ids_of(base, lora, jobs, max_rows=301) == ids_of(base, lora, jobs, general=True)


@pytest.mark.parametrize("size", [1, 15, 256, 1000])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 3.0])
def test_tokens_are_chosen_as_by_pytorch(size, temperature):
    chooser = passes(made("llama"), None)[0]
    source = torch.Generator().manual_seed(1)
    logits = torch.randn(400, size, generator=source) * 3
    uniforms = np.random.default_rng(2).random(400)
    uniforms[:2] = 0, 1 - 1e-16
    got = chooser.choose(logits, uniforms, temperature, 1.0)
    expected = choose(logits, uniforms, temperature, 1.0)
    assert (got == expected).float().mean() >= 0.99  # a draw on the border of two tokens
    assert torch.equal(
        chooser.choose(logits, uniforms, 0.7, 0.5), choose(logits, uniforms, 0.7, 0.5)
    )


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_logits_that_are_no_numbers_choose_a_token_that_there_is(temperature, top_p):
    chooser = passes(made("llama"), None)[0]
    logits = torch.randn(6, 1000, generator=torch.Generator().manual_seed(1))
    logits[0], logits[1, 3], logits[2, 5] = torch.nan, torch.nan, torch.inf
    logits[3] = torch.inf
    uniforms = np.full(6, 0.999)
    for chosen in (
        chooser.choose(logits, uniforms, temperature, top_p),
        choose(logits, uniforms, temperature, top_p),
    ):
        assert ((chosen >= 0) & (chosen < 1000)).all()
    sound = choose(logits[4:], uniforms[4:], temperature, top_p)
    assert torch.equal(choose(logits, uniforms, temperature, top_p)[4:], sound)


def test_rows_have_temperatures_of_their_own():
    chooser = passes(made("llama"), None)[0]
    logits = torch.randn(40, 1000, generator=torch.Generator().manual_seed(1)) * 3
    uniforms = np.random.default_rng(2).random(40)
    heat = np.array([0.0, 0.5, 0.7, 2.0] * 10)
    for top_p in (1.0, 0.5):
        for way in (chooser.choose, choose):
            mixed = way(logits, uniforms, heat, top_p)
            for at, one in enumerate(heat[:4]):
                alone = way(logits, uniforms, float(one), top_p)
                assert torch.equal(mixed[at::4], alone[at::4])


def test_draws_follow_the_distribution():
    chooser = passes(made("llama"), None)[0]
    logits = torch.tensor([0.0, -float("inf"), 1.0, 2.0, -100.0])
    uniforms = (np.arange(20_000) + 0.5) / 20_000
    drawn = chooser.choose(logits.repeat(20_000, 1), uniforms, 0.5, 1.0)
    shares = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(shares, torch.softmax(logits / 0.5, -1), atol=1e-4, rtol=0)
    assert torch.equal(drawn, drawn.sort().values)


def test_what_they_do_not_know_takes_the_general_way(monkeypatch):
    assert compiled_forward(make_tiny_base(), None, 64) is None  # heads of 12
    assert compiled_forward(made(hidden_act="gelu"), None, 64) is None
    wide = made(hidden_size=320, head_dim=16)
    assert compiled_forward(wide, StackedLora(wide.model, 2, 8), 64) is not None
    wide = made(hidden_size=320, head_dim=16)
    assert compiled_forward(wide, StackedLora(wide.model, 2, 300), 64) is None  # three at once
    base = made()
    handle = base.model.model.layers[0].register_forward_hook(lambda *_: None)
    assert compiled_forward(base, None, 64) is None
    handle.remove()
    assert compiled_forward(base, None, 64) is not None
    monkeypatch.setattr(compiled_pass, "library", lambda: None)
    assert compiled_forward(base, None, 64) is None


def test_an_agent_that_does_not_exist_is_refused():
    base = made()
    lora = StackedLora(base.model, 2, 2)
    with pytest.raises(ValueError, match=r"jobs\[0\]: agent 2 is not in 0\.\.1"):
        generate(base, lora, [Job(2, [1, 2], 4, 0)])
