from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from agents.engine import generation
from agents.engine.adapters import Layout, RowLayout, StackedLora
from agents.engine.compiled_pass import CompiledPass
from agents.engine.general_pass import GeneralPass, pad_right
from agents.engine.generation import DecodeStats, Job, common_prefix, generate
from agents.engine.sampling import choose, nucleus
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
            from agents.loading.linear import FrozenLinear, pack_linears

            assert isinstance(head, FrozenLinear)
            head.__class__ = torch.nn.Linear
            pack_linears(tiny_base.model)
    jobs = [Job(None, ids_of(tiny_base, f"{p} {i}"), 30, 0) for i in range(4) for p in PROMPTS]
    ours = generate(tiny_base, None, jobs, temperature=0)
    lengths = {len(r.ids) for r in ours}
    assert len(lengths) > 2
    assert any(r.finished for r in ours)
    assert [list(r.ids) for r in ours] == [reference(tiny_base, j.prompt_ids, 30) for j in jobs]


@pytest.mark.slow
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


def crowd_of(base, agents=3, most=24):
    """Requests of uneven agents, lengths and limits."""
    return [
        Job(i * i % agents, ids_of(base, PROMPTS[i % 4] + "!" * (i % 7)), 1 + i * 5 % most, i)
        for i in range(40)
    ]


@pytest.mark.parametrize(
    ("rows", "temperature"),
    [
        (16, 0.9),
        *(
            pytest.param(*p, marks=pytest.mark.slow)
            for p in product((1, 5, 16), (0.0, 0.9))
            if p != (16, 0.9)
        ),
    ],
)
def test_waiting_requests_enter_a_running_batch(tiny_base, rows, temperature):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    jobs = crowd_of(tiny_base)
    stats = DecodeStats()
    ours = generate(tiny_base, lora, jobs, temperature=temperature, max_rows=rows, stats=stats)
    alone = [generate(tiny_base, lora, [j], temperature=temperature)[0] for j in jobs]
    assert [r.ids for r in ours] == [r.ids for r in alone]
    for one, other in zip(ours, alone, strict=True):
        assert torch.allclose(one.feature, other.feature, atol=1e-4)
    assert stats.slot_efficiency > 0.8


def test_a_full_batch_wastes_little(tiny_base):
    jobs = crowd_of(tiny_base)
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    stats = DecodeStats()
    replies = generate(tiny_base, lora, jobs, temperature=0, max_rows=16, stats=stats)
    ended = sum(reply.finished for reply in replies)
    assert stats.tokens == sum(len(reply.ids) for reply in replies) + ended
    assert stats.decoded == stats.tokens - len(jobs)  # the first token comes with the prompt
    assert stats.decoded <= stats.slot_steps
    waiting_for_the_longest = sum(
        16 * max(job.max_new_tokens for job in jobs[i : i + 16]) for i in range(0, 40, 16)
    )
    assert stats.slot_steps < 0.7 * waiting_for_the_longest


def test_a_prompt_that_an_agent_answers_often_is_read_once(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 2))
    ids = ids_of(tiny_base, "the same prompt for all of them")
    stats = DecodeStats()
    generate(tiny_base, lora, [Job(i % 2, ids, 3, i) for i in range(20)], stats=stats)
    assert stats.prompt_tokens == 20 * len(ids)
    assert stats.prompt_tokens_read == 2 * len(ids)


def test_long_prompts_are_read_in_blocks(tiny_base, monkeypatch):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    jobs = crowd_of(tiny_base)
    whole = generate(tiny_base, lora, jobs, temperature=0)
    monkeypatch.setattr(generation, "PREFILL_TOKENS", 50)
    parts = generate(tiny_base, lora, jobs, temperature=0)
    assert [r.ids for r in whole] == [r.ids for r in parts]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_halves_the_batch_and_loses_nothing(tiny_base, monkeypatch, error):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    jobs = crowd_of(tiny_base)
    wanted = [r.ids for r in generate(tiny_base, lora, jobs)]
    advance, sizes = generation._Decoder._advance, []

    def failing(self):
        sizes.append(len(self.rows))
        if len(self.rows) > 6 and len(sizes) > 3:
            raise error
        advance(self)

    monkeypatch.setattr(generation._Decoder, "_advance", failing)
    assert [r.ids for r in generate(tiny_base, lora, jobs, max_rows=24)] == wanted
    assert max(sizes) == 24
    assert sizes[-1] <= 6


def test_an_error_that_is_not_about_memory_is_not_swallowed(tiny_base, monkeypatch):
    def failing(self):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(generation._Decoder, "_advance", failing)
    with pytest.raises(RuntimeError, match="shapes"):
        generate(tiny_base, None, [Job(None, [1, 2], 4, 0)] * 4, temperature=0)


