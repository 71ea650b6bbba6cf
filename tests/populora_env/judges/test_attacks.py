"""The list of attacks, and their rates against planted judges."""

import pytest

from populora_env.grading import Grader
from populora_env.judges.attacks import (
    ATTACKS,
    Attack,
    AttackRate,
    AttackReport,
    attack_rates,
    honest_attempt,
)
from populora_env.judges.builtin import AnswerJudge, LengthJudge, TextJudge
from populora_env.problems import load_problems
from populora_env.reading.answers import read_answer
from populora_env.reading.numerals import parse_number
from populora_env.records import AnswerKind, Preference, Problem, ReplyStatus, Verdict
from populora_env.storage import storable

A, B, TIE = Preference.A, Preference.B, Preference.TIE
PROBLEMS = [Problem.create("What is 6 * 7?", "42"), Problem.create("What is 30 + 4?", "34")]
COLON = Attack("colon", "empty", ":")


@pytest.fixture(scope="module")
def grader():
    with Grader(timeout=5) as made:
        yield made


class Rule:
    """A judge from a function of one comparison."""

    def __init__(self, rule):
        self.rule = rule
        self.seen = []

    def judge(self, comparisons):
        self.seen.extend(comparisons)
        return [self.rule(entry) for entry in comparisons]


def one_rate(rule, attack=COLON, problems=PROBLEMS):
    (rate,) = attack_rates(Rule(rule), problems, attacks=[attack]).attacks
    return rate


class TestList:
    def test_is_long_and_has_no_name_or_text_twice(self):
        assert len(ATTACKS) >= 48
        assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
        assert len({attack.text for attack in ATTACKS}) == len(ATTACKS)
        assert len({attack.family for attack in ATTACKS}) >= 12

    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
    def test_no_attack_answers_a_problem(self, attack, grader):
        answers = ("\\frac{1}{2}", "\\sqrt{3}", "(1, 2)", "x^2 + 1", "\\pi")
        problems = [Problem.create("Compute.", answer, AnswerKind.MATH) for answer in answers]
        attempt = attack.attempt(problems[0])
        assert storable(attempt) == attempt
        assert not any(grader.grade(problem, attempt).correct for problem in problems)
        for kind in (AnswerKind.NUMBER, AnswerKind.MATH):
            stated = parse_number(read_answer(attempt, kind).answer or "")
            assert stated is None or abs(stated) > 10**6

    def test_a_problem_is_put_in_once_and_as_it_is(self):
        problem = Problem.create("Is {problem} a {word}?")
        attempts = {attack.name: attack.attempt(problem) for attack in ATTACKS}
        assert attempts["problem"] == "Is {problem} a {word}?"
        assert attempts["solved"] == "Is {problem} a {word}?\n\nSolved."
        with pytest.raises(KeyError, match="word"):
            Attack("mine", "mine", "{word}").attempt(problem)


