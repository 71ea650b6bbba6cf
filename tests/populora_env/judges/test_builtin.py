"""Built-in judges, each on attempts whose merits are known."""

import pytest

from populora_env import parallel_env
from populora_env.grading import Grader
from populora_env.judges import Judge, ask
from populora_env.judges.builtin import AnswerJudge, LengthJudge, PanelJudge, TextJudge
from populora_env.prompts import compare_prompt
from populora_env.records import (
    AnswerKind,
    Comparison,
    Phase,
    Preference,
    Problem,
    ReplyStatus,
    Transcript,
    Verdict,
)
from populora_env.storage import plain

A, B, TIE = Preference.A, Preference.B, Preference.TIE
PROBLEM = Problem.create("6 * 7 =", "42")


def preferences(judge, *pairs, problem=PROBLEM):
    judgement = ask(judge, [Comparison(problem, *pair) for pair in pairs])
    assert (judgement.failures, judgement.error) == (0, None)
    return [verdict.preference for verdict in judgement.verdicts]


class Says:
    """A judge that gives the same verdict always, or raises."""

    def __init__(self, verdict):
        self.verdict = verdict

    def judge(self, comparisons):
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return [self.verdict] * len(comparisons)


class TestAnswerJudge:
    def test_prefers_the_right_attempt(self):
        pairs = [
            ("It is 42.", "It is 41."),
            ("41", "42"),
            ("42", "6 * 7 = 42"),
            ("41", "43"),
            ("42", ""),
        ]
        with AnswerJudge() as judge:
            assert preferences(judge, *pairs) == [A, B, TIE, TIE, A]

    @pytest.mark.slow
    def test_knows_equal_expressions(self):
        problem = Problem.create("Expand.", "x^2 + 2x + 1", AnswerKind.MATH)
        with AnswerJudge() as judge:
            pair = ("\\boxed{(x+1)^2}", "\\boxed{x^2 + 1}")
            assert preferences(judge, pair, pair[::-1], problem=problem) == [A, B]

    def test_abstains_without_a_known_answer(self):
        unknown = Problem.create("Why?")
        verdicts = AnswerJudge().judge(
            [Comparison(unknown, "42", "41"), Comparison(PROBLEM, "42", "41")]
        )
        assert verdicts == [Verdict(None), Verdict(A)]

    @pytest.mark.slow
    def test_closes_only_a_grader_of_its_own(self):
        problem = Problem.create("Expand.", "x^2", AnswerKind.MATH)
        entry = [Comparison(problem, "\\boxed{x*x}", "\\boxed{x}")]
        with Grader() as grader:
            with AnswerJudge(grader) as judge:
                assert judge.judge(entry) == [Verdict(A)]
            assert judge.judge(entry) == [Verdict(A)]
        with AnswerJudge() as judge:
            assert judge.judge(entry) == [Verdict(A)]
        with pytest.raises(RuntimeError, match="closed"):
            judge.judge(entry)


def test_length_is_all_a_length_judge_sees():
    pairs = [("aaa", "b"), ("a", "bbb"), ("aa", "bb")]
    assert preferences(LengthJudge(), *pairs) == [A, B, TIE]
    assert preferences(LengthJudge(shorter=True), *pairs) == [B, A, TIE]


class TestTextJudge:
    def test_shows_the_arenas_prompt_and_reads_the_reply(self):
        shown = []

        def respond(prompt):
            shown.append(prompt)
            return ["Both are fine. Verdict: B", "tie", "", "A and B"][len(shown) - 1]

        entry = Comparison(PROBLEM, "It is 42.", "It is 41.")
        judge = TextJudge(respond)
        assert judge.judge([entry] * 4) == [
            Verdict(B, ReplyStatus.OK),
            Verdict(TIE, ReplyStatus.OK),
            Verdict(None, ReplyStatus.EMPTY),
            Verdict(None, ReplyStatus.UNREADABLE),
        ]
        assert shown == [compare_prompt(entry)] * 4
        assert isinstance(judge, Judge)

    def test_a_function_that_raises_fails_for_that_prompt_alone(self):
        def respond(prompt):
            if "nonsense" in prompt:
                raise OSError("no route")
            return None if "nothing" in prompt else "A"

        pairs = [("nonsense", "42"), ("42", "41"), ("nothing", "42")]
        verdicts = TextJudge(respond).judge([Comparison(PROBLEM, *pair) for pair in pairs])
        failed = Verdict(None, ReplyStatus.FAILED)
        assert verdicts == [failed, Verdict(A), failed]

    def test_asks_a_policy_in_one_batch_with_seeds_from_the_prompts(self):
        batches = []

        class Policy:
            def act(self, requests):
                batches.append(requests)
                return ["A"] * len(requests)

        one, two = Comparison(PROBLEM, "1", "2"), Comparison(PROBLEM, "2", "1")
        judge = TextJudge(Policy(), agent="agent_3", max_new_tokens=5)
        assert judge.judge([one, two]) == [Verdict(A), Verdict(A)]
        judge.judge([two])
        TextJudge(Policy(), seed=1).judge([two])
        first, second = batches[0]
        assert (first.agent, first.phase, first.max_new_tokens) == ("agent_3", Phase.COMPARE, 5)
        assert [first.prompt, second.prompt] == [compare_prompt(one), compare_prompt(two)]
        assert batches[1][0].seed == second.seed != first.seed
        assert batches[2][0].seed != second.seed

    def test_what_a_policy_does_wrong_is_recorded_by_ask(self):
        class Short:
            def act(self, requests):
                return ["A"]

        judgement = ask(TextJudge(Short()), [Comparison(PROBLEM, "1", "2")] * 2)
        assert judgement.failures == 2
        assert "Short.act must return 2 replies, one for each request, got 1" in judgement.error

    def test_refuses_what_cannot_answer(self):
        with pytest.raises(TypeError, match="callable or have a method act, got str"):
            TextJudge("A")


