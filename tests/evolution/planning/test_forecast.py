from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from evolution.config import RunConfig
from evolution.planning.disk import plan_disk
from evolution.planning.forecast import forecast
from evolution.planning.probe import Asked, Probe
from evolution.planning.shapes import BaseShapes
from populora_env.records import Phase

CONFIG = RunConfig(
    size=4, problems_per_generation=10, judged_problems=0, evaluation="none", generations=5,
    solve_tokens=20, held_out=0, confirm_problems=0, last_trial=0, offspring=1, learn_judging=False,
)  # fmt: skip
SEEN = Probe(
    problems=10, cut=1.0, slower=1.0, phases={Phase.SOLVE: Asked(40, 2000, 60, 400, 8.0)},
    rest=2.0, valid=1.0, seconds_per_sample=0.5, useful=0.25, transcript=1000,
    shared=10, overlong=0.0,
)  # fmt: skip


def told(**changes):
    return forecast(CONFIG, replace(SEEN, **changes), problems=10)


def test_what_was_played_whole_is_taken_as_it_is():
    found = told()
    assert found.replies == {Phase.SOLVE: (40, 40)}
    assert found.written == (400, 800)
    assert found.read == (2000, 2000)
    assert found.playing == pytest.approx((8.5, 11.5))
    assert found.learning == pytest.approx((3, 8))
    assert found.run(loading=3) == pytest.approx((3 + 5 * 11.5, 3 + 5 * 19.5))


def test_a_part_is_scaled_by_replies_and_fuller_batches_may_be_faster():
    half = {Phase.SOLVE: Asked(20, 1000, 60, 200, 4.0)}
    found = told(problems=5, phases=half, rest=1.0, transcript=500)
    assert found.written == (400, 800)
    assert found.playing == pytest.approx((0.85 * 0.6 * 10, 11.5))
    assert found.transcripts == 1000


def test_replies_that_were_cut_may_be_as_long_as_the_limit():
    cut = {Phase.SOLVE: Asked(4, 200, 60, 16, 2.0)}
    found = told(problems=1, cut=5.0, slower=3.0, phases=cut, rest=0.0)
    assert found.written == (160, 800)
    assert found.playing[1] == pytest.approx(1.15 * 10 * 2.0 * 3)


def test_generations_that_begin_within_a_time():
    found = told()
    few, many = found.reached(minutes=0.5)
    assert (few, many) == (2, 3)
    assert found.reached(minutes=100) == (5, 5)
    assert found.reached(minutes=0) == (1, 1)


def test_where_no_proposal_was_valid_replies_are_still_bounded():
    config = replace(CONFIG, problems="self-play:expressions", proposers=2, rewards="learnability",
                     elites=1, parents=1)  # fmt: skip
    seen = replace(SEEN, phases={Phase.PROPOSE: Asked(10, 300, 40, 50, 1.0)}, valid=0.0)
    found = forecast(config, seen, problems=10)
    assert found.replies == {Phase.PROPOSE: (10, 10), Phase.SOLVE: (0, 20)}
    assert found.written == (50, 10 * 24 + 20 * 20)
    # Nobody has solved yet: as long as proposing takes.
    assert found.playing == pytest.approx((0.85 * 3.0, 1.15 * 5.0))


def test_disk_for_tensorboard_is_counted_where_it_is_told():
    tiny = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    shapes = BaseShapes.of(tiny)
    told, both, none = (
        plan_disk(shapes, replace(CONFIG, log=log), 100.0).records
        for log in ("trackio+tensorboard", "tensorboard", "none")
    )
    assert told == both > none > 0
