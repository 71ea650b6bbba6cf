from __future__ import annotations

import math
from itertools import combinations

import pytest

from agents.measuring.statistics import Estimate, Mark, agreement, difference, figures, pass_at_k


def marks(text, gold="1"):
    """Marks of one agent, a reply per problem: ``"12-"`` answers 1, then 2, then nothing."""
    return [[Mark(None if c == "-" else c, c == gold)] for c in text]


def test_accuracy_and_its_standard_error():
    result = figures({"a": marks("1112")}, ["a"])
    assert result.accuracy["a"].value == 0.75
    assert result.accuracy["a"].standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert result.agreement is None
    assert result.pairs == {}


def test_replies_to_one_problem_are_not_independent():
    rows = [[Mark("1", True)] * 4, [Mark("2", False)] * 4]
    result = figures({"a": rows}, ["a"])
    assert result.accuracy["a"] == Estimate(0.5, pytest.approx(0.5))


def test_mean_best_and_answered():
    result = figures({"base": marks("2222"), "a": marks("11--"), "b": marks("1112")}, ["a", "b"])
    assert result.mean.value == pytest.approx((0.5 + 0.75) / 2)
    assert result.mean.standard_error == pytest.approx(
        math.sqrt(sum((x - 0.625) ** 2 for x in (1, 1, 0.5, 0)) / 3 / 4)
    )
    assert result.best == "b"
    assert result.answered == {"base": 1.0, "a": 0.5, "b": 1.0}
    assert result.accuracy["base"].value == 0.0


def test_best_of_equals_is_the_first():
    assert figures({"a": marks("12"), "b": marks("21")}, ["a", "b"]).best == "a"


def test_votes_with_and_without_weights():
    agents = {"a": marks("12-"), "b": marks("21-"), "c": marks("21-")}
    names = list(agents)
    plain = figures(agents, names)
    assert plain.vote.value == pytest.approx(1 / 3)  # only the second problem
    assert plain.weighted_vote is None
    loud = figures(agents, names, {"a": 5.0, "b": 1.0, "c": 1.0})
    assert loud.weighted_vote.value == pytest.approx(1 / 3)  # only the first
    assert loud.vote == plain.vote
    even = figures(agents, names, dict.fromkeys(names, 1.0))
    assert even.weighted_vote == plain.vote


def test_every_sample_votes_with_its_agents_weight():
    rows = {
        "a": [[Mark("1", True), Mark("1", True), Mark("2", False)]],
        "b": [[Mark("2", False)] * 3],
    }
    assert figures(rows, ["a", "b"]).vote.value == 0
    assert figures(rows, ["a", "b"], {"a": 4.0, "b": 1.0}).weighted_vote.value == 1
    assert figures(rows, ["a", "b"], {"a": 3.0, "b": 1.0}).weighted_vote.value == 0.5  # 6 to 6


@pytest.mark.parametrize("weights", [{}, {"a": -1.0}, {"a": math.nan}])
def test_unusable_weights(weights):
    with pytest.raises(ValueError, match=r"weights\['a'\]: got .*, expected a number >= 0"):
        figures({"a": marks("1")}, ["a"], weights)


def test_nobody_and_nothing():
    for given, population in (({}, []), ({"a": []}, ["a"])):
        with pytest.raises(ValueError, match="at least one agent and one problem"):
            figures(given, population)


def test_pass_at_k_counts_all_subsets():
    for n in range(1, 7):
        for right in range(n + 1):
            for k in range(1, n + 1):
                drawn = list(combinations(range(n), k))
                share = sum(min(subset) < right for subset in drawn) / len(drawn)
                assert pass_at_k(n, right, k) == pytest.approx(share)
    with pytest.raises(ValueError, match="expected 0 <= right <= n"):
        pass_at_k(3, 4, 1)
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(3, 1, 4)


def test_pass_at_k_of_a_population():
    result = figures({"a": marks("1222"), "b": marks("1122"), "c": marks("1112")}, list("abc"))
    assert [estimate.value for estimate in result.pass_at_k] == pytest.approx(
        [(3 + 2 + 1 + 0) / 12, (1 + 1 + 2 / 3 + 0) / 4, 3 / 4]
    )
    assert result.pass_at_k[0].value == pytest.approx(result.mean.value)


def test_agreement():
    assert agreement(marks("12-3"), marks("13-3")) == 0.5  # nothing agrees with nothing
    two = [[Mark("1", True), Mark("2", False)]]
    assert agreement(two, [[Mark("1", True), Mark("1", True)]]) == 0.5
    result = figures({"a": marks("12"), "b": marks("13"), "c": marks("42")}, list("abc"))
    assert result.pairs == {"a|b": 0.5, "a|c": 0.5, "b|c": 0.0}
    assert result.agreement == pytest.approx(1 / 3)


def test_difference_is_paired():
    change = difference([marks("1121"), marks("1111")], [marks("1122")])
    assert change.value == pytest.approx((0 + 0 + 0.5 + 1) / 4)
    assert change.standard_error == pytest.approx(
        math.sqrt(sum((x - 0.375) ** 2 for x in (0, 0, 0.5, 1)) / 3 / 4)
    )


def test_a_tie_earns_what_drawing_one_of_its_answers_would():
    for first, second in (("a", "b"), ("b", "a")):
        result = figures({first: marks("11"), second: marks("22")}, [first, second])
        assert result.vote.value == 0.5
    assert figures({"a": marks("1"), "b": marks("-")}, ["a", "b"]).vote.value == 1


def test_equal_values_have_no_standard_error():
    assert Estimate.of([0.1] * 7).standard_error == 0
    assert Estimate.of([1.0]).standard_error == 0


def test_right_answers_are_one_opinion_however_written():
    agents = {
        "a": [[Mark("1/2", True)]], "b": [[Mark("0.5", True)]],
        "c": [[Mark("3", False)]], "d": [[Mark("3", False)]], "e": [[Mark(r"\\frac12", True)]],
    }  # fmt: skip
    assert figures(agents, list("abcde")).vote.value == 1
    assert figures(agents, list("abcd")).vote.value == 0.5
    assert figures(agents, list("acd")).vote.value == 0


def test_everybody_is_compared_with_the_base_problem_by_problem():
    agents = {"base": marks("1222"), "a": marks("1112"), "b": marks("1122"), "c": marks("2212")}
    found = figures(agents, list("abc"), {"a": 5.0, "b": 1.0, "c": 1.0}, "base").changes
    assert found.base == "base"
    assert list(found.accuracy) == ["a", "b", "c"]
    # base 1000, a 1110: differences 0 1 1 0
    assert found.accuracy["a"] == Estimate(0.5, pytest.approx(math.sqrt(4 * 0.25 / 3 / 4)))
    assert found.accuracy["c"].value == 0  # -1 0 1 0
    assert found.accuracy["c"].standard_error == pytest.approx(math.sqrt(2 / 3 / 4))
    assert found.vote == found.accuracy["a"]  # 1 1 1 0 less 1 0 0 0
    assert found.weighted_vote == found.accuracy["a"]
    assert found.mean.value == pytest.approx((2 / 3 + 2 / 3 + 2 / 3) / 4 - 1 / 4 + 0)
    assert figures(agents, list("abc")).changes is None
