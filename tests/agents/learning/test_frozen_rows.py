"""Learning B alone, in rows that stay what they are."""

from __future__ import annotations

import pytest
import torch

from agents.engine.adapters import StackedLora
from agents.learning.learners import LearnerConfig, PolicyGradient
from tests.agents.helpers import randomise
from tests.agents.learning.test_joint_step import samples_of

FROZEN = LearnerConfig(learns_rows=False, weight_decay=0.1, learning_rate=0.01, kl=0.1)


@pytest.fixture
def lora(tiny_base):
    made = randomise(StackedLora(tiny_base.model, 3, 2))
    yield made
    made.detach()


def named(lora, letter):
    return {n: p for n, p in lora.named_parameters() if n.split(".")[2] == letter}


def gradients(learner, samples, monkeypatch):
    seen = {}

    def keep(_agents):
        seen.update({n: p.grad for n, p in learner.lora.named_parameters()})
        return torch.zeros(3)

    monkeypatch.setattr(learner.optimizer, "step", keep)
    learner.step(samples)
    learner.lora.zero_grad(set_to_none=True)
    return seen


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_b_is_what_it_was_and_a_has_none(
    tiny_base, lora, monkeypatch, checkpointing
):
    lora.gradient_checkpointing(checkpointing)
    samples = samples_of(tiny_base)
    own = gradients(PolicyGradient(tiny_base, lora), samples, monkeypatch)
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(learns_rows=False))
    assert lora.rows_frozen
    frozen = gradients(learner, samples, monkeypatch)
    assert all(frozen[name] is None for name in named(lora, "A"))
    assert all(torch.equal(frozen[name], own[name]) for name in named(lora, "B"))
    assert all(own[name].any() for name in own)
    PolicyGradient(tiny_base, lora)
    assert not lora.rows_frozen


def test_rows_stay_bit_for_bit_and_have_no_state(tiny_base, lora):
    before = {n: p.detach().clone() for n, p in lora.named_parameters()}
    learner = PolicyGradient(tiny_base, lora, FROZEN)
    for _ in range(3):
        learner.step(samples_of(tiny_base))
    assert all(torch.equal(p, before[n]) for n, p in named(lora, "A").items())
    assert not any(torch.equal(p[i], before[n][i]) for n, p in named(lora, "B").items()
                   for i in range(3))  # fmt: skip
    assert not any(".A" in name for name in learner.state())


def test_its_state_resumes_and_is_not_that_of_own_rows(tiny_base, lora):
    learner = PolicyGradient(tiny_base, lora, FROZEN)
    learner.step(samples_of(tiny_base))
    state = {name: tensor.clone() for name, tensor in learner.state().items()}
    again = PolicyGradient(tiny_base, lora, FROZEN)
    again.load(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state().items())
    with pytest.raises(ValueError, match="got nothing, expected"):
        PolicyGradient(tiny_base, lora).load(state)
