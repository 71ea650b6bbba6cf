"""The weighted sum of named parts."""

import math

import pytest

from populora_env.episodes.rewards import (
    REWARD_PRESETS,
    Labels,
    RewardPart,
    RewardWeights,
    format_part,
    length_part,
)
from populora_env.records import ReplyStatus


def test_unknown_parts_are_left_out_and_not_counted_as_zero():
    weights = RewardWeights(correctness=2.0, format=0.5)
    assert weights.total({"correctness": None, "format": 1.0}) == 0.5
    assert weights.total({"correctness": 1.0, "format": 1.0}) == 2.5
    assert weights.total({}) == 0.0


def test_every_part_has_a_weight():
    ones = RewardWeights(**dict.fromkeys(RewardPart, 1.0))
    assert ones.total(dict.fromkeys(RewardPart, 1.0)) == len(RewardPart)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "1"])
def test_weights_have_to_be_finite(bad):
    with pytest.raises(ValueError, match="peer must be a finite number"):
        RewardWeights(peer=bad)


def test_labels_have_to_exist():
    assert RewardWeights(labels="majority").labels is Labels.MAJORITY
    with pytest.raises(ValueError, match=r"labels must be one of auto, answer, .* got 'oracle'"):
        RewardWeights(labels="oracle")


def test_presets_say_who_decides():
    assert {name: weights.labels for name, weights in REWARD_PRESETS.items()} == {
        "default": Labels.AUTO,
        "ground_truth": Labels.ANSWER,
        "majority_answer": Labels.MAJORITY,
        "peers_only": Labels.PEERS,
        "external_judge": Labels.JUDGE,
        "learnability": Labels.AUTO,
        "variance": Labels.AUTO,
        "progress": Labels.AUTO,
    }
    with pytest.raises(ValueError, match="rewards must be RewardWeights or one of default, "):
        RewardWeights.preset("gold")


def test_only_readings_earn_for_their_form():
    earned = {status: format_part(status) for status in ReplyStatus}
    assert {status for status, part in earned.items() if part > 0} == {
        ReplyStatus.OK,
        ReplyStatus.LENIENT,
    }
    assert earned[ReplyStatus.OK] > earned[ReplyStatus.LENIENT]


def test_length_is_negative_and_in_thousands():
    assert length_part("x" * 500) == -0.5
