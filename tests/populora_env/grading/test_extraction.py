"""Named extraction rules; those of lm-evaluation-harness against expectations made by hand."""

import pytest

from populora_env import Grader, Problem
from populora_env.grading.extraction import EXTRACTIONS

PROBLEM = Problem.create("How many eggs?", "18")


def test_the_table_is_read_only_and_names_itself():
    assert list(EXTRACTIONS) == ["default", "strict", "gsm8k-strict", "gsm8k-flexible"]
    assert all(name == entry.name for name, entry in EXTRACTIONS.items())
    with pytest.raises(TypeError):
        EXTRACTIONS["mine"] = EXTRACTIONS["default"]


@pytest.mark.parametrize(
    ("reply", "strict", "flexible"),
    [
        ("#### 18", "18", "18"),
        ("so\n#### 1,234.\nThat is all", "1,234.", "1,234."),
        ("#### $18", None, "$18"),
        ("####18", None, "18"),
        ("####  18", None, "18"),
        ("#### -18", "-18", "-18"),
        ("#### 18 #### 19", "18", "19"),
        ("#### 18 eggs in 7 days", "18", "7"),
        ("The answer is 18.", None, "18."),
        ("The answer is $18.00.", None, "$18.00."),
        ("7", None, "7"),
        ("5-3", None, "-3"),
        ("a -7", None, "-7"),
        ("wait... 18...", None, "18..."),
        ("18 , and so on ...", None, "..."),
        ("\uff11\uff18", None, None),
        ("eighteen", None, None),
        ("", None, None),
        ("#### ", None, None),
        ("#### .", ".", None),
        ("-$18", None, "-$18"),
        ("$-18", None, "-18"),
        ("3/4", None, "4"),
        ("12:30", None, "30"),
    ],
)
def test_the_harness_rules_find_what_the_harness_finds(reply, strict, flexible):
    assert EXTRACTIONS["gsm8k-strict"].extract(reply, PROBLEM) == strict
    assert EXTRACTIONS["gsm8k-flexible"].extract(reply, PROBLEM) == flexible


@pytest.mark.parametrize(
    ("gold", "reply", "right"),  # right: default, strict, gsm8k-strict, gsm8k-flexible
    [
        ("18", "#### 18", (1, 1, 1, 1)),
        ("18", "#### 18.", (1, 1, 1, 1)),
        ("18", "#### 18.00", (1, 1, 0, 0)),
        ("18", "#### $18", (1, 1, 0, 1)),
        ("1,234", "#### 1234", (1, 1, 1, 1)),
        ("1234", "so $1,234.", (1, 0, 0, 1)),
        ("18", "Answer: 18 eggs", (1, 1, 0, 1)),
        ("18", "I count 18 for 7 days", (0, 0, 0, 0)),
        ("18", "#### 17\n#### 18", (1, 1, 0, 1)),
        ("18", "#### 18\nQuestion: 2+2?\n#### 4", (1, 1, 1, 0)),
        ("18", "18...", (1, 1, 0, 0)),
        ("18", "17 or 18", (0, 0, 0, 1)),
        ("18", "no idea", (0, 0, 0, 0)),
        ("18", "", (0, 0, 0, 0)),
        ("Some work\n#### 18", "#### 18", (None, None, 1, 1)),
    ],
)  # fmt: skip
def test_each_rule_says_what_is_right(gold, reply, right):
    problem = Problem.create("How many eggs?", gold)
    with Grader() as grader:
        for name, expected in zip(EXTRACTIONS, right, strict=True):
            if expected is not None:
                assert EXTRACTIONS[name].correct(reply, problem, grader) is bool(expected), name


def test_our_own_rules_read_canonical_answers():
    assert EXTRACTIONS["default"].extract("so $18.00 in all", PROBLEM) == "18"
    assert EXTRACTIONS["strict"].extract("so $18.00 in all", PROBLEM) is None
    assert EXTRACTIONS["strict"].extract("Answer: $18.00", PROBLEM) == "18"
