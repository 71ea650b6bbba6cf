from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.engine.adapters import StackedLora
from agents.engine.generation import Job, generate
from agents.learning.learners import LearnerConfig, PolicyGradient, RejectionTuning, Sample
from agents.learning.likelihood import Tokens
from agents.learning.objective import Objective
from agents.learning.optimizer import StackedAdamW
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base


def samples_for(base, agents=(0, 0, 1, 2, 2, 2)):
    words = ["one", "a longer prompt", "two", "three", "four", "the longest prompt of all"]
    return [
        Sample(agent, base.chat_ids(word), base.chat_ids(word[::-1])[1:], advantage)
        for agent, word, advantage in zip(
            agents, words, (1.0, -0.5, 2.0, -1.0, 0.3, 0.7), strict=True
        )
    ]


def newborn(base, size=3, rank=2):
    return randomise(StackedLora(base.model, size, rank))


def copy_of(lora):
    return {name: parameter.detach().clone() for name, parameter in lora.named_parameters()}


def moved(lora, before):
    """Whether each agent's factors changed anywhere."""
    return [
        any(not torch.equal(p[i], before[name][i]) for name, p in lora.named_parameters())
        for i in range(lora.size)
    ]


def copy_state(learner):
    return {name: tensor.clone() for name, tensor in learner.state().items()}


OWN_SETTINGS = ("learning_rates", "kl_weights")  # of an agent's slot, and no memory of what it did


@pytest.mark.parametrize("learner_type", [PolicyGradient, RejectionTuning])
def test_only_agents_with_samples_move(tiny_base, learner_type):
    lora = newborn(tiny_base)
    before = copy_of(lora)
    learner = learner_type(tiny_base, lora)
    stats = learner.step(samples_for(tiny_base, (1,) * 6))
    assert stats.grad_norms[1] > 0
    assert stats.grad_norms[0] == stats.grad_norms[2] == 0
    assert moved(lora, before) == [False, True, False]
    for name, tensor in learner.state().items():
        if name not in OWN_SETTINGS:
            assert [bool(part.any()) for part in tensor] == [False, True, False]


def test_without_samples_nothing_happens(tiny_base):
    lora = newborn(tiny_base)
    before = copy_of(lora)
    idle = [Sample(0, [1], [2], 0.0), Sample(1, [1], [2], math.nan), Sample(2, [1], [], 1.0)]
    for samples in ([], idle):
        stats = PolicyGradient(tiny_base, lora).step(samples)
        assert (stats.samples, stats.tokens, stats.grad_norms) == (0, 0, (0, 0, 0))
    assert moved(lora, before) == [False] * 3


@pytest.mark.slow
@pytest.mark.parametrize("learner_type", [PolicyGradient, RejectionTuning])
def test_good_replies_become_likelier(tiny_base, learner_type):
    lora = randomise(StackedLora(tiny_base.model, 2, 4), 0.05)
    learner = learner_type(tiny_base, lora, LearnerConfig(learning_rate=0.01))
    ids = tiny_base.chat_ids("q")
    target = tiny_base.chat_ids("abc")[1:]
    for _ in range(30):
        learner.step([Sample(0, ids, target)])
    first, second = generate(
        tiny_base, lora, [Job(0, ids, len(target), 0), Job(1, ids, len(target), 0)], temperature=0
    )
    assert list(first.ids) == list(target) != list(second.ids)


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_moves_neither_its_agent_nor_others(tiny_base, bad):
    samples = samples_for(tiny_base)
    lora = newborn(tiny_base)
    before = copy_of(lora)
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(learning_rate=0.01))
    learner.step([samples[0], Sample(1, samples[2].prompt_ids, [3], bad), *samples[3:]])
    assert moved(lora, before) == [True, False, True]
    assert not any(t[1].any() for n, t in learner.state().items() if n != "learning_rates")
    lora.detach()
    alone = newborn(tiny_base)
    others = PolicyGradient(tiny_base, alone, LearnerConfig(learning_rate=0.01))
    others.step([samples[0], *samples[3:]])
    for name, parameter in lora.named_parameters():
        wanted = dict(alone.named_parameters())[name]
        assert torch.allclose(parameter[[0, 2]], wanted[[0, 2]], atol=2e-4), name


