from __future__ import annotations

import math

import numpy as np
import pytest

from evolution.guard.verdicts import (
    ERROR,
    MARGIN,
    Test,
    forgotten,
    judge,
    least_to_lose,
    paired,
    sign_test,
)

Test.__test__ = False  # a test of ours, not of pytest's


@pytest.mark.parametrize(
    ("worse", "better", "p"),
    [(0, 0, 1.0), (1, 0, 0.5), (0, 1, 1.0), (1, 1, 0.75), (5, 0, 1 / 32), (3, 2, 0.5),
     (8, 2, 56 / 1024)],
)  # fmt: skip
def test_the_sign_test_is_exact(worse, better, p):
    assert sign_test(worse, better) == p


def test_the_chance_of_at_least_so_many_is_the_binomials():
    for count in range(12):
        rows = np.array([[i >> k & 1 for k in range(count)] for i in range(2**count)])
        sums = rows.sum(1) if count else np.zeros(1)
        for worse in range(count + 1):
            assert sign_test(worse, count - worse) == pytest.approx((sums >= worse).mean())


def test_only_problems_that_one_got_right_count():
    own = [True, False, False, True, False]
    other = [True, True, True, False, False]
    assert paired("base", own, other) == Test("base", 2, 1, 0.5)


def test_a_verdict_is_bad_if_any_test_is():
    good = [True] * 12
    assert not judge(good, {"base": good}).bad
    assert judge([False] * 12, {"base": good}).bad
    assert judge([False] * 12, {"snapshot": good, "base": [False] * 12}).bad
    assert judge(good, {"base": good}, np.full(16, MARGIN + 1)).bad
    assert not judge(good, {"base": good}, np.full(16, MARGIN - 0.1)).bad


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("anchors", [16, 48])
def test_equals_are_called_bad_no_more_often_than_stated(share, anchors):
    """Of pairs that are as good as each other, problem by problem, by chance."""
    rng = np.random.default_rng(3)
    rounds, bad = 3000, 0
    for _ in range(rounds):
        own, snapshot, base = (rng.random((3, anchors)) < share).tolist()
        losses = rng.normal(MARGIN, 1.0, 16)  # the worst that is still allowed
        bad += judge(own, {"snapshot": snapshot, "base": base}, losses).bad
    assert bad / rounds <= ERROR + 3 * math.sqrt(ERROR / rounds)


def test_a_collapse_is_called_bad():
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(200):
        base = rng.random(48) < 0.45
        found += judge((rng.random(48) < 0.03).tolist(), {"base": base.tolist()}).bad
    assert found / 200 > 0.98


def test_how_many_there_have_to_be_to_lose():
    least = least_to_lose()
    assert paired("base", [False] * least, [True] * least).bad
    assert not paired("base", [False] * (least - 1), [True] * (least - 1)).bad


def test_words_name_the_evidence():
    verdict = judge([False] * 12, {"base": [True] * 12})
    assert str(verdict) == "12 anchors lost and 0 won against the base (p 0.00024)"
    assert verdict.to_dict() == {
        "bad": True,
        "tests": {"base": {"worse": 12, "better": 0, "p": 0.0002441}},
    }
    assert str(forgotten(np.full(16, 9.0))) == "forgot 16 of 16 prompts (p 1.5e-05)"
