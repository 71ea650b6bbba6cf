from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from agents.measuring.evaluate import evaluate
from agents.policy import Policy, RandomPolicy, Request
from agents.population import LoraPopulation
from agents.rollout import rollout
from populora_env import Problem, ReasoningArena
from populora_env.records import Phase, Transcript
from tests.agents.helpers import randomise

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")


@pytest.fixture
def population(tiny_base):
    population = LoraPopulation(tiny_base, 3, 4)
    randomise(population.lora)
    return population


def requests(*agents, prompt="2 + 2 ="):
    return [Request(agent, Phase.SOLVE, prompt, 6, seed) for seed, agent in enumerate(agents)]


def test_it_is_a_policy_and_agents_differ(population):
    assert isinstance(population, Policy)
    replies = population.greedy().act(requests("agent_0", "agent_1", "agent_2", "base"))
    assert len(set(replies)) == 4
    population.lora.detach()


def test_the_seed_decides_the_reply(population):
    first = population.act(requests("agent_0", "agent_0"))
    assert first == population.act(requests("agent_0", "agent_0"))
    assert first[0] != first[1]


def test_recall_gives_the_tokens_back(population):
    (request,) = requests("agent_1")
    (reply,) = population.act([request])
    known = population.recall(reply.reply_id)
    assert known is not None
    assert population.base.tokenizer.decode(known.reply_ids, skip_special_tokens=True) == reply
    assert list(known.prompt_ids) == population.base.chat_ids(request.prompt)
    population.forget()
    assert population.recall(reply.reply_id) is None


class Trimming:
    """A policy that says something of its own: the first letters of a population's replies."""

    def __init__(self, population):
        self.population = population

    def act(self, requests):
        return [reply[:2] for reply in self.population.act(requests)]


def test_a_reply_that_the_arena_cuts_is_found_again(population):
    problem = Problem.create("1 + 1 =", "2")
    arena = ReasoningArena([problem], num_agents=3, evaluation="none", max_reply_chars=3)
    (transcript,) = rollout(population, [arena], [problem], limits={Phase.SOLVE: 20})
    for turn in transcript.turns:
        known = population.recall(turn.reply_id)
        assert len(known.reply_ids) > len(turn.reply) > 0  # a letter is a token here
        assert known.text.startswith(turn.reply)
    ids = [turn.reply_id for turn in transcript.turns]
    assert len(set(ids)) == 3
    stored = json.dumps(transcript.to_dict())
    assert not any(known_as in stored for known_as in ids)
    assert Transcript.from_dict(json.loads(stored)) == transcript
    for other in (RandomPolicy(), Trimming(population)):  # their replies are not the population's
        (again,) = rollout(other, [arena], [problem])
        assert [population.recall(turn.reply_id) for turn in again.turns] == [None] * 3


def test_the_same_texts_of_one_agent_are_two_replies(population):
    request = requests("agent_1")[0]
    first, second = population.greedy().act([request, replace(request, seed=8)])
    assert first == second
    assert first.reply_id != second.reply_id
    assert population.recall(first.reply_id) is not population.recall(second.reply_id)


def test_unknown_agent(population):
    with pytest.raises(ValueError, match=r"agent: got 'agent_3', expected 'base' or one of"):
        population.act(requests("agent_3"))


def test_plain_peft_generates_the_same(population, tmp_path):
    folder = population.save_adapter("agent_2", tmp_path / "one")
    (request,) = requests("agent_2")
    (ours,) = population.generate([request], temperature=0)
    population.lora.detach()
    peft = PeftModel.from_pretrained(population.base.model, folder)
    ids = torch.tensor([ours.prompt_ids])
    end = population.base.tokenizer.eos_token_id
    with torch.no_grad():
        out = peft.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
            pad_token_id=end,
        )  # fmt: skip
    assert out[0, ids.shape[1] :].tolist() == list(ours.reply_ids)


def test_rollout_of_a_population(population):
    problems = [Problem.create(f"{i} + 1 =", str(i + 1)) for i in range(3)]
    transcripts = []
    for _ in range(2):
        arenas = [ReasoningArena([p], num_agents=3) for p in problems]
        limits = {Phase.SOLVE: 5, Phase.COMPARE: 3}
        transcripts.append(
            [t.to_dict() for t in rollout(population, arenas, problems, key=(1,), limits=limits)]
        )
    assert transcripts[0] == transcripts[1]
    assert {turn["phase"] for turn in transcripts[0][0]["turns"]} == {"solve", "compare"}


def test_evaluate_a_population_and_its_base(population):
    problems = [Problem.create(f"{i} + 1 =", str(i + 1)) for i in range(4)]
    result = evaluate(population, problems, agents=("base", "agent_0"), max_new_tokens=4)
    assert set(result.scores) == {"base", "agent_0"}
    assert all(len(score.replies) == 4 for score in result.scores.values())


@pytest.mark.slow
def test_real_model_stays_a_working_model_after_the_spread(smollm):
    from evolution.config import EvolutionConfig
    from evolution.operators.mutation_weights import spread

    population = LoraPopulation(smollm, 3, 8)
    try:
        spread(population.lora, EvolutionConfig().spread, seed=0)
        problems = [
            Problem.create(
                f"State the final answer to the following arithmetic problem: {a} {sign} {b} =",
                str(a + b if sign == "+" else a - b),
            )
            for a in (5, 6, 7, 9)
            for b in (1, 3, 4)
            for sign in "+-"
        ]
        names = ("base", *population.agents)
        result = evaluate(population.greedy(), problems, agents=names, max_new_tokens=24)
    finally:
        population.lora.detach()
    accuracy = {name: score.accuracy for name, score in result.scores.items()}
    assert accuracy["base"] >= 0.25
    assert min(accuracy.values()) >= 0.5 * accuracy["base"]
    assert len({score.replies for score in result.scores.values()}) == 4, accuracy


def test_stop_texts_of_a_request_reach_the_decoder_and_counts_add_up(tiny_base):
    population = LoraPopulation(tiny_base, size=2, rank=2)
    request = Request("agent_0", Phase.SOLVE, "hello", 30, 3)
    (whole,) = population.act([request])
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    before = population.stats.tokens
    (cut,) = population.act([replace(request, stop=(stop,))])
    assert stop in cut
    assert len(cut) < len(whole)
    assert whole.startswith(cut)
    assert 0 < population.stats.tokens - before < before
    assert population.stats.tokens_per_second > 0