def test_each_agent_has_its_own_learning_rate(tiny_base):
    samples = samples_for(tiny_base)
    lora = newborn(tiny_base)
    before = copy_of(lora)
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(learning_rate=[0.01, 0.0, 0.03]))
    learner.step(samples)
    assert moved(lora, before) == [True, False, True]
    after = copy_of(lora)
    first = [max((after[n] - before[n])[i].abs().max().item() for n in after) for i in (0, 2)]
    assert first == pytest.approx([0.01, 0.03], rel=1e-3)  # AdamW's first step is the rate
    learner.learning_rates[:] = torch.tensor([0.0, 0.01, 0.0])  # as an outer search would
    before = copy_of(lora)
    learner.step(samples)
    assert moved(lora, before) == [False, True, False]
    with pytest.raises(ValueError, match="learning_rate: got 2 values, expected one"):
        PolicyGradient(tiny_base, lora, LearnerConfig(learning_rate=[0.1, 0.2]))


def test_padding_of_a_smaller_rank_stays_zero(tiny_base):
    lora = newborn(tiny_base, rank=4)
    for layer in lora.layers():
        layer.A[1, 2:] = 0
        layer.B[1, :, 2:] = 0
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(learning_rate=0.1, weight_decay=0.1))
    for _ in range(3):
        learner.step(samples_for(tiny_base))
    for layer in lora.layers():
        assert layer.A[1, :2].any()
        assert not layer.A[1, 2:].any()
        assert not layer.B[1, :, 2:].any()


OFTEN = LearnerConfig(learning_rate=0.01, epochs=2, minibatches=2, kl=0.1)


@pytest.mark.parametrize(
    ("learner_type", "config"),
    [(PolicyGradient, None), (PolicyGradient, OFTEN), (RejectionTuning, OFTEN)],
)
def test_resumed_equals_uninterrupted(learner_type, config):
    base = make_tiny_base()
    lora, samples = newborn(base), samples_for(base)
    learner = learner_type(base, lora, config)
    learner.learning_rates[1] = 0.02
    learner.step(samples)
    state, weights = copy_state(learner), copy_of(lora)
    learner.step(samples)
    lora.detach()
    other = StackedLora(base.model, 3, 2)
    other.load_state_dict(weights)
    resumed = learner_type(base, other, config)
    resumed.load(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.state().items())
    resumed.step(samples)
    for name, parameter in lora.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[name])
    for name, tensor in learner.state().items():
        assert torch.equal(tensor, resumed.state()[name])


def test_a_state_that_does_not_fit_changes_nothing(tiny_base):
    learner = PolicyGradient(tiny_base, newborn(tiny_base))
    learner.step(samples_for(tiny_base))
    before = copy_state(learner)
    for state in ({"steps": torch.zeros(3)}, {**before, "steps": torch.zeros(4)}):
        with pytest.raises(ValueError, match="expected"):
            learner.load(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state().items())


def test_children_forget_or_inherit(tiny_base):
    learner = PolicyGradient(tiny_base, newborn(tiny_base))
    learner.learning_rates[:] = torch.tensor([0.1, 0.2, 0.3])
    learner.kl_weights[:] = torch.tensor([0.3, 0.2, 0.1])
    learner.step(samples_for(tiny_base))
    before = copy_state(learner)
    learner.inherit({0: 2, 2: 0})  # parents are read before any child is written
    for name, tensor in learner.state().items():
        order = [0, 1, 2] if name in OWN_SETTINGS else [2, 1, 0]
        assert torch.equal(tensor, before[name][order])
    learner.reset([1])
    for name, tensor in learner.state().items():
        assert bool(tensor[1].any()) is (name in OWN_SETTINGS)
        assert tensor[0].any()


