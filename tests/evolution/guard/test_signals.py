from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.engine.jobs import BASE
from agents.population import LoraPopulation
from agents.rollout import rollout
from evolution.guard.forgetting import PROMPTS, Forgetting
from evolution.guard.probing import Place, divergences, entropies, next_tokens
from evolution.guard.signals import Signal, gaps, read_signals, repetition, update_norms
from populora_env import Labels, ReasoningArena, RewardWeights, load_problems
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base
from tests.evolution.genetics import random_lora, updates

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"


def population(size=3, strength=0.5):
    made = LoraPopulation(make_tiny_base(), size, 2)
    if strength:
        randomise(made.lora, strength)
    return made


def played(made, rewards="default", episodes=2):
    problems = load_problems(SPEC).distinct(episodes)
    arenas = [
        ReasoningArena([p], num_agents=made.size, evaluation="none", rewards=rewards)
        for p in problems
    ]
    return rollout(made, arenas, problems, key=("signals",))


@pytest.mark.parametrize(
    ("text", "share"), [("", 0.0), ("a b c", 0.0), ("a a A a", 0.75), ("a b a b", 0.5)]
)
def test_repetition_is_the_share_of_words_that_were_there_before(text, share):
    assert repetition(text) == share


def test_the_norm_of_an_update_is_that_of_the_whole_matrices():
    lora = random_lora()
    whole = [
        sum(float(update.square().sum()) for update in updates(lora, agent)) ** 0.5
        for agent in range(lora.size)
    ]
    assert update_norms(lora) == pytest.approx(whole)


def test_distributions_are_those_of_the_model():
    made = population()
    ids = tuple(made.base.chat_ids("How much is 2 + 3?"))
    found = next_tokens(made, [Place(BASE, ids), Place("agent_1", ids), Place(BASE, ids[:5])])
    assert found.sum(-1).numpy() == pytest.approx([1, 1, 1])
    with torch.no_grad():
        logits = made.base.model(torch.tensor([ids])).logits[0]
    for row, at in ((0, len(ids) - 1), (2, 4)):
        assert torch.allclose(found[row], torch.softmax(logits[at].double(), -1), atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_divergence_and_entropy_of_known_distributions():
    ours = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    theirs = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64)
    assert divergences(ours, theirs) == pytest.approx(np.log([2, 2]))
    assert divergences(ours, ours) == pytest.approx([0, 0])
    assert entropies(ours) == pytest.approx([np.log(2), 0], abs=1e-9)


def test_newborns_do_not_diverge_and_others_do():
    newborn, grown = population(strength=0), population()
    for made, apart in ((newborn, False), (grown, True)):
        found, asked = read_signals(played(made), made, (0, 0))
        assert set(found) == set(Signal)
        assert (found[Signal.DIVERGENCE] > 1e-3).all() == apart
        assert (found[Signal.ENTROPY] > 0).all()
        assert asked == 2 * 4 * made.size


def test_signals_draw_by_key_alone():
    made = population()
    transcripts = played(made)
    one, same, other = (read_signals(transcripts, made, (0, g))[0] for g in (0, 0, 1))
    assert one[Signal.ENTROPY].tolist() == same[Signal.ENTROPY].tolist()
    assert one[Signal.ENTROPY].tolist() != other[Signal.ENTROPY].tolist()


def test_what_was_played_elsewhere_has_no_divergence_but_a_length():
    made = population()
    transcripts = played(made)
    made.forget()
    found, asked = read_signals(transcripts, made, (0, 0))
    assert asked == 0
    assert np.isnan(found[Signal.DIVERGENCE]).all()
    assert np.isfinite(found[Signal.LENGTH]).all()


def test_the_gap_is_what_is_called_right_minus_what_is():
    made = population()
    (first, second) = played(made, RewardWeights(labels=Labels.MAJORITY))
    turns = tuple(
        replace(t, parts={**t.parts, "correctness": called})
        for t, called in zip(first.turns, (1.0, 1.0, None), strict=True)
    )
    attempts = tuple(
        replace(a, grade=replace(a.grade, correct=right))
        for a, right in zip(first.attempts, (False, True, False), strict=True)
    )
    planted = replace(first, turns=turns, attempts=attempts)
    found = gaps([planted], first.agents)
    assert found[:2].tolist() == [1.0, 0.0]
    assert np.isnan(found[2])
    assert gaps(played(made), first.agents).tolist() == [0.0] * 3  # the answer is the label
    assert len(second.turns) == 3


def test_what_is_forgotten_is_how_much_less_likely_the_bases_replies_are():
    made = population()
    measuring = Forgetting(made)
    found = measuring.losses(["agent_0", "agent_2"])
    assert {len(losses) for losses in found.values()} == {len(PROMPTS)}
    newborn = population(strength=0)
    assert Forgetting(newborn).losses(["agent_0"])["agent_0"] == pytest.approx(0, abs=1e-5)
    assert np.abs(found["agent_0"]).max() > 0.01
    other = Forgetting(made)
    other.load(measuring.state())
    again = other.losses(["agent_0", "agent_2"])
    assert again["agent_2"].tolist() == found["agent_2"].tolist()
    assert other.asked > measuring.asked - 1


def test_nothing_is_asked_of_an_engine_that_tells_no_distributions():
    made = population()
    made.engine.features = frozenset()
    assert Forgetting(made).losses(["agent_0"]) == {}
    found, asked = read_signals(played(made), made, (0, 0))
    assert asked == 0
    assert np.isnan(found[Signal.ENTROPY]).all()
