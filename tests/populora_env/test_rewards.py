"""From grades and evaluations to rewards, with planted judges."""

import math

import pytest

from populora_env.arena import ReasoningArena
from populora_env.records import (
    Attempt,
    Evaluation,
    Grade,
    GradeStatus,
    Preference,
    Problem,
    ReplyStatus,
    Verdict,
)
from populora_env.rewards import (
    RewardWeights,
    format_part,
    judging_skill,
    majority_correctness,
    mean,
    standings,
)

A, B, TIE = Preference.A, Preference.B, Preference.TIE


def attempt(agent, correct, answer="1"):
    status = {True: GradeStatus.CORRECT, False: GradeStatus.WRONG, None: GradeStatus.UNGRADED}
    grade = Grade(correct, answer, status[correct])
    return Attempt(agent, "0", answer or "", answer, ReplyStatus.OK, grade)


def evaluated(first, second, shown, back, judge="judge"):
    return Evaluation.from_verdicts(judge, first, second, Verdict(shown), Verdict(back))


@pytest.mark.parametrize(
    ("shown", "back", "preference", "flipped"),
    [
        (A, B, A, False),
        (B, A, B, False),
        (TIE, TIE, TIE, False),
        (A, A, TIE, True),
        (B, B, TIE, True),
        (A, TIE, TIE, True),
        (A, None, None, False),
        (None, None, None, False),
    ],
)
def test_a_win_needs_both_orders_to_agree(shown, back, preference, flipped):
    evaluation = evaluated("x", "y", shown, back)
    assert (evaluation.preference, evaluation.flipped) == (preference, flipped)


def test_standing_is_the_share_won_and_abstentions_do_not_count():
    evaluations = [
        evaluated("x", "y", A, B),
        evaluated("y", "x", TIE, TIE),
        evaluated("x", "y", None, B),
        evaluated("z", "w", None, None),
    ]
    assert standings("xyzw", evaluations) == {"x": 0.75, "y": 0.25, "z": None, "w": None}


@pytest.mark.parametrize(
    ("first", "second", "shown", "back", "skill"),
    [
        (True, False, A, B, 1.0),
        (True, False, B, A, 0.0),
        (False, True, B, A, 1.0),
        (True, False, A, A, 0.5),
        (True, False, TIE, TIE, 0.5),
        (True, False, None, B, None),
        (True, True, A, B, None),
        (False, False, A, B, None),
        (None, None, A, B, None),
        (True, None, A, B, None),
    ],
)
def test_judging_skill_counts_pairs_with_exactly_one_right_attempt(
    first, second, shown, back, skill
):
    attempts = {"x": attempt("x", first), "y": attempt("y", second)}
    assert judging_skill(evaluated("x", "y", shown, back), attempts) == skill


def test_the_majority_has_to_be_one():
    def labels(*answers):
        listed = [attempt(str(at), None, answer) for at, answer in enumerate(answers)]
        return list(majority_correctness(listed).values())

    assert labels("1", "1", "2") == [1.0, 1.0, 0.0]
    assert labels("1", None, None) == [1.0, 0.0, 0.0]
    assert labels("1", "1", "2", "2") == [None] * 4
    assert labels(None, None) == [None, None]


def test_unknown_parts_are_left_out_and_not_counted_as_zero():
    weights = RewardWeights(correctness=2.0, format=0.5)
    assert weights.total({"correctness": None, "format": 1.0}) == 0.5
    assert weights.total({"correctness": 1.0, "format": 1.0}) == 2.5
    assert weights.total({}) == 0.0
    assert mean([None, 1.0, 0.0]) == 0.5
    assert mean([None]) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, "1"])
def test_weights_have_to_be_finite(bad):
    with pytest.raises(ValueError, match="peer must be a finite number"):
        RewardWeights(peer=bad)


def test_only_readings_earn_for_their_form():
    earned = {status: format_part(status) for status in ReplyStatus}
    assert {status for status, part in earned.items() if part > 0} == {
        ReplyStatus.OK,
        ReplyStatus.LENIENT,
    }
    assert earned[ReplyStatus.OK] > earned[ReplyStatus.LENIENT]


def mean_judging(verdict_of, episodes=30):
    """Play with half of the attempts right; return a judge's mean known skill."""
    env = ReasoningArena([Problem.create("1 + 1 =", "2")], 6, comparisons_per_agent=2)
    skills = []
    for _ in range(episodes):
        observations, _ = env.reset()
        infos = {}
        while env.agents:
            actions = {}
            for agent in env.agents:
                seen = observations[agent]
                if seen["phase"] == "solve":
                    actions[agent] = "2" if int(agent[-1]) % 2 else "3"
                else:
                    shown_a = seen["prompt"].split("Attempt A:\n")[1].split("\n")[0]
                    shown_b = seen["prompt"].split("Attempt B:\n")[1].split("\n")[0]
                    actions[agent] = verdict_of(shown_a, shown_b)
            observations, _, _, _, infos = env.step(actions)
        skills += [info["parts"]["judging"] for info in infos.values()]
    return mean(skills)


def test_judges_that_do_not_look_earn_less_than_honest_ones():
    def honest(shown_a, shown_b):
        return "tie" if shown_a == shown_b else "A" if shown_a == "2" else "B"

    def dishonest(shown_a, shown_b):
        return {"A": "B", "B": "A"}.get(honest(shown_a, shown_b), "tie")

    assert mean_judging(honest) == 1.0
    assert mean_judging(lambda *_: "A") == 0.5
    assert mean_judging(lambda *_: "tie") == 0.5
    assert mean_judging(dishonest) == 0.0
    assert mean_judging(lambda *_: "A and B") is None
