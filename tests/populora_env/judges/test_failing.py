"""Judges whose server is down are counted, and say why."""

import asyncio
import time

import pytest

from populora_env.judges import TextJudge, TimedJudge, ask
from populora_env.records import ReplyStatus, Verdict
from populora_env.testing import ConformanceError, check_judge
from populora_env.testing.judges import example_comparisons


class Down:
    """A policy and a judge of a server that refuses connections."""

    failures = 0
    last_error = None

    def act(self, requests):
        self.failures += len(requests)
        self.last_error = "APIConnectionError: refused"
        return [""] * len(requests)

    def judge(self, comparisons):
        self.act(comparisons)
        return [Verdict(None, ReplyStatus.FAILED)] * len(comparisons)


@pytest.mark.parametrize("judge", [Down(), TextJudge(Down()), TimedJudge(TextJudge(Down()), 5)])
def test_a_judge_whose_server_is_down_is_counted_and_refused(judge):
    asked = example_comparisons()
    judgement = ask(judge, asked)
    assert judgement.failures == len(asked)
    assert judgement.error == "judge failed: APIConnectionError: refused"
    with pytest.raises(ConformanceError, match="refused"):
        check_judge(judge)


def test_a_function_that_raises_says_why():
    def down(prompt):
        raise OSError("no route\nto host")

    judgement = ask(TextJudge(down), example_comparisons())
    assert judgement.failures == len(judgement.verdicts)
    assert judgement.error == "judge failed: OSError: no route to host"


def test_a_text_judge_waits_for_coroutines():
    async def later(prompt):
        return "A"

    class Later:
        async def act(self, requests):
            return ["A"] * len(requests)

    for respond in (later, Later()):
        judgement = ask(TextJudge(respond), example_comparisons())
        assert judgement.error is None
        assert {verdict.preference for verdict in judgement.verdicts} == {"A"}


def test_an_abstention_is_no_failure():
    judge = TextJudge(lambda prompt: "I cannot say")
    assert ask(judge, example_comparisons()).failures == 0


class Lazy:
    """A judge whose verdicts take their time when they are looked at."""

    def judge(self, comparisons):
        for _ in comparisons:
            time.sleep(0.3)
            yield Verdict("A")


def test_the_limit_holds_for_verdicts_that_are_made_when_they_are_looked_at():
    judgement = ask(TimedJudge(Lazy(), 0.05), example_comparisons())
    assert judgement.error == "judge raised TimeoutError: no verdicts after 0.05 s"


class Silent(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), SystemExit(1), GeneratorExit(), Silent()]
)
@pytest.mark.parametrize("timed", [False, True])
def test_whatever_a_judge_raises_is_its_failure(error, timed):
    class Raises:
        def judge(self, comparisons):
            raise error

    judge = TimedJudge(Raises(), 5) if timed else Raises()
    judgement = ask(judge, example_comparisons())
    assert judgement.failures == len(judgement.verdicts)
    assert judgement.error.startswith(f"judge raised {type(error).__name__}")
    one_by_one = ask(TextJudge(Raises().judge), example_comparisons())
    assert one_by_one.error.startswith(f"judge failed: {type(error).__name__}")


def test_a_reason_that_cannot_be_had_stops_nothing():
    class Judge(Down):
        @property
        def last_error(self):
            raise RuntimeError("no reason")

        @last_error.setter
        def last_error(self, value):
            pass

    assert ask(Judge(), example_comparisons()).error == "judge failed: RuntimeError: no reason"
