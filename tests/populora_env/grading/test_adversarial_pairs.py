"""Pairs of answers that graders are known to confuse: kind, gold, reply, right (Y) or not (N, S).

In the file, ``box X`` is the reply ``\\boxed{X}``, and the sign for return a new line.
"""

from pathlib import Path

import pytest

from populora_env.grading import Grader
from populora_env.records import Problem

KINDS = {"n": "number", "m": "math", "t": "text"}
PAIRS = Path(__file__).parent / "adversarial_pairs.tsv"
REFUSED = {
    ("10", r"\boxed{C(5,2)}"),  # it may be a point, or a function's value
    (r"75\text{ cents}", r"\boxed{\$0.75\text{ per pound}}"),  # a rate is no amount
    ("300", r"\boxed{300\ \text{W/(m}^2\text{K)}}"),  # no half of it is a unit
}


def pairs():
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        kind, gold, reply, right = line.split("\t")
        reply = rf"\boxed{{{reply[4:]}}}" if reply.startswith("box ") else reply
        reply = reply.replace("\u23ce", "\n")
        yield Problem.create("?", gold, KINDS[kind]), reply, right == "Y"


@pytest.mark.slow
def test_all_but_the_known_ones_are_graded_as_they_should():
    missed, paid, right, wrong = set(), set(), 0, 0
    with Grader(timeout=20.0) as grader:
        for problem, reply, correct in pairs():
            right, wrong = right + correct, wrong + (not correct)
            if grader.grade(problem, reply).correct is not correct:
                (missed if correct else paid).add((problem.answer, reply))
    assert min(right, wrong) >= 1100
    assert missed <= REFUSED, missed - REFUSED
    assert not paid, paid
