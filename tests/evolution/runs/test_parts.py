from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evolution.runs.parts import Held, collect, restore


class Remembers:
    def __init__(self, saved=None):
        self.saved = saved

    def state(self):
        return self.saved

    def load(self, saved):
        self.saved = saved


def test_json_is_kept_by_part_and_tensors_by_their_names():
    one, two = torch.ones(1), torch.zeros(2)
    parts = {
        "standing": Remembers([1, 2]),
        "champion": Remembers({"agent": "agent_0", "champion.0.A": one}),
        "learner": Remembers({"learning_rates": two}),
    }
    state, tensors = collect(parts)
    assert state == {"standing": [1, 2], "champion": {"agent": "agent_0"}}
    assert tensors == {"champion.0.A": one, "learning_rates": two}
    again = {name: Remembers() for name in parts}
    restore(again, state, tensors)
    assert {name: part.saved for name, part in again.items()} == {
        name: part.saved for name, part in parts.items()
    }
    with pytest.raises(KeyError, match="standing"):
        restore(again, {}, tensors)


def test_a_held_value_is_put_back_and_none_stays_none():
    owner = SimpleNamespace(elites=frozenset({"b", "a"}), champion=None)
    parts = {
        "elites": Held(owner, "elites", sorted, frozenset),
        "champion": Held(owner, "champion", list, tuple),
    }
    state, _ = collect(parts)
    assert state == {"elites": ["a", "b"], "champion": None}
    owner.elites, owner.champion = frozenset(), "x"
    restore(parts, state, {})
    assert (owner.elites, owner.champion) == (frozenset({"a", "b"}), None)
