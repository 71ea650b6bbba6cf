"""Several tries at a given problem, one after the other or all at once."""

import json

import pytest
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

import populora_env
from agents import rollout
from agents.policy import RandomPolicy
from populora_env import Phase, Problem, ReasoningArena, Transcript
from populora_env.testing import check_episode_determinism, check_parallel_env

SPEC = "procedural:chain_sum"
PROBLEM = Problem.create("2 + 2 =", "4")
FORMS = (
    {"evaluation": "none", "tries": 4},
    {"evaluation": "compare", "tries": 2},
    {"evaluation": "score+compare+critique", "revise": True, "tries": 3, "judge_load": 2},
)


def play(env, act):
    steps = [env.reset(seed=3, options={"problem": PROBLEM})]
    while env.agents:
        steps.append(env.step({agent: act(agent, steps[-1][0][agent]) for agent in env.agents}))
    return steps


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("num_agents", [1, 3])
@pytest.mark.parametrize("options", FORMS, ids=lambda options: options["evaluation"])
def test_pettingzoo_and_our_own_tests_pass(options, num_agents):
    def make():
        return ReasoningArena(SPEC, num_agents, **options)

    parallel_api_test(make(), num_cycles=30)
    parallel_seed_test(make, num_cycles=10)
    api_test(populora_env.env(SPEC, num_agents, **options), num_cycles=30)
    check_parallel_env(make, replies=("4", "Answer: 9", "A", "", "7/10"), episodes=4)
    check_episode_determinism(make, lambda agent, _: f"{agent[-1]} or 9")


def test_all_tries_are_in_the_transcript_and_the_last_is_judged():
    env = ReasoningArena([PROBLEM], 3, "score", tries=3, rewards="ground_truth")
    replies = iter("444 544 564".replace(" ", ""))
    steps = play(env, lambda _, seen: next(replies) if seen["phase"] == "solve" else "Score: 5/10")
    transcript = env.transcript
    assert [seen[0]["agent_0"]["round"] for seen in steps] == [0, 1, 2, 3, 3]
    assert [a.text for a in transcript.attempts] == list("444544564")
    assert [a.agent for a in transcript.attempts] == ["agent_0", "agent_1", "agent_2"] * 3
    assert [t.round for t in transcript.turns] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert [t.phase for t in transcript.turns] == ["solve"] * 9 + ["score"] * 3
    for agent, reward in transcript.rewards.items():
        own = [turn.reward for turn in transcript.turns if turn.agent == agent]
        assert reward == pytest.approx(sum(own))
        assert reward == pytest.approx(sum(step[1][agent] for step in steps[1:]))
    assert transcript.rewards["agent_0"] < transcript.rewards["agent_1"]
    read = Transcript.from_dict(json.loads(json.dumps(transcript.to_dict())))
    assert read == transcript


def test_one_try_is_the_episode_there_always_was():
    for options in ({}, {"evaluation": "critique", "revise": True}):
        plain, once = (ReasoningArena([PROBLEM], 3, **options, **x) for x in ({}, {"tries": 1}))
        for env in (plain, once):
            play(env, lambda agent, _: agent[-1])
            assert env.repeats == 0
        assert plain.transcript.to_dict() == once.transcript.to_dict()


def test_the_last_try_is_judged_by_whom_a_single_one_is():
    def judged(tries):
        env = ReasoningArena([PROBLEM], 5, "compare", tries=tries)
        play(env, lambda agent, _: agent[-1])
        return env.transcript.evaluations

    assert judged(3) == judged(1)


class Noted(RandomPolicy):
    """Notes what it is asked, call by call."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def act(self, requests):
        self.asked.append(list(requests))
        return super().act(requests)


def test_tries_are_asked_for_at_once_and_come_out_as_one_by_one():
    problems = [Problem.create(f"{n} + 1 =", str(n + 1)) for n in range(2)]

    def arenas(tries):
        return [ReasoningArena([p], 3, "score", tries=tries) for p in problems]

    noted = Noted()
    together = rollout(noted, arenas(3), problems, key=(5,))
    assert [len(batch) for batch in noted.asked] == [2 * 3 * 3, 2 * 3]
    assert len({request.seed for batch in noted.asked for request in batch}) == 24
    for transcript, problem in zip(together, problems, strict=True):
        requests = {
            (r.agent, r.phase, place): r
            for batch in noted.asked
            for place, r in enumerate(r for r in batch if r.prompt.find(problem.prompt) >= 0)
        }
        assert len(requests) == 12
        solved = [t for t in transcript.turns if t.phase is Phase.SOLVE]
        assert [t.round for t in solved] == [0] * 3 + [1] * 3 + [2] * 3
        asked = [r for r in noted.asked[0] if r.prompt == solved[0].prompt]
        assert [r.agent for r in asked] == [t.agent for t in solved]
        assert RandomPolicy().act(asked) == [t.reply for t in solved]
    # The first try is what a single one would have been.
    alone = rollout(Noted(), arenas(1), problems, key=(5,))
    for one, many in zip(alone, together, strict=True):
        assert one.attempts == many.attempts[:3]


def test_fewer_than_one_try_is_refused():
    with pytest.raises(ValueError, match="tries must be an integer >= 1, got 0"):
        ReasoningArena([PROBLEM], tries=0)
