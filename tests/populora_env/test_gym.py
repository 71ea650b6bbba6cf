"""The Gymnasium view: the learner's side of an episode, and peers of all sorts."""

import asyncio
import re
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from populora_env import ArenaError, Problem, ReasoningArena
from populora_env.gym import (
    ENV_ID,
    PROPOSER_ENV_ID,
    GuessingPeer,
    ReasoningProposer,
    ReasoningSolo,
    register,
)
from populora_env.keys import generator
from populora_env.prompts import solve_prompt
from populora_env.records import Phase, Request
from populora_env.testing import STRANGE_TEXTS, check_policy

SUM = Problem.create("1 + 1 =", "2")
OPEN = Problem.create("What is best?", None)
EVERYTHING = {"evaluation": "score+compare+critique", "revise": True}

FORMS = (
    {},
    {"num_agents": 1},
    {"evaluation": "none"},
    {**EVERYTHING, "render_mode": "ansi"},
    {"problems": [SUM, OPEN], "peers": str.upper},
    {"evaluation": "compare", "matchmaking": "rating", "rewards": "peers_only"},
)
# What Gymnasium says whenever it is given an environment without, or with, its wrappers.
ALLOWED = ("Not able to test alternative render modes", "is different from the unwrapped version")


def play(env, act="2", **reset):
    """Play an episode with the same text, or with a function of the observation."""
    observation, info = env.reset(**reset)
    steps = [(observation, None, False, False, info)]
    while not steps[-1][2]:
        text = act if isinstance(act, str) else act(steps[-1][0])
        steps.append(env.step(text))
    return steps


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_gymnasiums_checks_pass_directly_and_through_make(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for message in ALLOWED:
            warnings.filterwarnings("ignore", message=f".*{message}")
        check_env(ReasoningSolo(**options))
        env = gymnasium.make(ENV_ID, **options)
        check_env(env)
        check_env(env.unwrapped)
        play(env)
    assert isinstance(env.unwrapped, ReasoningSolo)


def test_registering_twice_is_no_mistake():
    register()
    assert gymnasium.spec(ENV_ID).entry_point == "populora_env.gym:ReasoningSolo"


def test_several_learners_in_a_vector():
    envs = gymnasium.make_vec(
        ENV_ID, 3, vectorization_mode="sync", problems=[SUM, OPEN], **EVERYTHING
    )
    envs.reset(seed=1)
    for _ in range(20):
        observations, rewards, *_ = envs.step(["2", "A", "Verdict: correct"])
    assert len(observations["prompt"]) == len(rewards) == 3


def test_the_learner_sees_what_agent_0_sees_in_the_arena():
    requests = []

    class Peers:
        def act(self, asked):
            requests.extend(asked)
            return [f"{request.agent}: {len(request.prompt)}" for request in asked]

    env = ReasoningSolo([SUM], 3, seed=4, peers=Peers(), **EVERYTHING)
    steps = play(env, "Verdict: A, score: 7/10, 2")
    arena = ReasoningArena([SUM], 3, seed=4, **EVERYTHING)
    seen = arena.reset()[0]
    for observation, reward, terminated, truncated, info in steps[1:]:
        replies = {agent: f"{agent}: {len(seen[agent]['prompt'])}" for agent in arena.agents}
        result = arena.step({**replies, "agent_0": "Verdict: A, score: 7/10, 2"})
        expected = [part["agent_0"] for part in result]
        expected[4] |= {"peer_failures": 0, "peer_error": None}
        assert [observation, reward, terminated, truncated, info] == expected
        seen = result[0]
    assert env.transcript == arena.transcript
    assert steps[-1][0]["phase"] == "done"
    assert sum(step[1] for step in steps[1:]) == pytest.approx(env.transcript.rewards["agent_0"])
    assert [(request.agent, request.phase) for request in requests[:3]] == [
        ("agent_1", Phase.SOLVE), ("agent_2", Phase.SOLVE), ("agent_1", Phase.SCORE),
    ]  # fmt: skip
    assert len({request.seed for request in requests}) == len(requests)
    assert {request.phase: request.max_new_tokens for request in requests}[Phase.SCORE] == 16


def test_peers_are_seeded_and_not_redrawn_by_what_the_learner_says():
    def replies(text, seed):
        env = ReasoningSolo("procedural:chain_sum", **EVERYTHING)
        found = []
        for number in range(3):
            play(env, text, seed=seed if number == 0 else None)
            found += [turn.reply for turn in env.transcript.turns if turn.agent != "agent_0"]
        return found

    assert replies("2", 1) == replies("2", 1) != replies("2", 2)
    judged = [
        [reply for reply in replies(text, 1) if "Answer" not in reply] for text in ("2", "no idea")
    ]
    assert judged[0] == judged[1]


def test_one_object_is_asked_once_a_round_and_a_list_is_dealt_in_order():
    class Counting:
        def __init__(self):
            self.calls = []

        def act(self, requests):
            self.calls.append([request.agent for request in requests])
            return ["2"] * len(requests)

    shared = Counting()
    env = ReasoningSolo([SUM], 4, peers=[shared, str.upper, shared])
    play(env)
    assert shared.calls == [["agent_1", "agent_3"]] * 3
    assert [attempt.text[:3] for attempt in env.transcript.attempts] == ["2", "2", "1 +", "2"]


class Raises:
    def act(self, requests):
        raise OSError("no\nroute")


class Counts:
    def act(self, requests):
        return ["2"]


class Single:
    def act(self, requests):
        return "22"


class Mixed:
    def act(self, requests):
        return [None, "2"]


def raises(prompt):
    raise RuntimeError("boom")


async def cancelled(prompt):
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("peers", "failures", "error"),
    [
        (Raises(), 2, "agent_1, agent_2: OSError: no route"),
        (Counts(), 2, "agent_1, agent_2: expected 2 replies, got 1"),
        (Single(), 2, "agent_1, agent_2: TypeError: act must return a sequence of texts"),
        (Mixed(), 1, "agent_1: expected a str, got NoneType"),
        (len, 2, "agent_2: expected a str, got int"),
        ([str.upper, raises], 1, "agent_2: RuntimeError: boom"),
        ([raises, raises], 2, "agent_2: RuntimeError: boom"),
        (cancelled, 2, "agent_2: CancelledError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_peer_that_fails_says_nothing_is_counted_and_stops_nothing(peers, failures, error):
    env = ReasoningSolo([SUM], 3, peers=peers)
    for _ in range(2):  # the count is of one episode
        steps = play(env)
        infos = [step[4] for step in steps]
        assert [info["peer_failures"] for info in infos] == [failures * n for n in range(4)]
        assert infos[0]["peer_error"] is None
        assert infos[1]["peer_error"].startswith(error)
        assert env.peer_failures == 3 * failures
        empty = [attempt.agent for attempt in env.transcript.attempts if not attempt.text]
        assert len(empty) == failures
        status = {attempt.agent: attempt.status for attempt in env.transcript.attempts}
        assert {status[agent] for agent in empty} == {"failed"}
        assert env.transcript.attempts[0].text == "2"


def test_an_interrupt_is_no_failure_of_a_peer():
    def interrupted(prompt):
        raise KeyboardInterrupt

    env = ReasoningSolo([SUM], peers=interrupted)
    env.reset()
    with pytest.raises(KeyboardInterrupt):
        env.step("2")


@pytest.mark.parametrize("text", STRANGE_TEXTS.values(), ids=STRANGE_TEXTS)
def test_every_text_is_a_legal_action(text):
    env = ReasoningSolo([SUM], 3, **EVERYTHING)
    for observation, *_ in play(env, text):
        assert env.observation_space.contains(observation)
    assert env.action_space.contains(text)


def test_guessing_peers_guess_some_answers_and_keep_the_promises_of_a_policy():
    check_policy(GuessingPeer())
    env = ReasoningSolo("procedural:chain_sum(max_terms=2,max_digits=1)", 9, evaluation="none")
    right = []
    for _ in range(20):
        play(env)
        right += [attempt.grade.correct for attempt in env.transcript.attempts[1:]]
    assert 0.1 < sum(right) / len(right) < 0.6
    env = ReasoningSolo([OPEN], 9, evaluation="none")
    play(env)
    possible = {f"Answer: {word}" for word in solve_prompt(OPEN).split()}
    assert {attempt.text for attempt in env.transcript.attempts[1:]} <= possible


def test_guessing_peers_judge_so_that_they_can_be_read():
    requests = [
        Request("agent_1", phase, "p", seed=seed)
        for phase in (Phase.SCORE, Phase.COMPARE, Phase.CRITIQUE)
        for seed in range(200)
    ]
    replies = GuessingPeer().act(requests)
    assert set(replies[:200]) == {str(score) for score in range(11)}
    assert set(replies[200:400]) == {"A", "B", "tie"}
    assert set(replies[400:]) == {"Verdict: correct", "Verdict: incorrect"}


def test_reset_takes_seeds_and_problems_as_the_arena_does():
    env = ReasoningSolo("procedural:chain_sum", 2)

    def prompts(seed):
        return [env.reset(seed=seed)[0]["prompt"], env.reset()[0]["prompt"]]

    assert prompts(3) == prompts(3)
    assert len({*prompts(3), *prompts(-3)}) == 4
    observation, _ = env.reset(options={"problem": OPEN, "bogus": 1})
    assert "What is best?" in observation["prompt"]
    with pytest.raises(TypeError, match=r"options\['problem'\] must be a Problem, got str"):
        env.reset(options={"problem": "1 + 1"})
    with pytest.raises(TypeError, match="seed must be an integer"):
        env.reset(seed="one")


def test_wrong_calls_say_what_is_wrong():
    asked = []
    env = ReasoningSolo([SUM], 3, render_mode="ansi", peers=lambda prompt: asked.append(1) or "2")
    for call in (lambda: env.step("2"), env.render):
        with pytest.raises(ArenaError, match="before reset: call reset first"):
            call()
    env.reset()
    with pytest.raises(ArenaError, match="once the episode has ended"):
        _ = env.transcript
    with pytest.raises(TypeError, match="action must be a string, got int"):
        env.step(2)
    assert not asked
    play(env)
    assert "[agent_0] answer 2" in env.render()
    with pytest.raises(ArenaError, match="after the end of the episode: call reset first"):
        env.step("2")
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peers": "me"}, r"peers must be a function .* got str"),
        ({"peers": 7}, r"peers must be a function .* got int"),
        ({"peers": [len, len]}, r"peers must be one for all, or num_agents - 1 = 3 of them, got 2"),
        ({"peers": [len, len, 3]}, r"peers\[2\] must be a function .* got int"),
        ({"num_agents": 0}, "num_agents must be an integer >= 1, got 0"),
        ({"seed": "one"}, "seed must be an integer, got 'one'"),
        ({"render_mode": "loud"}, "render_mode must be 'ansi', 'human' or None"),
        ({"no_such": 1}, "unexpected keyword argument 'no_such'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ReasoningSolo([SUM], **arguments)


class Solver:
    """Answers the sums of two numbers rightly, as often as it says."""

    def __init__(self, often=1.0):
        self.often = often

    def act(self, requests):
        replies = []
        for request in requests:
            numbers = [int(found) for found in re.findall(r"\d+", request.prompt)]
            right = generator("solver", request.seed).random() < self.often
            replies.append(f"Answer: {sum(numbers) if right else 1000}")
        return replies


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_proposer_passes_gymnasiums_checks_and_is_paid_by_its_solvers():
    env = gymnasium.make(PROPOSER_ENV_ID, peers=Solver(0.5), tries=40)
    check_env(env.unwrapped, skip_render_check=True)
    seen, _ = env.reset(seed=3)
    assert seen["phase"] == "propose"
    assert seen["has_task"] == 1
    _, reward, ended, _, info = env.step("Problem: 12 + 7 =")
    assert ended
    assert info["proposal"] == "valid"
    assert 0.35 < info["solve_rate"] < 0.65
    assert reward == pytest.approx(1 - info["solve_rate"])
    env.reset()
    _, reward, ended, _, info = env.step("Nothing.")
    assert (reward, ended, info["proposal"], info["solve_rate"]) == (-1.0, True, "unreadable", None)
    env.reset()
    _, reward, _, _, info = env.step("7 + 12")
    assert (reward, info["proposal"]) == (-1.0, "repeated")
    with pytest.raises(ArenaError, match="after the end"):
        env.unwrapped.step("1 + 1")
    env.close()


def test_the_same_seed_gives_a_proposer_the_same_episodes():
    def play():
        env = ReasoningProposer(seed=5)
        told = []
        for number in range(4):
            seen, _ = env.reset(seed=9 if number == 0 else None)
            told.append((seen, env.step(f"{number} + {number + 3}")))
        env.close()
        return told

    assert play() == play()


def test_peers_are_asked_only_where_they_have_a_task():
    asked = []

    def peer(prompt):
        asked.append(prompt)
        return "The answer is 3."

    env = gymnasium.make("populora/ReasoningProposer-v0", peers=peer)
    env.reset(seed=0)
    env.step("Problem: 12 + 30 =")
    assert all(asked)
    env.close()


@pytest.mark.parametrize("proposers", [2, "all"])
def test_a_proposer_is_the_only_one_that_writes(proposers):
    with pytest.raises(ValueError, match="proposers must be 1, the learner, got"):
        ReasoningProposer(proposers=proposers)
