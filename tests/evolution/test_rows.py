"""Runs whose adapters share their rows."""

from __future__ import annotations

import json

import pytest

from agents.population import LoraPopulation
from evolution import CheckpointError, ConfigError, EvolutionManager, Learner
from evolution.lowrank.shared_rows import are_shared
from tests.agents.helpers import randomise
from tests.conftest import make_tiny_base
from tests.evolution.test_manager import SPEC, config, make


def shared(**settings):
    return config(rows="shared", evolve_every=1, elites=1, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"crossover": "layer_wise", "mutations": "relative_gaussian+dropout+masking"},
        {"crossover": "subspace_interpolation", "child_optimizer": "inherit"},
        {"crossover": "subspace_split", "learner": Learner.NONE, "elites": 1},
        {"crossover": "clone", "mutations": "layer_gaussian", "kl": 0.1},
        {"spread": 0.0},
        {"exchange": "average", "offspring": 0},
        {"exchange": "cma_es(problems=2,rounds=1)", "offspring": 0},
        {"islands": 2, "offspring": 1, "migrate_every": 1, "parents": 1},
    ],
    ids=lambda given: ",".join(map(str, given.values())) or "default",
)
def test_rows_stay_shared_whatever_breeds(settings):
    if "islands" in settings:
        settings = {**settings, "size": 6}
    size = settings.pop("size", 4)
    manager = make(settings=config(**{"rows": "shared", "evolve_every": 1, "elites": 1,
                                      "parents": 2, **settings}), size=size)  # fmt: skip
    manager.ask()
    first = [layer.A[0].clone() for layer in manager.population.lora.layers()]
    manager.run(4)
    lora = manager.population.lora
    assert are_shared(lora)
    assert all((layer.A[0] == A).all() for layer, A in zip(lora.layers(), first, strict=True))
    if settings.get("offspring") != 0:
        born = [i for i in manager.lineage if i.generation]
        assert born
        errors = [i.parameters.get("rows_error", 0.0) for i in born]
        assert max(errors) < 1e-3, errors
    assert len({i.content_hash for i in manager.lineage}) > 4 or "average" in str(settings)


def test_rows_of_their_own_change(tmp_path):
    manager = make(settings=config(elites=1, evolve_every=1))
    manager.run(2)
    assert not are_shared(manager.population.lora)
    assert not manager.population.lora.rows_frozen


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crossover": "dare"}, "rows: got shared with crossover = dare, whose children need"),
        ({"crossover": "ties(density=0.5)"}, "rows: got shared with crossover = ties"),
        ({"crossover": "from_scratch"}, "rows: got shared with crossover = from_scratch"),
        ({"mutations": "gaussian+0.1*svd"}, "rows: got shared with mutations = svd"),
    ],
)
def test_operators_that_need_rows_of_their_own_are_refused(settings, said):
    with pytest.raises(ConfigError) as caught:
        shared(**settings)
    assert said in str(caught.value)
    assert "rows = own" in str(caught.value)


def test_given_adapters_have_to_share_them():
    population = LoraPopulation(make_tiny_base(), 4, 2)
    randomise(population.lora)
    manager = EvolutionManager(population, SPEC, shared())
    with pytest.raises(ConfigError, match="rows: got shared, but the adapters given differ"):
        manager.ask()


def test_a_resumed_run_goes_on_byte_for_byte_and_keeps_its_rows(tmp_path):
    settings = shared(child_optimizer="inherit")
    whole = make(tmp_path / "whole", settings)
    whole.run(4)
    make(tmp_path / "half", settings).run(2)
    again = make(settings=settings)
    again.resume(tmp_path / "half")
    again.run(2)
    assert again.population.lora.hashes(range(4)) == whole.population.lora.hashes(range(4))
    lineages = [(tmp_path / name / "lineage.json").read_text() for name in ("whole", "half")]
    assert json.loads(lineages[0]) == json.loads(lineages[1])
    with pytest.raises(CheckpointError, match="--rows cannot change in a saved run"):
        make(settings=config(elites=1, evolve_every=1)).resume(tmp_path / "half")
