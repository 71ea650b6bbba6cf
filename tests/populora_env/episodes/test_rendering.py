"""What is shown of an episode: to a person as it goes, and to a central critic."""

import asyncio
import io
import sys

import gymnasium
import pytest

from populora_env import (
    ArenaError,
    Problem,
    ProblemSource,
    ReasoningArena,
    env,
    load_problems,
    raw_env,
)
from populora_env.gym import ReasoningSolo

PROBLEM = Problem.create("2 + 3 = é", "5")
SETTINGS = {"num_agents": 3, "evaluation": "score+compare+critique", "revise": True}


def play(arena):
    arena.reset(seed=1)
    step = 0
    while arena.agents:
        arena.step({agent: f"{agent} says {step}\x1b[2J" for agent in arena.agents})
        step += 1


def test_people_see_everything_once_as_it_goes(capsys):
    arena = ReasoningArena([PROBLEM], render_mode="human", **SETTINGS)
    arena.reset(seed=1)
    begin = capsys.readouterr().out
    assert begin == "-- solve, round 0\n2 + 3 = é\nknown answer: 5\n"
    arena.step(dict.fromkeys(arena.agents, "Answer: 5"))
    after = capsys.readouterr().out
    assert after.startswith("-- score, round 1\n[agent_0] answer 5")
    assert "2 + 3" not in after
    assert arena.render() is None
    for _ in range(2):
        play(arena)
        shown = capsys.readouterr().out
        arena.render_mode = "ansi"
        assert sorted(shown.splitlines()) != []
        for line in arena.render().splitlines()[1:]:
            assert line in shown
        assert shown.count("rewards: ") == shown.count("known answer") == 1
        assert "\x1b" not in shown
        arena.render_mode = "human"
    arena.close()


def test_a_terminal_without_the_characters_gets_others(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    ReasoningArena([PROBLEM], render_mode="human").reset()
    assert b"2 + 3 = ?" in written.getvalue()


@pytest.mark.parametrize("make", [env, raw_env])
def test_agents_in_turn_are_shown_as_well(make, capsys):
    game = make([PROBLEM], num_agents=1, evaluation="none", render_mode="human")
    game.reset(seed=1)
    game.step("5")
    assert "rewards: agent_0" in capsys.readouterr().out


def test_the_solo_environment_is_made_for_people(capsys):
    solo = gymnasium.make(
        "populora/ReasoningSolo-v0", problems=[PROBLEM], render_mode="human", evaluation="none"
    )
    solo.reset(seed=1)
    solo.step("5")
    assert "rewards: " in capsys.readouterr().out
    solo.close()


def test_the_state_is_in_its_space_and_holds_what_is_known():
    arena = ReasoningArena([PROBLEM], **SETTINGS)
    with pytest.raises(ArenaError, match="state was called before reset"):
        arena.state()
    arena.reset(seed=1)
    first = arena.state()
    assert first in arena.state_space
    assert (first["problem"], first["answer"], first["phase"]) == (PROBLEM.prompt, "5", "solve")
    assert set(first["attempts"].values()) == {""}
    while arena.agents:
        arena.step({agent: f"{agent}: 5" for agent in arena.agents})
        assert arena.state() in arena.state_space
    last = arena.state()
    assert last["attempts"] == {agent: f"{agent}: 5" for agent in arena.possible_agents}
    assert last["revisions"] == last["attempts"]
    assert last["phase"] == "done"
    arena.reset(options={"problem": Problem.create("open?", None)})
    assert arena.state()["answer"] == ""
    assert isinstance(arena.state_space.sample(), dict)


@pytest.mark.parametrize("make", [env, raw_env])
def test_the_state_with_agents_in_turn(make):
    game = make([PROBLEM], num_agents=2, evaluation="none")
    game.reset(seed=1)
    assert game.state() in game.state_space
    assert game.state()["problem"] == PROBLEM.prompt


class Squares(ProblemSource):
    """A source as a stranger would write it."""

    spec = "squares"

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self._check_index(index)
        return Problem.create(f"{index} squared?", str(index * index))


def test_sources_can_be_sliced():
    for source in (
        load_problems("procedural:chain_sum(max_terms=3)", limit=5),
        load_problems("procedural:2*chain_sum+products", limit=5),
        Squares(),
    ):
        assert source[:2] == [source[0], source[1]]
        assert source[-2:] == [source[3], source[4]]
        assert source[::2] == [source[0], source[2], source[4]]
        assert source[9:] == []
    arena = ReasoningArena(Squares()[:1])
    arena.reset()
    with pytest.raises(IndexError):
        Squares()[5]


class Later:
    """A peer that has to be awaited."""

    async def act(self, requests):
        await asyncio.sleep(0)
        return ["5" for _ in requests]


async def later(prompt):
    await asyncio.sleep(0)
    return "5" if prompt else ""


@pytest.mark.parametrize("peers", [Later(), later, [Later(), later]])
def test_peers_may_be_asynchronous(peers):
    solo = ReasoningSolo([PROBLEM], 3, "none", peers=peers)
    solo.reset(seed=1)
    info = solo.step("4")[-1]
    assert (info["peer_failures"], info["peer_error"]) == (0, None)
    assert [turn.grade.correct for turn in solo.transcript.attempts] == [False, True, True]

    async def inside():
        solo.reset(seed=1)
        return solo.step("4")[-1]["peer_failures"]

    assert asyncio.run(inside()) == 0


class Dead:
    """A peer whose server is down, as `HttpPolicy` says it."""

    failures, last_error = 0, None

    def act(self, requests):
        self.failures += len(requests)
        self.last_error = "no server"
        return [""] * len(requests)


def test_a_peer_that_counts_its_failures_is_believed():
    solo = ReasoningSolo([PROBLEM], 3, "none", peers=Dead())
    solo.reset(seed=1)
    info = solo.step("5")[-1]
    assert info["peer_failures"] == 2
    assert info["peer_error"].endswith("no server")
    assert [attempt.status for attempt in solo.transcript.attempts[1:]] == ["failed", "failed"]
