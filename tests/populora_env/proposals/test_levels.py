"""Levels: which settings are read, in which ranges, and what is drawn at them."""

import json
from contextlib import suppress

import numpy as np
import pytest

from populora_env.problems import ProblemSpecError, Split, split_of
from populora_env.problems.drawing.levels import make_ladders
from populora_env.problems.sources.spec import parse_mixture
from populora_env.proposals.levels import levels
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.task import NotATask
from populora_env.records import Problem
from tests.populora_env.proposals.hostile import HUGE, texts


def kind(spec: str = "chain_sum+products", **options):
    return levels(generators=parse_mixture(spec), **options)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ladder(spec: str, upto: int | None = None):
    (made,) = make_ladders("levels", parse_mixture(spec), upto)
    return made


VALID = '{"generator": "chain_sum", "terms": 3, "digits": 2}'


@pytest.mark.parametrize(
    "reply",
    [
        VALID,
        f"Problem: {VALID}\nProblem: {VALID}",
        "{'generator': 'chain_sum', 'terms': 3, 'digits': 2}",
        "{generator: chain_sum, terms: 3, digits: 2}",
        '"generator": "chain_sum", "terms": 3, "digits": 2',
        "chain_sum with terms = 3, digits = 2.",
        '```json\n{\n "generator": "chain_sum",\n "num_terms": "3",\n "max_digits": 2.0\n}\n```',
        '{"terms": 3, "digits": 2, "generator": "Chain_Sum", "seed": 7, "note": "x"',
        'Sure! Here it is: {"x": 1} and {"generator": "chain_sum", "digits": 2, "terms": 3}',
    ],
)
def test_messy_settings_are_read(reply):
    task = kind().read(reply, rng())
    assert task.text == VALID
    assert task.measures == {"terms": 3, "digits": 2}
    assert task.tokens == ("generator", "chain_sum", "terms", "3", "digits", "2")
    assert task.problem.metadata["parameters"] == {
        "min_terms": 3, "max_terms": 3, "min_digits": 2, "max_digits": 2
    }  # fmt: skip
    assert task.key == task.problem.id


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        (VALID.replace("3", "1"), "out_of_range", "terms must be an integer 2 to 12, got 1"),
        (VALID.replace("3", "13"), "out_of_range", "terms must be an integer 2 to 12, got 13"),
        (VALID.replace("2}", "-2}"), "out_of_range", "digits must be"),
        (VALID.replace("3", "3.5"), "out_of_range", "terms must be an integer 2 to 12, got 3.5"),
        (VALID.replace("3", "9" * 18), "out_of_range", "terms must be"),
        (VALID.replace("3", "9" * 19), "unreadable", "no number for terms"),
        (VALID.replace("3", "1,003"), "unreadable", "no number for terms"),
        (VALID.replace("3", "3e0"), "unreadable", "no number for terms"),
        (
            VALID.replace("chain_sum", "gcd"),
            "out_of_range",
            "no generator gcd, there are chain_sum",
        ),
        ('{"terms": 3, "digits": 2}', "unreadable", "no settings in it"),
        ('{"generator": "chain_sum", "terms": 3}', "unreadable", "no number for digits"),
        ("chain_sum of 3 terms", "unreadable", "no settings in it"),
        ("12 + 7", "unreadable", "no settings in it"),
    ],
)
def test_what_is_no_level(reply, status, said):
    with pytest.raises(NotATask, match=said) as caught:
        kind().read(reply, rng())
    assert caught.value.status is ProposalStatus(status)


def test_one_generator_need_not_be_named():
    assert kind("chain_sum").read('{"terms": 3, "digits": 2}', rng()).text == VALID


def test_parameters_fix_their_axes():
    only = kind("chain_sum(max_digits=2,allow_negation=true)")
    task = only.read('{"terms": 3, "digits": 9}', rng())
    assert task.measures == {"terms": 3}
    assert task.problem.metadata["parameters"] == {
        "max_digits": 2, "allow_negation": True, "min_terms": 3, "max_terms": 3
    }  # fmt: skip


def test_upto_keeps_the_easiest_steps():
    small = kind("chain_sum", upto=2)
    assert {small.example(rng(seed)).measures["terms"] for seed in range(30)} == {2, 3}
    with pytest.raises(NotATask, match="terms must be an integer 2 to 3, got 4"):
        small.read('{"terms": 4, "digits": 1}', rng())
    with pytest.raises(ValueError, match="upto: got 0, expected an integer >= 1"):
        kind("chain_sum", upto=0)


