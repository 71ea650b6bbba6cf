"""What an ablation's record holds, how sure it is, and what of it is damage."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evolution.errors import RunError
from evolution.reporting.anatomy.ablation import (
    AblatedAgent,
    Ablation,
    ablation_file,
    ablation_text,
    paired_change,
    read_ablation,
)
from evolution.runs.saved_run import SavedRun
from populora_env.keys import generator


def marks(bits):
    return tuple(bit == "1" for bit in bits)


MEASURED = Ablation(
    generation=7,
    blocks=((0, 2), (3, 5)),
    base=marks("00000000"),
    agents={
        "agent_1": AblatedAgent("ab", marks("11111100"), (marks("11111100"), marks("10000000")))
    },
    weight_norms={"model.layers.0.self_attn.q_proj": 3.5},
)


def test_intervals_are_agresti_and_mins():
    # 5 lost of 8: (0.5 - 5.5) / 10, error sqrt(6 - 25 / 10) / 10.
    change = paired_change(marks("10000000"), marks("11111100"))
    assert change.value == -5 / 8
    reach = 1.959964 * 3.5**0.5 / 10
    assert (change.low, change.high) == pytest.approx((-0.5 - reach, -0.5 + reach))
    assert change.is_clear
    same = paired_change(marks("1100"), marks("1100"))
    assert same.value == 0
    assert same.low == -same.high < 0
    assert not same.is_clear


@pytest.mark.parametrize(
    ("gain", "loss", "count"), [(0.05, 0.2, 64), (0.0, 0.05, 64), (0.2, 0.2, 32)]
)
def test_an_interval_holds_the_truth_in_about_nineteen_of_twenty(gain, loss, count):
    rng = generator("test coverage", count)
    held = 0
    for _ in range(2000):
        drawn = rng.random(count)
        ours = (drawn < gain) | (drawn > 0.5)
        theirs = ((drawn >= gain) & (drawn < gain + loss)) | (drawn > 0.5)
        change = paired_change(ours.tolist(), theirs.tolist())
        held += change.low <= gain - loss <= change.high
    assert 0.93 <= held / 2000 <= 0.99


def test_costs_are_of_each_block_and_at_last_of_all():
    none, second, everything = MEASURED.costs("agent_1")
    assert (none.value, second.value, everything.value) == (0, -5 / 8, -6 / 8)


def test_what_is_written_is_read(tmp_path):
    saved = SavedRun(tmp_path)
    assert read_ablation(saved) is None
    file = ablation_file(tmp_path, 7)
    file.parent.mkdir()
    file.write_text(ablation_text(MEASURED))
    assert read_ablation(saved) == read_ablation(saved, 7) == MEASURED
    assert read_ablation(saved, 6) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(base="012"), "expected a text of 0 and 1"),
        (lambda d: d.update(base=""), "expected problems"),
        (lambda d: d["agents"]["agent_1"].update(whole="1"), "as many marks as there are problems"),
        (lambda d: d["agents"]["agent_1"]["without"].pop(), "as many marks as there are problems"),
        (lambda d: d.update(blocks=[[0], [1]]), "two ends"),
        (lambda d: d.update(blocks=[[0, -1], [1, 2]]), "expected a whole number"),
        (lambda d: d.update(weight_norms={"x": float("nan")}), "weight_norms: expected finite"),
        (lambda d: d.update(generation=3), "it is of generation 3"),
        (lambda d: d.pop("agents"), "KeyError"),
    ],
)
def test_damage_is_named(tmp_path, change, said):
    data = json.loads(ablation_text(MEASURED))
    change(data)
    file = ablation_file(tmp_path, 7)
    file.parent.mkdir()
    file.write_text(json.dumps(data))
    with pytest.raises(RunError, match=f"generation_0007.json is damaged .*{said}"):
        read_ablation(SavedRun(tmp_path))


def test_intervals_stay_within_what_a_difference_can_be():
    for size in (1, 2, 50):
        change = paired_change([True] * size, [False] * size)
        assert change.value == 1
        assert -1 <= change.low <= change.high <= 1
    assert np.isfinite(paired_change([True], [True]).high)
