"""Every known answer of GSM8K and MATH-500 is right when it is given as the answer."""

import json
from pathlib import Path

import pytest

from populora_env.grading import Grader
from populora_env.grading.notation import to_latex
from populora_env.reading.units import without_unit
from populora_env.records import Problem

DATA = Path(__file__).parents[3].parent / "shared" / "data"
FORMS = ("#### {}", "Answer: {}", r"\boxed{{{}}}", "The answer is ${}$.")


def rows(name):
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["gsm8k_test", "gsm8k_train"])
def test_gsm8k(name):
    with Grader() as grader:
        for row in rows(name):
            gold = row["answer"].rpartition("####")[2].strip()
            problem = Problem.create(row["question"], gold)
            for reply in [form.format(gold) for form in FORMS] + [row["answer"]]:
                assert grader.grade(problem, reply).strict is True, (reply, gold)


@pytest.mark.slow
def test_math500():
    with Grader(timeout=20.0) as grader:
        for row in rows("math500"):
            gold = row["answer"]
            problem = Problem.create(row["problem"], gold, "math")
            # The worked solutions end in a box; the last form writes what the others leave out.
            other = gold.replace(r"\frac{", r"\dfrac{").replace(", ", r",\, ")
            replies = [form.format(gold) for form in FORMS] + [
                row["solution"],
                rf"\boxed{{{other}}}",
            ]
            for reply in replies:
                assert grader.grade(problem, reply).correct is True, (reply[-80:], gold)


@pytest.mark.slow
def test_the_answers_of_other_problems_are_wrong():
    golds = sorted({row["answer"] for row in rows("math500")})
    agree = []
    with Grader(timeout=20.0) as grader:
        for gold, other in zip(golds, [*golds[1:], golds[0]], strict=True):
            problem = Problem.create("?", gold, "math")
            if grader.grade(problem, rf"\boxed{{{other}}}").correct:
                agree.append((gold, other))
    # A unit may be left out, so that 15 is as good as 15 square centimetres.
    assert [
        pair for pair in agree if len({without_unit(to_latex(gold)) for gold in pair}) > 1
    ] == []
    assert len(agree) < 10
