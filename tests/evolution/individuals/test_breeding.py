"""One evolution step: who is replaced, what is recorded, and what becomes of failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evolution.config import EvolutionConfig
from evolution.individuals.breeding import Breeder
from evolution.individuals.lineage import Lineage
from evolution.lowrank.genomes import content_hash
from evolution.operators.crossover import CROSSOVERS
from evolution.operators.mutation_weights import MUTATIONS
from evolution.operators.selection import Candidates
from tests.evolution.genetics import random_lora

FITNESS = np.array([4.0, 1.0, 3.0, 2.0, -1.0, 0.0])


def bred(breeder, generation, candidates):
    """Children, recorded."""
    return breeder.record(generation, breeder.breed(generation, candidates))


def make(ranks=(4,) * 6, **settings):
    quick = {"learner": "none", "evolve_every": 1, "elites": 1, "offspring": 2, **settings}
    config, lora = EvolutionConfig(**quick), random_lora(ranks)
    breeder = Breeder(lora, config, config.resolved(lora.size), Lineage())
    breeder.found()
    return lora, breeder


def hashes(lora):
    return [content_hash(lora, i) for i in range(lora.size)]


@pytest.mark.parametrize("name", [n for n in CROSSOVERS if n not in ("mostly_fitter",)])
def test_the_least_fit_give_way_and_the_record_says_how(name):
    lora, breeder = make(crossover=name)
    before = hashes(lora)
    born = bred(breeder, 1, Candidates.of(FITNESS))
    assert sorted(child.individual.slot for child in born) == [4, 5]
    assert hashes(lora)[:4] == before[:4]
    for child in born:
        individual = child.individual
        assert individual.operator == name
        assert individual.content_hash == content_hash(lora, individual.slot)
        assert individual.parents == tuple(f"g0-{slot}" for slot in child.parent_slots)
        assert FITNESS[child.parent_slots[0]] > FITNESS[child.parent_slots[1]]
        assert individual.parameters["mutations"] == ["gaussian(strength=0.05)"]
        assert not child.is_copy


def test_a_clone_that_does_not_mutate_is_a_copy_with_its_parents_hash():
    lora, breeder = make(crossover="clone", mutations="none")
    for child in bred(breeder, 1, Candidates.of(FITNESS)):
        assert child.is_copy
        assert child.individual.content_hash == hashes(lora)[child.parent_slots[0]]


def test_islands_breed_among_themselves_and_send_copies_of_their_best():
    settings = {"islands": 2, "offspring": 1, "migrate_every": 2}
    lora, breeder = make(**settings)
    first = bred(breeder, 1, Candidates.of(FITNESS))
    assert {c.individual.slot: set(c.parent_slots) <= {0, 1, 2} for c in first} == {
        1: True,
        4: False,
    }
    best = hashes(lora)
    born = bred(breeder, 2, Candidates.of(FITNESS))
    moved = {c.individual.slot: c for c in born if c.individual.operator == "migration"}
    assert {slot: c.parent_slots for slot, c in moved.items()} == {1: (3,), 4: (0,)}
    assert [moved[1].individual.content_hash, moved[4].individual.content_hash] == [
        best[3],
        best[0],
    ]
    assert all(child.is_copy for child in moved.values())


def test_migrants_are_copies_of_the_best_as_they_were():
    lora, breeder = make(
        (4,) * 8, selection="lower_bound", islands=2, migrants=1, migrate_every=1, offspring=2
    )
    before = hashes(lora)
    ratings = np.array([40.0, 30, 25, 20] * 2)  # the best, not the fittest: a child takes its slot
    known = Candidates(np.array([1.0, 2, 3, 9] * 2), ratings, np.ones(8))
    born = bred(breeder, 1, known)
    moved = {c.individual.slot: c for c in born if c.individual.operator == "migration"}
    assert {c.parent_slots for c in moved.values()} == {(0,), (4,)}
    for child in moved.values():
        assert child.is_copy
        assert child.individual.content_hash == before[child.parent_slots[0]]


def test_a_child_that_is_not_finite_becomes_a_copy_of_its_best_parent_and_says_so():
    @MUTATIONS.add("poison")
    def poison(lora, step):
        for member in step.members:
            next(iter(lora.layers())).B[member.slot] = float("nan")

    lora, breeder = make(mutations="poison")
    before = hashes(lora)
    for child in bred(breeder, 1, Candidates.of(FITNESS)):
        assert child.individual.operator == "clone"
        assert "not finite" in child.individual.parameters["failed"]
        assert child.individual.content_hash == before[child.parent_slots[0]]
    assert lora.finite().all()


def test_where_the_parents_are_broken_as_well_the_base_takes_the_slot():
    lora, breeder = make(ranks=(4,) * 3, elites=1, offspring=1)
    for layer in lora.layers():
        layer.B[:2] = float("nan")
    (child,) = bred(breeder, 1, Candidates.of(np.array([2.0, 1.0, 0.0])))
    assert child.individual.operator == "base"
    assert not any(layer.B[2].any() for layer in lora.layers())
    assert all(torch.isfinite(layer.A[2]).all() for layer in lora.layers())


def test_broken_individuals_are_never_parents_and_are_replaced_first():
    _, breeder = make()
    fitness = np.array([4.0, np.nan, 3.0, np.nan, 1.0, 0.0])
    for generation in range(1, 9):
        born = bred(breeder, generation, Candidates.of(fitness))
        assert sorted(child.individual.slot for child in born) == [1, 3]
        assert not {1, 3} & {parent for child in born for parent in child.parent_slots}


def test_the_fittest_stay_although_selection_ranks_by_ratings():
    _, breeder = make(selection="lower_bound", elites=2, offspring=2)
    ratings = np.array([0.0, 5.0, 4.0, 3.0, 2.0, 1.0])  # the fittest, 0, is rated last
    born = bred(breeder, 1, Candidates(FITNESS, ratings, np.ones(6)))
    assert sorted(child.individual.slot for child in born) == [4, 5]


def test_strength_is_the_parents_geometric_mean_times_a_step_of_its_own():
    _, breeder = make(mutations="self_adaptation+gaussian")
    strengths = {c.individual.mutation_strength for c in bred(breeder, 1, Candidates.of(FITNESS))}
    assert len(strengths) == 2
    assert 1.0 not in strengths


def test_the_same_key_gives_the_same_children_and_another_others():
    known = Candidates.of(FITNESS)
    twice = [make() for _ in range(2)]
    for _, breeder in twice:
        bred(breeder, 1, known)
    assert hashes(twice[0][0]) == hashes(twice[1][0])
    other, breeder = make()
    bred(breeder, 2, known)
    assert hashes(other) != hashes(twice[0][0])
