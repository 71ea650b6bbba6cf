"""The gate's error rates, by simulation, and what it does where nothing is decided."""

from __future__ import annotations

import numpy as np
import pytest

from evolution.config import EvolutionConfig
from evolution.errors import ConfigError
from evolution.exchange.gate import GATES, Gate, GateOutcome, PairedTest
from populora_env.keys import generator


def outcomes(gap, discordant, *, margin=0.1, error=0.1, most=256, runs=400):
    """Shares of outcomes where a newcomer is better by ``gap``."""
    gate, found = Gate(margin, error, most, 16), []
    for run in range(runs):
        rng = generator("gate test", run)

        def marks(first, count, rng=rng):
            chances = [(discordant - gap) / 2, 1 - discordant, (discordant + gap) / 2]
            drawn = rng.choice([-1, 0, 1], size=count, p=chances)
            return (drawn > 0).astype(float), (drawn < 0).astype(float)

        found.append(gate.test(marks)[0])
    return {outcome: found.count(outcome) / runs for outcome in GateOutcome}


@pytest.mark.parametrize("discordant", [0.1, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_one_that_is_worse_by_the_margin_passes_rarely(discordant, error):
    shares = outcomes(-0.1, discordant, error=error)
    assert shares[GateOutcome.NOT_WORSE] <= error + 0.03


@pytest.mark.parametrize("discordant", [0.1, 0.2, 0.4, 0.8])
def test_one_that_is_as_good_is_seldom_found_worse(discordant):
    assert outcomes(0.0, discordant)[GateOutcome.WORSE] <= 0.13


def test_better_ones_pass_and_much_worse_ones_do_not():
    assert outcomes(0.1, 0.2)[GateOutcome.NOT_WORSE] > 0.95
    assert outcomes(-0.2, 0.3)[GateOutcome.WORSE] > 0.95


def test_equal_replies_pass_after_a_while_and_a_decision_stands():
    test = PairedTest(0.1, 0.1)
    seen = [test.add(0.0) for _ in range(200)]
    first = seen.index(GateOutcome.NOT_WORSE)
    assert 20 < first < 80
    assert set(seen[:first]) == {GateOutcome.UNDECIDED}
    assert all(test.add(-1.0) is GateOutcome.NOT_WORSE for _ in range(50))


def test_problems_may_run_out():
    gate = Gate(0.1, 0.1, 128, 16)
    left = iter([(np.ones(3), np.zeros(3)), (np.zeros(0), np.zeros(0))])
    assert gate.test(lambda first, count: next(left)) == (GateOutcome.UNDECIDED, (3, 3, 0))


def test_no_more_than_most_problems_are_asked_for():
    asked = []

    def marks(first, count):
        asked.append((first, count))
        return np.tile([1.0, 0.0], count)[:count], np.tile([0.0, 1.0], count)[:count]

    outcome, (met, mine, theirs) = Gate(0.01, 0.001, 40, 16).test(marks)
    assert asked == [(0, 16), (16, 16), (32, 8)]
    assert (outcome, met, mine, theirs) == (GateOutcome.UNDECIDED, 40, 20, 20)


@pytest.mark.parametrize("bad", ["pair", "paired(margin=0)", "paired(error=0.9)", "2*paired"])
def test_bad_settings_are_one_line(bad):
    with pytest.raises(ConfigError, match="gate") as told:
        EvolutionConfig(gate=bad)
    assert "\n" not in str(told.value)
    assert set(GATES) == {"paired"}
