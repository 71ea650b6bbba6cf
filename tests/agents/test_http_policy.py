"""A policy behind a server, in an arena and on its own."""

from __future__ import annotations

import copy
import os
import pickle
import warnings
from pathlib import Path

import pytest

pytest.importorskip("openai")

from agents import FunctionPolicy, MixedPolicy, Policy, evaluate, rollout
from agents.http_policy import HttpPolicy
from agents.measuring.benchmark import benchmark
from populora_env import Problem, ReasoningArena
from populora_env.reading.no_reply import NoReply
from populora_env.records import Phase, ReplyStatus, Request, Verdict
from tests.populora_env.chat.test_api import FakeServer, text_of


@pytest.fixture
def server(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with FakeServer() as running:
        yield running


def policy_of(server, **options):
    return HttpPolicy("m", server.url, **{"timeout": 5.0, "retries": 0, **options})


def test_each_request_keeps_its_limit_and_seed(server):
    requests = [
        Request("agent_0", Phase.SOLVE, "a", max_new_tokens=5, seed=11),
        Request("agent_1", Phase.COMPARE, "b", max_new_tokens=6, seed=12),
    ]
    with policy_of(server) as policy:
        assert isinstance(policy, Policy)
        assert policy.act(requests) == ["re: a", "re: b"]
    sent = {text_of(body): body for body in server.bodies}
    assert [(sent[name]["max_tokens"], sent[name]["seed"]) for name in "ab"] == [(5, 11), (6, 12)]
    assert {body["temperature"] for body in server.bodies} == {1.0}
    assert policy.failures == 0


def test_its_settings_are_those_of_the_client(server):
    with policy_of(server, temperature=0.25, system="s") as policy:
        policy.act([Request("agent_0", Phase.SOLVE, "a")])
    assert server.bodies[0]["temperature"] == 0.25
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": "s"}
    with pytest.raises(ValueError, match="retries must be at least 0"):
        policy_of(server, retries=-1)


def test_a_failed_request_is_an_empty_reply(server):
    server.mode = lambda body, count: 400 if text_of(body) == "bad" else "ok"
    requests = [Request("agent_0", Phase.SOLVE, prompt) for prompt in ("a", "bad")]
    with policy_of(server) as policy:
        replies = policy.act(requests)
    assert replies == ["re: a", ""]
    assert [isinstance(reply, NoReply) for reply in replies] == [False, True]
    assert policy.failures == 1
    assert "BadRequestError" in policy.last_error


@pytest.mark.parametrize("form", ["score", "compare", "critique"])
def test_a_model_that_says_nothing_did_not_fail_and_one_that_failed_says_so(server, form):
    server.reply = lambda body: " "
    server.mode = lambda body, count: 400 if count > 3 else "ok"  # after the solve round
    problem = Problem.create("1 + 1 =", "2")
    arena = ReasoningArena([problem], num_agents=3, evaluation=form, seed=0)
    with policy_of(server) as policy, pytest.warns(RuntimeWarning, match="status 400"):
        (transcript,) = rollout(policy, [arena], [problem])
    by_phase = {(turn.phase, turn.status) for turn in transcript.turns}
    assert by_phase == {(Phase.SOLVE, ReplyStatus.EMPTY), (Phase(form), ReplyStatus.FAILED)}
    assert all(entry.value is None for entry in transcript.assessments)


class Counting:
    """A policy of one's own that marks nothing, but counts."""

    failures, last_error = 0, "down"

    def act(self, requests):
        self.failures += 1
        return ["2" if request.agent == "agent_0" else "" for request in requests]


def test_the_empty_texts_of_a_policy_that_counts_its_failures_are_failures():
    problem = Problem.create("1 + 1 =", "2")
    arena = ReasoningArena([problem], num_agents=2, evaluation="none", seed=0)
    with pytest.warns(RuntimeWarning, match="Counting failed to answer 1 request"):
        (transcript,) = rollout(Counting(), [arena], [problem])
    assert [turn.status for turn in transcript.turns] == [ReplyStatus.OK, ReplyStatus.FAILED]
    assert transcript.attempts[1].text == ""
    assert transcript.attempts[1].grade.correct is None  # of what never came nothing is known


def test_what_never_came_survives_copies():
    for twin in (copy.deepcopy(NoReply()), pickle.loads(pickle.dumps(NoReply()))):
        assert isinstance(twin, NoReply)
        assert twin == ""
        assert not twin


def play(server):
    problem = Problem.create("1 + 1 =", "2")
    arena = ReasoningArena([problem], num_agents=3, seed=0)
    with policy_of(server) as policy:
        (transcript,) = rollout(policy, [arena], [problem])
    return policy, transcript


def test_an_episode_is_played_by_a_server(server):
    server.reply = lambda body: "A" if "Attempt A" in text_of(body) else "The answer is 2."
    policy, transcript = play(server)
    assert [attempt.grade.correct for attempt in transcript.attempts] == [True] * 3
    assert policy.failures == 0


def test_an_episode_outlives_its_server(server):
    server.mode = lambda body, count: 400
    with pytest.warns(RuntimeWarning, match="status 400"):
        policy, transcript = play(server)
    assert {turn.status for turn in transcript.turns} == {ReplyStatus.FAILED}
    assert {attempt.status for attempt in transcript.attempts} == {ReplyStatus.FAILED}
    verdicts = [verdict for entry in transcript.evaluations for verdict in entry.verdicts]
    assert set(verdicts) == {Verdict(None, ReplyStatus.FAILED)}
    assert policy.failures == len(server.bodies) == len(transcript.turns)


def test_a_dead_server_is_not_paid_in_silence(server):
    problem = Problem.create("1 + 1 =", "2")
    arena = ReasoningArena([problem], num_agents=3, seed=0)
    server.shutdown()
    server.server_close()
    with policy_of(server) as dead:
        said = "HttpPolicy failed to answer 9 requests, which count as empty .*APIConnectionError"
        with pytest.warns(RuntimeWarning, match=said) as caught:
            rollout(dead, [arena], [problem])
        assert [Path(warning.filename).name for warning in caught] == ["test_http_policy.py"]
        with pytest.warns(RuntimeWarning, match="HttpPolicy failed to answer 1 request,"):
            evaluate(dead, [problem])
        with pytest.warns(RuntimeWarning, match="HttpPolicy failed to answer 1 request,"):
            benchmark(dead, [problem])
        alive = FunctionPolicy(lambda prompt: "2")
        mixed = MixedPolicy({"agent_0": dead, "agent_1": alive, "agent_2": dead})
        with pytest.warns(RuntimeWarning, match="MixedPolicy failed to answer 6 requests"):
            rollout(mixed, [arena], [problem])
        assert (mixed.failures, mixed.last_error) == (dead.failures, dead.last_error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout(alive, [arena], [problem])


def test_a_seed_can_be_left_out(server):
    with policy_of(server, seed=None, top_p=0.9) as policy:
        policy.act([Request("agent_0", Phase.SOLVE, "a", seed=11)])
    assert "seed" not in server.bodies[0]
    assert server.bodies[0]["top_p"] == 0.9
    with pytest.raises(ValueError, match="seed must be 'request' or None, got 3"):
        policy_of(server, seed=3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_answers_alike(server, copied):
    with policy_of(server) as policy, copied(policy) as twin:
        requests = [Request("agent_0", Phase.SOLVE, "a", max_new_tokens=5, seed=11)]
        assert policy.act(requests) == twin.act(requests) == ["re: a"]
    assert server.bodies[0] == server.bodies[1]
