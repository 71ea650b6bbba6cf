from __future__ import annotations

import dataclasses
import json

import pytest

from agents.population import LoraPopulation
from evolution import EvolutionConfig, EvolutionManager, Individual, Learner
from evolution.individuals.lineage import Lineage
from evolution.lowrank.genomes import content_hash
from evolution.reporting.maps import family_chart
from evolution.reporting.measures.data import read_run_data
from evolution.reporting.measures.family import family, is_copy
from populora_env import load_problems
from tests.conftest import make_tiny_base

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"


def make(folder=None, **settings):
    quick = dict(problems_per_generation=2, judged_problems=0, solve_tokens=4, spread=0.5,
                 mutation=0.1, learner=Learner.NONE, evolve_every=1, confirm_problems=0, islands=2,
                 elites=1, offspring=1, migrate_every=2)  # fmt: skip
    config = EvolutionConfig(**{**quick, **settings})
    population = LoraPopulation(make_tiny_base(), 6, 2)
    return EvolutionManager(population, load_problems(SPEC), config, folder=folder)


def hashes(manager):
    return [content_hash(manager.population.lora, slot) for slot in range(6)]


def test_every_individual_says_where_it_comes_from_and_the_export_says_it_too(tmp_path):
    manager = make(tmp_path)
    manager.run(4)
    names = {individual.name for individual in manager.lineage}
    assert len(names) == len(manager.lineage) > 6
    for individual in manager.lineage:
        assert len(individual.content_hash) == 16
        assert individual.fitness is not None
        if individual.generation == 0:
            assert individual.operator == "spread"
            assert individual.parameters == {"strength": 0.5}
            continue
        assert individual.parents
        assert set(individual.parents) < names
        if individual.operator == "migration":
            assert len(individual.parents) == 1
        else:
            assert individual.operator == "weighted_average"
            assert sum(individual.parameters["weights"]) == pytest.approx(1, abs=1e-5)
            assert individual.parameters["mutations"] == ["gaussian(strength=0.1)"]
    assert {"migration", "weighted_average"} < {i.operator for i in manager.lineage}
    exported = json.loads((tmp_path / "lineage.json").read_text())
    fields = {field.name for field in dataclasses.fields(Individual)}
    assert all(set(entry) == fields for entry in exported)
    again = Lineage()
    again.load(exported)
    assert again.individuals == list(manager.lineage)


def test_copies_agree_with_their_parents_by_hash_also_after_a_resume(tmp_path):
    settings = {"crossover": "clone", "mutations": "none"}
    manager = make(tmp_path, **settings)
    manager.run(3)
    resumed = make(**settings)
    resumed.resume(tmp_path)
    assert resumed.lineage == manager.lineage
    assert hashes(resumed) == hashes(manager)
    resumed.run(2)
    born = {individual.name: individual for individual in resumed.lineage}
    copies = [i for i in resumed.lineage if i.generation > 0]
    assert {i.generation for i in copies} == {1, 2, 3, 4}
    assert {i.operator for i in copies} == {"clone", "migration"}
    for individual in copies:
        # Nobody learns, so a parent still has the weights it was born with.
        assert individual.content_hash == individual.parameters["parent_hash"]
        assert individual.content_hash == born[individual.parents[0]].content_hash
    living = {individual.slot: individual for individual in resumed.lineage}
    assert [living[slot].content_hash for slot in range(6)] == hashes(resumed)


def test_a_mutated_clone_knows_its_parents_hash_but_is_no_copy():
    manager = make(crossover="clone", migrate_every=9)
    manager.run(2)
    born = {individual.name: individual for individual in manager.lineage}
    children = [i for i in manager.lineage if i.operator == "clone"]
    assert children
    for child in children:
        assert child.parameters["parent_hash"] == born[child.parents[0]].content_hash
        assert not is_copy(child)


def test_the_drawn_tree_tells_migrants_copies_and_failures_apart(tmp_path):
    manager = make(tmp_path, crossover="clone", mutations="0.5*gaussian")
    manager.run(5)
    manager.close()
    run = read_run_data(tmp_path)
    failed = dataclasses.replace(run.lineage[-1], operator="base", parameters={"failed": "so"})
    tree = family(dataclasses.replace(run, lineage=(*run.lineage[:-1], failed)))
    marks = family_chart(run, dataclasses.replace(tree, best=None)).figure.data[-1]
    drawn = dict(zip((life.birth for life in tree.lives), marks.marker.symbol, strict=True))
    for birth, symbol in drawn.items():
        expected = "square" if is_copy(birth) else "circle"
        if birth.operator == "migration":
            expected = "diamond"
        assert symbol == ("x" if birth is failed else expected)
    assert set(drawn.values()) == {"circle", "square", "diamond", "x"}
    texts = "".join(marks.hovertext)
    assert "(migration)" in texts
    assert "mutations gaussian" in texts
    assert all(life.fitness is not None for life in tree.lives)
