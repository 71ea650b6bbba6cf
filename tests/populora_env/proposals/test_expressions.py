"""Arithmetic expressions: what is read, what counts as the same, and what is refused."""

import re
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest

from populora_env.problems import Split, load_problems, split_of
from populora_env.proposals.arithmetic import expressions_in, find_expression
from populora_env.proposals.expressions import expressions
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.task import TASKS, NotATask, Told
from populora_env.records import Problem
from tests.populora_env.proposals.hostile import HUGE, texts

KIND = expressions()
RNG = np.random.default_rng(0)


def key(text: str) -> str:
    found = find_expression(text)
    assert found is not None, text
    return found.key


def refusal(text: str, **options) -> ProposalStatus:
    with pytest.raises(NotATask) as caught:
        expressions(**options).read(text, RNG)
    assert len(caught.value.reason.splitlines()) == 1
    return caught.value.status


@pytest.mark.parametrize(
    ("reply", "text", "answer"),
    [
        ("12 + 7 =", "12 + 7", "19"),
        ("12+7=19", "12 + 7", "19"),
        ("12 + 7 = 20", "12 + 7", "19"),
        ("What is 3 * 4?", "3 * 4", "12"),
        ("Problem: 8 - 3", "8 - 3", "5"),
        ("Problem 4: 8 - 3", "8 - 3", "5"),
        ("Sure!\n\n1. (3 + 4) x 5 = 7\n2. 5 + 5", "(3 + 4) * 5", "35"),
        ("I have 3 apples.\n2 + 2", "2 + 2", "4"),
        ("12 + apples\n12 + 3", "12 + 3", "15"),
        ("3 \u00d7 4", "3 * 4", "12"),
        ("3x4", "3 * 4", "12"),
        (r"3 \times 4", "3 * 4", "12"),
        ("8 \u2212 3", "8 - 3", "5"),
        ("$3 + 4$", "3 + 4", "7"),
        ('"3 + 4"', "3 + 4", "7"),
        ("3 + 4 is 7.", "3 + 4", "7"),
        ("- 8 + 2", "8 + 2", "10"),
        ("-8 + 2", "-8 + 2", "-6"),
        ("4 - -3", "4 - -3", "7"),
        ("2 + 3 * 4 - 5", "2 + 3 * 4 - 5", "9"),
        ("-(2 + 3) * 4", "-(2 + 3) * 4", "-20"),
        ("((2 + 3))", "2 + 3", "5"),
        ("**Problem:** 7 + 15 - 2 =", "7 + 15 - 2", "20"),
        ("Problem: **7 + 15 - 2** =", "7 + 15 - 2", "20"),
        ("**7 * 8 =**", "7 * 8", "56"),
        ("*Problem:* 7 * 8 * 2 =", "7 * 8 * 2", "112"),
        (r"\(7 + 8\)", "7 + 8", "15"),
        (r"\[7 \times 8\]", "7 * 8", "56"),
        ("((1 + 2) * (3 + 4))", "(1 + 2) * (3 + 4)", "21"),
        ("(2 + 3) * (4)", "(2 + 3) * (4)", "20"),
    ],
)
def test_messy_replies_are_read(reply, text, answer):
    task = KIND.read(reply, RNG)
    assert (task.text, task.problem.answer) == (text, answer)
    prompt = f"State the final answer to the following arithmetic problem: {text} ="
    assert task.problem == Problem.create(prompt, answer, "number", *_source(task.problem))


def _source(problem):
    return problem.source, problem.metadata


