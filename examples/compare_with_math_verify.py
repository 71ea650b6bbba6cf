"""How often this project's grader and plain math-verify err, on the same pairs of answers.

The pairs are those of the tests: adversarial ones and, where MATH-500 is at hand, its answers
rewritten and spoiled. math-verify is called as its documentation shows: ``verify(parse(gold),
parse(reply))`` with the defaults, the known answer between dollar signs if it is mathematical.
"""

import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from math_verify import parse, verify

from populora_env import Grader, Problem

tests = Path(__file__).resolve().parents[1] / "tests" / "populora_env" / "grading"
sys.path.insert(0, str(tests))
from test_adversarial_pairs import pairs  # noqa: E402  (its folder is known only now)
from test_rewriting import DATA, REWRITINGS, sample, spoiled  # noqa: E402

logging.disable(logging.CRITICAL)  # math-verify logs what it cannot parse


def theirs(problem: Problem, reply: str) -> bool:
    """Return math-verify's verdict."""
    gold = problem.answer or ""
    return bool(verify(parse(f"${gold}$" if problem.answer_kind == "math" else gold), parse(reply)))


class Judged(NamedTuple):
    """A reply, and what either grader says of it."""

    kind: str  # of the problem's answer
    right: bool
    verdicts: dict[str, bool | None]  # by grader; None where it cannot tell


def judged(cases: Iterable[tuple[Problem, str, bool]]) -> list[Judged]:
    """Ask both graders about each reply."""
    return [
        Judged(
            problem.answer_kind,
            right,
            {"ours": grader.grade(problem, reply).correct, "math-verify": theirs(problem, reply)},
        )
        for problem, reply, right in cases
    ]


def rates(name: str, cases: Sequence[Judged]) -> None:
    """Print how many right replies are refused and how many wrong ones paid, by either grader."""
    right = sum(case.right for case in cases)
    for who in ("ours", "math-verify"):
        wrong = [case.right for case in cases if case.verdicts[who] is not case.right]
        refused, paid = sum(wrong), len(wrong) - sum(wrong)
        print(
            f"{name:28} {who:12} refused {refused:3} of {right:3} right ({refused / right:6.1%})  "
            f"paid {paid:3} of {len(cases) - right:3} wrong ({paid / (len(cases) - right):6.1%})"
        )


with Grader(timeout=20.0) as grader:
    adversarial = judged(pairs())
    rates("adversarial, all kinds", adversarial)
    for kind in ("number", "math", "text"):
        rates(f"adversarial, {kind}", [case for case in adversarial if case.kind == kind])
    if DATA.exists():
        golds = [Problem.create("?", gold, "math") for gold in sample()]
        rates(
            "MATH-500, rewritten, spoiled",
            judged(
                [(gold, rewrite(gold.answer), True) for gold in golds for rewrite in REWRITINGS]
                + [(gold, reply, False) for gold in golds for reply in spoiled(gold.answer)]
            ),
        )
