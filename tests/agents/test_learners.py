from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.adapters import Layout, StackedLora
from agents.generation import Job, generate
from agents.learners import LearnerConfig, PolicyGradient, Sample, group_advantages
from tests.agents.helpers import randomise


def samples_for(base, agents=(0, 0, 1, 2, 2, 2)):
    words = ["one", "a longer prompt", "two", "three", "four", "the longest prompt of all"]
    return [
        Sample(agent, base.chat_ids(word), base.chat_ids(word[::-1])[1:], advantage)
        for agent, word, advantage in zip(
            agents, words, (1.0, -0.5, 2.0, -1.0, 0.3, 0.7), strict=True
        )
    ]


def naive_gradients(base, lora, samples, temperature):
    """One sequence at a time, straight from the definition."""
    tokens = {a: sum(len(s.reply_ids) for s in samples if s.agent == a) for a in range(lora.size)}
    lora.zero_grad()
    for sample in samples:
        ids = torch.tensor([[*sample.prompt_ids, *sample.reply_ids]])
        with lora.active(Layout((sample.agent,), 1)):
            logits = base.model(ids).logits[0] / temperature
        logp = logits.log_softmax(-1)
        start = len(sample.prompt_ids)
        chosen = sum(logp[start + i - 1, t] for i, t in enumerate(sample.reply_ids))
        (-sample.advantage * chosen / tokens[sample.agent]).backward()
    return {name: p.grad.clone() for name, p in lora.named_parameters()}


@pytest.mark.parametrize("tokens_per_batch", [10_000, 60, 1])
def test_gradient_equals_the_definition(tiny_base, tokens_per_batch, monkeypatch):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    samples = samples_for(tiny_base)
    wanted = naive_gradients(tiny_base, lora, samples, 0.7)
    learner = PolicyGradient(
        tiny_base, lora, LearnerConfig(temperature=0.7, tokens_per_batch=tokens_per_batch)
    )
    got = {}

    def keep(agents):
        got.update({name: p.grad.clone() for name, p in lora.named_parameters()})
        return [0.0] * 3

    monkeypatch.setattr(learner, "_update", keep)
    learner.step(samples)
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0
        error = ((got[name] - gradient).norm() / gradient.norm()).item()
        assert error < 1e-4, name


def test_update_equals_torchs_adamw_per_agent(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    config = LearnerConfig(learning_rate=0.01, max_grad_norm=1e9, weight_decay=0.1)
    learner = PolicyGradient(tiny_base, lora, config)
    twins = {n: p.detach()[1].clone().requires_grad_() for n, p in lora.named_parameters()}
    twin = torch.optim.AdamW(twins.values(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    samples = samples_for(tiny_base)
    for _ in range(3):
        for name, gradient in naive_gradients(tiny_base, lora, samples, 1.0).items():
            twins[name].grad = gradient[1]
        twin.step()
        learner.step(samples)
    for name, parameter in lora.named_parameters():
        assert torch.allclose(parameter[1], twins[name], atol=2e-4), name


def test_only_agents_with_samples_move(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    before = {n: p.detach().clone() for n, p in lora.named_parameters()}
    stats = PolicyGradient(tiny_base, lora).step(samples_for(tiny_base, (1,) * 6))
    assert stats.grad_norms[1] > 0
    assert stats.grad_norms[0] == stats.grad_norms[2] == 0
    for name, parameter in lora.named_parameters():
        assert torch.equal(parameter[[0, 2]], before[name][[0, 2]])
        assert not torch.equal(parameter[1], before[name][1])


def test_rewarded_replies_become_likelier(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 4), 0.05)
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(learning_rate=0.01))
    ids = tiny_base.chat_ids("q")
    target = tiny_base.chat_ids("abc")[1:]
    for _ in range(30):
        learner.step([Sample(0, ids, target, 1.0)])
    first, second = generate(
        tiny_base, lora, [Job(0, ids, len(target), 0), Job(1, ids, len(target), 0)], temperature=0
    )
    assert list(first.ids) == list(target) != list(second.ids)


def test_state_round_trip_and_reset(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    learner = PolicyGradient(tiny_base, lora)
    learner.step(samples_for(tiny_base))
    state = {name: tensor.clone() for name, tensor in learner.state().items()}
    other = PolicyGradient(tiny_base, lora)
    other.load_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state().items())
    other.reset([1])
    for tensor in other.state().values():
        assert tensor[1].abs().sum() == 0
        assert tensor[0].abs().sum() > 0
    with pytest.raises(ValueError, match="expected"):
        other.load_state({"steps": state["steps"]})


def test_a_gradient_that_is_not_finite_moves_nothing(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    before = {n: p.detach().clone() for n, p in lora.named_parameters()}
    bad = [Sample(0, [1, 2], [3], math.inf)]
    PolicyGradient(tiny_base, lora).step(bad)
    assert all(torch.equal(p, before[n]) for n, p in lora.named_parameters())


def test_negative_weight_scales_only_what_is_pushed_down(tiny_base, monkeypatch):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    samples = samples_for(tiny_base)
    alone = PolicyGradient(tiny_base, lora, LearnerConfig(negative_weight=0))
    assert alone.step(samples).samples == 4
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(negative_weight=0.5))
    seen = []
    monkeypatch.setattr(learner, "_backward", lambda batch, _: seen.extend(batch))
    learner.step(samples)
    assert sorted(s.advantage for s in seen) == [-0.5, -0.25, 0.3, 0.7, 1.0, 2.0]


def test_sample_fraction_keeps_the_largest_advantages(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(sample_fraction=0.5))
    stats = learner.step(samples_for(tiny_base))
    assert stats.samples == 3
    assert stats.grad_norms[1] > 0  # advantage 2.0, agent 1's only sample


def test_advantages_by_hand():
    got = group_advantages([1, 0, 0, 1, 1], ["p", "p", "p", "q", "q"])
    differences = np.array([1.0, -0.5, -0.5, 0, 0])
    assert got == pytest.approx(differences / differences.std())


def test_advantages_without_contrast_are_zero():
    assert group_advantages([1, 1, 3], ["p", "p", "q"]).tolist() == [0, 0, 0]
