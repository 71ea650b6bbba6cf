"""Wrong arguments of arenas, policies and rollouts are named; coroutines are awaited."""

import asyncio
import inspect

import numpy as np
import pytest

import agents
import populora_env
from agents import FunctionPolicy, MixedPolicy, PolicyError, rollout
from agents.learning.advantages import ADVANTAGES
from populora_env import Problem, ReasoningArena, Verdict
from populora_env.records import Preference, ReplyStatus

PROBLEM = Problem.create("2+2?", "4", source="test")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"judge_load": {"compar": 2}}, ValueError, "judge_load .*'compar'"),
        ({"judge_load": 2.0}, ValueError, "judge_load .*2.0"),
        ({"judge_load": {"compare": "2"}}, ValueError, "judge_load"),
        ({"judge_load": None}, ValueError, "judge_load"),
        ({"revise": "False", "evaluation": "critique"}, TypeError, "revise .*'False'"),
        ({"self_judging": 1}, TypeError, "self_judging"),
        ({"judge_timeout": -1}, ValueError, "judge_timeout .*-1"),
        ({"judge_timeout": "30"}, ValueError, "judge_timeout"),
        ({"judge_timeout": float("nan")}, ValueError, "judge_timeout"),
        ({"rewards": {"correctness": 1.0}}, TypeError, "rewards .*dict"),
        ({"rewards": None}, TypeError, "rewards .*NoneType"),
        ({"grader": "g"}, TypeError, "grader"),
        ({"ratings": {}}, TypeError, "ratings"),
        ({"num_agents": True}, ValueError, "num_agents"),
        ({"num_agents": 2.0}, ValueError, "num_agents"),
    ],
)
def test_wrong_arguments_of_an_arena_are_named(arguments, error, said):
    with pytest.raises(error, match=said):
        ReasoningArena([PROBLEM], **arguments)


def test_options_that_mean_the_problem_are_not_ignored():
    arena = ReasoningArena([PROBLEM], num_agents=np.int64(2))
    assert arena.num_agents == 0
    assert len(arena.reset(options={"options": 1})[0]) == 2
    for options in ({"problems": PROBLEM}, {"Problem": PROBLEM}, {"task": PROBLEM}):
        with pytest.raises(ValueError, match="options must hold the problem as 'problem'"):
            arena.reset(options=options)
    with pytest.raises(TypeError, match="options must be a mapping"):
        arena.reset(options=[1])


class Returns:
    def __init__(self, reply):
        self.reply = reply

    def act(self, requests):
        return self.reply


class Waits:
    async def act(self, requests):
        await asyncio.sleep(0)
        return ["#### 4"] * len(requests)

    async def judge(self, comparisons):
        await asyncio.sleep(0)
        return [Verdict(Preference.A, ReplyStatus.OK)] * len(comparisons)


def arenas(count=1):
    return [ReasoningArena([PROBLEM], num_agents=2, evaluation="none") for _ in range(count)]


def test_wrong_arguments_of_a_rollout_are_named():
    policy = FunctionPolicy(lambda prompt: "4")
    one = arenas()[0]
    with pytest.raises(TypeError, match=r"policy .*FunctionPolicy"):
        rollout(lambda prompt: "5", [one], [PROBLEM])
    with pytest.raises(TypeError, match=r"policies\['agent_0'\] .*FunctionPolicy"):
        MixedPolicy({"agent_0": lambda prompt: "5"})
    with pytest.raises(TypeError, match=r"problems\[0\] must be a Problem, got str"):
        rollout(policy, [one], ["2+2?"])
    with pytest.raises(TypeError, match="problems must be a sequence"):
        rollout(policy, [one], "2")
    with pytest.raises(TypeError, match="arenas must be a sequence"):
        rollout(policy, one, [PROBLEM])
    with pytest.raises(ValueError, match="the same arena more than once"):
        rollout(policy, [one, one], [PROBLEM, PROBLEM])
    for reply in ("ab", None, 7):
        with pytest.raises(PolicyError, match="expected a sequence of 2 texts"):
            rollout(Returns(reply), arenas(), [PROBLEM])


def test_coroutines_of_policies_and_judges_are_awaited():
    (transcript,) = rollout(Waits(), arenas(), [PROBLEM])
    assert [attempt.grade.correct for attempt in transcript.attempts] == [True, True]

    async def inside():
        return rollout(Waits(), arenas(), [PROBLEM])

    assert asyncio.run(inside())[0].rewards == transcript.rewards
    open_problem = Problem.create("Say something.", None, source="test")
    arena = ReasoningArena([open_problem], 2, "none", judge=Waits(), rewards="external_judge")
    (transcript,) = rollout(Waits(), [arena], [open_problem])
    assert (transcript.judge_failures, transcript.judge_error) == (0, None)


def test_what_can_be_looked_up_is_shown_and_registries_are_open():
    assert set(agents.__all__) <= set(dir(agents))
    assert list(inspect.signature(populora_env.parallel_env).parameters) == list(
        inspect.signature(ReasoningArena).parameters
    )
    ADVANTAGES["test"] = ADVANTAGES["rloo"]
    assert ADVANTAGES.pop("test") is ADVANTAGES["rloo"]
    made, loaded = agents.LoraPopulation, agents.LoraPopulation.from_pretrained
    for function in (made, loaded):
        parameters = inspect.signature(function).parameters
        assert {parameters[name].kind for name in ("alpha", "targets")} == {
            inspect.Parameter.KEYWORD_ONLY
        }
