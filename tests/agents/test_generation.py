from __future__ import annotations

import pytest
import torch

from agents.adapters import StackedLora
from agents.generation import Job, common_prefix, generate, pad_right
from tests.agents.helpers import randomise

PROMPTS = ["short", "a rather longer prompt", "x", "yet another one, the longest of them all"]


def ids_of(base, text):
    return base.chat_ids(text)


def reference(base, prompt_ids, limit):
    """Transformers' own greedy generation, one prompt at a time."""
    ids = torch.tensor([prompt_ids])
    with torch.no_grad():
        out = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False,
            pad_token_id=base.tokenizer.eos_token_id,
        )  # fmt: skip
    reply = out[0, len(prompt_ids) :].tolist()
    stop = base.tokenizer.eos_token_id
    return reply[: reply.index(stop)] if stop in reply else reply


def test_greedy_equals_transformers(tiny_base):
    jobs = [Job(None, ids_of(tiny_base, p), 12, 0) for p in PROMPTS]
    ours = generate(tiny_base, None, jobs, temperature=0)
    assert [list(r.ids) for r in ours] == [reference(tiny_base, j.prompt_ids, 12) for j in jobs]


def test_replies_that_end_early_equal_transformers(tiny_base):
    # Make the end token likely, so that rows leave the grid at different times.
    with torch.no_grad():
        head = tiny_base.model.get_output_embeddings()
        head.weight[tiny_base.tokenizer.eos_token_id] *= 3
        if hasattr(head, "packed"):
            from agents.linear import FrozenLinear, pack_linears

            assert isinstance(head, FrozenLinear)
            head.__class__ = torch.nn.Linear
            pack_linears(tiny_base.model)
    jobs = [Job(None, ids_of(tiny_base, f"{p} {i}"), 30, 0) for i in range(4) for p in PROMPTS]
    ours = generate(tiny_base, None, jobs, temperature=0)
    lengths = {len(r.ids) for r in ours}
    assert len(lengths) > 2
    assert any(r.finished for r in ours)
    assert [list(r.ids) for r in ours] == [reference(tiny_base, j.prompt_ids, 30) for j in jobs]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_reply_is_the_same_alone_and_in_a_crowd(tiny_base, temperature):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    jobs = [
        Job(agent, ids_of(tiny_base, p), 10 + i, 31 * i + agent)
        for i, p in enumerate(PROMPTS)
        for agent in (2, 0, 1)
    ]
    crowd = generate(tiny_base, lora, jobs, temperature=temperature)
    small = generate(tiny_base, lora, jobs, temperature=temperature, max_rows=4)
    alone = [generate(tiny_base, lora, [j], temperature=temperature)[0] for j in jobs]
    assert [r.ids for r in crowd] == [r.ids for r in alone] == [r.ids for r in small]
    for one, other in zip(crowd, alone, strict=True):
        assert torch.allclose(one.feature, other.feature, atol=1e-4)


def test_agents_differ_and_the_base_can_join(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 2))
    ids = ids_of(tiny_base, "hello")
    base, first, second = generate(
        tiny_base, lora, [Job(None, ids, 8, 0), Job(0, ids, 8, 0), Job(1, ids, 8, 0)], temperature=0
    )
    assert len({base.ids, first.ids, second.ids}) == 3


def test_sampling_follows_the_distribution(tiny_base):
    ids = ids_of(tiny_base, "q")
    with torch.no_grad():
        wanted = tiny_base.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    drawn = generate(
        tiny_base, None, [Job(None, ids, 1, seed) for seed in range(3000)], max_rows=1000
    )
    stop = tiny_base.tokenizer.eos_token_id
    counts = torch.zeros_like(wanted)
    for reply in drawn:
        counts[reply.ids[0] if reply.ids else stop] += 1
    # Total variation distance of 3,000 draws from the truth; a wrong distribution is far above.
    assert (counts / 3000 - wanted).abs().sum() / 2 < 0.12


def test_feature_is_the_mean_state_over_the_reply(tiny_base):
    ids = ids_of(tiny_base, "hello")
    (reply,) = generate(tiny_base, None, [Job(None, ids, 6, 0)], temperature=0)
    with torch.no_grad():
        states = tiny_base.model.model(torch.tensor([[*ids, *reply.ids]])).last_hidden_state[0]
    tokens = len(reply.ids) if reply.finished else len(reply.ids) - 1
    assert torch.allclose(
        reply.feature, states[len(ids) : len(ids) + tokens].mean(0), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("job", "temperature", "said"),
    [
        (Job(None, [], 4, 0), 1.0, "at least 1 token"),
        (Job(None, [1], 0, 0), 1.0, "at least 1 token"),
        (Job(None, [1] * 2047, 4, 0), 1.0, "exceed the model's context of 2048"),
        (Job(None, [1], 4, 0), -1.0, "temperature"),
        (Job(0, [1], 4, 0), 1.0, "lora"),
    ],
)
def test_bad_jobs_are_named(tiny_base, job, temperature, said):
    with pytest.raises(ValueError, match=said):
        generate(tiny_base, None, [job], temperature=temperature)


def test_no_jobs_give_no_replies(tiny_base):
    assert generate(tiny_base, None, []) == []


def test_prefix_leaves_every_prompt_a_token():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_prefix([[1, 2], [1, 2]]) == 1
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1
    assert common_prefix([[5]]) == 0


def test_pad_right():
    assert pad_right([[1], [2, 3]], 9).tolist() == [[1, 9], [2, 3]]
