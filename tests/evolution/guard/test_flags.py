from __future__ import annotations

import json
import math

import numpy as np
import pytest

from evolution.guard.flags import FAR, RULES, WARM, WINDOW, Baseline
from evolution.guard.signals import Signal

USUAL = {
    Signal.DIVERGENCE: 0.1,
    Signal.ENTROPY: 1.0,
    Signal.LENGTH: 20.0,
    Signal.REPETITION: 0.2,
    Signal.GAP: 0.0,
    Signal.NORM: 30.0,
}


def quiet(rng=None, agents=4, **strange):
    """Signals of a generation like all others, but for the first agent's where named."""
    noise = np.zeros(agents) if rng is None else rng.normal(0, 0.02, agents)
    found = {signal: value * (1 + noise) for signal, value in USUAL.items()}
    for name, value in strange.items():
        found[Signal(name)][0] = value
    return found


def settled(generations=WARM):
    baseline = Baseline()
    rng = np.random.default_rng(0)
    for _ in range(generations):
        assert not any(baseline.flags(quiet(rng)))
    return baseline


def raised(flags):
    return {slot: {flag.signal for flag in own} for slot, own in enumerate(flags) if own}


@pytest.mark.parametrize(
    ("signal", "value"),
    [
        ("divergence", 1.0),
        ("entropy", 3.0),
        ("entropy", 0.1),
        ("length", 80.0),
        ("length", 5.0),
        ("repetition", 0.9),
        ("gap", 0.6),
        ("norm", 60.0),
    ],
)
def test_a_signal_that_leaves_what_was_usual_is_flagged_for_that_agent(signal, value):
    flags = settled().flags(quiet(**{signal: value}))
    assert raised(flags) == {0: {Signal(signal)}}
    assert flags[0][0].value == value
    assert flags[0][0].usual == pytest.approx(USUAL[Signal(signal)], rel=0.05, abs=0.01)


@pytest.mark.parametrize(
    ("signal", "value"),
    [("divergence", 0.0), ("repetition", 0.0), ("gap", -1.0), ("norm", 1.0), ("length", 30.0)],
)
def test_falls_that_do_no_harm_and_small_changes_are_not(signal, value):
    assert not any(settled().flags(quiet(**{signal: value})))


def test_nothing_is_flagged_before_enough_generations_are_known():
    baseline = settled(WARM - 1)
    assert not any(baseline.flags(quiet(length=1e6)))
    assert raised(baseline.flags(quiet(length=1e6))) == {0: {Signal.LENGTH}}


def test_what_is_usual_goes_by_the_run_itself():
    baseline, rng = Baseline(), np.random.default_rng(1)
    for _ in range(WINDOW):  # lengths from 1 to 400 are nothing strange here
        baseline.flags(quiet() | {Signal.LENGTH: np.exp(rng.uniform(0, 6, 4))})
    assert not any(baseline.flags(quiet(length=400.0)))


def test_a_few_strange_values_do_not_move_what_is_usual():
    baseline = settled(WINDOW - 1)
    for _ in range(2):
        assert raised(baseline.flags(quiet(length=1e5))) == {0: {Signal.LENGTH}}


def test_unknown_values_are_no_flags_and_no_evidence():
    baseline = Baseline()
    unknown = {signal: np.full(2, np.nan) for signal in USUAL}
    for _ in range(WINDOW):
        assert baseline.flags(unknown) == [[], []]
    assert not any(baseline.flags(quiet(length=1e6, agents=2)))
    assert not any(settled().flags(quiet(length=0.0)))  # has no logarithm


def test_it_is_remembered_as_it_was():
    one = settled(WINDOW + 2)
    other = Baseline()
    other.load(json.loads(json.dumps(one.state())))
    assert other.flags(quiet(norm=60.0)) == one.flags(quiet(norm=60.0))
    assert len(one.state()) == WINDOW


def test_a_flag_says_what_was_expected():
    (flag,) = settled().flags(quiet(length=200.0))[0]
    assert str(flag).startswith("length 200 (usual 2")
    row = flag.to_dict()
    assert row["signal"] == "length"
    assert row["deviations"] > FAR
    assert math.isfinite(row["usual"])


def test_all_signals_have_a_rule():
    assert set(RULES) == set(Signal)
