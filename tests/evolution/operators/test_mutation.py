"""Mutations against what they promise, on updates formed as whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.engine.adapters import StackedLora
from evolution.errors import OperatorError
from evolution.lowrank.genomes import content_hash
from evolution.operators import mutation_weights as mutation
from evolution.operators.mutation import Offspring
from evolution.operators.mutation_inherited import HYPERPARAMETERS, perturb_hyperparameters
from evolution.operators.mutation_weights import MUTATIONS, mutate
from tests.evolution.genetics import distance, random_lora, updates

ON_WEIGHTS = ["gaussian(strength=0.1)", "relative_gaussian", "layer_gaussian", "svd", "dropout",
              "masking"]  # fmt: skip


def undergo(lora, setting, slots=(1,), key=(0, 1), **newborn):
    members = [Offspring(slot, **newborn) for slot in slots]
    said = mutate(lora, MUTATIONS.read_several(setting), members, *key)
    return members, said


def test_spread_is_recorded_by_its_seed_and_differs_by_agent(tiny_base):
    lora = StackedLora(tiny_base.model, 3, 2)
    mutation.spread(lora, 0.1, seed=5)
    first = [content_hash(lora, i) for i in range(3)]
    mutation.spread(lora, 0.1, seed=5)
    assert [content_hash(lora, i) for i in range(3)] == first
    assert len(set(first)) == 3
    mutation.spread(lora, 0.1, seed=6)
    assert content_hash(lora, 0) != first[0]


@pytest.mark.parametrize("setting", ON_WEIGHTS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_only_members_change_and_keep_rank_and_finiteness(setting, dtype):
    lora = random_lora(dtype=dtype)
    before = [content_hash(lora, i) for i in range(4)]
    undergo(lora, setting, (1, 2))
    after = [content_hash(lora, i) for i in range(4)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, True]
    assert lora.finite().all()
    for layer in lora.layers():
        assert not layer.A[2, 2:].any()
        assert not layer.B[2, :, 2:].any()


@pytest.mark.parametrize("setting", ON_WEIGHTS)
def test_a_member_does_not_depend_on_who_else_mutates(setting):
    both, alone = random_lora(), random_lora()
    undergo(both, setting, (0, 3))
    undergo(alone, setting, (3,))
    assert content_hash(both, 3) == content_hash(alone, 3)
    undergo(other := random_lora(), setting, (3,), key=(0, 2))
    assert content_hash(other, 3) != content_hash(alone, 3)


def test_gaussian_has_the_strength_asked_for():
    lora = random_lora((4, 4))
    for layer in lora.layers():
        layer.B.zero_()
    undergo(lora, "gaussian(strength=0.5)", (1,))
    values = torch.cat([layer.B[1].flatten() for layer in lora.layers()])
    assert values.std().item() == pytest.approx(0.5 / 4**0.5, rel=0.05)
    rows = next(lora.layers()).A[1]
    assert torch.allclose(rows @ rows.T, torch.eye(4), atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_relative_noise_has_a_share_of_each_layers_norm(factor):
    lora = random_lora()
    for layer in lora.layers():
        layer.B.mul_(factor)
    before = updates(lora, 0)
    undergo(lora, "relative_gaussian(strength=0.2)", (0,))
    for old, new in zip(before, updates(lora, 0), strict=True):
        assert float((new - old).norm() / old.norm()) == pytest.approx(0.2, rel=0.25)


def test_relative_noise_changes_updates_of_zero_too():
    lora = random_lora()
    for layer in lora.layers():
        layer.B.zero_()
    undergo(lora, "relative_gaussian(floor=0.1)", (0,))
    assert all(layer.B[0].any() for layer in lora.layers())


def test_layers_are_picked_and_the_others_left():
    lora = random_lora()
    before = updates(lora, 0)
    undergo(lora, "layer_gaussian(fraction=0.5)", (0,))
    changed = [distance([a], [b]) > 1e-3 for a, b in zip(updates(lora, 0), before, strict=True)]
    assert sum(changed) == round(0.5 * len(before))


def test_svd_turns_by_its_strength_and_keeps_orthonormal_directions():
    lora = random_lora((4, 4))
    before = updates(lora, 0)
    undergo(lora, "svd(strength=0.05)", (0,))
    assert 0.02 < distance(updates(lora, 0), before) < 0.2
    for layer in lora.layers():
        assert torch.allclose(layer.A[0] @ layer.A[0].T, torch.eye(4), atol=1e-5)
        inner = layer.B[0].T @ layer.B[0]
        assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-5)
    for old, new in zip(before, updates(lora, 0), strict=True):
        sizes = torch.linalg.svdvals(new)[:4] / torch.linalg.svdvals(old)[:4]
        assert sizes.log().abs().max() < 0.05 * 5


def test_dropout_drops_whole_components_and_keeps_the_mean():
    lora = random_lora((4, 4))
    before = updates(lora, 0)
    undergo(lora, "dropout(rate=0.5)", (0,))
    kept = []
    for old, new in zip(before, updates(lora, 0), strict=True):
        sizes, left = torch.linalg.svdvals(old)[:4], torch.linalg.svdvals(new)[:4] / 2
        kept += [bool((left - size).abs().min() < 1e-4 * size) for size in sizes]
    assert 0.25 < np.mean(kept) < 0.75


def test_masking_takes_an_exact_share():
    lora = random_lora((4, 4))
    undergo(lora, "masking(rho=0.5)", (0,))
    assert all(torch.linalg.matrix_rank(new, rtol=1e-5) == 2 for new in updates(lora, 0))


def test_nothing_is_done_at_strength_zero():
    lora = random_lora()
    before = content_hash(lora, 0)
    undergo(lora, "gaussian(strength=0)+svd(strength=0)+dropout(rate=0)+masking(rho=0)", (0,))
    assert content_hash(lora, 0) == before
    assert undergo(lora, "none", (0,))[1] == [[]]


def test_chances_pick_members_and_the_record_says_whom():
    lora = random_lora((2,) * 4)
    counts = 0
    for seed in range(30):
        before = [content_hash(lora, i) for i in range(4)]
        _, said = undergo(lora, "0.3*gaussian(strength=0.1)", range(4), key=(seed,))
        changed = [content_hash(lora, i) != h for i, h in enumerate(before)]
        assert changed == [bool(entry) for entry in said]
        counts += sum(changed)
    assert 0.15 < counts / 120 < 0.45


def test_strength_adapts_itself_within_bounds_and_scales_noise():
    lora = random_lora((4, 4))
    members, _ = undergo(lora, "self_adaptation(tau=1)+relative_gaussian", (0, 1))
    assert members[0].strength != members[1].strength
    members, _ = undergo(lora, "self_adaptation(tau=2)", (0, 1), strength=10.0)
    assert all(0.1 <= member.strength <= 10 for member in members)
    small, large = random_lora(), random_lora()
    before = updates(small, 0)
    undergo(small, "relative_gaussian", (0,), strength=0.1)
    undergo(large, "relative_gaussian", (0,), strength=1.0)
    steps = [distance(updates(lora, 0), before) for lora in (small, large)]
    assert steps[1] / steps[0] == pytest.approx(10, rel=0.01)


def test_hyperparameters_are_explored_within_bounds():
    rng = np.random.default_rng(0)
    values = [perturb_hyperparameters({"learning_rate": 1e-3}, rng)["learning_rate"]
              for _ in range(40)]  # fmt: skip
    assert {round(value, 8) for value in values} == {1.25e-3, 8e-4}
    least, most = HYPERPARAMETERS["learning_rate"]
    drawn = [perturb_hyperparameters({"learning_rate": most}, rng, resample=0.5)["learning_rate"]
             for _ in range(60)]  # fmt: skip
    assert least <= min(drawn) < 1e-4
    assert max(drawn) == most
    members, _ = undergo(random_lora(), "hyperparameters", hyperparameters={"learning_rate": 1e-3})
    assert members[0].hyperparameters["learning_rate"] != 1e-3


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("gauss", "mutations: got 'gauss', expected one of"),
        ("2*gaussian", "chance of gaussian: got 2, expected at most 1"),
        ("gaussian(strength=-1)", "strength: got -1, expected 0 to 10"),
        ("gaussian(strength=big)", "strength: got 'big', expected a finite number"),
    ],
)
def test_bad_settings_are_named(setting, said):
    with pytest.raises(OperatorError, match="mutations: ") as caught:
        MUTATIONS.read_several(setting)
    assert said in str(caught.value)