@pytest.mark.parametrize(
    "reply",
    [
        "I have 3 apples",
        "I have 3 + 4 apples",
        "I ate 3-5.",
        "They won 3 - 2.",
        "Chapter 3-4",
        "5",
        "-5",
        "(5)",
        "3 4 + 5",
        "(3 + 4",
        "3 + 4)",
        "3 + 4 +",
        "+ 3 + 4",
        "--3 + 4",
        "3 + + 4",
        "()+3",
        "2 ** 3 + 1",
        "2^3 + 1",
        "3.5 + 2",
        "2 + 3.5",
        "1,000 + 2",
        "2x + 3",
        "3 + 4y",
        "a - 3 * 4",
        "5! + 3",
        "2**3 + 4**5",
        "2 ** 3",
        "(1 + 2)**2",
        "3 + 5!",
        "5 + 3%",
        "12:30 - 13:30",
        "12-05-2023",
        "19 = 12 + 7",
        "x = 12 + 7",
        "3 + x = 12 - 4",
        "\u0663 + \u0664",
        "3(4 + 5)",
        "3 + 4\u200b5",
    ],
)
def test_what_is_no_expression_is_not_made_one(reply):
    assert refusal(reply) is ProposalStatus.UNREADABLE


@pytest.mark.parametrize(
    "reply",
    [
        "6 / 3",
        "100 + 1",
        "1 + 1 + 1 + 1 + 1",
        "99 * 99 * 99 * 99",
        "2 * ((((1 + 2))) - 1)",
        "1+" * 1900 + "1",
        "9" * 3900 + "*9",
    ],
)
def test_what_is_out_of_range(reply):
    assert refusal(reply) is ProposalStatus.OUT_OF_RANGE


def test_divisions_are_exact():
    kind = expressions(operators="+/", fractions=True)
    assert kind.read("7 / 2 + 1 / 2", RNG).problem.answer == "4"
    assert kind.read("7 \u00f7 2", RNG).problem.answer == "7/2"
    assert expressions(operators="/").read("8 / 2 / 2", RNG).problem.answer == "2"
    assert refusal("7 / 2 + 1 / 2", operators="+/") is ProposalStatus.NO_ANSWER
    assert refusal("7 / (3 - 3)", operators="-/") is ProposalStatus.NO_ANSWER
    assert refusal("7 / 0", operators="/", fractions=True) is ProposalStatus.NO_ANSWER


@pytest.mark.parametrize(
    "same",
    [
        ("7 + 8", "8 + 7", "(8) + 7", "((8 + 7))"),
        ("1 + 2 + 3", "3 + (2 + 1)", "(1 + 3) + 2"),
        ("2 * 3 * 4", "4 * (3 * 2)", "(4) * 3 * 2"),
        ("3 - 2", "-2 + 3", "(3) - (2)"),
        ("5 - 2 - 1", "5 - 1 - 2", "(5 - 1) - 2", "-1 + 5 - 2"),
        ("2 * 3 + 4", "4 + 3 * 2", "(2 * 3) + 4"),
        ("(1 + 2) * 3", "3 * (2 + 1)"),
        ("8 / 2 * 3", "3 * 8 / 2", "(8 / 2) * 3"),
        ("12 / 2 / 3", "12 / 3 / 2"),
        ("-2 * 3", "3 * -2", "(-2) * 3"),
    ],
)
def test_the_same_written_differently(same):
    assert len({key(text) for text in same}) == 1
    assert all(find_expression(text).tokens == find_expression(same[0]).tokens for text in same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 - 2", "2 - 3"),
        ("5 - (2 - 1)", "5 - 2 - 1"),
        ("5 - (2 + 1)", "5 - 2 + 1"),
        ("(1 + 2) * 3", "1 + 2 * 3"),
        ("12 / (2 * 3)", "12 / 2 * 3"),
        ("12 / 3", "3 / 12"),
        ("-2 * 3", "-(2 * 3)"),
        ("-2 - 3", "2 - 3"),
        ("1 + 23", "12 + 3"),
        ("4 - -3", "4 + 3"),
        ("7 + 8", "7 * 8"),
    ],
)
def test_what_is_not_the_same(one, other):
    assert key(one) != key(other)


def test_random_expressions_and_their_keys_have_the_same_value():
    """A key is an expression itself; read back it has the same value and the same key."""
    rng = np.random.default_rng(3)
    kind = expressions(operators="+-*/", digits=2, terms=6, depth=2, fractions=True)
    for _ in range(300):
        task = kind.example(rng)
        again = find_expression(task.key)
        assert again is not None
        assert again.key == task.key
        assert str(again.value) == task.problem.answer == str(Fraction(_python(task.text)))


