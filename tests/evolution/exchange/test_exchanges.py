"""Exchanges: sums as whole matrices say, who is copied, and what the mean follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evolution.config import EvolutionConfig
from evolution.errors import ConfigError
from evolution.exchange import EXCHANGES, ExchangeStep
from evolution.exchange.strategies import perturb, shaped
from evolution.lowrank.genomes import content_hash, read_genome
from evolution.lowrank.sums import inner_products, weighted_sum
from tests.evolution.genetics import distance, random_lora, updates

RANKS = (4,) * 4


def told(lora, generation=5, *, memory=None, standing=(3.0, 1.0, 2.0, 0.0), fitness=None,
         measure=None, homes=None, own=None):  # fmt: skip
    size = lora.size
    return ExchangeStep(
        lora,
        generation,
        0,
        homes or [np.arange(size)],
        np.array(standing, dtype=float),
        np.zeros(size) if fitness is None else np.array(fitness, dtype=float),
        own or {slot: {"learning_rate": 1e-3, "kl": 0.1} for slot in range(size)},
        {} if memory is None else memory,
        measure or (lambda slots, count: np.zeros((len(slots), count))),
        list,
    )


def alike(ranks=RANKS, drift=0.02):
    """Members that drifted a little from a common start, at one scale."""
    lora = random_lora(ranks)
    first = read_genome(lora, 0)
    drawn = torch.Generator().manual_seed(1)
    for slot in range(lora.size):
        lora.set_alpha(slot, 8.0)
        for layer, (A, B) in zip(lora.layers(), first.factors, strict=True):
            layer.A[slot] = A + drift * torch.randn(A.shape, generator=drawn)
            layer.B[slot] = B + drift * torch.randn(B.shape, generator=drawn)
    return lora


def mean_of(matrices):
    return [torch.stack(list(layer)).mean(0) for layer in zip(*matrices, strict=True)]


def cut(matrices, rank):
    """The best of a rank."""
    best = []
    for matrix in matrices:
        U, S, V = torch.linalg.svd(matrix, full_matrices=False)
        best.append(U[:, :rank] @ torch.diag(S[:rank]) @ V[:rank])
    return best


def test_a_sum_is_the_best_of_its_rank_in_coordinates_near_the_given_ones():
    lora = alike()
    genomes = [read_genome(lora, slot) for slot in range(4)]
    weights = [0.4, 0.3, 0.2, 0.1]
    made, error = weighted_sum(genomes, weights)
    whole = [
        sum(w * m for w, m in zip(weights, layer, strict=True))
        for layer in zip(*(updates(lora, slot) for slot in range(4)), strict=True)
    ]
    found = [made.scale * (B.double() @ A.double()) for A, B in made.factors]
    best = cut(whole, 4)
    assert distance(found, best) < 1e-5
    assert error == pytest.approx(distance(best, whole), rel=1e-3)
    for (A, B), (near_A, near_B) in zip(made.factors, genomes[0].factors, strict=True):
        assert (A - near_A).norm() < 0.2 * near_A.norm()
        assert (B - near_B).norm() < 0.2 * near_B.norm()


def test_sums_over_shared_rows_are_exact_and_keep_the_rows():
    lora = random_lora(RANKS)
    for layer in lora.layers():
        layer.A[:] = layer.A[0].clone()
    genomes = [read_genome(lora, slot) for slot in range(4)]
    made, error = weighted_sum(genomes, [0.5, -0.25, 0.5, 2.0])
    whole = [
        0.5 * a - 0.25 * b + 0.5 * c + 2 * d
        for a, b, c, d in zip(*(updates(lora, slot) for slot in range(4)), strict=True)
    ]
    assert error == 0
    assert distance([made.scale * (B.double() @ A.double()) for A, B in made.factors], whole) < 1e-6
    assert all(torch.equal(A, layer.A[0]) for (A, _), layer in
               zip(made.factors, lora.layers(), strict=True))  # fmt: skip


def test_sums_of_nothing_and_of_smaller_ranks():
    lora = random_lora((4, 2, 4, 4))
    small, error = weighted_sum([read_genome(lora, 1), read_genome(lora, 0)], [1.0, 1.0])
    assert small.rank == 2
    assert 0 < error < 1
    assert all(not bool(B[:, 2:].any()) for _, B in small.factors)
    nothing = read_genome(lora, 0)
    none, error = weighted_sum([nothing, read_genome(lora, 2)], [0.0, 0.0])
    assert error == 0
    assert all(not bool(B.any()) and bool(A.any()) for A, B in none.factors)


def test_inner_products_are_those_of_whole_matrices():
    lora = random_lora(RANKS)
    found = inner_products([read_genome(lora, slot) for slot in range(4)])
    for place, matrices in enumerate(zip(*(updates(lora, s) for s in range(4)), strict=True)):
        want = [[float((a * b).sum()) for b in matrices] for a in matrices]
        np.testing.assert_allclose(found[place], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", ["average", "towards_start(share=0.2)"])
def test_founders_are_made_equal_and_all_of_a_home_move_together(text):
    lora, memory = random_lora(RANKS), {}
    for slot in range(4):
        lora.set_alpha(slot, 8.0)
    homes = [np.array([0, 1]), np.array([2, 3])]
    use = EXCHANGES.read(text)
    assert use(told(lora, 0, memory=memory, homes=homes)) == []
    hashes = [content_hash(lora, slot) for slot in range(4)]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
    drawn = torch.Generator().manual_seed(1)
    for layer in lora.layers():
        layer.B.add_(0.01 * torch.randn(layer.B.shape, generator=drawn))
    before = [updates(lora, slot) for slot in range(4)]
    made = use(told(lora, memory=memory, homes=homes))
    assert [one.slot for one in made] == [one.moments for one in made] == [0, 1, 2, 3]
    assert content_hash(lora, 0) == content_hash(lora, 1) != content_hash(lora, 2)
    if text == "average":
        assert distance(updates(lora, 0), mean_of(before[:2])) < 1e-5


@pytest.mark.parametrize("text", ["average(rate=0.5,momentum=0.9)", "towards_start(share=0.5)"])
def test_given_members_start_at_their_mean_and_not_at_the_base(text):
    lora, memory = alike(), {}
    want = cut(mean_of([updates(lora, slot) for slot in range(4)]), 4)
    EXCHANGES.read(text)(told(lora, 1, memory=memory))
    assert distance(updates(lora, 3), want) < 1e-5
    EXCHANGES.read(text)(told(lora, 2, memory=memory))  # nobody moved: there they stay
    assert distance(updates(lora, 3), want) < 1e-5


def test_a_broken_member_takes_no_part_and_is_healed():
    lora = alike()
    next(iter(lora.layers())).B[1] = float("nan")
    want = cut(mean_of([updates(lora, slot) for slot in (0, 2, 3)]), 4)
    made = EXCHANGES.read("average")(told(lora, standing=(1.0, np.nan, 0.0, 0.0)))
    assert bool(lora.finite().all())
    assert distance(updates(lora, 1), want) < 1e-4
    assert {one.slot: one.moments for one in made} == {0: 0, 1: None, 2: 2, 3: 3}


def test_momentum_is_nesterovs_step_on_updates():
    """Worked out with whole matrices over three exchanges, at shared rows, where all is exact."""
    lora, memory, rate, momentum = random_lora(RANKS), {}, 0.7, 0.9
    for slot in range(4):
        lora.set_alpha(slot, 8.0)
    use = EXCHANGES.read(f"average(rate={rate},momentum={momentum})")
    use(told(lora, 0, memory=memory))
    common = updates(lora, 0)
    velocity = [torch.zeros_like(matrix) for matrix in common]
    drawn = torch.Generator().manual_seed(1)
    for generation in (1, 2, 3):
        for layer in lora.layers():
            layer.B.add_(0.05 * torch.randn(layer.B.shape, generator=drawn))
        moved = [m - c for m, c in zip(mean_of([updates(lora, s) for s in range(4)]), common,
                                       strict=True)]  # fmt: skip
        velocity = [momentum * v + d for v, d in zip(velocity, moved, strict=True)]
        common = [c + rate * (d + momentum * v)
                  for c, d, v in zip(common, moved, velocity, strict=True)]  # fmt: skip
        use(told(lora, generation, memory=memory))
        assert distance(updates(lora, 2), common) < 1e-4


def test_the_spherical_mean_has_the_members_length_and_stops_short_of_it():
    lora, memory = random_lora((4, 4)), {}
    homes, use = [np.arange(2)], EXCHANGES.read("towards_start(share=0.25)")
    for slot in range(2):
        lora.set_alpha(slot, 8.0)
    use(told(lora, 0, memory=memory, homes=homes, standing=(0, 0)))
    start = updates(lora, 0)
    drawn = torch.Generator().manual_seed(1)
    for layer in lora.layers():
        layer.B.add_(0.3 * torch.randn(layer.B.shape, generator=drawn))
    apart = [[m - s for m, s in zip(updates(lora, slot), start, strict=True)] for slot in (0, 1)]
    use(told(lora, memory=memory, homes=homes, standing=(0, 0)))
    for made, begun, one, two in zip(updates(lora, 0), start, *apart, strict=True):
        length = (one.norm() + two.norm()) / 2
        assert (made - begun).norm() == pytest.approx(float(0.75 * length), rel=1e-3)


def test_cma_es_finds_the_member_that_answers_and_costs_what_it_says():
    lora = random_lora(RANKS)
    good = updates(lora, 2)
    asked = []

    def measure(slots, count):
        asked.append((len(slots), count))
        near = [1 / (1 + distance(updates(lora, slot), good)) for slot in slots]
        return np.repeat(np.array(near)[:, None], count, 1)

    before = [updates(lora, slot) for slot in range(4)]
    (made,) = EXCHANGES.read("cma_es(problems=8,rounds=30)")(told(lora, measure=measure))
    assert made.slot == 3
    assert made.parents[0] == 0
    assert sum(n for n, _ in asked) == made.parameters["mixes"] == 120
    for slot in (0, 1, 2):
        assert distance(updates(lora, slot), before[slot]) == 0
    assert distance(updates(lora, 3), good) < 0.7 * distance(mean_of(before), good)


def test_members_of_other_ranks_lose_what_they_cannot_hold_and_their_state():
    lora = random_lora((4, 1, 4, 4))
    for slot in range(4):
        lora.set_alpha(slot, 2.0 * int(lora.ranks[slot]))
    whole = mean_of([updates(lora, slot) for slot in range(4)])
    made = {one.slot: one for one in EXCHANGES.read("average")(told(lora))}
    for slot in (0, 1):
        lost = distance(updates(lora, slot), whole)
        assert made[slot].parameters["recompression_error"] == pytest.approx(lost, rel=0.02)
    assert {slot: one.moments for slot, one in made.items()} == {0: 0, 1: None, 2: 2, 3: 3}
    lora = random_lora((4, 1, 4, 4))
    told_of = told(lora, standing=(3.0, 0.0, 2.0, 1.0))
    (one,) = EXCHANGES.read("exploit_explore(share=0.25)")(told_of)
    assert (one.slot, one.parents, one.moments) == (1, (0,), None)


def test_evolution_strategies_ask_for_one_rank_before_anything_is_played():
    with pytest.raises(ConfigError, match="one mean of one rank, got ranks"):
        EXCHANGES.read("evolution_strategy")(told(random_lora((4, 2, 4, 4)), 0))


def test_weights_of_a_mix_are_in_the_order_of_its_parents():
    lora = random_lora(RANKS)
    good = updates(lora, 0)

    def measure(slots, count):
        near = [1 / (1 + distance(updates(lora, slot), good)) for slot in slots]
        return np.repeat(np.array(near)[:, None], count, 1)

    use = EXCHANGES.read("cma_es(problems=8,rounds=30)")
    (made,) = use(told(lora, measure=measure, standing=(1.0, 0.0, 2.0, 3.0)))
    assert made.parents == (3, 2, 0, 1)
    assert max(made.parameters["weights"]) == made.parameters["weights"][2]


def test_cma_es_heals_what_is_broken_and_leaves_all_as_they_were_where_nothing_is_measured():
    lora = random_lora(RANKS)
    before = [updates(lora, slot) for slot in range(4)]

    def interrupted(slots, count):
        raise KeyboardInterrupt

    use = EXCHANGES.read("cma_es(problems=2,rounds=2)")
    assert use(told(lora, measure=lambda slots, count: np.zeros((len(slots), 0)))) == []
    with pytest.raises(KeyboardInterrupt):
        use(told(lora, measure=interrupted))
    assert all(distance(updates(lora, slot), before[slot]) == 0 for slot in range(4))
    (made,) = use(told(lora, standing=(np.nan, 1.0, 2.0, 0.0)))
    assert (made.slot, made.parents) == (0, (2, 1, 3))


def test_a_mean_is_moved_only_in_rows_that_all_share():
    lora = random_lora(RANKS)
    use = EXCHANGES.read("evolution_strategy")
    with pytest.raises(ConfigError, match="rows A that members share"):
        use(told(lora))
    for layer in lora.layers():
        layer.A[:] = layer.A[0].clone()
    assert len(use(told(lora))) == 4


def test_the_least_fit_copy_the_fittest_and_change_their_settings():
    lora = random_lora(RANKS)
    best = content_hash(lora, 0)
    use = EXCHANGES.read("exploit_explore(share=0.5,factor=2,adapt='learning_rate+kl')")
    made = use(told(lora, standing=(3.0, 2.0, 1.0, 0.0)))
    assert [one.slot for one in made] == [2, 3]
    for one in made:
        (source,) = one.parents
        assert source in (0, 1)
        assert one.moments == source
        assert content_hash(lora, one.slot) == one.parameters["parent_hash"]
        assert one.hyperparameters["learning_rate"] in (5e-4, 2e-3)
        assert one.hyperparameters["kl"] in (0.05, 0.2)
    assert content_hash(lora, 0) == best


def test_pairs_cancel_and_perturbations_have_rank_1():
    lora = random_lora(RANKS)
    for layer in lora.layers():
        layer.A[:] = layer.A[0].clone()
    mean = [layer.B[0].clone() for layer in lora.layers()]
    perturb(lora, [0, 1, 2], mean, 0.1, ("test",), rank_one=True)
    for layer, centre in zip(lora.layers(), mean, strict=True):
        torch.testing.assert_close((layer.B[0] + layer.B[1]) / 2, centre)
        assert torch.equal(layer.B[2], centre)
        noise = layer.B[0] - centre
        assert torch.linalg.matrix_rank(noise, rtol=1e-4) == 1
    spread = torch.cat([(y.B[0] - c).flatten() for y, c in zip(lora.layers(), mean, strict=True)])
    assert float(spread.square().mean().sqrt()) == pytest.approx(0.1, rel=0.3)


def test_the_mean_climbs_a_smooth_hill():
    """Returns fall with the distance from a target within reach: the mean has to get nearer."""
    size = 16
    lora = random_lora((4,) * size)
    drawn = torch.Generator().manual_seed(2)
    target = [0.2 * torch.randn(layer.B[0].shape, generator=drawn) for layer in lora.layers()]
    use = EXCHANGES.read("evolution_strategy(sigma=0.05,rate=1)")

    def off(slot):
        return sum(float((y.B[slot] - t).square().sum())
                   for y, t in zip(lora.layers(), target, strict=True))  # fmt: skip

    def centre():
        return sum(float((y.B.mean(0) - t).square().sum())
                   for y, t in zip(lora.layers(), target, strict=True))  # fmt: skip

    for layer in lora.layers():
        layer.B.zero_()
    use(told(lora, 0, standing=[0.0] * size))
    begun = centre()
    for generation in range(1, 60):
        fitness = [-off(slot) for slot in range(size)]
        use(told(lora, generation, standing=[0.0] * size, fitness=fitness))
    assert centre() < 0.9 * begun


def test_weights_of_members():
    assert shaped(np.array([1.0, 1.0, 1.0]), "ranks").tolist() == [0, 0, 0]
    ranks = shaped(np.array([5.0, np.nan, -3.0, 5.0]), "ranks")
    assert ranks[0] == ranks[3] > 0 > ranks[2]
    assert ranks[1] == 0
    assert ranks.sum() == pytest.approx(0)
    assert shaped(np.array([1.0, 2.0]), "returns").tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"exchange": "averag"}, "exchange: got 'averag', expected one of"),
        ({"exchange": "average(rate=3)"}, "rate: got 3"),
        ({"exchange": "average", "learner": "none"}, "expected members that learn"),
        ({"exchange": "evolution_strategy"}, "set learner = none"),
        ({"exchange": "evolution_strategy(shape='rank')", "learner": "none"}, "shape: got 'rank'"),
        (
            {"exchange": "evolution_strategy", "learner": "none", "gate": "paired"},
            "gate: got 'paired'",
        ),
        ({"exchange": "exploit_explore(adapt='lr')"}, "adapt: got 'lr', expected learning_rate"),
        ({"exchange": "exploit_explore(adapt='kl')"}, "kl: got 0 with adapt = kl"),
    ],
)
def test_bad_settings_are_one_line(settings, said):
    with pytest.raises(ConfigError) as told:
        EvolutionConfig(**settings)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_settings_are_explored_within_their_bounds():
    lora = random_lora(RANKS)
    use = EXCHANGES.read("exploit_explore(share=0.5,factor=10,adapt='temperature')")
    for own, most in ((1.9, 2.0), (5.0, 5.0)):  # one that began beyond may stay
        values = {slot: {"temperature": own} for slot in range(4)}
        seen = set()
        for generation in range(5, 25):
            made = use(told(lora, generation, own=values))
            seen |= {one.hyperparameters["temperature"] for one in made}
        assert max(seen) == most
        assert min(seen) == pytest.approx(max(own / 10, 0.2))
