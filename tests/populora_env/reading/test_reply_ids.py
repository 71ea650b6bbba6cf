from __future__ import annotations

import copy
import pickle

import pytest

from populora_env import Problem, ReasoningArena
from populora_env.reading.reply_ids import IdentifiedReply, reply_id


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_copies_keep_the_id(again):
    reply = again(IdentifiedReply("The answer is 4.", "a 7"))
    assert reply == "The answer is 4."
    assert (reply_id(reply), reply_id("The answer is 4.")) == ("a 7", "")


def test_every_phase_notes_the_id_of_what_was_replied():
    problem = Problem.create("2 + 2 =", "4")
    arena = ReasoningArena([problem], num_agents=2, evaluation="critique", revise=True)
    arena.reset()
    asked = 0
    while arena.agents:
        arena.step({a: IdentifiedReply("\ud800", f"{a} {asked}") for a in arena.agents})
        asked += 1
    turns = arena.transcript.turns
    assert {turn.phase.value for turn in turns} == {"solve", "critique", "revise"}
    assert [turn.reply_id for turn in turns] == [f"{turn.agent} {turn.round}" for turn in turns]
    assert all(turn.reply == "\ufffd" for turn in turns)