class TestPanelJudge:
    @pytest.mark.parametrize(
        ("votes", "elected"),
        [
            ((A, A, B), A),
            ((B, TIE, B), B),
            ((A, B), TIE),
            ((A, B, TIE), TIE),
            ((A, TIE), TIE),
            ((TIE, TIE, A), TIE),
            ((None, B, None), B),
            ((None, None), None),
        ],
    )
    def test_takes_the_majority_of_those_who_vote(self, votes, elected):
        panel = PanelJudge([Says(Verdict(vote)) for vote in votes])
        assert preferences(panel, ("x", "y"), ("y", "x")) == [elected, elected]

    def test_a_member_that_fails_has_no_vote_and_is_counted(self):
        members = [Says(OSError("gone")), Says("A"), Says(Verdict(B))]
        asked = [Comparison(PROBLEM, "xx", "y"), Comparison(PROBLEM, "y", "xx")]
        panel = PanelJudge(members)
        judgement = ask(panel, asked)
        assert judgement.verdicts == (Verdict(B),) * 2
        assert [verdict.failed for verdict in judgement.verdicts] == [2, 2]
        assert judgement.failures == 2
        assert panel.last_error == "member 0 (Says): judge raised OSError: gone"
        assert judgement.error == f"judge failed: {panel.last_error}"
        judgement = ask(PanelJudge([panel, LengthJudge()]), asked)
        assert [verdict.preference for verdict in judgement.verdicts] == [TIE, B]
        assert [verdict.failed for verdict in judgement.verdicts] == [2, 2]
        assert "member 0 (PanelJudge): judge failed: member 0 (Says)" in judgement.error

    def test_a_failed_member_is_in_the_transcript(self):
        panel = PanelJudge([Says(OSError("gone")), LengthJudge()])
        arena = parallel_env(
            problems=[Problem.create("6 * 7 =")], num_agents=2, evaluation="none", judge=panel
        )
        arena.reset(seed=0)
        while arena.agents:
            arena.step({"agent_0": "42, I say", "agent_1": "41"})
        transcript = arena.transcript
        arena.close()
        assert transcript.judge_failures == 2
        assert "OSError: gone" in transcript.judge_error
        stored = plain(transcript)
        assert [entry["failed"] for entry in stored["evaluations"][-1]["verdicts"]] == [1, 1]
        read = Transcript.from_dict(stored)
        assert [verdict.failed for verdict in read.evaluations[-1].verdicts] == [1, 1]
        assert plain(Verdict(B)) == {"preference": "B", "status": "ok"}

    def test_an_abstention_of_all_says_how_many_failed(self):
        panel = PanelJudge([Says(OSError("gone")), Says(Verdict(None))])
        (verdict,) = panel.judge([Comparison(PROBLEM, "x", "y")])
        assert (verdict.preference, verdict.status, verdict.failed) == (None, "unreadable", 1)

    def test_an_abstention_says_why_where_all_members_agree(self):
        entry = [Comparison(PROBLEM, "x", "y")]
        unread, silent = Verdict(None, ReplyStatus.UNREADABLE), Verdict(None)
        failing = Says(OSError("gone"))
        assert PanelJudge([failing, failing]).judge(entry) == [Verdict(None, ReplyStatus.FAILED)]
        assert PanelJudge([Says(silent)] * 2).judge(entry) == [silent]
        assert PanelJudge([failing, Says(silent)]).judge(entry) == [unread]

    def test_needs_members_that_judge(self):
        with pytest.raises(ValueError, match="judges: got none"):
            PanelJudge([])
        with pytest.raises(TypeError, match="got function: wrap a function in TextJudge"):
            PanelJudge([lambda prompt: "A"])
