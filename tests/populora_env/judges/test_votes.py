"""Votes: answers of equal value are one opinion, ties are decided by nobody's place."""

import pytest

from populora_env.episodes.labels import Labeller, majority_correctness
from populora_env.episodes.rewards import Labels
from populora_env.grading import Grader
from populora_env.judges.votes import (
    MOST_COMPARISONS,
    Opinions,
    elected,
    leaders,
    majority,
    vote_share,
)
from populora_env.records import (
    AnswerKind,
    Assessment,
    Attempt,
    GradeStatus,
    Phase,
    Problem,
    ReplyStatus,
)

MATH, NUMBER, TEXT = AnswerKind.MATH, AnswerKind.NUMBER, AnswerKind.TEXT


@pytest.fixture(scope="module")
def grader():
    with Grader() as made:
        yield made


class Counting:
    """Counts what it is asked, and says always the same."""

    def __init__(self, status):
        self.asked, self.status = 0, status

    def same(self, first, second, kind):
        self.asked += 1
        return self.status


@pytest.mark.parametrize(
    ("answers", "weights", "winner"),
    [
        (["2", "1", "1"], None, "1"),
        (["2", "1"], None, "1"),  # a tie goes by the text, whoever is first
        (["1", "2"], None, "1"),
        ([None, None, "3"], None, "3"),
        ([None, None], None, None),
        ([], None, None),
        (["2", "1", "1"], [3.0, 1.0, 1.0], "2"),
        (["2", "1", "1"], [2.0, 1.0, 1.0], "1"),
        (["2", "1", "1"], [1.9, 1.0, 1.0], "1"),
        (["2", "1"], [0.0, 0.5], "1"),
        (["2"], [0.0], None),
        # 0.1 + 0.2 + 0.3 is 0.3 + 0.2 + 0.1, whatever the order
        (["2", "2", "2", "1", "1", "1"], [0.1, 0.2, 0.3, 0.3, 0.2, 0.1], "1"),
    ],
)
def test_who_is_elected(answers, weights, winner):
    assert elected(answers, weights) == winner


def test_a_majority_leads_alone():
    assert majority(["2", "1", "1", None]) == "1"
    assert majority(["2", "1"]) is None
    assert majority([None]) is None
    assert set(leaders(["2", "1", None])) == {"1", "2"}


@pytest.mark.parametrize(
    ("kind", "answers", "groups"),
    [
        (MATH, [r"2\sqrt3", r"\sqrt{12}", "5"], 2),
        (MATH, ["0.5", r"\frac12", "1/2", r"\frac{2}{4}"], 1),
        (MATH, ["x+1", "1+x", r"\sqrt{4}", "2"], 2),
        (MATH, ["(1,2)", "(2,1)", r"\left(1, 2\right)"], 2),
        (MATH, [r"\frac{\sqrt2}{2}", r"\frac1{\sqrt2}", r"\sin 45^\circ"], 1),
        (MATH, [r"2\pi r", r"2\pi r h", r"2\pi s"], 3),
        (MATH, [r"\text{(A)}", "A", r"\text{(B)}"], 2),
        (MATH, ["1/3", "0.333333", "0.33"], 2),
        (MATH, [r"[2,5)", r"x \ge 2 \text{ and } x < 5"], 1),
        (MATH, [r"2^{10}", "1024", "1,024"], 1),
        (MATH, [r"\begin{", "}}}", "5"], 3),
        (NUMBER, ["1/2", "0.50", "0.5", "2"], 2),
        (TEXT, ["(B) 12 meters", "b", "Paris", "paris."], 2),
    ],
)
def test_answers_equal_in_value_are_one_opinion(grader, kind, answers, groups):
    for listed in (answers, answers[::-1]):
        assert len(set(Opinions(grader).read(listed, kind))) == groups


