"""Weights of KL and temperatures of each agent's own, in one step of all."""

from __future__ import annotations

import math

import pytest
import torch

from agents.engine.adapters import StackedLora
from agents.learning.learners import LearnerConfig, PolicyGradient, RejectionTuning
from tests.agents.helpers import randomise
from tests.agents.learning.test_joint_step import samples_of

KL, HEAT = [0.0, 0.4, 0.1], [0.6, 1.0, 1.7]


@pytest.fixture
def lora(tiny_base):
    made = randomise(StackedLora(tiny_base.model, 3, 2))
    yield made
    made.detach()


def gradients(learner, samples, monkeypatch):
    """Of each parameter, summed over the updates, none of which is made."""
    seen = {}

    def keep(_agents):
        for name, parameter in learner.lora.named_parameters():
            seen[name] = seen.get(name, 0) + parameter.grad
            parameter.grad = None
        return torch.zeros(learner.lora.size)

    monkeypatch.setattr(learner.optimizer, "step", keep)
    stats = learner.step(samples)
    return seen, stats


@pytest.mark.parametrize("often", [{}, {"epochs": 2, "minibatches": 2}], ids=["once", "often"])
@pytest.mark.parametrize("kind", [PolicyGradient, RejectionTuning])
def test_each_agent_learns_as_it_would_alone_with_its_own(
    tiny_base, lora, monkeypatch, kind, often
):
    samples = samples_of(tiny_base)
    learner = kind(tiny_base, lora, LearnerConfig(kl=KL, temperature=HEAT, **often))
    together, stats = gradients(learner, samples, monkeypatch)
    for agent in range(3):
        config = LearnerConfig(kl=KL[agent], temperature=HEAT[agent], **often)
        own = [sample for sample in samples if sample.agent == agent]
        alone, one = gradients(kind(tiny_base, lora, config), own, monkeypatch)
        for name, wanted in alone.items():
            off = (together[name][agent] - wanted[agent]).norm() / wanted[agent].norm()
            assert off < 2e-4, name
        if KL[agent]:
            assert stats.kl[agent] == pytest.approx(one.kl[agent], rel=1e-4)
        else:
            assert one.kl is None
            assert math.isnan(stats.kl[agent])


def test_equal_ones_of_each_are_one_for_all_bit_for_bit(tiny_base, lora, monkeypatch):
    samples = samples_of(tiny_base)
    one = LearnerConfig(kl=0.3, temperature=0.7)
    each = LearnerConfig(kl=[0.3] * 3, temperature=[0.7] * 3)
    first, second = (
        gradients(PolicyGradient(tiny_base, lora, config), samples, monkeypatch)
        for config in (one, each)
    )
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])


def passes(learner, samples):
    """Samples that each pass under the bare base computes."""
    seen = []
    logps = learner._likelihood.logps

    def noted(batch, *rest, bare=False):
        if bare:
            seen.extend(i for row in batch.rows for i in row.members)
        return logps(batch, *rest, bare=bare)

    learner._likelihood.logps = noted
    learner.step(samples)
    return sorted(seen)


def test_only_replies_of_agents_with_a_weight_cost_a_pass_of_the_base(tiny_base, lora):
    samples = samples_of(tiny_base)
    learner = PolicyGradient(tiny_base, lora)
    assert passes(learner, samples) == []
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(kl=[0.0, 0.4, 0.0]))
    assert len(passes(learner, samples)) == 1  # agent 1 has one
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(kl=0.1))
    learner.kl_weights[2] = 0  # written in place
    assert len(passes(learner, samples)) == 3


def test_replies_without_advantage_are_learned_from_where_there_is_a_weight(tiny_base, lora):
    samples = samples_of(tiny_base)
    flat = [type(s)(s.agent, s.prompt_ids, s.reply_ids, 0.0) for s in samples]
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(kl=[0.0, 0.4, 0.0]))
    stats = learner.step(flat)
    assert stats.samples == 1
    assert [norm > 0 for norm in stats.grad_norms] == [False, True, False]


def test_weights_are_saved_and_an_older_state_leaves_them(tiny_base, lora):
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(kl=KL))
    state = {name: tensor.clone() for name, tensor in learner.state().items()}
    other = PolicyGradient(tiny_base, lora, LearnerConfig(kl=0.2))
    other.load({name: tensor for name, tensor in state.items() if name != "kl_weights"})
    assert other.kl_weights.tolist() == pytest.approx([0.2] * 3)
    with pytest.raises(ValueError, match=r"state\['kl_weights'\]: got \(2,\), expected \(3,\)"):
        other.load({**state, "kl_weights": torch.ones(2), "learning_rates": torch.ones(3)})
    assert other.learning_rates.tolist() == pytest.approx([3e-4] * 3)
    other.load(state)
    assert other.kl_weights.tolist() == pytest.approx(KL)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kl": [0.1, 0.2]}, "kl: got 2 values, expected one, or one for each of the 3 agents"),
        ({"temperature": [1.0]}, "temperature: got 1 values, expected one, or one for each"),
        ({"kl": [0.1, -1.0, 0.0]}, "kl: got -1.0"),
        ({"temperature": [1.0, 0.0, 1.0]}, "temperature: got 0, expected more"),
    ],
)
def test_what_there_is_not_one_of_for_each_is_refused(tiny_base, lora, settings, said):
    with pytest.raises(ValueError, match=said):
        PolicyGradient(tiny_base, lora, LearnerConfig(**settings))
