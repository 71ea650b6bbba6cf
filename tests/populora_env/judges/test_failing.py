"""Judges whose server is down are counted, and say why."""

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
