"""The joint step against plain PEFT: one adapter at a time, one sequence at a time."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from agents.learning import likelihood
from agents.learning.learners import LearnerConfig, PolicyGradient, RejectionTuning, Sample
from agents.population import LoraPopulation
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")

SIZE = 3


def samples_of(base, agents=(0, 0, 1, 2, 2, 2, 2)):
    """Prompts of several lengths, one answered twice, replies that begin alike."""
    texts = [
        ("one", "abc"), ("a longer prompt", "xy"), ("two", "abc"), ("three", "no"),
        ("the longest prompt of all", "yes, 4"), ("three", "nobody"), ("four", "z"),
    ]  # fmt: skip
    advantages = (1.0, -0.5, 2.0, -1.0, 0.3, 0.7, -2.0)
    return [
        Sample(agent, base.chat_ids(prompt), base.text_ids(reply), advantage)
        for agent, (prompt, reply), advantage in zip(agents, texts, advantages, strict=True)
    ]


class Twin:
    """One agent in PEFT, trained from the definition of the loss."""

    def __init__(self, plain, folder, config, by_ratio):
        self.model = PeftModel.from_pretrained(plain, folder, is_trainable=True).eval()
        self.params = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.config, self.by_ratio = config, by_ratio
        self.optimizer = torch.optim.AdamW(
            self.params.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def logp(self, sample):
        ids = torch.tensor([[*sample.prompt_ids, *sample.reply_ids]])
        logits = self.model(ids).logits[0, len(sample.prompt_ids) - 1 : -1].float()
        logp = (logits / self.config.temperature).log_softmax(-1)
        return logp.gather(1, torch.tensor(sample.reply_ids)[:, None])[:, 0]

    def backward(self, samples, before, reference):
        tokens = sum(len(sample.reply_ids) for sample in samples)
        for i, sample in enumerate(samples):
            logp = self.logp(sample)
            gain = sample.advantage * logp
            if self.by_ratio:
                ratio = (logp - before[i]).exp()
                low, high = 1 - self.config.clip_low, 1 + self.config.clip_high
                gain = torch.min(
                    ratio * sample.advantage, ratio.clamp(low, high) * sample.advantage
                )
            apart = reference[i] - logp
            loss = -(gain - self.config.kl * (apart.exp() - apart - 1)).sum() / tokens
            loss.backward()

    def train(self, samples):
        """All updates of one step; returns the gradients before the last one was clipped."""
        with torch.no_grad():
            before = [self.logp(sample) for sample in samples]
            with self.model.disable_adapter():
                reference = [self.logp(sample) for sample in samples]
        gradients = {}
        for _ in range(self.config.epochs):
            for part in range(self.config.minibatches):
                which = slice(part, None, self.config.minibatches)
                if not samples[which]:
                    continue
                self.optimizer.zero_grad()
                self.backward(samples[which], before[which], reference[which])
                gradients = {n: p.grad.clone() for n, p in self.params.items()}
                torch.nn.utils.clip_grad_norm_(self.params.values(), self.config.max_grad_norm)
                self.optimizer.step()
        return gradients


def factors(population, agent):
    return {
        f"base_model.model.{layer.name}.lora_{letter}.default.weight": whole[agent].clone()
        for layer in population.lora.layers()
        for letter, whole in (("A", layer.A), ("B", layer.B))
    }


def peft_results(base, folder, config, samples, by_ratio=True):
    """Of each agent: gradients of the last update, and factors after the step."""
    results = []
    plain = base.model
    for agent in range(SIZE):
        twin = Twin(plain, folder / f"agent_{agent}", config, by_ratio)
        gradients = twin.train([s for s in samples if s.agent == agent])
        results.append((gradients, {n: p.detach().clone() for n, p in twin.params.items()}))
        plain = twin.model.unload()
    base.model.requires_grad_(False)
    return results


def saved_population(base, folder):
    population = LoraPopulation(base, SIZE, 2)
    randomise(population.lora)
    population.lora.set_alpha(1, 3.0)
    population.save_adapters(folder)
    return population


def put_gradients_into_factors(learner, monkeypatch):
    """Replace the update by one that leaves the gradients where factors can be read by name."""

    def keep(agents):
        for parameter in learner.lora.parameters():
            parameter.data.copy_(parameter.grad)
        return torch.zeros(SIZE)

    monkeypatch.setattr(learner.optimizer, "step", keep)


def assert_close(got, wanted, tolerance=2e-4):
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert tensor.abs().max() > 0, name
        assert ((got[name] - tensor).norm() / tensor.norm()).item() < tolerance, name


@pytest.mark.parametrize("tokens_per_batch", [10_000, 60, 1])
@pytest.mark.parametrize(
    ("learner_type", "kl"), [(PolicyGradient, 0.0), (PolicyGradient, 0.3), (RejectionTuning, 0.0)]
)
def test_gradient_equals_pefts(tmp_path, monkeypatch, learner_type, kl, tokens_per_batch):
    base = make_tiny_base()
    population = saved_population(base, tmp_path)
    samples = samples_of(base)
    config = LearnerConfig(temperature=0.7, kl=kl, tokens_per_batch=tokens_per_batch)
    learner = learner_type(base, population.lora, config)
    put_gradients_into_factors(learner, monkeypatch)
    learner.step(samples)
    got = [factors(population, agent) for agent in range(SIZE)]
    population.lora.detach()
    if learner_type is RejectionTuning:
        samples = [Sample(s.agent, s.prompt_ids, s.reply_ids, 1.0) for s in samples]
    wanted = peft_results(base, tmp_path, config, samples, by_ratio=False)
    for agent in range(SIZE):
        assert_close(got[agent], wanted[agent][0])


@pytest.mark.slow
@pytest.mark.parametrize("minibatches", [1, 2])
def test_several_clipped_updates_equal_pefts(tmp_path, minibatches):
    base = make_tiny_base()
    population = saved_population(base, tmp_path)
    # In the order in which the learner deals them out.
    samples = sorted(samples_of(base), key=lambda sample: -abs(sample.advantage))
    config = LearnerConfig(
        learning_rate=0.02, epochs=3, minibatches=minibatches, kl=1.0, clip_high=0.3,
        weight_decay=0.1, max_grad_norm=3.0,
    )  # fmt: skip
    start = [factors(population, agent) for agent in range(SIZE)]
    stats = PolicyGradient(base, population.lora, config).step(samples)
    assert 0 < stats.clipped < 1
    got = [factors(population, agent) for agent in range(SIZE)]
    population.lora.detach()
    wanted = peft_results(base, tmp_path, config, samples)
    for agent in range(SIZE):
        moved = {name: got[agent][name] - start[agent][name] for name in start[agent]}
        theirs = {name: wanted[agent][1][name] - start[agent][name] for name in start[agent]}
        assert_close(moved, theirs, 0.01)


def gradients(base, samples, monkeypatch, **settings):
    population = LoraPopulation(base, SIZE, 2)
    randomise(population.lora)
    learner = PolicyGradient(base, population.lora, LearnerConfig(**settings))
    put_gradients_into_factors(learner, monkeypatch)
    learner.step(samples)
    population.lora.detach()
    return [factors(population, agent) for agent in range(SIZE)]


def test_logits_in_pieces_give_the_same_gradient(tiny_base, monkeypatch):
    samples = samples_of(tiny_base)
    whole = gradients(tiny_base, samples, monkeypatch)
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 1000)  # 3 tokens at a time
    for got, wanted in zip(gradients(tiny_base, samples, monkeypatch), whole, strict=True):
        assert_close(got, wanted, 1e-5)


def test_eager_attention_gives_the_same_gradient(tiny_base, monkeypatch):
    samples = samples_of(tiny_base)
    whole = gradients(tiny_base, samples, monkeypatch)
    tiny_base.model.set_attn_implementation("eager")
    for got, wanted in zip(gradients(tiny_base, samples, monkeypatch), whole, strict=True):
        assert_close(got, wanted, 1e-4)


def test_gradient_checkpointing_gives_the_same_gradient(tiny_base, monkeypatch):
    samples = samples_of(tiny_base)
    whole = gradients(tiny_base, samples, monkeypatch)
    passes = []
    inside = tiny_base.model.model.layers[0].mlp.act_fn
    inside.register_forward_hook(lambda *_: passes.append("layer"))
    tiny_base.model.model.register_forward_hook(lambda *_: passes.append("model"))
    tiny_base.model.gradient_checkpointing_enable()
    tiny_base.model.train()  # what turns checkpointing on in Transformers
    got = gradients(tiny_base, samples, monkeypatch)
    assert passes.count("layer") == 2 * passes.count("model") > 0  # and again going backwards
    for mine, wanted in zip(got, whole, strict=True):
        assert_close(mine, wanted, 1e-5)


def test_one_plain_update_computes_nothing_extra(tiny_base, monkeypatch):
    calls = []
    tiny_base.model.model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    prompt = tiny_base.chat_ids("a prompt that two replies share, so that they are one row")
    samples = [Sample(0, prompt, [5 + i, 9, 7], 1.0 + i) for i in range(2)]
    gradients(tiny_base, samples, monkeypatch)
    assert calls == [True]
    for settings, passes in (
        ({"kl": 0.1}, [False, True]),
        ({"epochs": 3}, [True] * 3),
        ({"minibatches": 2}, [False, True, True]),
    ):
        calls.clear()
        gradients(tiny_base, samples, monkeypatch, **settings)
        assert calls == passes
