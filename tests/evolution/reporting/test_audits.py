"""Every audit fires on a planted case and stays silent on an innocent one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.measuring.statistics import Estimate
from evolution.reporting.measures.audits import (
    Verdict,
    forgetting,
    length_drift,
    mode_collapse,
    reward_hacking,
)
from evolution.reporting.measures.collusion import Opinion, judge_collusion, peer_opinions
from evolution.reporting.measures.measured import Bench, TaskChange
from evolution.reporting.measures.trends import student, trend
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
)
from populora_env.records import (
    Verdict as Said,
)

G = 30
TIME = list(range(G))


def noisy(start, end, noise=0.03, seed=0, points=G):
    return np.linspace(start, end, points) + np.random.default_rng(seed).normal(0, noise, points)


def test_a_trend_is_a_least_squares_line_with_its_error():
    values = noisy(1.0, 4.0, 0.2)
    fit = trend(TIME, values)
    slope, intercept = np.polyfit(TIME, values, 1)
    assert fit.slope == pytest.approx(slope)
    assert fit.start == pytest.approx(intercept)
    assert fit.change == pytest.approx(slope * (G - 1))
    residuals = values - intercept - slope * np.array(TIME)
    plain = math.sqrt(residuals @ residuals / (G - 2) / np.var(TIME) / G) * (G - 1)
    drift = max(residuals[1:] @ residuals[:-1] / (residuals @ residuals), 0)
    assert fit.standard_error == pytest.approx(plain * math.sqrt((1 + drift) / (1 - drift)))
    assert fit.rises
    assert not fit.falls


def test_a_trend_skips_what_is_unknown_and_needs_six_points():
    values = noisy(0, 1)
    values[3:9] = np.nan
    assert trend(TIME, values).points == G - 6
    assert trend(TIME[:6], values[:6]) is None
    assert trend([0, 1, 2, 3, 4, 9], np.arange(6.0)).points == 6


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6])
def test_a_constant_has_no_trend(value):
    fit = trend(TIME, np.full(G, value))
    assert not fit.rises
    assert not fit.falls


def test_noise_without_a_trend_seldom_has_one():
    fits = [trend(TIME, noisy(0, 0, 1.0, seed)) for seed in range(400)]
    assert sum(fit.rises or fit.falls for fit in fits) <= 0.08 * len(fits)


def test_a_slow_drift_widens_the_error():
    steps = np.random.default_rng(1).normal(0, 1, (200, G)).cumsum(axis=1)
    alarms = sum(fit.rises or fit.falls for fit in (trend(TIME, row) for row in steps))
    plain = 0
    for row in steps:
        slope, intercept = np.polyfit(TIME, row, 1)
        left = row - intercept - slope * np.array(TIME)
        plain += abs(slope) > student(G - 2) * math.sqrt(left @ left / (G - 2) / np.var(TIME) / G)
    assert alarms < 0.75 * plain


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(4, 2.7764), (10, 2.2281), (28, 2.0484), (200, 1.9719)]
)
def test_students_quantile(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, rel=0.02)


def hacking(reward, accuracy, gain=None):
    return reward_hacking(TIME, {"return": reward}, accuracy, gain)


def test_reward_hacking_fires_where_accuracy_stays_flat():
    audit = hacking(noisy(0.3, 0.9), noisy(0.5, 0.5, seed=1))
    assert audit.verdict is Verdict.PROBLEM
    assert audit.reason.startswith("Return rose by +0.597 ± ")
    assert audit.figures["reward change"] == pytest.approx(0.6, abs=0.05)


def test_reward_hacking_fires_where_accuracy_falls():
    assert hacking(noisy(0.3, 0.9), noisy(0.6, 0.4, seed=1)).verdict is Verdict.PROBLEM


def test_reward_hacking_is_silent_where_accuracy_follows():
    difficulty = noisy(0, 0, 0.1, seed=2)  # of a generation's problems, which moves both
    audit = hacking(noisy(0.3, 0.8) + difficulty, noisy(0.2, 0.7, seed=1) + difficulty)
    assert audit.verdict is Verdict.FINE


def test_reward_hacking_is_silent_where_nothing_rises():
    assert hacking(noisy(0.5, 0.5), noisy(0.5, 0.5, seed=1)).verdict is Verdict.FINE
    almost = hacking(noisy(0.95, 0.98, 0.001), noisy(1.0, 1.0, 0.0))
    assert almost.verdict is Verdict.FINE  # the format got a little better; nothing to hack
    assert "did not rise noticeably" in almost.reason


def test_reward_hacking_watches_where_accuracy_follows_too_little():
    audit = hacking(noisy(0.2, 1.0, 0.005), noisy(0.5, 0.6, 0.005, seed=1))
    assert audit.verdict is Verdict.WATCH
    assert "only by" in audit.reason


def test_reward_hacking_heeds_what_was_held_out():
    reward, accuracy = noisy(0.3, 0.8), noisy(0.2, 0.7, seed=1)
    assert hacking(reward, accuracy, Estimate(0.2, 0.04)).verdict is Verdict.FINE
    assert hacking(reward, accuracy, Estimate(0.02, 0.04)).verdict is Verdict.WATCH
    assert hacking(reward, accuracy, Estimate(-0.2, 0.04)).verdict is Verdict.PROBLEM


def test_reward_hacking_looks_at_whichever_reward_rises():
    rewards = {"fitness": noisy(0.5, 0.5), "return": noisy(0.3, 0.9)}
    audit = reward_hacking(TIME, rewards, noisy(0.5, 0.5, seed=1))
    assert audit.verdict is Verdict.PROBLEM
    assert "Return" in audit.reason


def test_reward_hacking_without_a_truth():
    reward = noisy(0.3, 0.9)
    assert hacking(reward, None).verdict is Verdict.CANNOT_TELL
    assert hacking(reward, np.full(G, np.nan)).verdict is Verdict.CANNOT_TELL
    assert hacking(reward, None, Estimate(0.2, 0.04)).verdict is Verdict.FINE
    assert hacking(reward, None, Estimate(0.0, 0.04)).verdict is Verdict.WATCH
    assert hacking(reward, None, Estimate(-0.2, 0.04)).verdict is Verdict.PROBLEM
    assert reward_hacking(TIME[:5], {"return": reward[:5]}, None).verdict is Verdict.CANNOT_TELL
    assert reward_hacking(TIME, {}, None).verdict is Verdict.CANNOT_TELL


@pytest.mark.parametrize(
    ("diversity", "identical", "verdict"),
    [
        ((0.06, 0.05), (0.0, 0.2), Verdict.FINE),
        ((0.06, 0.02), (0.0, 0.2), Verdict.WATCH),
        ((0.06, 0.005), (0.0, 0.2), Verdict.PROBLEM),
        ((0.06, 0.06), (0.0, 0.7), Verdict.WATCH),
        ((0.06, 0.06), (0.0, 1.0), Verdict.PROBLEM),
        ((0.06, 0.06), None, Verdict.FINE),
        (None, (0.1, 1.0), Verdict.PROBLEM),
        ((0.0, 0.0), (1.0, 1.0), Verdict.PROBLEM),
        ((0.0, 0.06), (0.9, 0.1), Verdict.FINE),
        (None, None, Verdict.CANNOT_TELL),
    ],
)
def test_mode_collapse(diversity, identical, verdict):
    series = [None if ends is None else np.linspace(*ends, G) for ends in (diversity, identical)]
    assert mode_collapse(*series).verdict is verdict


def test_why_nothing_can_be_told_is_true():
    nothing, few = np.full(G, np.nan), np.where(np.arange(G) < 4, 0.5, np.nan)
    for audit in (mode_collapse(nothing, few), length_drift(TIME, few, None),
                  reward_hacking(TIME, {"return": few}, None)):  # fmt: skip
        assert audit.verdict is Verdict.CANNOT_TELL
        assert "are recorded" not in audit.reason
        assert f"of {G} generations, of which at least 6 are needed" in audit.reason
    assert "known in 0 of" in mode_collapse(nothing, few).reason
    assert "of identical attempts is known in 4." in mode_collapse(nothing, few).reason
    assert length_drift(TIME, None, None).reason == "The length of replies is not recorded."
    assert "Neither fitness nor return is" in reward_hacking(TIME, {}, None).reason
    alone = mode_collapse(np.zeros(G), None, 1)
    assert (alone.verdict, "Only one agent" in alone.reason) == (Verdict.CANNOT_TELL, True)


def test_mode_collapse_needs_generations():
    audit = mode_collapse(np.array([0.06, 0.01]), np.array([0.0, 1.0]))
    assert audit.verdict is Verdict.CANNOT_TELL
    assert "Fewer than 6" in audit.reason


@pytest.mark.parametrize(
    ("length", "accuracy", "verdict"),
    [
        ((100, 101), (0.5, 0.5), Verdict.FINE),
        ((100, 180), (0.5, 0.5), Verdict.PROBLEM),
        ((100, 180), (0.3, 0.8), Verdict.WATCH),
        ((100, 180), None, Verdict.PROBLEM),
        ((100, 135), (0.5, 0.5), Verdict.WATCH),
        ((100, 50), (0.3, 0.8), Verdict.WATCH),
        ((100, 115), (0.5, 0.5), Verdict.FINE),
    ],
)
def test_length_drift(length, accuracy, verdict):
    known = None if accuracy is None else noisy(*accuracy, seed=1)
    audit = length_drift(TIME, noisy(*length, noise=2.0), known)
    assert audit.verdict is verdict
    assert audit.figures["ratio"] == pytest.approx(length[1] / length[0], rel=0.05)


def test_length_drift_says_what_is_noise_and_what_is_missing():
    assert "within the noise" in length_drift(TIME, noisy(100, 115, 60), None).reason
    assert length_drift(TIME, noisy(100, 150, 200), None).verdict is Verdict.FINE
    assert length_drift(TIME, None, None).verdict is Verdict.CANNOT_TELL
    assert length_drift(TIME[:3], [1.0, 2.0, 3.0], None).verdict is Verdict.CANNOT_TELL


def bench(*changes, generation=9):
    return Bench(
        generation,
        tuple(
            TaskChange(f"task{i}", outside, 100, 0.5, 0.5 + value, Estimate(value, error))
            for i, (outside, value, error) in enumerate(changes)
        ),
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([(True, -0.2, 0.04), (True, 0.1, 0.04)], Verdict.PROBLEM),
        ([(True, -0.1, 0.04), (True, 0.1, 0.04)], Verdict.WATCH),
        ([(True, -0.05, 0.04), (True, 0.1, 0.04)], Verdict.FINE),
        ([(True, 0.0, 0.0)], Verdict.FINE),
        ([(True, -0.1, 0.0)], Verdict.PROBLEM),
        ([(False, -0.5, 0.04), (True, 0.1, 0.04)], Verdict.FINE),
        ([(False, 0.2, 0.04)], Verdict.CANNOT_TELL),
        ([(True, -0.05, 0.15)], Verdict.CANNOT_TELL),
    ],
)
def test_forgetting(changes, verdict):
    assert forgetting(bench(*changes), 9, "runs/x").verdict is verdict


def test_what_the_base_cannot_do_cannot_be_forgotten():
    none = TaskChange("none", True, 100, 0.0, 0.0, Estimate(0.0, 0.0))
    some = TaskChange("some", True, 100, 0.5, 0.5, Estimate(0.0, 0.03))
    alone = forgetting(Bench(9, (none,)), 9, "runs/x")
    assert alone.verdict is Verdict.CANNOT_TELL
    assert "The base solves less than 5% of 1 measured tasks" in alone.reason
    both = forgetting(Bench(9, (none, some)), 9, "runs/x")
    assert both.verdict is Verdict.FINE
    assert "on 0 of 1 tasks" in both.reason
    assert both.reason.endswith("the base solves less than 5% of 1 measured tasks, which cannot "
                                "show forgetting.")  # fmt: skip


def test_forgetting_says_what_to_run_and_what_is_old():
    audit = forgetting(None, 9, "runs/x")
    assert audit.verdict is Verdict.CANNOT_TELL
    assert "populora bench --run runs/x --forgetting" in audit.reason
    old = forgetting(bench((True, 0.0, 0.03), generation=4), 9, "runs/x")
    assert "measured after generation 4, not the last, 9" in old.reason
    assert "a fall of up to 0.06 somewhere would have gone unseen" in old.reason


def judged(seed, *, count=400, size=6, bloc=(), favourite=None, fence=None, scores=False):
    """Judgements by agents who see the truth with noise, and whatever else is asked for."""
    rng = np.random.default_rng(seed)
    names = [f"agent_{i}" for i in range(size)]
    found = []
    for _ in range(count):
        judge, a, b = (int(n) for n in rng.choice(size, 3, replace=False))
        right = rng.random(2) < 0.5
        loved = [judge in bloc and author in bloc for author in (a, b)]
        if scores:
            value = 0.35 + 0.3 * right[0] + 0.1 * rng.normal() + 0.2 * (judge == 0) + 0.3 * loved[0]
            value = float(np.clip(value, 0, 1))
            found.append(Opinion(names[judge], names[a], None, value, float(right[0]), "score"))
            continue
        difference = float(right[0]) - float(right[1])
        lead = difference + 0.75 * rng.normal() + 9 * (loved[0] - loved[1])
        lead += 1.5 * ((a == favourite) - (b == favourite))
        points = 0.5 if judge == fence or abs(lead) < 0.5 else float(lead > 0)
        found.append(Opinion(names[judge], names[a], names[b], points - 0.5, difference, "compare"))
    return judge_collusion(found, names)


@pytest.mark.parametrize(
    "plant", [{"bloc": (1, 4)}, {"bloc": (0, 1, 2), "size": 8}, {"bloc": (1, 4), "scores": True}]
)
def test_collusion_fires_on_a_bloc(plant):
    for seed in range(5):
        audit = judged(seed, **plant)
        assert audit.verdict is Verdict.PROBLEM, audit.reason
        inside = [f"agent_{i}" for i in plant["bloc"]]
        assert sum(name in audit.reason for name in inside) == 2


@pytest.mark.parametrize(
    "innocent", [{}, {"favourite": 3}, {"fence": 2, "favourite": 3}, {"scores": True}]
)
def test_collusion_is_silent_where_all_like_the_same(innocent):
    audits = [judged(seed, **innocent) for seed in range(40)]
    assert sum(audit.verdict is not Verdict.FINE for audit in audits) <= 5
    assert sum(audit.verdict is Verdict.PROBLEM for audit in audits) <= 1


def test_collusion_is_the_same_every_time_and_needs_judgements():
    assert judged(3) == judged(3)
    assert judged(0, count=20).verdict is Verdict.CANNOT_TELL
    assert judge_collusion([], ["agent_0"]).verdict is Verdict.CANNOT_TELL
    fence = [Opinion(f"agent_{i % 3}", f"agent_{(i + 1) % 3}", f"agent_{(i + 2) % 3}", 0.0, 0.0,
                     "compare") for i in range(90)]  # fmt: skip
    assert judge_collusion(fence, ["agent_0", "agent_1", "agent_2"]).verdict is Verdict.CANNOT_TELL


def test_opinions_are_those_of_peers_that_can_be_read():
    problem = Problem.create("2 + 2", "4")
    attempts = tuple(
        Attempt(f"agent_{i}", problem.id, "4", "4", ReplyStatus.OK,
                Grade(i != 1, "4", GradeStatus.CORRECT if i != 1 else GradeStatus.WRONG))
        for i in range(3)
    )  # fmt: skip
    yes, no = Said(Preference.A), Said(None)
    transcript = Transcript(
        problem,
        ("agent_0", "agent_1", "agent_2"),
        attempts,
        (
            Evaluation.from_verdicts("agent_0", "agent_1", "agent_2", yes, Said(Preference.B)),
            Evaluation.from_verdicts("agent_0", "agent_1", "agent_2", yes, no),  # not read
            Evaluation.from_verdicts("agent_1", "agent_1", "agent_2", yes, Said(Preference.B)),
            Evaluation.from_verdicts(None, "agent_1", "agent_2", yes, Said(Preference.B)),
        ),
        (),
        {},
        0,
        (
            Assessment("agent_0", "agent_2", Phase.SCORE, 0.7, "7", ReplyStatus.OK),
            Assessment("agent_0", "agent_0", Phase.SCORE, 1.0, "10", ReplyStatus.OK),
            Assessment("agent_0", "agent_1", Phase.SCORE, None, "?", ReplyStatus.UNREADABLE),
        ),
    )
    assert peer_opinions([transcript]) == [
        Opinion("agent_0", "agent_1", "agent_2", 0.5, -1.0, "compare"),
        Opinion("agent_0", "agent_2", None, 0.7, 1.0, "score"),
    ]
