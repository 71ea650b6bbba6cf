"""Pairs of answers that graders are known to confuse: kind, gold, reply, right (Y) or not (N, S).

In the file, ``box X`` is the reply ``\\boxed{X}``, and the sign for return a new line.
"""

from pathlib import Path

import pytest

from populora_env.grading import Grader
from populora_env.records import Problem

KINDS = {"n": "number", "m": "math", "t": "text"}
PAIRS = Path(__file__).parent / "adversarial_pairs.tsv"


def pairs():
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        kind, gold, reply, right = line.split("\t")
        reply = rf"\boxed{{{reply[4:]}}}" if reply.startswith("box ") else reply
        reply = reply.replace("\u23ce", "\n")
        yield Problem.create("?", gold, KINDS[kind]), reply, right == "Y"


@pytest.mark.slow
def test_few_are_graded_wrongly():
    missed, paid, right, wrong = [], [], 0, 0
    with Grader(timeout=20.0) as grader:
        for problem, reply, correct in pairs():
            right, wrong = right + correct, wrong + (not correct)
            if grader.grade(problem, reply).correct is not correct:
                (missed if correct else paid).append((problem.answer, reply))
    assert right + wrong >= 400
    assert len(missed) <= 0.05 * right, missed
    assert len(paid) <= 0.01 * wrong, paid
