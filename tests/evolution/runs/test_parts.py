from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evolution.runs import parts as table
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


@pytest.mark.parametrize(
    ("part", "tensor", "reader"),
    [("tokens", "counts", "learner"), ("learner", "tokens.counts", "tokens")],
)
def test_a_tensor_that_another_part_would_read_back_is_refused(part, tensor, reader):
    parts = {"tokens": Remembers({}), "learner": Remembers({})}
    parts[part].saved = {tensor: torch.ones(1)}
    with pytest.raises(ValueError, match=f"^{part}: got tensor '{tensor}', which {reader} would"):
        collect(parts)


def test_a_later_part_stays_as_it_was_made_where_a_run_has_none(monkeypatch):
    monkeypatch.setattr(table, "LATER", frozenset({"tokens"}))
    parts = {"elites": Remembers(), "tokens": Remembers(0)}
    restore(parts, {"elites": ["a"]}, {})
    assert (parts["elites"].saved, parts["tokens"].saved) == (["a"], 0)
    restore(parts, {"elites": ["a"], "tokens": 7}, {})
    assert parts["tokens"].saved == 7


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