def test_intervals_reach_from_one_step_to_the_next():
    gcd = ladder("gcd")
    assert gcd.at((1, 0)).parameters == {
        "min_numbers": 3, "max_numbers": 3, "min_value": 100, "max_value": 1000
    }  # fmt: skip
    between = gcd.chosen({"terms": 2, "value": 2500}).parameters
    assert (between["min_value"], between["max_value"]) == (1000, 2500)
    assert gcd.top == 3 + 2
    assert ladder("gcd", 1).axes[1].bounds == (1000, 1000)


def test_what_is_no_number_is_set_by_the_number_of_its_step():
    aiw = ladder("aiw")
    assert aiw.settings((2, 0)) == {"task_type_weights": 3, "entities": 4}
    assert aiw.at((2, 0)).parameters == {
        "task_type_weights": [0.7, 0.15, 0.15], "max_entities": 4
    }  # fmt: skip
    falling = ladder("graph_color")
    assert falling.axes[1].bounds == (3, 5)
    assert [falling.settings((0, step))["colors"] for step in range(3)] == [5, 4, 3]


def test_levels_of_a_difficulty():
    chain_sum = ladder("chain_sum", 3)
    drawn = {chain_sum.level_of(2, rng(seed)) for seed in range(60)}
    assert drawn == {(2, 0), (1, 1), (0, 2)}
    assert chain_sum.level_of(chain_sum.top, rng()) == (2, 2)
    assert chain_sum.holds((2, 2))
    assert not any(map(chain_sum.holds, [(3, 0), (0,), (-1, 0), (True, 0), ("1", 0)]))


def test_held_out_problems_are_never_drawn():
    easiest = kind("chain_sum(max_terms=2,max_digits=1)")
    drawn = [easiest.example(rng(seed)).problem for seed in range(200)]
    assert len({problem.id for problem in drawn}) > 50
    assert all(split_of(problem) is Split.TRAIN for problem in drawn)
    same = Problem.create(drawn[0].prompt, drawn[0].answer)
    assert easiest.key_of(same) == easiest.example(rng(0)).key


def test_everything_depends_on_the_generator_alone():
    one, other = kind(), kind()
    assert one.read(VALID, rng(1)) == other.read(VALID, rng(1))
    assert one.read(VALID, rng(1)).problem != one.read(VALID, rng(2)).problem
    assert one.request(rng(1), ()) == other.request(rng(1), ())
    assert len({one.request(rng(seed), ()) for seed in range(20)}) > 15
    assert one.example(rng(3)) == other.example(rng(3))


def test_requests_show_three_levels_of_one_generator():
    counts = {"chain_sum": 0, "products": 0}
    for seed in range(60):
        lines = kind("chain_sum+3*products").request(rng(seed), ()).splitlines()
        shown = [json.loads(line.removeprefix("Problem: ")) for line in lines[-3:]]
        (name,) = {entry["generator"] for entry in shown}
        assert f'"generator": "{name}"' in lines[0]
        counts[name] += 1
    assert 0 < counts["chain_sum"] < 25


def test_a_level_that_the_generator_refuses_is_no_task():
    with pytest.raises(NotATask, match="cube_size must be less than 7") as caught:
        kind("rubiks_cube").read('{"cube_size": 7, "scramble_steps": 10}', rng())
    assert caught.value.status is ProposalStatus.NO_ANSWER


def test_generators_without_a_curriculum_and_no_generators_are_refused():
    with pytest.raises(ProblemSpecError, match=r"acre has no curriculum.*choose among ab, .*zebra"):
        kind("chain_sum+acre")
    with pytest.raises(ProblemSpecError, match="unknown procedural problem 'chainsum'"):
        kind("chainsum")
    with pytest.raises(ProblemSpecError, match="unknown parameter 'depth'"):
        kind("chain_sum(depth=3)")
    with pytest.raises(ProblemSpecError, match=r"as in levels\(chain_sum\+products\): got none"):
        levels()


def test_no_text_raises_anything_else():
    both, read = kind(upto=3), 0
    for text in [*HUGE, *texts(10_000, 2, [VALID, VALID.replace('"', "'"), "chain_sum: terms=2"])]:
        with suppress(NotATask):
            task = both.read(text, rng(read))
            settings = {"generator": task.problem.metadata["generator"], **task.measures}
            assert json.loads(task.text) == settings
            read += 1
    assert read > 500
