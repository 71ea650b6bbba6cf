"""Asking judges that may fail."""

import threading

import pytest

from populora_env.judges import Judge, TimedJudge, ask, round_robin
from populora_env.records import Attempt, Comparison, Preference, Problem, ReplyStatus, Verdict

PROBLEM = Problem.create("1 + 1 =", None)
PAIR = Comparison(PROBLEM, "2", "3")


class Returns:
    def __init__(self, returned):
        self.returned = returned

    def judge(self, comparisons):
        if isinstance(self.returned, Exception):
            raise self.returned
        return self.returned


@pytest.mark.parametrize(
    ("returned", "failures", "said"),
    [
        (OSError("no\nroute"), 2, "judge raised OSError: no route"),
        ([Verdict(Preference.A)], 2, "must return 2 verdicts, got 1"),
        (None, 2, "judge raised TypeError"),
        (["A", Verdict(Preference.B)], 1, "must return Verdict objects, got str"),
        ([None, Verdict(None)], 1, "must return Verdict objects, got NoneType"),
    ],
)
def test_a_judge_that_fails_abstains_and_says_why(returned, failures, said):
    judgement = ask(Returns(returned), [PAIR, PAIR])
    assert judgement.failures == failures
    assert said in judgement.error
    abstained = [verdict.preference is None for verdict in judgement.verdicts]
    assert len(abstained) == 2
    assert [v.status is ReplyStatus.FAILED for v in judgement.verdicts].count(True) == failures


def test_an_abstention_is_not_a_failure():
    judgement = ask(Returns([Verdict(None, ReplyStatus.UNREADABLE)]), [PAIR])
    assert (judgement.failures, judgement.error) == (0, None)


def test_a_round_robin_shows_every_pair_in_both_orders():
    seen = []

    class Notes:
        def judge(self, comparisons):
            seen.extend((entry.first, entry.second, entry.swapped) for entry in comparisons)
            return [
                Verdict(Preference.B if entry.swapped else Preference.A) for entry in comparisons
            ]

    attempts = [Attempt(name, PROBLEM.id, name, None, ReplyStatus.OK) for name in "xyz"]
    evaluations, _ = round_robin(Notes(), PROBLEM, attempts)
    assert [pair[:2] for pair in seen] == [
        ("x", "y"), ("y", "x"), ("x", "z"), ("z", "x"), ("y", "z"), ("z", "y"),
    ]  # fmt: skip
    assert [pair[2] for pair in seen] == [False, True] * 3
    assert {evaluation.preference for evaluation in evaluations} == {Preference.A}
    assert isinstance(Notes(), Judge)


def test_a_timed_judge_hands_on_verdicts_and_errors():
    assert ask(TimedJudge(Returns([Verdict(Preference.A)]), 5), [PAIR]).failures == 0
    failed = ask(TimedJudge(Returns(OSError("no route")), 5), [PAIR])
    assert failed.error == "judge raised OSError: no route"
    assert failed.verdicts[0].status is ReplyStatus.FAILED


def test_a_timed_judge_gives_up_on_one_that_hangs_and_asks_it_again_when_it_is_back():
    free, calls = threading.Event(), []

    class Slow:
        def judge(self, comparisons):
            calls.append(len(comparisons))
            free.wait(60)
            return [Verdict(Preference.B)] * len(comparisons)

    judge = TimedJudge(Slow(), 0.05)
    assert "no verdicts after 0.05 s" in ask(judge, [PAIR]).error
    assert "has not come back" in ask(judge, [PAIR]).error
    assert calls == [1]
    free.set()
    judge._hanging.join(10)
    assert ask(judge, [PAIR]).verdicts == (Verdict(Preference.B),)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "1"])
def test_a_time_limit_has_to_be_one(timeout):
    with pytest.raises(ValueError, match="timeout must be a finite number of seconds > 0"):
        TimedJudge(Returns([]), timeout)


def test_a_verdict_may_name_its_preference():
    assert Verdict("A") == Verdict(Preference.A)
    with pytest.raises(ValueError, match="preference must be 'A', 'B', 'tie' or None, got 'C'"):
        Verdict("C")
