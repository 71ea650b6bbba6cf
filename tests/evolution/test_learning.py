from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents import rollout
from agents.learning.rejection import RejectionSource
from agents.population import LoraPopulation
from evolution import ConfigError, EvolutionConfig, EvolutionManager, Learner, learning
from evolution.config import ChildOptimizer
from evolution.individuals.breeding import Child
from evolution.individuals.inheritance import OptimizerInheritance
from evolution.individuals.lineage import Individual
from evolution.learning import gather_samples, make_learner
from evolution.runs.settings_files import read_toml
from populora_env import Preference, Problem, ReasoningArena, Verdict
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base

SIZE = 4
PROBLEMS = [Problem.create("What is 2 + 2?", "4"), Problem.create("What is 3 + 3?", "6")]


def config(**settings):
    quick = dict(problems_per_generation=3, judged_problems=1, solve_tokens=6, judge_tokens=3,
                 offspring=2, spread=0.5, mutation=0.1, learning_rate=0.01)  # fmt: skip
    return EvolutionConfig(**{**quick, **settings})


class Scripted:
    """Agents 0 and 1 add up, in words of their own; agents 2 and 3 always say 9."""

    def act(self, requests):
        replies = []
        for request in requests:
            right = "4" if "2 + 2" in request.prompt else "6"
            replies.append({"agent_0": f"The answer is {right}.", "agent_1": f"It is {right}."}.get(
                request.agent, "The answer is 9."))  # fmt: skip
        return replies


def played(problems=PROBLEMS, policy=None, **settings):
    arenas = [ReasoningArena([p], num_agents=SIZE, evaluation="none", **settings) for p in problems]
    return rollout(policy or Scripted(), arenas, problems)


@pytest.fixture
def population():
    return LoraPopulation(make_tiny_base(), SIZE, 2)


def learned(population, transcripts, **settings):
    """Agent and text of each sample."""
    samples = gather_samples(transcripts, population, config(learner="rejection", **settings))
    assert {sample.advantage for sample in samples} <= {1.0}
    decode = population.base.tokenizer.decode
    return [(s.agent, decode(s.reply_ids, skip_special_tokens=True)) for s in samples]


def test_agents_learn_from_their_own_right_attempts(population):
    assert learned(population, played()) == [
        (0, "The answer is 4."), (0, "The answer is 6."), (1, "It is 4."), (1, "It is 6.")
    ]  # fmt: skip


def test_or_from_those_of_the_population_each_its_own_first(population):
    samples = learned(population, played(), rejection_source="population", rejection_replies=1)
    assert [text for agent, text in samples if agent == 1] == ["It is 4.", "It is 6."]
    assert [text for agent, text in samples if agent == 3] == [
        "The answer is 4.", "The answer is 6."
    ]  # fmt: skip
    everything = learned(population, played(), rejection_source="population")
    assert [agent for agent, _ in everything] == [a for a in range(SIZE) for _ in range(4)]


class MostlyNine(Scripted):
    def act(self, requests):
        said = super().act(requests)
        return ["9!" if r.agent == "agent_1" else s for r, s in zip(requests, said, strict=True)]


def test_where_nobody_knows_the_majority_decides_or_there_is_nothing(population):
    unknown = [replace(problem, answer=None) for problem in PROBLEMS]
    assert {a for a, _ in learned(population, played(unknown, MostlyNine()))} == {1, 2, 3}
    told = played(PROBLEMS, MostlyNine(), rewards="majority_answer")  # though the answer is known
    assert {agent for agent, _ in learned(population, told)} == {1, 2, 3}
    assert learned(population, played(unknown, rewards="ground_truth")) == []
    assert learned(population, played(unknown)) == []  # a tie has no majority


def test_the_advantage_is_the_one_asked_for(population):
    transcripts = played(PROBLEMS[:1])
    rewards = [turn.reward for turn in transcripts[0].turns]
    got = gather_samples(transcripts, population, config(advantage="dr_grpo"))
    assert [s.advantage for s in got] == pytest.approx(np.array(rewards) - np.mean(rewards))
    got = gather_samples(transcripts, population, config(advantage="grpo"))
    deviation = np.std(rewards, ddof=1)
    wanted = (np.array(rewards) - np.mean(rewards)) / deviation
    assert [s.advantage for s in got] == pytest.approx(wanted)


def test_an_attempt_nobody_could_label_has_no_reward_rather_than_none(population):
    (transcript,) = played(PROBLEMS[:1])
    first = transcript.turns[0]
    unlabelled = replace(first, parts={**first.parts, "correctness": None}, reward=0.1)
    turns = (unlabelled, *transcript.turns[1:])
    got = gather_samples([replace(transcript, turns=turns)], population, config())
    advantages = [sample.advantage for sample in got]
    assert math.isnan(advantages[0])
    assert advantages[1] > 0 > advantages[2] == advantages[3]


class PrefersLater:
    """By the alphabet: all but equal texts differ."""

    def judge(self, comparisons):
        return [
            Verdict(Preference.A if entry.first > entry.second else Preference.B)
            for entry in comparisons
        ]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            {"learner": "rejection", "rejection_source": "population"}, marks=pytest.mark.slow
        ),
        pytest.param({"advantage": "grpo", "kl": 0.1}, marks=pytest.mark.slow),
        {"advantage": "reinforce++", "epochs": 2, "minibatches": 2, "child_optimizer": "inherit"},
    ],
    ids=["rejection", "grpo with kl", "several updates"],
)
def test_resumed_equals_uninterrupted(tmp_path, settings):
    settings = config(**settings, evolve_every=2)

    def manager(folder=None):
        population = LoraPopulation(make_tiny_base(), SIZE, 2)
        problems = [Problem.create(f"Say {number}.", None) for number in range(9)]
        return EvolutionManager(population, problems, settings, folder=folder, judge=PrefersLater())

    results = manager(tmp_path / "whole").run(4)
    assert all(result.learning.samples > 0 for result in results)
    manager(tmp_path / "parts").run(2)
    resumed = manager()
    resumed.resume(tmp_path / "parts")
    resumed.run(2)
    for name in ("history.jsonl", "lineage.json", "generation_0003/state.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").open()]
    known = [row["kl"] for row in rows if row["kl"] is not None]
    assert bool(known) is bool(settings.kl)
    assert all(value >= 0 for value in known)