def test_moments_are_float32_whatever_the_adapters_are():
    base = make_tiny_base()
    base.model.to(torch.bfloat16)
    lora = newborn(base)
    optimizer = StackedAdamW(lora, 0.01)
    before = copy_of(lora)
    for parameter in lora.parameters():
        assert parameter.dtype == torch.bfloat16
        parameter.grad = torch.ones_like(parameter)
        parameter.grad[2] = math.nan
    norms = optimizer.step([0, 2])
    assert norms[0] == pytest.approx(math.sqrt(sum(p[0].numel() for p in lora.parameters())))
    assert {tensor.dtype for tensor in optimizer.state().values()} == {torch.float32}
    assert moved(lora, before) == [True, False, False]
    assert all(parameter.grad is None for parameter in lora.parameters())


def stepped(base, samples, **settings):
    """What a step's stats say; the weights do not change."""
    lora = newborn(base)
    stats = PolicyGradient(base, lora, LearnerConfig(learning_rate=0.0, **settings)).step(samples)
    lora.detach()
    return stats


def test_negative_weight_scales_only_what_is_pushed_down(tiny_base):
    samples = samples_for(tiny_base)
    assert stepped(tiny_base, samples, negative_weight=0).samples == 4
    down = [sample for sample in samples if sample.advantage < 0]
    whole, half = (stepped(tiny_base, down, negative_weight=w).grad_norms for w in (1.0, 0.5))
    assert half == pytest.approx([norm / 2 for norm in whole], rel=1e-5)
    up = [sample for sample in samples if sample.advantage > 0]
    whole, half = (stepped(tiny_base, up, negative_weight=w).grad_norms for w in (1.0, 0.5))
    assert half == whole


def test_sample_fraction_keeps_the_largest_advantages(tiny_base):
    stats = stepped(tiny_base, samples_for(tiny_base), sample_fraction=0.5)
    assert stats.samples == 3
    assert stats.grad_norms[1] > 0  # advantage 2.0, agent 1's only sample


def test_divergence_is_zero_at_birth_and_positive_after(tiny_base):
    lora = StackedLora(tiny_base.model, 3, 2)
    samples = samples_for(tiny_base, (0, 0, 0, 2, 2, 2))
    config = LearnerConfig(learning_rate=0.0, kl=0.1)
    with pytest.warns(RuntimeWarning, match="agents 0, 2 learn nothing: both factors"):
        born = PolicyGradient(tiny_base, lora, config).step(samples).kl
    assert [born[0], born[2]] == pytest.approx([0, 0], abs=1e-6)
    assert math.isnan(born[1])  # no samples, no figure
    randomise(lora)
    changed = PolicyGradient(tiny_base, lora, config).step(samples).kl
    assert min(changed[0], changed[2]) > 0.01
    assert PolicyGradient(tiny_base, lora).step(samples).kl is None


@pytest.mark.slow
def test_divergence_alone_leads_back_to_the_base(tiny_base):
    lora = newborn(tiny_base)
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(learning_rate=0.01, kl=1.0))
    samples = [Sample(s.agent, s.prompt_ids, s.reply_ids, 0.0) for s in samples_for(tiny_base)]
    seen = [learner.step(samples).kl for _ in range(20)]
    assert all(last < 0.2 * first for first, last in zip(seen[0], seen[-1], strict=True))


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"),
    [(1, 1.31, False), (1, 1.29, True), (1, 0.5, True), (-1, 0.79, False), (-1, 0.81, True),
     (-1, 1.5, True)],
)  # fmt: skip
def test_clipping_stops_the_gradient_where_it_should(advantage, ratio, moves):
    tokens = Tokens([[1]], [[2]])
    objective = Objective(
        tokens, [0], [advantage], 1, kl=0.0, clip=(0.2, 0.3), device=torch.device("cpu")
    )
    objective.weigh([0])
    objective.before[:] = -1.0
    logp = torch.tensor([math.log(ratio) - 1], requires_grad=True)
    objective(logp, torch.tensor([0])).backward()
    assert logp.grad.item() == pytest.approx(-advantage * ratio if moves else 0)
    assert objective.clipped == (not moves)


