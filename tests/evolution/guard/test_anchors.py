from __future__ import annotations

import pytest

from agents.population import BASE, LoraPopulation
from evolution import ConfigError, EvolutionConfig, EvolutionManager, RunConfig
from evolution.guard.anchors import FEWEST, Anchors, choose_anchors
from evolution.run_problems import RunProblems, held_out_problems
from populora_env import Grader, Problem, load_problems
from populora_env.problems import SequenceSource
from populora_env.problems.sources.base import Split, split_of
from tests.conftest import make_tiny_base

SUMS = "procedural:chain_sum(max_terms=2,max_digits=1)"
MANY = "procedural:chain_sum(max_terms=2,max_digits=2)"


def config(**settings):
    return EvolutionConfig(**{"guard": "note", "guard_anchors": 24, **settings})


def given(count, start=0):
    return [Problem.create(f"What is {n}?", str(n)) for n in range(start, start + count)]


def test_without_a_guard_there_are_none():
    assert choose_anchors(load_problems(SUMS), EvolutionConfig(), ()) == ()


def test_they_come_from_the_held_out_half_and_are_not_those_of_the_table():
    settings = RunConfig(problems=MANY, held_out=40, guard="note", guard_anchors=24)
    table = held_out_problems(settings)
    train = load_problems(MANY, split="train")
    anchors = choose_anchors(train, settings, table)
    assert len({problem.id for problem in anchors}) == 24
    assert {split_of(problem) for problem in anchors} == {Split.TEST}
    assert not {p.id for p in anchors} & {p.id for p in table}
    assert anchors == choose_anchors(train, settings, table)
    other = RunConfig(problems=MANY, seed=1, guard="note", guard_anchors=24)
    assert anchors != choose_anchors(train, other, table)


def test_where_that_half_has_too_few_some_training_problems_are_set_aside():
    settings = RunConfig(held_out=128, guard="note", guard_anchors=40)
    train = load_problems(settings.problems, split="train")
    table = held_out_problems(settings)
    anchors = choose_anchors(train, settings, table)
    assert {split_of(problem) for problem in anchors} == set(Split)
    drawn = RunProblems(train, 0, table)
    drawn.set_aside(anchors)
    met = {p.id for g in range(60) for p in drawn.draw("problems", g, 8)}
    assert len(met) > 60
    assert not met & {problem.id for problem in anchors}


def test_of_given_problems_at_most_a_quarter_is_set_aside():
    source = SequenceSource(given(80))
    assert len(choose_anchors(source, config(), ())) == 20
    with pytest.raises(ConfigError, match=f"12|{FEWEST}"):
        choose_anchors(SequenceSource(given(40)), config(), ())
    assert len(choose_anchors(source, config(guard_from=SUMS), ())) == 24


def test_problems_without_a_known_answer_are_no_anchors():
    source = SequenceSource([*given(48), *(Problem.create(f"Why {n}?") for n in range(40))])
    anchors = choose_anchors(source, config(), ())
    assert len(anchors) >= FEWEST
    assert all(problem.answer is not None for problem in anchors)


def test_a_spec_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="guard_from: "):
        choose_anchors(load_problems(SUMS), config(guard_from="procedural:nothing"), ())


@pytest.mark.parametrize("spec", ["self-play:expressions(digits=1)", "self-play:levels(chain_sum)"])
def test_in_self_play_they_are_fresh_and_nobody_may_propose_them(spec):
    source = load_problems(spec, split="train")
    table = load_problems(SUMS, split="test").distinct(8)
    drawn = RunProblems(source, 0, table)
    anchors = choose_anchors(source, config(), table)
    assert len(anchors) == 24
    assert all(problem.answer is not None for problem in anchors)
    free = source.fork()
    drawn.set_aside(anchors)
    assert source._excluded_ids >= {p.id for p in (*anchors, *table)}
    assert not free._excluded_ids & {problem.id for problem in anchors}


def test_a_curriculum_never_gives_one():
    source = load_problems("curriculum:window(chain_sum)", split="train")
    anchors = choose_anchors(source, config(), ())
    drawn = RunProblems(source, 0, ())
    drawn.set_aside(anchors)
    met = {p.id for g in range(20) for p in drawn.draw("problems", g, 8)}
    assert not met & {problem.id for problem in anchors}


def test_marks_are_those_of_greedy_replies_and_are_counted():
    population = LoraPopulation(make_tiny_base(), 2, 2)
    problems = given(5)
    with Grader() as grader:
        anchors = Anchors(population, problems, grader, 4)
        found = anchors.marks([BASE, "agent_1"])
        assert found[BASE] == found["agent_1"]  # a newborn is the base
        assert len(found[BASE]) == 5
        assert anchors.replies == 10
        assert anchors.marks([]) == {}
    assert anchors.replies == 10


def test_a_run_never_trains_on_them():
    population = LoraPopulation(make_tiny_base(), 2, 2)
    settings = EvolutionConfig(
        problems_per_generation=6, judged_problems=0, evaluation="none", solve_tokens=3,
        elites=1, offspring=0, guard="note", guard_anchors=20, guard_every=9,
    )  # fmt: skip
    manager = EvolutionManager(population, SequenceSource(given(100)), settings)
    anchors = {problem.id for problem in manager._guard.problems}
    assert len(anchors) == 20
    seen = set()
    for _ in range(6):
        plan = manager.ask()
        seen |= {problem.id for problem in plan.problems}
        manager.tell(manager.play(plan))
    manager.close()
    assert len(seen) > 20
    assert not seen & anchors
