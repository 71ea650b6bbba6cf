from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evolution import ConfigError, EvolutionConfig
from evolution.errors import OperatorError
from evolution.fitness.scaling import SCALES, SCHEDULES, Progress, scaled

integers = arrays(float, st.integers(2, 8), elements=st.integers(-9, 9).map(float))


@pytest.mark.parametrize("name", list(SCALES))
@settings(deadline=None)
@given(returns=integers, shift=st.integers(-50, 50))
def test_scales_keep_the_order_and_ignore_a_constant(name, returns, shift):
    values, unit = scaled(SCALES.read(name), returns)
    assert np.array_equal(np.sign(values[:, None] - values), np.sign(returns[:, None] - returns))
    assert scaled(SCALES.read(name), returns + shift)[0] == pytest.approx(values)
    assert unit > 0


def test_scales_by_hand():
    returns = np.array([-4.0, -2.0, math.nan, -2.0])
    expect = {
        "z_score": [-(2**0.5), 0.5**0.5, math.nan, 0.5**0.5],
        "rank": [-0.5, 0.25, math.nan, 0.25],
        "min_max": [0, 1, math.nan, 1],
    }
    for name, wanted in expect.items():
        assert scaled(SCALES.read(name), returns)[0] == pytest.approx(wanted, nan_ok=True)
    assert scaled(SCALES.read("min_max"), returns)[1] == pytest.approx(0.5)
    assert scaled(None, returns)[1] == 1


def run(setting, start, vendis):
    use, weight, weights = SCHEDULES.read(setting), start, []
    for generation, vendi in enumerate(vendis):
        weight = use.function(Progress(start, generation, weight, vendi), **use.parameters)
        weights.append(weight)
    return weights


def test_decay():
    assert run("constant", 0.5, [2.0] * 3) == [0.5] * 3
    assert run("linear(generations=2)", 1.0, [2.0] * 4) == pytest.approx([1, 0.5, 0, 0])
    assert run("cosine(end=1,generations=2)", 3.0, [2.0] * 4) == pytest.approx([3, 2, 1, 1])


def test_the_adaptive_weight_holds_the_target_of_a_toy_population():
    use, weight, vendi = SCHEDULES.read("target(vendi=3)"), 0.05, 1.0
    for generation in range(60):
        weight = use.function(Progress(0.05, generation, weight, vendi), **use.parameters)
        vendi = 1 + 4 * weight / (1 + weight)  # more weight, more diversity: 3 at a weight of 1
    assert vendi == pytest.approx(3, abs=0.05)
    assert weight == pytest.approx(1, abs=0.1)


def test_the_adaptive_weight_is_bounded_and_waits_where_nothing_is_known():
    assert run("target(vendi=8,most=2)", 1.0, [1.0] * 20)[-1] == 2
    assert run("target(vendi=2,least=0.1)", 1.0, [8.0] * 20)[-1] == 0.1
    assert run("target", 0.7, [math.nan] * 3) == [0.7] * 3


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        ({"fitness_scale": "log"}, "fitness_scale: got 'log', expected one of z_score"),
        ({"diversity_bar": "good"}, "diversity_bar: got 'good', expected one of right"),
        ({"diversity_schedule": "none"}, "diversity_schedule: got 'none', expected one of const"),
        ({"diversity_schedule": "target(vendi=0)"}, "vendi: got 0, expected 1"),
        ({"diversity_schedule": "target", "diversity_weight": 0.0}, "expected above 0"),
        ({"diversity": "cosine"}, "diversity: got 'cosine', expected one of hidden_states"),
        ({"fitness": "sharing(radius=0)"}, "radius: got 0"),
        ({"fitness": "map_elites(descriptors=shape)"}, "descriptors: got 'shape', expected one"),
        ({"fitness": "novelty(behaviour=none)"}, "behaviour: got None, expected a text"),
    ],
)
def test_bad_settings_are_named(given_settings, said):
    with pytest.raises(ConfigError, match=said):
        EvolutionConfig(**given_settings)


def test_a_scale_of_ones_own_is_checked():
    SCALES.add("own")(lambda returns: returns[:1])
    with pytest.raises(OperatorError, match="own returned"):
        scaled(SCALES.read("own"), np.array([1.0, 2.0]))
