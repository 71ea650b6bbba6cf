"""Copies of environments, at any moment, play on as the originals do."""

import copy
import multiprocessing
import pickle

import pytest

from populora_env import Grader, Problem, ReasoningArena, env, raw_env
from populora_env.gym import ReasoningSolo
from populora_env.judges import AnswerJudge
from populora_env.keys import generator

PROBLEMS = [
    Problem.create("What is 2 + 3?", "5"),
    Problem.create("What is 2 + 5?", "7"),
    Problem.create("Which is larger?", None),  # is judged
]
CHECKED = Problem.create("Half of x?", r"\frac{x}{2}", "math")  # in a worker, slow to start
SETTINGS = {
    "num_agents": 3,
    "evaluation": "score+compare+critique",
    "revise": True,
    "matchmaking": "rating",
    "seed": 5,
}
REPLIES = ("A", "B", "tie", "7", "Verdict: correct", r"\boxed{0.5x}", "Answer: 5", r"\boxed{x/3}")
COPIES = [
    pytest.param(copy.deepcopy, id="deepcopy"),
    pytest.param(lambda value: pickle.loads(pickle.dumps(value)), id="pickle"),
]


def reply(step, agent):
    return REPLIES[generator("copies", step, agent).integers(len(REPLIES))]


def make(kind):
    judge = AnswerJudge()
    if kind == "parallel":
        return ReasoningArena(PROBLEMS, judge=judge, **SETTINGS)
    if kind == "solo":
        return ReasoningSolo(PROBLEMS, judge=judge, **SETTINGS)
    return (env if kind == "aec" else raw_env)(PROBLEMS, judge=judge, **SETTINGS)


def start(game):
    return game.reset(seed=3)


def play(kind, game, begin, steps):
    """Play some steps, over the ends of episodes; return all that is seen."""
    seen = []
    for step in range(begin, begin + steps):
        if kind == "parallel":
            if not game.agents:
                seen.append(game.transcript.to_dict())
                seen.append(game.reset())
            seen.append(game.step({agent: reply(step, agent) for agent in game.agents}))
        elif kind == "solo":
            seen.append(game.step(reply(step, "agent_0")))
            if seen[-1][2]:
                seen.append(game.transcript.to_dict())
                seen.append(game.reset())
        else:
            if not game.agents:
                seen.append(game.unwrapped.transcript.to_dict())
                game.reset()
            agent = game.agent_selection
            seen.append((agent, game.last()))
            ended = game.terminations[agent]
            game.step(None if ended else reply(step, agent))
            seen.append((dict(game.rewards), dict(game.infos)))
    return seen


@pytest.mark.parametrize("moment", [1, 2, 7])
@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", ["parallel", "solo", "aec", "raw"])
def test_a_copy_plays_on_as_the_original_does(kind, copied, moment):
    game = make(kind)
    start(game)
    play(kind, game, 0, moment)
    twin = copied(game)
    steps = 12 if kind in ("parallel", "solo") else 60
    mine, its = play(kind, game, moment, steps), play(kind, twin, moment, steps)
    assert mine == its
    game.close()
    twin.close()


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", ["parallel", "solo", "aec", "raw"])
def test_a_copy_of_a_fresh_one_begins_alike(kind, copied):
    game = make(kind)
    twin = copied(game)
    start(game)
    start(twin)
    seen = play(kind, game, 0, 12)
    game.close()  # is not the twin's end
    assert play(kind, twin, 0, 12) == seen
    twin.close()


def test_copies_are_independent():
    game = make("parallel")
    start(game)
    twin = copy.deepcopy(game)
    play("parallel", twin, 0, 9)
    assert game.agents == game.possible_agents
    with Grader() as shared:  # that the arena does not own is copied as well
        owned = copy.deepcopy(ReasoningArena(PROBLEMS, grader=shared))
        start(owned)
        play("parallel", owned, 0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_has_a_worker_of_its_own(copied):
    game = make("parallel")
    game.reset(options={"problem": CHECKED})
    twin = copied(game)
    actions = dict(zip(game.agents, (r"\boxed{0.5x}", r"\boxed{x/3}", "x"), strict=True))
    game.step(actions)
    late = copied(game)
    game.close()
    twin.step(actions)
    for each in (twin, late):
        assert [entry["status"] for entry in each.step(dict.fromkeys(actions, "1"))[4].values()]
        play("parallel", each, 0, 1)
        each.close()


def _play_there(game, pipe):
    pipe.send(play("parallel", game, 1, 10))
    game.close()


@pytest.mark.slow
def test_a_process_of_its_own_plays_on():
    game = make("parallel")
    start(game)
    play("parallel", game, 0, 1)
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_play_there, args=(game, its), daemon=True)
    process.start()
    assert mine.poll(120)
    got = mine.recv()
    process.join(60)
    assert got == play("parallel", game, 1, 10)
    game.close()
