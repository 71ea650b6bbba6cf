"""What is read of a run's adapters: who, since when, and what cannot be told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import evolution
from evolution.errors import UsageError
from evolution.reporting.anatomy import reading
from evolution.reporting.anatomy.reading import read_inside
from evolution.reporting.measures.data import read_run_data
from tests.evolution.genetics import distance, updates
from tests.evolution.made_up_adapters import factors, moved, update, write_adapters
from tests.evolution.synthetic_run import write_run
from tests.evolution.test_manager import config, make


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", generations=8, born_every=3)


def test_without_adapters_there_is_nothing(folder):
    assert read_inside(read_run_data(folder)) is None


def test_the_last_generations_adapters_are_measured(folder):
    write_adapters(folder, 6, [factors(9)] * 4)
    own = [factors(seed) for seed in range(4)]
    write_adapters(folder, 7, own)
    found = read_inside(read_run_data(folder))
    assert (found.generation, found.left_out, found.ablation) == (7, 0, None)
    whole = torch.stack([update(one) for one in own])
    np.testing.assert_allclose(found.anatomy.total_norms, whole.norm(dim=1), rtol=1e-6)
    assert found.individuals == read_run_data(folder).individuals[-1]


def test_movement_is_exact_since_the_oldest_generation_of_the_same_individual(folder):
    rows = read_run_data(folder).individuals
    first, last = [factors(seed) for seed in range(4)], [moved(factors(i), 0.1) for i in range(4)]
    write_adapters(folder, 1, first)
    write_adapters(folder, 4, [factors(100 + i) for i in range(4)])
    write_adapters(folder, 7, last)
    moves = read_inside(read_run_data(folder)).moves
    assert moves.exact
    for i in range(4):
        lived = [g for g in (1, 4) if rows[g][i] == rows[7][i]]
        assert moves.since[i] == (min(lived) if lived else None)
        if moves.since[i] == 1:
            off, size = update(last[i]) - update(first[i]), update(first[i])
            assert moves.drift[i] == pytest.approx(float(off.norm() / size.norm()), rel=1e-6)
        if moves.since[i] is None:
            assert np.isnan(moves.drift[i])
    assert {1} < set(moves.since)  # some were replaced
    old = [i for i in range(4) if moves.since[i] == 1]
    i, j = old[:2]
    steps = [update(last[k]) - update(first[k]) for k in (i, j)]
    cosine = float(torch.nn.functional.cosine_similarity(*steps, dim=0))
    assert moves.cosines[i, j] == pytest.approx(cosine, abs=1e-6)


def test_one_generation_tells_no_movement(folder):
    write_adapters(folder, 7, [factors(seed) for seed in range(4)])
    assert read_inside(read_run_data(folder)).moves is None


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run that learned for three generations, and the updates at birth and at its end."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    manager = make(folder, config(evolve_every=2))
    born = {}
    for _ in range(3):
        plan = manager.ask()
        born |= {i.name: updates(manager.population.lora, i.slot) for i in plan.born}
        manager.tell(manager.play(plan))
    names = [individual.name for individual in manager._lineage.members]
    ends = [updates(manager.population.lora, slot) for slot in range(4)]
    manager.close()
    return folder, names, born, ends


def test_movement_since_birth_is_told_from_sketches(learned):
    folder, names, born, ends = learned
    found = read_inside(read_run_data(folder))
    assert found.individuals == tuple(names)
    assert not found.moves.exact
    assert found.moves.since == tuple(int(name[1 : name.index("-")]) for name in names)
    true = [distance(end, born[name]) for end, name in zip(ends, names, strict=True)]
    np.testing.assert_allclose(found.moves.drift, true, rtol=0.15, atol=1e-6)
    recorded = read_run_data(folder).series["drift"][-1]
    np.testing.assert_allclose(found.moves.drift, recorded, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("spoil", ["names", "shape"])
def test_sketches_of_others_are_not_used(learned, tmp_path, spoil):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(learned[0], folder)
    for place in folder.glob("generation_*"):
        (place / "manifest.json").unlink()
        state = json.loads((place / "state.json").read_text())
        del state["format"]
        if spoil == "names":
            state["births"]["individuals"][0] = "somebody"
        (place / "state.json").write_text(json.dumps(state))
        if spoil == "shape":
            tensors = load_file(place / "state.safetensors")
            tensors["births.sketches"] = tensors["births.sketches"][:, 1:].contiguous()
            save_file(tensors, place / "state.safetensors")
    assert read_inside(read_run_data(folder)).moves is None


def test_of_very_many_agents_the_first_are_measured(folder, monkeypatch):
    write_adapters(folder, 7, [factors(seed) for seed in range(4)])
    monkeypatch.setattr(reading, "_MOST_ROWS", 9)
    found = read_inside(read_run_data(folder))
    assert found.anatomy.agents == ("agent_0", "agent_1", "agent_2")
    assert found.left_out == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "run: .*agent_1.*readable"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "run: .*agent_1"),
        (lambda f: write_adapters(f.parents[2], 7, [factors(0), {
            name: (A[:, :4], B) for name, (A, B) in factors(1).items()
        }]), "expected adapters of on"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_read_is_named(folder, spoil, said):
    place = write_adapters(folder, 7, [factors(seed) for seed in range(4)])
    spoil(place / "adapters" / "agent_1")
    with pytest.raises(UsageError, match=said):
        read_inside(read_run_data(folder))


def test_the_public_function_takes_a_population_a_run_or_folders(learned, tmp_path):
    folder, *_ = learned
    whole = evolution.anatomy(folder)
    assert isinstance(whole, evolution.Anatomy)
    assert whole.agents == ("agent_0", "agent_1", "agent_2", "agent_3")
    adapters = sorted(folder.glob("generation_*"))[-1] / "adapters"
    for source in (str(folder), adapters):
        np.testing.assert_array_equal(evolution.anatomy(source).inner, whole.inner)
    one = evolution.anatomy(adapters / "agent_2")
    assert one.agents == ("agent_2",)
    np.testing.assert_allclose(one.norms[:, 0], whole.norms[:, 2])
    assert evolution.anatomy(folder, generation=1).total_norms != pytest.approx(whole.total_norms)
    manager = make(None, config())
    manager.resume(folder)
    held = evolution.anatomy(manager.population)
    manager.close()
    np.testing.assert_allclose(held.inner, whole.inner, rtol=1e-9)
    assert np.isfinite(held.relative_norms).all()
    with pytest.raises(UsageError, match=r"generation: got 7, expected one that .* has on disk: 1"):
        evolution.anatomy(folder, generation=7)
    with pytest.raises(UsageError, match=r"source: .* holds no adapters; expected a run folder"):
        evolution.anatomy(tmp_path)