def test_an_opinion_stands_under_its_most_frequent_answer(grader):
    answers = [r"\sqrt{12}", None, r"2\sqrt3", r"2\sqrt3", "4"]
    said = Opinions(grader).read(answers, MATH)
    assert said == [r"2\sqrt3", None, r"2\sqrt3", r"2\sqrt3", "4"]
    assert vote_share(said, [False] * 4 + [True]) == 0


def test_right_answers_need_no_comparison_and_numbers_neither():
    grader = Counting(GradeStatus.WRONG)
    opinions = Opinions(grader)
    said = opinions.read(["a", "b", "c"], MATH, [True, True, False])
    assert said == ["a", "a", "c"]
    assert opinions.read([str(n) for n in range(99)], MATH) == [str(n) for n in range(99)]
    assert opinions.read(["1/2", "0.5"], NUMBER) == ["0.5", "0.5"]
    assert grader.asked == 0
    assert vote_share(["a", "b", "c", "c"], [True, True, False, False]) == 0.5


@pytest.mark.parametrize(
    ("status", "most"), [(GradeStatus.WRONG, MOST_COMPARISONS), (GradeStatus.TIMED_OUT, 1)]
)
def test_comparisons_are_few_whatever_is_answered(status, most):
    answers = [f"x^{{{n}}}" for n in range(200)]
    grader = Counting(status)
    assert Opinions(grader).read(answers, MATH) == answers
    assert grader.asked == most
    Opinions(grader).read([*answers, *["5"] * 201], MATH, for_winner=True)
    assert grader.asked == most  # the winner is known without


def test_comparisons_of_many_problems_have_a_limit_of_their_own():
    grader = Counting(GradeStatus.WRONG)
    opinions = Opinions(grader, 20)
    for n in range(9):
        opinions.read([f"x_{n}", f"y_{n}", f"z_{n}"], MATH)
    assert grader.asked == 20
    slow = Counting(GradeStatus.TIMED_OUT)
    opinions = Opinions(slow, 100)
    for n in range(9):
        opinions.read([f"x_{n}", f"y_{n}"], MATH)
    assert slow.asked == 2


def attempts(*answers):
    return [
        Attempt(f"agent_{at}", "0", answer or "", answer, ReplyStatus.OK)
        for at, answer in enumerate(answers)
    ]


def test_labels_count_equal_answers_together(grader):
    problem = Problem.create("x = ?", None, "math")
    labeller = Labeller(Labels.MAJORITY, problem, None, grader)
    said = attempts("5", r"2\sqrt3", r"\sqrt{12}", "5", r"\sqrt{3} \cdot 2")
    assert list(labeller.first(said).values()) == [0.0, 1.0, 1.0, 0.0, 1.0]
    changed, improved = labeller.revised(said, attempts(*[r"\sqrt{12}"] * 2, "5", None, "4"))
    assert list(changed.values()) == [1.0, 0.0, -1.0, 0.0, -1.0]
    assert list(improved.values()) == [1.0, 0.0, -1.0, 0.0, -1.0]
    tied = majority_correctness(attempts("0.5", "1/2", "3", "3.0"))
    assert set(tied.values()) == {None}


@pytest.mark.slow
def test_peers_think_of_equal_answers_alike(grader):
    problem = Problem.create("x = ?", None, "math")
    labeller = Labeller(Labels.PEERS, problem, None, grader)
    said = attempts(r"2\sqrt3", r"\sqrt{12}", "5")
    scores = [
        Assessment("judge", f"agent_{at}", Phase.SCORE, value, "", ReplyStatus.OK)
        for at, value in enumerate((0.5, 1.0, 0.25))
    ]
    assert list(labeller.by_peers(said, [], scores).values()) == [0.75, 0.75, 0.25]
    changed, _ = labeller.revised(said, attempts(r"2\sqrt3", r"\sqrt{12}", r"\sqrt{3}\cdot 2"))
    assert list(changed.values()) == [0.0, 0.0, 0.5]