@pytest.mark.parametrize("apart", [-50.0, -1.0, 0.0, 1.0, 19.0, 50.0, 500.0])
def test_the_pull_to_the_base_never_vanishes_or_overflows(apart):
    tokens = Tokens([[1]], [[2]])
    objective = Objective(tokens, [0], [0.0], 1, kl=1.0, clip=None, device=torch.device("cpu"))
    objective.weigh([0])
    logp = torch.tensor([-apart], requires_grad=True)  # the base's is 0
    objective(logp, torch.tensor([0])).backward()
    assert logp.grad.item() == pytest.approx(1 - math.exp(min(apart, 20)), rel=1e-5)


def test_progress_is_told_to_the_end(tiny_base):
    learner = PolicyGradient(tiny_base, newborn(tiny_base), OFTEN)
    told = []
    learner.step(samples_for(tiny_base), lambda *what: told.append(what))
    assert told == sorted(told)
    assert told[-1] == ("learning", 1)
    assert {label for label, _ in told} == {"learning"}
    assert len(told) == len(set(told)) >= 6  # the base, the second half, two epochs of halves


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs: got 0, expected an integer >= 1"),
        ({"minibatches": 1.5}, "minibatches: got 1.5"),
        ({"kl": -0.1}, "kl: got -0.1, expected a finite number from 0"),
        ({"kl": math.inf}, "kl: got inf"),
        ({"learning_rate": [0.1, math.nan]}, "learning_rate: got nan"),
        ({"learning_rate": "3e-4"}, "learning_rate: got '3e-4', expected a finite number"),
        ({"clip_low": 1.1}, "clip_low: got 1.1"),
        ({"temperature": 0.0}, "temperature: got 0"),
        ({"beta2": 1.0}, "beta2: got 1.0"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        LearnerConfig(**settings)


def test_settings_of_numpy_are_plain_numbers():
    config = LearnerConfig(learning_rate=np.array([1e-3, 1e-4]), kl=np.float64(0.5))
    assert (config.learning_rate, config.kl) == ([1e-3, 1e-4], 0.5)
    assert type(config.kl) is float


def test_bad_samples_are_named(tiny_base):
    learner = PolicyGradient(tiny_base, newborn(tiny_base))
    with pytest.raises(ValueError, match=r"samples\[1\]: agent 3 is not in 0\.\.2"):
        learner.step([Sample(0, [1], [2]), Sample(3, [1], [2])])
    with pytest.raises(ValueError, match=r"samples\[0\]: expected a prompt of at least 1 token"):
        learner.step([Sample(0, [], [2])])


def test_dropout_while_learning_follows_the_key_and_spares_agents_without_it():
    def step(key, rates=(0.5, 0.0, 0.0)):
        base = make_tiny_base()
        lora = randomise(StackedLora(base.model, 3, 2, dropout=rates))
        PolicyGradient(base, lora, LearnerConfig(learning_rate=0.01)).step(
            samples_for(base), key=key
        )
        return copy_of(lora)

    first, again, other, none = step([1]), step([1]), step([2]), step(None, (0.0, 0.0, 0.0))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name][0], other[name][0]) for name in first)
    assert any(not torch.equal(first[name][0], none[name][0]) for name in first)
    assert all(torch.allclose(first[name][1:], none[name][1:], atol=1e-5) for name in first)
    with pytest.raises(ValueError, match="key: got None, but an agent"):
        step(None)