def _python(text: str) -> Fraction:
    """The value by Python's own rules, of a text that this test's kind has made."""
    return eval(re.sub(r"([0-9]+)", r"Fraction(\1)", text), {"Fraction": Fraction})


@pytest.mark.parametrize("spec", ["chain_sum(allow_negation=true)", "products"])
def test_problems_made_elsewhere_are_known_for_the_same(spec):
    for problem in load_problems(f"procedural:{spec}", seed=5, limit=60):
        expression = str(problem.metadata["item"]["expression"])
        found = KIND.key_of(problem)
        assert found == next(iter(expressions_in(expression))).key
        assert found is not None


def test_a_held_out_problem_is_known_when_it_is_turned_around():
    held_out = Problem.create("Solve the following multiplication: 3 * 4. Give only it.", "12")
    assert KIND.read("4 x 3 = 13", RNG).key == KIND.key_of(held_out)
    story = Problem.create("Tom has 2 + 1 hats. He buys 3 - 1 + 7 more apples.", "9")
    assert KIND.key_of(story) == key("7 + 3 - 1")
    assert KIND.key_of(Problem.create("Tom has 3 hats and 4 apples.", "7")) is None
    assert KIND.key_of(Problem.create("What is 3 + 4?", "8")) is None
    assert KIND.key_of(Problem.create("What is 3 + 4?", None)) is None
    assert KIND.key_of(Problem.create("What is 3 + 4?", "seven or so", "text")) is None


def test_no_text_raises_anything_else():
    valid = ["12 + 7 = 19", "What is (3 + 4) * 5?", "Problem: 8 - 3", "1. 7 x 2 - -3"]
    kind = expressions(operators="+-*/", fractions=True)
    read = 0
    for text in [*HUGE, *texts(10_000, 1, valid)]:
        with suppress(NotATask):
            kind.read(text, RNG)
            read += 1
    assert read > 1000


def test_requests_and_examples_depend_on_the_generator_alone():
    told = [Told("3 + 4", ProposalStatus.VALID, 0.5)]
    one, again, other = (KIND.request(np.random.default_rng(seed), told) for seed in (1, 1, 2))
    assert one == again != other
    assert one.splitlines()[-1] == "3 + 4 (50% solved it)"
    assert len([line for line in one.splitlines() if line.startswith("Problem: ")]) == 3
    assert KIND.example(np.random.default_rng(4)) == KIND.example(np.random.default_rng(4))


def test_examples_are_in_range_and_of_all_shapes():
    rng = np.random.default_rng(7)
    kind = expressions(operators="+-*/", digits=1, terms=3, depth=1)
    made = [kind.example(rng) for _ in range(200)]
    for task in made:
        assert kind.read(task.text, rng) == task
        assert split_of(task.problem) is Split.TRAIN
    assert {task.measures["operands"] for task in made} == {2, 3}
    assert all(any(sign in task.text for task in made) for sign in "+-*/(")


def test_measures():
    measures = KIND.read("12 + 3 * 4 + 5", RNG).measures
    assert measures["operands"] == 4
    assert measures["largest"] == 12
    assert measures["result"] == 29
    assert measures["share of +"] == pytest.approx(2 / 3)
    assert measures["share of -"] == 0


def test_options_and_another_prompt():
    task = TASKS["expressions"](prompt="{}?", digits=3).read("100 + 1", RNG)
    assert task.problem.prompt == "100 + 1?"
    for options, said in (
        ({"operators": "+^"}, "operators: got '\\+\\^', expected some of"),
        ({"digits": 0}, "digits: got 0, expected an integer 1 to 12"),
        ({"terms": 1}, "terms: got 1"),
        ({"prompt": "no place"}, "prompt: got 'no place'"),
        ({"fractions": 1}, "fractions: got 1, expected true or false"),
    ):
        with pytest.raises(ValueError, match=said):
            expressions(**options)
