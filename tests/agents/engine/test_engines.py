"""What a population asks of an engine, and what it refuses from one."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from agents.engine.jobs import BASE, EngineError, Feature
from agents.engine.local import LocalEngine
from agents.measuring.evaluate import evaluate
from agents.policy import Request
from agents.population import LoraPopulation
from agents.rollout import rollout
from populora_env import Problem, ReasoningArena
from populora_env.records import Phase
from tests.agents.helpers import randomise
from tests.agents.table_engine import TABLE, TableEngine, table_population

PROBLEMS = [Problem.create(f"What is {i} + {4 - i}?", "4") for i in range(4)]


def asked(*agents):
    return [Request(agent, Phase.SOLVE, "2 + 2 =", 20, seed) for seed, agent in enumerate(agents)]


def test_a_population_plays_an_episode_with_an_engine_that_has_no_model():
    engine = TableEngine()
    population = table_population(engine)
    randomise(population.lora)
    arenas = [ReasoningArena([problem], num_agents=3) for problem in PROBLEMS]
    limits = {Phase.SOLVE: 30, Phase.COMPARE: 30}
    played = rollout(population, arenas, PROBLEMS, limits=limits)
    turns = [turn for transcript in played for turn in transcript.turns]
    assert {turn.phase for turn in turns} == {Phase.SOLVE, Phase.COMPARE}
    assert {turn.reply for turn in turns} == set(TABLE)
    for turn in turns:
        known = population.recall(turn.reply_id)
        assert (known.text, known.reply_ids) == (turn.reply, tuple(turn.reply.encode()))
        assert list(known.prompt_ids) == population.base.chat_ids(turn.prompt)
    assert {job.adapter for job in engine.jobs} == set(population.lora.hashes(range(3)).values())


def test_evaluate_and_progress_of_single_replies():
    population = table_population(TableEngine())
    result = evaluate(population.greedy(), PROBLEMS, agents=("base", "agent_0"))
    assert {len(score.replies) for score in result.scores.values()} == {4}
    assert 0 < result.mean < 1
    told = {}
    policy = population.decoding(temperature=0.0)
    replies = policy.act_telling(asked("agent_0", "base", "agent_1"), told.__setitem__)
    assert [told[i] for i in range(3)] == replies


def test_a_job_says_all_there_is_to_know():
    engine = TableEngine()
    population = table_population(engine)
    population.act([replace(asked("agent_1")[0], seed=5, stop=("\n",)), *asked("base")])
    first, second = engine.jobs
    assert first.adapter == population.lora.hashes([1])[1]
    assert second.adapter == BASE
    assert (first.seed, first.max_new_tokens, first.stop) == (5, 20, ("\n",))
    assert first.prompt_ids == population.base.chat_ids("2 + 2 =")
    assert first.id != second.id


def test_what_does_not_fit_never_reaches_the_engine():
    engine = TableEngine()
    population = table_population(engine)
    long = replace(asked("agent_0")[0], prompt="x" * 600)
    for batch in ([long, *asked("agent_1")], [long]):
        with pytest.warns(RuntimeWarning, match="do not fit the model's context"):
            assert population.act(batch)[0] == ""
    assert (len(engine.jobs), population.stats.overlong) == (1, 2)


@pytest.mark.parametrize("wanted", Feature)
def test_an_engine_says_what_it_lacks(wanted):
    population = table_population(TableEngine())
    said = f"features: got {wanted}, but TableEngine gives none; ask for less, or use another"
    with pytest.raises(EngineError, match=said):
        population.generate(asked("agent_0"), features={wanted})
    with pytest.raises(EngineError, match=said):
        population.keeping({wanted}).act(asked("agent_0"))


class Faulty(TableEngine):
    """An engine whose replies go through a fault on their way."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def generate(self, *given, **how):
        return self.fault(list(super().generate(*given, **how)))


def test_replies_may_come_in_any_order():
    requests = asked(*["agent_0", "agent_1", "base"] * 3)
    expected = table_population(TableEngine()).act(requests)
    assert len(set(expected)) > 1
    assert table_population(Faulty(lambda replies: replies[::-1])).act(requests) == expected


def others_hash(replies):
    return [replies[0], replace(replies[1], adapter=replies[0].adapter)]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (others_hash, r"'reply \d+' was written by adapter '\w{16}', expected '\w{16}'; its w"),
        (lambda r: [replace(r[0], adapter=BASE), r[1]], "was written by adapter 'base'"),
        (lambda r: r[1:], r"got 1 replies to 2 jobs, expected one for each; 'reply \d+' is miss"),
        (lambda r: [*r, r[1]], r"got reply 'reply \d+' twice, expected one for each job"),
        (lambda r: [*r, replace(r[0], id="?")], r"got reply '\?' of a job that was not given"),
        (lambda r: [], "got 0 replies to 2 jobs"),
    ],
)
def test_other_replies_than_those_asked_for_are_refused(fault, said):
    population = table_population(Faulty(fault))
    randomise(population.lora)
    with pytest.raises(EngineError, match=f"^Faulty: .*{said}") as told:
        population.act(asked("agent_0", "agent_1"))
    assert "\n" not in str(told.value)


def test_a_feature_that_was_promised_and_is_not_there_is_told():
    engine = TableEngine()
    engine.features = frozenset({"hidden_states"})
    with pytest.raises(EngineError, match="lacks hidden_states, which was asked for"):
        table_population(engine).act(asked("agent_0"))


class Stale(TableEngine):
    """The commonest fault: an engine that keeps the first adapters it was given."""

    kept = None

    def generate(self, adapters, jobs, **how):
        if self.kept is None:
            self.kept = {job.agent: copy.deepcopy(adapters[job.adapter]) for job in jobs}
        return super().generate({job.adapter: self.kept[job.agent] for job in jobs}, jobs, **how)


def test_an_engine_that_sleeps_through_a_change_is_caught():
    population = table_population(Stale())
    randomise(population.lora)
    assert len(population.act(asked("agent_0"))) == 1
    randomise(population.lora, seed=1)
    with pytest.raises(EngineError, match="its weights are not those it was given"):
        population.act(asked("agent_0"))


def test_the_local_engine_tells_what_changed_while_it_decoded(tiny_base):
    population = LoraPopulation(tiny_base, 2, 2)

    def meddle(place, text):
        del place, text
        randomise(population.lora)

    assert isinstance(population.engine, LocalEngine)
    with pytest.raises(EngineError, match=r"LocalEngine: .* was written by adapter"):
        population.generate(asked("agent_0", "base"), done=meddle)


def test_local_replies_carry_what_was_asked_for(tiny_base):
    population = LoraPopulation(tiny_base, 2, 2, max_rows=7)
    assert population.engine.max_rows == population.max_rows == 7
    solve, compare = asked("agent_0", "agent_0")
    compare = replace(compare, phase=Phase.COMPARE)
    plain, other = population.generate([solve, compare], features={Feature.DISTRIBUTIONS})
    assert plain.features.keys() == {"hidden_states", "distributions"}
    assert other.features.keys() == {"hidden_states"}
    assert plain.features["hidden_states"].shape == (48,)
    assert plain.features["distributions"].sum() == pytest.approx(1, abs=1e-4)
    (later,) = population.generate([solve])
    assert later.features.keys() == {"hidden_states"}
    assert later.reply_ids == plain.reply_ids
