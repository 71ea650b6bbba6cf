"""How far individuals have moved since birth: the estimate, who is compared, and going on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from evolution.individuals.births import SKETCHES, Births
from evolution.individuals.lineage import Individual
from tests.evolution.genetics import distance, random_lora, updates
from tests.evolution.test_manager import config, make


def members(size, generation=0):
    return [Individual(f"g{generation}-{i}", i, generation, "spread") for i in range(size)]


def learn(lora, strength, seed=1):
    rng = torch.Generator().manual_seed(seed)
    for layer in lora.layers():
        layer.A.add_(strength * torch.randn(layer.A.shape, generator=rng))
        layer.B.add_(strength * torch.randn(layer.B.shape, generator=rng))
    lora.enforce_ranks()


@pytest.mark.parametrize("strength", [1e-4, 0.05, 1.0])
def test_drift_is_the_relative_distance_to_a_few_percent(strength):
    lora = random_lora()
    born = [updates(lora, agent) for agent in range(4)]
    births = Births(lora, 0)
    births.begin(members(4))
    learn(lora, strength)
    found = births.moved(members(4))
    for agent in range(4):
        true = distance(updates(lora, agent), born[agent])
        assert found.drift[agent] == pytest.approx(true, rel=0.12)
        norm = sum(float(m.square().sum()) for m in updates(lora, agent)) ** 0.5
        assert found.norms[agent] == pytest.approx(norm, rel=1e-5)


def test_only_newcomers_are_met_anew():
    lora = random_lora()
    births = Births(lora, 0)
    births.begin(members(4))
    assert births.moved(members(4)).drift == pytest.approx(np.zeros(4), abs=1e-6)
    learn(lora, 0.1)
    now = members(4)
    now[2] = members(4, generation=3)[2]
    births.meet(now)
    assert births.moved(now).drift[2] == pytest.approx(0, abs=1e-6)
    assert (births.moved(now).drift[[0, 1, 3]] > 0.05).all()
    before = births.moved(now).drift
    births.meet(now)
    np.testing.assert_array_equal(births.moved(now).drift, before)


def test_what_is_broken_or_was_nothing_has_not_moved_anywhere():
    lora = random_lora()
    for layer in lora.layers():
        layer.B[1] = 0.0
    births = Births(lora, 0)
    births.begin(members(4))
    learn(lora, 0.1)
    now = members(4)
    now[0] = replace(now[0], broken=1)
    drift = births.moved(now).drift
    assert np.isnan(drift[:2]).all()
    assert np.isfinite(drift[2:]).all()


def test_state_and_back():
    lora = random_lora()
    births, again = Births(lora, 0), Births(lora, 0)
    births.begin(members(4))
    learn(lora, 0.1)
    again.load(json.loads(json.dumps({"individuals": births.state()["individuals"]}))
               | {SKETCHES: births.state()[SKETCHES]})  # fmt: skip
    np.testing.assert_array_equal(again.moved(members(4)).drift, births.moved(members(4)).drift)
    with pytest.raises(ValueError, match=r"births: got sketches \(4, 14, 3\) of 4 members, exp"):
        again.load({**births.state(), SKETCHES: births.state()[SKETCHES][:, :, :3]})
    assert again.kept
    again.forget()
    assert (again.kept, again.moved(members(4))) == (False, None)


def rows(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").open()]


def test_a_run_records_drift_and_a_resumed_one_goes_on_with_it(tmp_path):
    whole = make(tmp_path / "whole", config(evolve_every=2))
    whole.run(4)
    whole.close()
    start = make(tmp_path / "parts", config(evolve_every=2))
    start.run(3)
    start.close()
    again = make(tmp_path / "parts", config(evolve_every=2))
    again.resume(tmp_path / "parts")
    again.run(1)
    again.close()
    recorded = rows(tmp_path / "whole")
    assert recorded == rows(tmp_path / "parts")
    drift = np.array([row["drift"] for row in recorded]).reshape(4, 4)
    assert drift.max() > 0
    born = np.array([row["individual"].startswith("g2-") for row in recorded]).reshape(4, 4)[2]
    assert born.any()
    before = np.array([row["individual"] for row in recorded]).reshape(4, 4)
    assert (before[1] == before[2]).tolist() == (~born).tolist()
    assert all(row["update_norm"] > 0 for row in recorded)


def test_a_run_that_began_without_goes_on_without(tmp_path):
    begun = make(tmp_path, config())
    begun._births.begin = lambda members: None  # as a version that kept no sketches
    begun.run(1)
    begun.close()
    assert "drift" not in rows(tmp_path)[0]
    again = make(None, config())
    again.ask()  # which would begin, were it not for the run it goes on with
    again.resume(tmp_path)
    again.run(1)
    again.close()
    assert "drift" not in rows(tmp_path)[-1]
    state = json.loads((tmp_path / "generation_0001" / "state.json").read_text())
    assert "births" not in state