def child(slot, *parents):
    return Child(Individual(f"g1-{slot}", slot, 1, "test"), parents, is_copy=False)


@pytest.mark.parametrize("policy", ["inherit", "reset"])
def test_copies_inherit_optimiser_state_and_crossed_children_do_not(population, policy):
    lora = randomise(population.lora)
    settings = config(child_optimizer=policy, kl=0.1)
    learner = make_learner(population, settings, settings.resolved(SIZE))
    learner.step(gather_samples(played(), population, settings))
    before = {name: tensor.clone() for name, tensor in learner.state().items()}
    inheritance = OptimizerInheritance(learner, lora, settings.child_optimizer)
    for layer in lora.layers():
        A, B = layer.A.clone(), layer.B.clone()
        layer.A[0], layer.B[0] = A[1], B[1] + 0.1  # a mutated copy of 1, which is replaced, too
        layer.A[1], layer.B[1] = A[2], B[2]  # a copy of its second parent
        layer.A[3] = (A[0] + A[2]) / 2
    inheritance.hand_down([child(0, 1), child(1, 0, 2), child(3, 0, 2)])
    inherits = policy == "inherit"
    for name, tensor in learner.state().items():
        if name in ("learning_rates", "kl_weights"):
            assert torch.equal(tensor, before[name])
            continue
        assert torch.equal(tensor[0], before[name][1] * inherits)
        assert torch.equal(tensor[1], before[name][2] * inherits)
        assert torch.equal(tensor[2], before[name][2])
        assert not tensor[3].any()
        assert before[name].flatten(1).any(1).all() if tensor.ndim > 1 else before[name].all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"advantage": "gae"}, "advantage: got 'gae', expected one of rloo, grpo"),
        ({"kl": -1.0}, "kl: got -1.0"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"clip_low": 2.0}, "clip_low: got 2.0"),
        ({"rejection_source": "peers"}, "rejection_source: got 'peers', expected one of own"),
        ({"learn_from": "peers"}, "learn_from: got 'peers', expected one of own"),
        ({"learn_from": "population", "learner": "none"}, "learner = none, expected policy-grad"),
        ({"rejection_replies": 0}, "rejection_replies: got 0"),
        ({"child_optimizer": "mix"}, "child_optimizer: got 'mix', expected one of reset, inherit"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        config(**settings)


def competed(population, **settings):
    """Agent, text and advantage of each sample of a policy gradient."""
    samples = gather_samples(played(), population, config(**settings))
    decode = population.base.tokenizer.decode
    return [(s.agent, decode(s.reply_ids, skip_special_tokens=True), s.advantage) for s in samples]


def test_agents_learn_from_what_others_said_better_than_their_rivals(population):
    own = competed(population)
    shared = competed(population, learn_from="population")
    assert len(own) == 2 * SIZE
    assert [sample for sample in shared if sample in own] == own
    better = [(text, advantage) for _, text, advantage in own if advantage > 0]
    assert len(better) == 4
    for agent in range(SIZE):
        assert better == [(text, gain) for slot, text, gain in shared if slot == agent and gain > 0]
    assert len(shared) == len(own) + (SIZE - 1) * len(better)


def test_but_not_from_other_islands(population):
    shared = competed(population, learn_from="population", islands=2, migrants=1)
    assert [slot for slot, _, gain in shared if gain > 0] == [0, 1, 0, 1, 0, 1, 0, 1]


def test_settings_survive_a_toml_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'learner = "rejection"\nrejection_source = "population"\nchild_optimizer = "inherit"\n'
    )
    read = read_toml(file)
    assert read.learner is Learner.REJECTION
    assert read.rejection_source is RejectionSource.POPULATION
    assert read.child_optimizer is ChildOptimizer.INHERIT


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda rewards: rewards[:-1], "returned values of shape"),
        (lambda rewards: [math.inf] * len(rewards), "returned an infinite value"),
        (lambda rewards: ["a"] * len(rewards), "made no numbers of"),
    ],
)
def test_a_formula_of_ones_own_is_named_where_it_is_wrong(population, monkeypatch, made, said):
    monkeypatch.setattr(learning, "ADVANTAGES", {"rloo": lambda r, g: made(list(r))})
    with pytest.raises(ConfigError, match=f"advantage: 'rloo' {said}"):
        gather_samples(played(), population, config())


def test_a_reply_that_was_cut_off_has_no_end(population):
    base, limit = population.base, config().solve_tokens
    long, short = (_turn_ids(base, text) for text in ("a b c d e f g h", "a"))
    transcripts = played()
    samples = gather_samples(transcripts, population, config(learner="rejection"))
    for sample in samples:
        text = tuple(sample.reply_ids)
        assert (text[-1] == base.reply_end) == (len(text) - 1 < limit)
    assert samples
    assert len(long) >= limit > len(short)


def _turn_ids(base, text):
    return base.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_float16_is_warned_of():
    population = LoraPopulation(make_tiny_base(), 2, 2, adapter_dtype="float16")
    settings = EvolutionConfig()
    with pytest.warns(UserWarning, match="dtype: float16 loses small gradients"):
        make_learner(population, settings, settings.resolved(2))
