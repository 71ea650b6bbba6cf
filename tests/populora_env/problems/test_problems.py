"""Procedural problems, splits and sources."""

import random

import numpy as np
import pytest

from populora_env.problems import (
    ProblemSpecError,
    SequenceSource,
    as_source,
    check_disjoint,
    load_problems,
)
from populora_env.problems.drawing import procedural
from populora_env.problems.sources import base as source
from populora_env.records import AnswerKind, Problem

SMALL = "procedural:products(min_digits=1,max_digits=1)"


def test_items_are_deterministic_and_seeds_do_not_overlap():
    one, same, other = (load_problems("procedural:chain_sum", seed=at) for at in (42, 42, 43))
    assert [one[at] for at in range(50)] == [same[at] for at in (range(50))]
    assert not {one[at].id for at in range(50)} & {other[at].id for at in range(50)}


@pytest.mark.usefixtures("shared_generators")
@pytest.mark.parametrize("spec", ["procedural:pool_matrix", "procedural:list_functions"])
def test_generators_that_use_global_random_state_neither_depend_on_it_nor_change_it(spec):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = [load_problems(spec)[at] for at in range(10)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert [load_problems(spec)[at] for at in range(10)] == first


@pytest.mark.slow
def test_splits_are_disjoint_whatever_the_seed_and_make_up_the_whole():
    spec = "procedural:chain_sum(min_digits=1,max_digits=1,min_terms=2,max_terms=3)"
    train = load_problems(spec, split="train", seed=1).distinct(400)
    test = load_problems(spec, split="test", seed=2).distinct(100)
    check_disjoint(train, test)
    everything = load_problems(spec, seed=3).distinct(500)
    share = len({entry.id for entry in everything} & {entry.id for entry in train + test})
    assert share > 50  # the same problems are drawn: only the split keeps them apart
    in_test = sum(source.split_of(entry) is source.Split.TEST for entry in everything)
    assert 0.4 < in_test / 500 < 0.6  # half of all problems are held out


def test_an_overlap_is_refused():
    one, two = Problem.create("1", "1"), Problem.create("2", "2")
    check_disjoint([one], [two])
    with pytest.raises(ValueError, match=f"1 of b are in a, such as {one.id}"):
        check_disjoint([one], [two, one])


def test_mixtures_follow_their_weights():
    mixed = load_problems("procedural:3*chain_sum(max_terms=3)+products")
    names = [mixed[at].metadata["generator"] for at in range(400)]
    assert 260 < names.count("chain_sum") < 340
    assert names.count("products") == 400 - names.count("chain_sum")
    assert mixed.spec == "procedural:3*chain_sum(max_terms=3)+products"
    assert load_problems(mixed.spec)[7] == mixed[7]


def test_answer_kinds_follow_the_answers():
    assert load_problems("procedural:chain_sum")[0].answer_kind is AnswerKind.NUMBER
    assert load_problems("procedural:spell_backward")[0].answer_kind is AnswerKind.TEXT


def test_distinct_problems_do_not_repeat_and_a_small_generator_does_not_block():
    mixed = load_problems(f"procedural:50*{SMALL.split(':')[1]}+chain_sum")
    found = mixed.distinct(300)
    assert len({problem.id for problem in found}) == 300
    assert {problem.metadata["generator"] for problem in found} == {"products", "chain_sum"}
    assert found[:100] == mixed.distinct(100)


def test_a_source_that_is_too_small_says_how_many_it_has():
    with pytest.raises(ProblemSpecError, match=r"5000 distinct problems asked for, \d+ found"):
        load_problems(SMALL).distinct(5000)
    with pytest.raises(ProblemSpecError, match="4 distinct problems asked for, 3 found"):
        load_problems("procedural:chain_sum", limit=3).distinct(4)


def test_a_limit_is_the_length():
    limited = load_problems("procedural:chain_sum", limit=3)
    assert len(limited) == len(list(limited)) == 3
    for index in (3, -1):
        with pytest.raises(IndexError, match=rf"index must be in \[0, 3\), got {index}"):
            limited[index]


def test_a_split_without_items_is_refused_when_loading():
    alone = Problem.create("x", "1")
    other = source.Split.TRAIN if source.split_of(alone) is source.Split.TEST else source.Split.TEST
    spec = procedural.GeneratorSpec("chain_sum", {}, 1.0)
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(procedural, "_generate", lambda *_: alone)
        with pytest.raises(ProblemSpecError, match=f"no item in split {other}"):
            procedural.ProceduralSource([spec], split=other)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("procedural:chain_sums", "did you mean chain_sum.*lists all"),
        ("procedural:qqqq", "unknown procedural problem 'qqqq': python -c"),
        ("procedural:chain_sum(max_tems=3)", "unknown parameter 'max_tems'.*max_terms"),
        ("procedural:chain_sum(seed=3)", "unknown parameter 'seed'"),
        ("procedural:chain_sum(max_terms=1)", "refused by its generator: max_terms must be"),
        ("procedural:chain_sum(max_terms='x')", "refused by its generator"),
        ("procedural:chain_sum(3)", "must have the form"),
        ("procedural:chain_sum(max_terms=f())", "must have the form"),
        ("procedural:chain_sum(**x)", "must have the form"),
        ("procedural:", "must have the form"),
        ("procedural:a-b", "must have the form"),
        ("procedural:0*chain_sum", "weight must be above 0"),
        ("procedural:" + "(" * 3000, "must have the form"),
        ("procedural:" + "a" * 5000, "at most 4000 characters"),
        ("gsm9k", "unknown problem spec 'gsm9k': expected procedural:NAME.*gsm8k, math"),
        ("", "unknown problem spec ''"),
        (3, "spec must be a string, got int"),
    ],
)
def test_a_spec_that_cannot_be_met_is_refused_in_one_line(spec, message):
    with pytest.raises(ProblemSpecError, match=message) as caught:
        load_problems(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [{"split": "valid"}, {"limit": 0}])
def test_other_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        load_problems("procedural:chain_sum", **arguments)


def test_a_sequence_of_problems_is_a_source():
    one, two = Problem.create("1", "1"), Problem.create("2", "2")
    made = as_source([one, two, one])
    assert isinstance(made, SequenceSource)
    assert as_source(made) is made
    assert made.distinct(2) == [one, two]
    with pytest.raises(ProblemSpecError, match="3 distinct problems asked for, 2 found"):
        made.distinct(3)
    with pytest.raises(TypeError, match="problems must be a spec, a ProblemSource or a sequence"):
        as_source(3)
