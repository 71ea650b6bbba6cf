from __future__ import annotations

import subprocess
import sys

import pytest

from agents import (
    FunctionPolicy,
    MixedPolicy,
    Policy,
    PolicyError,
    RandomPolicy,
    Request,
    ScriptedPolicy,
    evaluate,
    rollout,
)
from populora_env import Problem, ReasoningArena
from populora_env.records import Phase

PROBLEMS = [Problem.create(f"{i} + 1 =", str(i + 1)) for i in range(4)]


def request(agent="agent_0", phase=Phase.SOLVE, prompt="p", seed=0):
    return Request(agent, phase, prompt, seed=seed)


@pytest.mark.slow
def test_policies_without_a_model_import_no_torch():
    code = "import agents, sys; agents.FunctionPolicy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_any_function_is_a_policy():
    policy = FunctionPolicy(str.upper)
    assert isinstance(policy, Policy)
    assert policy.act([request(prompt="a"), request(prompt="b")]) == ["A", "B"]


def test_scripted_and_random():
    scripted = ScriptedPolicy({Phase.SOLVE: "1"}, default="tie")
    assert scripted.act([request(), request(phase=Phase.COMPARE)]) == ["1", "tie"]
    drawn = RandomPolicy(["x", "y"]).act([request(seed=i) for i in range(50)])
    assert set(drawn) == {"x", "y"}
    assert drawn == RandomPolicy(["x", "y"]).act([request(seed=i) for i in range(50)])
    with pytest.raises(ValueError, match="choices: got none"):
        RandomPolicy([])


def test_mixed_policies_are_asked_once_each():
    batches = []

    class Recorder:
        def act(self, requests):
            batches.append([r.agent for r in requests])
            return ["same"] * len(requests)

    one = Recorder()
    mixed = MixedPolicy({"agent_0": one, "agent_1": FunctionPolicy(str.upper), "agent_2": one})
    got = mixed.act([request(f"agent_{i}", prompt="p") for i in (2, 1, 0)])
    assert got == ["same", "P", "same"]
    assert batches == [["agent_2", "agent_0"]]
    with pytest.raises(PolicyError, match="no policy for agent_7"):
        mixed.act([request("agent_7")])


class Broken:
    def __init__(self, replies):
        self.replies = replies

    def act(self, requests):
        return self.replies


@pytest.mark.parametrize(
    ("replies", "said"), [(["x"], "returned 1 replies for 32"), ([1] * 32, "returned int")]
)
def test_a_broken_policy_is_named(replies, said):
    with pytest.raises(PolicyError, match=said):
        evaluate(Broken(replies), PROBLEMS, agents=["agent_0"] * 8)


def test_rollout_credits_each_reply():
    def answer(prompt):
        return "A" if "Attempt A" in prompt else f"Answer: {int(prompt[0]) + 1}"

    arenas = [ReasoningArena([p], num_agents=3) for p in PROBLEMS]
    done = []
    transcripts = rollout(
        FunctionPolicy(answer), arenas, PROBLEMS, progress=lambda *told: done.append(told)
    )
    assert all(a.grade.correct for t in transcripts for a in t.attempts)
    assert all(e.flipped for t in transcripts for e in t.evaluations)
    assert done == sorted(done)
    assert done[-1] == ("playing", 1)
    with pytest.raises(ValueError, match="got 3 for 4 arenas"):
        rollout(FunctionPolicy(answer), arenas, PROBLEMS[:3])


def test_rollout_ends_arenas_of_different_lengths_and_seeds_every_request():
    seen = []

    class Recorder:
        def act(self, requests):
            seen.extend(requests)
            return ["5"] * len(requests)

    arenas = [
        ReasoningArena([p], num_agents=3, evaluation=e)
        for p, e in zip(PROBLEMS, ("none", "compare", "none", "compare"), strict=True)
    ]
    transcripts = rollout(Recorder(), arenas, PROBLEMS, limits={Phase.SOLVE: 9, Phase.COMPARE: 2})
    assert [len(t.turns) for t in transcripts] == [3, 9, 3, 9]
    assert len({r.seed for r in seen}) == len(seen) == 24
    assert {(r.phase, r.max_new_tokens) for r in seen} == {(Phase.SOLVE, 9), (Phase.COMPARE, 2)}


def test_evaluate_counts_and_votes():
    wrong = FunctionPolicy(lambda _: "Answer: 0")
    half = FunctionPolicy(lambda p: f"Answer: {int(p[0]) + (int(p[0]) < 3)}")
    right = FunctionPolicy(lambda p: f"Answer: {int(p[0]) + 1}")
    policy = MixedPolicy({"agent_0": wrong, "agent_1": half, "agent_2": right})
    result = evaluate(policy, PROBLEMS, agents=("agent_0", "agent_1", "agent_2"))
    assert [s.accuracy for s in result.scores.values()] == [0.0, 0.75, 1.0]
    assert result.mean == pytest.approx(1.75 / 3)
    # On the last problem all differ: a tie of three answers, one of them right.
    assert result.vote == pytest.approx((3 + 1 / 3) / 4)
    assert result.scores["agent_1"].standard_error == pytest.approx((0.75 * 0.25 / 3) ** 0.5)


def test_evaluate_needs_answers():
    with pytest.raises(ValueError, match="no known answer"):
        evaluate(FunctionPolicy(str), [Problem.create("?")])
    with pytest.raises(ValueError, match="at least one"):
        evaluate(FunctionPolicy(str), [])
