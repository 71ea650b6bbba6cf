"""Crossovers against what they promise, on updates formed as whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evolution.errors import OperatorError
from evolution.lowrank.genomes import content_hash
from evolution.operators.crossover import CROSSOVERS, mix
from tests.evolution.genetics import distance, random_lora, step, updates

# What a child of one parent twice is equal to it for; dare forgets at random.
EXACT = ["weighted_average", "fitness_weighted", "average", "extrapolation", "layer_wise", "clone",
         "subspace_interpolation", "subspace_split", "ties(density=1)", "dare(drop=0)",
         "ties(density=1,exact=true)"]  # fmt: skip


def cross(lora, setting, slots, parents, **known):
    use = CROSSOVERS.read(setting)
    return use.function(lora, step(slots, parents, **known), **use.parameters)


def best_of_rank(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


@pytest.mark.parametrize("setting", EXACT)
def test_child_of_one_parent_twice_is_that_parent(setting):
    lora = random_lora()
    wanted = updates(lora, 1)
    notes = cross(lora, setting, [0], [[1, 1]], fitness=[[1.0, 1.0]])
    assert distance(updates(lora, 0), wanted) < 2e-5
    assert notes[0]["recompression_error"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("setting", [*EXACT, "dare", "ties", "from_scratch"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_shapes_ranks_and_the_others_stay_and_children_are_finite(setting, dtype):
    lora = random_lora(dtype=dtype)
    before = [content_hash(lora, i) for i in range(4)]
    notes = cross(lora, setting, [2, 3], [[0, 1], [1, 3]], fitness=[[2.0, 1.0], [1.0, 0.5]])
    assert [content_hash(lora, i) for i in (0, 1)] == before[:2]
    assert [content_hash(lora, i) for i in (2, 3)] != before[2:]
    assert len(notes) == 2
    assert lora.finite().all()
    assert lora.ranks.tolist() == [4, 4, 2, 3]
    for layer in lora.layers():
        assert not layer.A[2, 2:].any()
        assert not layer.B[3, :, 3:].any()
        assert layer.A.dtype == layer.B.dtype == (dtype or torch.float32)


@pytest.mark.parametrize(
    ("setting", "weights"),
    [("average", [0.5, 0.5]), ("weighted_average", None), ("fitness_weighted", None),
     ("extrapolation(least=1.5,most=1.5)", [1.5, -0.5]), ("extrapolation", None)],
)  # fmt: skip
def test_sums_are_the_best_of_their_rank(setting, weights):
    lora = random_lora()
    parents = [updates(lora, i) for i in (0, 3)]
    (note,) = cross(lora, setting, [2], [[0, 3]], fitness=[[2.0, 1.0]])
    assert sum(note["weights"]) == pytest.approx(1, abs=2e-6)
    assert note["weights"][0] > note["weights"][1] or weights == [0.5, 0.5]
    if weights:
        assert note["weights"] == pytest.approx(weights)
    whole = [note["weights"][0] * a + note["weights"][1] * b for a, b in zip(*parents, strict=True)]
    best = [best_of_rank(matrix, 2) for matrix in whole]
    assert distance(updates(lora, 2), best) < 1e-4
    assert note["recompression_error"] == pytest.approx(distance(best, whole), abs=1e-4)
    assert note["recompression_error"] > 0.1  # something is lost, so this means something


def test_from_scratch_takes_nothing_from_parents_and_draws_by_key():
    lora, other = random_lora(), random_lora(seed=1)
    for own in (lora, other):
        cross(own, "from_scratch(strength=0.3)", [0, 1], [[2, 3], [3, 2]])
    for a, b in zip(updates(lora, 0), updates(other, 0), strict=True):
        assert torch.equal(a, b)
    assert distance(updates(lora, 0), updates(lora, 1)) > 0.5
    for layer in lora.layers():
        assert float(layer.B[0].std()) == pytest.approx(0.3 / 4**0.5, rel=0.3)
    before = updates(lora, 0)
    cross(lora, "from_scratch(strength=0.3)", [0], [[2, 3]], key=(0, 2))
    assert distance(updates(lora, 0), before) > 0.5


def test_fitness_weighs_by_differences_alone_and_nan_weighs_nothing():
    lora = random_lora()
    pairs = [[2.0, 1.0], [-7.0, -8.0], [1.0, np.nan]]
    notes = cross(lora, "fitness_weighted", [1, 2, 3], [[0, 1]] * 3, fitness=pairs)
    softmax = [np.e / (np.e + 1), 1 / (np.e + 1)]
    assert notes[0]["weights"] == pytest.approx(softmax, abs=1e-6)
    assert notes[1]["weights"] == pytest.approx(softmax, abs=1e-6)
    assert notes[2]["weights"] == [1, 0]


def test_layer_wise_takes_whole_blocks_from_the_parent_it_names():
    lora = random_lora((4, 4, 4))
    parents = [updates(lora, i) for i in (0, 1)]
    taken = set()
    for seed in range(6):
        (note,) = cross(lora, "layer_wise", [2], [[0, 1]], key=(seed,))
        child = updates(lora, 2)
        for place, layer in enumerate(lora.layers()):
            block = layer.name.split(".layers.")[1].split(".")[0]
            parent = int(note["taken"][block].removeprefix("parent "))
            taken.add((block, parent))
            assert torch.allclose(child[place], parents[parent][place], atol=1e-5)
    assert taken == {("0", 0), ("0", 1), ("1", 0), ("1", 1)}


def test_a_split_child_has_the_parents_own_singular_components():
    lora = random_lora((4, 4, 4))
    parents = [updates(lora, i) for i in (0, 1)]
    cross(lora, "subspace_split", [2], [[0, 1]])
    for child, one, two in zip(updates(lora, 2), *parents, strict=True):
        pieces = []
        for matrix in (one, two):
            U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
            pieces.append([S[i] * torch.outer(U[:, i], Vh[i]) for i in range(4)])
        choices = [sum(pieces[which >> i & 1][i] for i in range(4)) for which in range(16)]
        assert min(float((child - choice).norm() / choice.norm()) for choice in choices) < 1e-4


@pytest.mark.parametrize(("share", "parent"), [(1.0, 0), (0.0, 1)])
def test_interpolation_starts_at_one_parent_and_ends_at_the_other(share, parent):
    lora = random_lora((4, 4, 4))
    ends = [updates(lora, i) for i in (0, 1)]
    cross(lora, f"subspace_interpolation(share={share})", [2], [[0, 1]])
    assert distance(updates(lora, 2), ends[parent]) < 1e-4


def test_interpolation_loses_nothing_where_a_sum_would():
    lora = random_lora((4, 4, 4))
    (turned,) = cross(lora, "subspace_interpolation", [2], [[0, 1]])
    (summed,) = cross(lora, "average", [2], [[0, 1]])
    assert turned["recompression_error"] < 1e-5
    assert summed["recompression_error"] > 0.3


def test_ties_by_hand():
    lora = random_lora((4, 4, 4))
    one, two = updates(lora, 0), updates(lora, 1)
    cross(lora, "ties(density=0.5,exact=true)", [2], [[0, 1]])
    wanted = []
    for pair in zip(one, two, strict=True):
        kept = [torch.where(m.abs() >= m.abs().median(), m, torch.zeros_like(m)) for m in pair]
        sign = torch.sign(kept[0] + kept[1])
        agree = [(torch.sign(m) == sign) & (m != 0) for m in kept]
        count = (agree[0].int() + agree[1].int()).clamp_min(1)
        merged = (kept[0] * agree[0] + kept[1] * agree[1]) / count
        wanted.append(best_of_rank(merged, 4))
    assert distance(updates(lora, 2), wanted) < 0.05  # which of two equal entries is the median


def test_dare_keeps_the_mean_in_expectation():
    lora = random_lora((4, 4, 4))
    one, two = updates(lora, 0), updates(lora, 1)
    mean = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    aligned = []
    for seed in range(8):
        cross(lora, "dare(drop=0.5)", [2], [[0, 1]], key=(seed,))
        inner = sum(float((a * b).sum()) for a, b in zip(updates(lora, 2), mean, strict=True))
        aligned.append(inner / sum(float(b.square().sum()) for b in mean))
    assert np.mean(aligned) == pytest.approx(1, abs=0.35)
    assert np.std(aligned) > 0


def test_clones_hash_as_their_parent_with_its_alpha():
    lora = random_lora((4, 4, 4))
    parent = content_hash(lora, 1)
    (note,) = cross(lora, "clone", [0], [[1, 2]])
    assert content_hash(lora, 0) == parent == note["parent_hash"]
    assert float(lora.alpha[0]) == float(lora.alpha[1])


def test_a_child_does_not_depend_on_who_else_is_born():
    for setting in ("weighted_average", "layer_wise", "subspace_split", "dare", "extrapolation"):
        both, alone = random_lora(), random_lora()
        cross(both, setting, [2, 3], [[0, 1], [1, 0]])
        cross(alone, setting, [3], [[1, 0]])
        assert content_hash(both, 3) == content_hash(alone, 3), setting


def test_a_crossover_of_ones_own():
    @CROSSOVERS.add("mostly_fitter", share=(0.5, 1.0))
    def mostly_fitter(lora, step, *, share: float = 0.9):
        return mix(lora, step, np.array([share, 1 - share]))

    lora = random_lora()
    (note,) = cross(lora, "mostly_fitter(share=0.8)", [2], [[0, 1]])
    assert note["weights"] == [0.8, 0.2]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("slerp", "crossover: got 'slerp', expected one of"),
        ("dare(drop=2)", "dare: drop: got 2, expected 0 to 0.99"),
        ("dare(density=0.5)", "dare: density is unknown, expected drop, exact"),
        ("ties(exact=3)", "ties: exact: got 3, expected true or false"),
        ("layer_wise(run=1.5)", "layer_wise: run: got 1.5, expected an integer"),
        ("average(", "expected NAME or NAME"),
        ("average+clone", "expected one of"),
    ],
)
def test_bad_settings_are_named(setting, said):
    with pytest.raises(OperatorError, match="crossover: ") as caught:
        CROSSOVERS.read(setting)
    assert said in str(caught.value)
