"""Figures about judges, from transcripts whose figures are known."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.judges import round_robin
from populora_env.judges.bias import (
    MajorityFigures,
    judge_statistics,
    majority_figures,
)
from populora_env.judges.builtin import AnswerJudge, LengthJudge
from populora_env.keys import generator
from populora_env.records import (
    Assessment,
    Attempt,
    Evaluation,
    Grade,
    GradeStatus,
    Phase,
    Preference,
    Problem,
    ReplyStatus,
    Transcript,
    Verdict,
)

A, B, TIE = Preference.A, Preference.B, Preference.TIE
PROBLEM = Problem.create("6 * 7 =", "42")


def attempt(agent, answer="42", length=10, correct=...):
    known = (answer == "42") if correct is ... else correct
    status = {True: GradeStatus.CORRECT, False: GradeStatus.WRONG, None: GradeStatus.UNGRADED}
    grade = Grade(known, answer, status[known])
    text = (answer or "").rjust(length)
    return Attempt(agent, PROBLEM.id, text, answer, ReplyStatus.OK, grade)


def pair(judge, first, second, shown, back):
    return Evaluation.from_verdicts(judge, first, second, Verdict(shown), Verdict(back))


def opinion(judge, author, value, form=Phase.SCORE):
    return Assessment(judge, author, form, value, "", ReplyStatus.OK)


def episode(attempts, evaluations=(), assessments=(), revisions=()):
    names = tuple(entry.agent for entry in attempts)
    return Transcript(
        PROBLEM,
        names,
        tuple(attempts),
        tuple(evaluations),
        (),
        dict.fromkeys(names, 0.0),
        0,
        assessments=tuple(assessments),
        revisions=tuple(revisions),
    )


def judged_by(judge, episodes=30, agents=4):
    """Transcripts in which a judge object plays the part of every agent."""
    rng = generator("bias tests", episodes)
    transcripts = []
    for _ in range(episodes):
        attempts = [
            attempt(f"agent_{i}", ("42", "41")[int(rng.integers(2))], int(rng.integers(2, 60)))
            for i in range(agents)
        ]
        results, _ = round_robin(judge, PROBLEM, attempts)
        peers = [replace(entry, judge="agent_0") for entry in results]
        transcripts.append(episode(attempts, peers))
    return transcripts


class Always:
    def __init__(self, preference):
        self.preference = preference

    def judge(self, comparisons):
        return [Verdict(self.preference)] * len(comparisons)


class TestPlantedJudges:
    def test_one_that_always_says_a(self):
        found = judge_statistics(judged_by(Always(A)))["agent_0"]
        assert (found.flip_rate, found.first_rate, found.tie_rate) == (1.0, 1.0, 0.0)
        assert found.agreement == 0.5
        assert found.pair_length_correlation is None  # nothing but ties in the end
        assert (found.comparisons, found.abstention_rate) == (30 * 6 * 2, 0.0)

    def test_one_that_always_says_b(self):
        assert judge_statistics(judged_by(Always(B)))["agent_0"].first_rate == 0.0

    def test_one_that_loves_length(self):
        found = judge_statistics(judged_by(LengthJudge()))["agent_0"]
        assert found.flip_rate == 0.0
        assert found.first_rate == pytest.approx(0.5)
        assert found.pair_length_correlation > 0.8
        assert 0.35 < found.agreement < 0.65
        mirrored = judge_statistics(judged_by(LengthJudge(shorter=True)))["agent_0"]
        assert mirrored.pair_length_correlation == pytest.approx(-found.pair_length_correlation)

    def test_one_that_is_right(self):
        with AnswerJudge() as judge:
            found = judge_statistics(judged_by(judge))["agent_0"]
        assert (found.agreement, found.flip_rate, found.first_rate) == (1.0, 0.0, 0.5)
        assert found.agreement_pairs > 60
        assert abs(found.pair_length_correlation) < 0.25

    def test_one_that_abstains(self):
        found = judge_statistics(judged_by(Always(None)))["agent_0"]
        assert found.abstention_rate == 1.0
        assert (found.flip_rate, found.first_rate, found.tie_rate, found.agreement) == (None,) * 4
        assert found.agreement_pairs == 0


class TestByHand:
    def test_pairs(self):
        attempts = [attempt("x", "42", 10), attempt("y", "41", 14), attempt("z", "40", 13)]
        transcript = episode(
            attempts,
            [
                pair("x", "y", "z", A, B),  # y wins; neither is right
                pair("y", "x", "z", B, B),  # flipped: a tie, and x is right
                pair("z", "x", "y", A, B),  # x wins, and is right
                pair("z", "y", "x", TIE, TIE),  # x is right
                pair("x", "z", "y", None, A),  # half readable: no result
            ],
        )
        found = judge_statistics([transcript])
        x, y, z, overall = found["x"], found["y"], found["z"], found["overall"]
        assert (x.comparisons, x.abstention_rate) == (4, 0.25)
        assert (x.flip_rate, x.first_rate) == (0.0, pytest.approx(2 / 3))
        assert (x.agreement, x.agreement_pairs) == (None, 0)
        assert (y.flip_rate, y.agreement, y.first_rate) == (1.0, 0.5, 0.0)
        assert (z.tie_rate, z.agreement, z.agreement_pairs) == (0.5, 0.75, 2)
        assert (overall.comparisons, overall.abstention_rate) == (10, 0.1)
        assert (overall.flip_rate, overall.first_rate) == (0.25, pytest.approx(3 / 7))
        assert overall.tie_rate == pytest.approx(2 / 9)
        assert overall.agreement == pytest.approx(2 / 3)
        # Preferences 1, 0, 1, 0 against differences 1, -3, -4, 4, each both ways round.
        assert overall.pair_length_correlation == pytest.approx(-3 / math.sqrt(2 * 42))
        assert x.pair_length_correlation is None  # a single point
        assert list(found) == ["x", "y", "z", "overall"]

    def test_scores_and_critiques(self):
        attempts = [attempt("x", "42", 10), attempt("y", "41", 20), attempt("z", "42", 40)]
        transcript = episode(
            attempts,
            [],
            [
                opinion("x", "x", 0.9), opinion("x", "y", 0.5), opinion("x", "z", 0.1),
                opinion("y", "x", None), opinion("y", "z", 0.6),
                opinion("z", "x", 1.0, Phase.CRITIQUE), opinion("z", "y", 1.0, Phase.CRITIQUE),
                opinion("z", "z", 0.0, Phase.CRITIQUE), opinion("z", "y", None, Phase.CRITIQUE),
            ],
        )  # fmt: skip
        found = judge_statistics([transcript])
        x, y, z, overall = found["x"], found["y"], found["z"], found["overall"]
        assert (x.assessments, y.assessments, z.assessments, overall.assessments) == (3, 2, 4, 9)
        assert (x.abstention_rate, y.abstention_rate, z.abstention_rate) == (0.0, 0.5, 0.25)
        assert (x.right_score, x.wrong_score) == (pytest.approx(0.5), 0.5)
        assert (y.right_score, y.wrong_score) == (0.6, None)
        assert (z.right_score, x.verdict_accuracy) == (None, None)
        assert z.verdict_accuracy == pytest.approx(1 / 3)
        assert x.own_peer_gap == pytest.approx(0.9 - 0.3)
        assert (y.own_peer_gap, z.own_peer_gap) == (None, -1.0)
        assert overall.own_peer_gap == pytest.approx(0.9 / 2 - (0.5 + 0.1 + 0.6 + 1 + 1) / 5)
        assert overall.right_score == pytest.approx((0.9 + 0.1 + 0.6) / 3)
        # Scores .9, .5, .1 at lengths 10, 20, 40.
        expected = -12 / math.sqrt(0.32 * (10**2 + 20**2 + 40**2 - 70**2 / 3))
        assert x.score_length_correlation == pytest.approx(expected)
        assert (y.score_length_correlation, z.score_length_correlation) == (None, None)

    def test_own_work_in_pairs(self):
        attempts = [attempt("x"), attempt("y"), attempt("z")]
        transcript = episode(
            attempts,
            [pair("x", "x", "y", A, B), pair("x", "z", "x", TIE, TIE), pair("x", "y", "z", A, B)],
        )
        # Own 1 and 1/2; peers' 0, 1/2, and 1 and 0.
        assert judge_statistics([transcript])["x"].own_peer_gap == pytest.approx(0.75 - 0.375)

    def test_equal_lengths_or_scores_have_no_correlation(self):
        attempts = [attempt(name, length=7) for name in "xyz"]
        scores = [
            opinion("x", name, value) for name, value in zip("xyz", (0.1, 0.5, 0.9), strict=True)
        ]
        results = [pair("x", *names, A, B) for names in ("xy", "yz", "xz")]
        found = judge_statistics([episode(attempts, results, scores)])["x"]
        assert found.score_length_correlation is None
        assert found.pair_length_correlation is None
        longer = [
            attempt(name, length=length) for name, length in zip("xyz", (7, 9, 11), strict=True)
        ]
        level = [replace(entry, value=0.5) for entry in scores]
        assert judge_statistics([episode(longer, [], level)])["x"].score_length_correlation is None

    def test_unknown_answers_tell_nothing_about_being_right(self):
        attempts = [attempt("x", "1", correct=None), attempt("y", "2", correct=None)]
        entries = [opinion("x", "y", 1.0), opinion("y", "x", 1.0, Phase.CRITIQUE)]
        transcript = episode(attempts, [pair("z", "x", "y", A, B)], entries)
        overall = judge_statistics([transcript])["overall"]
        assert (overall.agreement, overall.agreement_pairs) == (None, 0)
        assert (overall.right_score, overall.wrong_score, overall.verdict_accuracy) == (None,) * 3

    def test_agents_judge_attempts_before_revision_and_an_outside_judge_both(self):
        before = [attempt("x", "41"), attempt("y", "40")]
        after = [attempt("x", "42"), attempt("y", "40")]
        outside = [pair(None, "x", "y", TIE, TIE), pair(None, "x", "y", A, B)]
        critique = opinion("y", "x", 0.0, Phase.CRITIQUE)
        found = judge_statistics([episode(before, outside, [critique], after)])
        assert found["y"].verdict_accuracy == 1.0
        assert (found["outside"].agreement, found["outside"].agreement_pairs) == (1.0, 1)
        assert found["overall"].comparisons == 0
        plain = judge_statistics([episode(before, outside, [critique])])
        assert (plain["y"].verdict_accuracy, plain["outside"].agreement) == (1.0, None)

    def test_an_agent_that_never_judged_has_no_figures(self):
        idle = judge_statistics([episode([attempt("x")])])["x"]
        assert (idle.comparisons, idle.assessments, idle.abstention_rate) == (0, 0, None)
        assert idle.own_peer_gap is None
        assert list(judge_statistics([])) == ["overall"]

    def test_a_judgement_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="a judgement about 'q', who has no attempt"):
            judge_statistics([episode([attempt("x")], [], [opinion("x", "q", 1.0)])])

    @given(st.lists(st.tuples(st.permutations("xyz"), *[st.sampled_from([A, B, TIE, None])] * 2)))
    @settings(max_examples=60, deadline=None)
    def test_which_author_comes_first_makes_no_difference(self, drawn):
        attempts = [attempt("x", "42", 5), attempt("y", "41", 9), attempt("z", "40", 16)]
        results = [pair("w", *names[:2], *said) for names, *said in drawn]
        turned = [pair("w", *names[1::-1], *said[::-1]) for names, *said in drawn]
        one = judge_statistics([episode(attempts, results)])["overall"]
        two = judge_statistics([episode(attempts, turned)])["overall"]
        for name in ("flip_rate", "first_rate", "tie_rate", "agreement", "pair_length_correlation"):
            assert getattr(one, name) == pytest.approx(getattr(two, name), abs=1e-9)


class TestMajority:
    @pytest.mark.parametrize(
        ("answers", "expected"),
        [
            (["42", "42", "41"], (1, 1, 1, 2 / 3, 0, 0)),
            (["42", "41", "41"], (1, 1, 0, 1 / 3, 1, 1)),
            (["42", "42", "1", "2", "3"], (1, 1, 1, 2 / 5, 1, 0)),
            (["42", "42", "41", "41"], (1, 0, 0, 1 / 2, 0, 0)),
            (["42", "41"], (1, 0, 0, 1 / 2, 0, 0)),
            (["42", "41", "40"], (1, 0, 0, 1 / 3, 1, 0)),
            ([None, None, "41"], (1, 1, 0, 0.0, 1, 1)),
            ([None, None], (1, 0, 0, 0.0, 1, 0)),
        ],
    )
    def test_one_episode(self, answers, expected):
        attempts = [attempt(f"agent_{i}", answer) for i, answer in enumerate(answers)]
        figures = majority_figures([episode(attempts)])
        *counts, accuracy, hard, misled = expected
        assert figures == MajorityFigures(*counts, pytest.approx(accuracy), hard, misled)

    def test_several_episodes_and_those_not_known(self):
        right, wrong, other = attempt("x"), attempt("y", "41"), attempt("z", "41")
        unknown = attempt("x", "41", correct=None)
        figures = majority_figures([
            episode([right, wrong, other]),
            episode([wrong, right, right]),
            episode([unknown, unknown]),
            episode([replace(right, grade=None), right]),
        ])  # fmt: skip
        assert figures == MajorityFigures(2, 2, 1, 0.5, 1, 1)
        assert figures.right_rate == 0.5
        assert majority_figures([]).right_rate is None
        assert majority_figures([]).accuracy is None

    def test_answers_that_are_right_in_several_forms_are_one(self):
        right = [attempt("w", "1/2", correct=True), attempt("x", "0.50", correct=True)]
        wrong = [attempt("y", "3"), attempt("z", "3")]
        assert majority_figures([episode(right + wrong)]) == MajorityFigures(1, 0, 0, 0.5, 0, 0)
        assert majority_figures([episode(right + wrong[:1])]) == MajorityFigures(
            1, 1, 1, pytest.approx(2 / 3), 0, 0
        )

    @pytest.mark.slow
    def test_wrong_formulas_that_are_equal_are_one(self):
        problem = Problem.create("x =", "7", "math")
        attempts = [
            attempt("w", r"2\sqrt3"),
            attempt("x", r"\sqrt{12}"),
            attempt("y", "7", correct=True),
        ]
        figures = majority_figures([replace(episode(attempts), problem=problem)])
        assert figures == MajorityFigures(1, 1, 0, pytest.approx(1 / 3), 1, 1)

    def test_the_last_word_counts(self):
        before = [attempt("x", "41"), attempt("y", "41")]
        after = [attempt("x", "42"), attempt("y", "42")]
        assert majority_figures([episode(before, revisions=after)]).right == 1