def test_rows_are_as_many_as_memory_holds(tiny_base, monkeypatch):
    config = tiny_base.model.config
    jobs = crowd_of(tiny_base)
    longest = max(len(job.prompt_ids) + job.max_new_tokens for job in jobs)
    per_row = 4 * longest * 2 * config.num_hidden_layers * config.num_key_value_heads * (
        config.hidden_size // config.num_attention_heads
    )  # fmt: skip
    monkeypatch.setattr(generation, "free_memory", lambda device: 2 * 5 * per_row)
    rooms = []
    start = generation._Decoder.__init__
    monkeypatch.setattr(
        generation._Decoder,
        "__init__",
        lambda self, *a: (rooms.append(a[3]), start(self, *a))[1],
    )
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    generate(tiny_base, lora, jobs)
    assert rooms == [5]


def test_stop_texts_end_a_reply(tiny_base):
    ids = ids_of(tiny_base, "hello")
    (whole,) = generate(tiny_base, None, [Job(None, ids, 30, 3)])
    text = tiny_base.tokenizer.decode(whole.ids)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    (cut,) = generate(tiny_base, None, [Job(None, ids, 30, 3, stop=("\x00never", stop))])
    said = tiny_base.tokenizer.decode(cut.ids)
    assert stop in said
    assert cut.finished
    assert whole.ids[: len(cut.ids)] == cut.ids
    assert stop not in tiny_base.tokenizer.decode(cut.ids[:-1])


def test_a_stop_text_may_be_longer_in_tokens_than_in_characters(tiny_base, monkeypatch):
    encode = tiny_base.tokenizer.encode
    stop = "\u6700\u7ec8\u7b54\u6848\u662f\uff1a"
    ids = encode(f"so {stop} 7", add_special_tokens=False)
    assert len(encode(stop, add_special_tokens=False)) > len(stop) + 8
    planned = iter(ids)
    for kind in (CompiledPass, GeneralPass):
        monkeypatch.setattr(kind, "choose", lambda *_: torch.tensor([next(planned)]))
    (made,) = generate(tiny_base, None, [Job(None, ids_of(tiny_base, "hi"), 40, 3, stop=(stop,))])
    assert made.finished
    assert tiny_base.tokenizer.decode(made.ids).endswith(stop)


def test_nucleus_keeps_the_fewest_likeliest_tokens():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
    assert nucleus(p, 0.7).tolist() == [
        pytest.approx([0, 0.4, 0, 0.3]),
        pytest.approx([0.25] * 4),  # equals are kept together
        pytest.approx([0, 1, 0, 0]),
    ]
    wide = torch.full((1, 5000), 1 / 5000)  # more than are looked at first
    assert (nucleus(wide, 0.5) > 0).all()
    wide[0, :2000] *= 2
    wide /= wide.sum()
    assert int((nucleus(wide, 0.5) > 0).sum()) == 2000


def test_top_p_draws_only_from_the_nucleus(tiny_base):
    ids = ids_of(tiny_base, "q")
    with torch.no_grad():
        p = tiny_base.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    allowed = set((nucleus(p[None], 0.3)[0] > 0).nonzero()[:, 0].tolist())
    jobs = [Job(None, ids, 1, seed) for seed in range(300)]
    stop = tiny_base.tokenizer.eos_token_id
    drawn = {r.ids[0] if r.ids else stop for r in generate(tiny_base, None, jobs, top_p=0.3)}
    assert len(drawn) > 1
    assert drawn <= allowed
    with pytest.raises(ValueError, match="top_p: got 0"):
        generate(tiny_base, None, jobs, top_p=0)


def test_the_token_distribution_is_gathered(tiny_base):
    ids = ids_of(tiny_base, "hello")
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    jobs = [Job(i % 3, ids, 2 + i, i) for i in range(9)]
    for job, reply in zip(
        jobs, generate(tiny_base, lora, jobs, distribution=True, max_rows=4), strict=True
    ):
        with torch.no_grad(), lora.active(Layout((job.agent,), 1)):
            logits = tiny_base.model(torch.tensor([[*ids, *reply.ids]])).logits[0]
        steps = len(reply.ids) + reply.finished
        wanted = logits[len(ids) - 1 :][:steps].softmax(-1).mean(0)
        assert torch.allclose(reply.distribution, wanted, atol=1e-5)


def test_rows_in_any_order_are_served_by_their_agents(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 4, 2))
    lora.set_alpha(2, 1.0)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [5, 6, 7], [11, 12, 13], [8, 9, 10]])
    rows = (2, 0, 0, 3, 2)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            with lora.active(RowLayout(rows)):
                mixed = tiny_base.model(ids).logits
            for i, agent in enumerate(rows):
                with lora.active(Layout((agent,), 1)):
                    alone = tiny_base.model(ids[i : i + 1]).logits[0]
                assert torch.allclose(mixed[i], alone, atol=1e-5)


def test_decoding_leaves_no_layout_and_no_activation_behind(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    generate(tiny_base, lora, crowd_of(tiny_base))
    assert lora._routing.service is None
    assert lora._routing.input is None
    assert not lora._routing._kept


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_no_number_draws_a_token_without_a_share(top_p):
    logits = torch.full((1, 50), -1e9)
    logits[0, :3] = torch.tensor([1.0, 0.9, 0.8])
    assert choose(logits, np.array([1 - 1e-9]), 1.0, top_p).item() in (0, 1, 2)