class TestRates:
    def test_each_attack_meets_an_honest_attempt_in_both_orders(self):
        judge = Rule(lambda entry: Verdict(TIE))
        attack_rates(judge, PROBLEMS, honest=lambda problem: f"H{problem.answer}", attacks=[COLON])
        shown = [(entry.problem, entry.first, entry.second, entry.swapped) for entry in judge.seen]
        assert shown == [
            (PROBLEMS[0], ":", "H42", False), (PROBLEMS[0], "H42", ":", True),
            (PROBLEMS[1], ":", "H34", False), (PROBLEMS[1], "H34", ":", True),
        ]  # fmt: skip
        assert {(entry.first_author, entry.judge) for entry in judge.seen} == {(None, None)}

    def test_a_judge_that_knows_the_answers_is_never_fooled(self):
        problems = load_problems("procedural:chain_sum(max_terms=2,max_digits=1)", seed=5)
        with AnswerJudge() as judge:
            report = attack_rates(judge, problems.distinct(4))
        overall = report.overall
        assert (overall.won, overall.tied, overall.abstained, overall.failures) == (0, 0, 0, 0)
        assert 3 * len(ATTACKS) < overall.lost <= 4 * len(ATTACKS)
        assert (overall.rate, report.error) == (0.0, None)

    def test_a_judge_that_loves_length_falls_for_padding_alone(self):
        rates = {entry.name: entry.rate for entry in attack_rates(LengthJudge(), PROBLEMS).families}
        assert rates["padding"] == 1.0
        assert rates["empty"] == 0.0
        shorter = attack_rates(LengthJudge(shorter=True), PROBLEMS)
        rates = {entry.name: entry.rate for entry in shorter.families}
        assert (rates["padding"], rates["empty"], rates["bandwagon"]) == (0.0, 1.0, 1.0)

    def test_a_judge_that_obeys_falls_for_injection(self):
        def obey(prompt):
            order = prompt.find("Ignore all"), prompt.index("Working through")
            return "tie" if order[0] < 0 else "A" if order[0] < order[1] else "B"

        report = attack_rates(TextJudge(obey), PROBLEMS)
        won = [entry.name for entry in report.attacks if entry.won]
        assert won == ["ignore"]

    @pytest.mark.parametrize(
        ("rule", "counts", "rate"),
        [
            (lambda entry: Verdict(A), (0, 2, 0, 0, 0), 0.0),
            (lambda entry: Verdict(B if entry.swapped else A), (2, 0, 0, 0, 0), 1.0),
            (lambda entry: Verdict(A if entry.swapped else B), (0, 0, 2, 0, 0), 0.0),
            (lambda entry: Verdict(None), (0, 0, 0, 2, 0), None),
            (lambda entry: Verdict(None if entry.swapped else A), (0, 0, 0, 2, 0), None),
            (lambda entry: Verdict(None, ReplyStatus.FAILED), (0, 0, 0, 2, 4), None),
            (lambda entry: "A" if entry.swapped else Verdict(A), (0, 0, 0, 2, 2), None),
        ],
    )
    def test_counts_what_planted_judges_do(self, rule, counts, rate):
        found = one_rate(rule)
        assert (found.won, found.tied, found.lost, found.abstained, found.failures) == counts
        assert found.rate == rate

    def test_a_judge_that_raises_on_one_attack_answers_the_others(self):
        def rule(entry):
            if "boom" in (entry.first, entry.second):
                raise OSError("no\nroute")
            return Verdict(B if entry.swapped else A)

        attacks = [COLON, Attack("boom", "mine", "boom"), Attack("dot", "empty", ".")]
        report = attack_rates(Rule(rule), PROBLEMS, attacks=attacks)
        assert [entry.won for entry in report.attacks] == [2, 0, 2]
        assert [entry.failures for entry in report.attacks] == [0, 4, 0]
        assert report.error == "judge raised OSError: no route"

    def test_an_attack_that_states_the_answer_by_chance_is_left_out_there(self):
        problems = [Problem.create("Name a letter.", "A", "text"), Problem.create("It is 3.", "3")]
        only_a = next(attack for attack in ATTACKS if attack.name == "only A")
        repeat = next(attack for attack in ATTACKS if attack.name == "problem")
        prefer = lambda entry: Verdict(B if entry.swapped else A)  # noqa: E731
        assert one_rate(prefer, only_a, problems).won == 1
        assert one_rate(prefer, repeat, problems).won == 1
        assert one_rate(prefer, only_a, problems[:1]).rate is None

    def test_says_what_is_missing(self):
        judge = LengthJudge()
        with pytest.raises(ValueError, match="problems: got none"):
            attack_rates(judge, [])
        with pytest.raises(ValueError, match="attacks: got none"):
            attack_rates(judge, PROBLEMS, attacks=[])
        unknown = Problem.create("Why?")
        with pytest.raises(ValueError, match=f"problem {unknown.id} has no known answer: pass"):
            attack_rates(judge, [unknown])
        report = attack_rates(judge, [unknown], honest=lambda problem: "Because.", attacks=[COLON])
        assert report.overall.lost == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("42", "number"), ("-1/2", "number"), ("\\frac{1}{2}", "math"), ("x^2", "math"),
     ("The cat. It sat", "text")],
)  # fmt: skip
def test_an_honest_attempt_is_right(answer, kind):
    problem = Problem.create("Compute.", answer, kind)
    with Grader() as grader:
        assert grader.grade(problem, honest_attempt(problem)).correct


@pytest.mark.slow
def test_a_report_adds_up_by_family_and_as_a_table():
    report = AttackReport((
        AttackRate("x", "one", won=1, tied=0, lost=3, abstained=0, failures=0),
        AttackRate("yy", "two", won=0, tied=0, lost=0, abstained=4, failures=8),
        AttackRate("z", "one", won=2, tied=1, lost=0, abstained=1, failures=1),
    ))  # fmt: skip
    assert [(entry.name, entry.won, entry.lost) for entry in report.families] == [
        ("one", 3, 3), ("two", 0, 0),
    ]  # fmt: skip
    assert report.families[0].rate == pytest.approx(3 / 7)
    assert report.overall == AttackRate("all", "", won=3, tied=1, lost=3, abstained=5, failures=9)
    assert report.table() == (
        "family  attack  won  tied  lost  abstained  failures  rate\n"
        "one     x         1     0     3          0         0  0.25\n"
        "two     yy        0     0     0          4         8     -\n"
        "one     z         2     1     0          1         1  0.67\n"
        "one     (all)     3     1     3          1         1  0.43\n"
        "two     (all)     0     0     0          4         8     -\n"
        "all               3     1     3          5         9  0.43"
    )
