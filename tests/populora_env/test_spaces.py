"""The space of texts."""

import pickle

import gymnasium
import pytest

from populora_env.spaces import UnicodeText


@pytest.mark.parametrize("text", ["", "a b", "x \u2264 1?\n", "\ud800", "\x00", "\u7b54", "abcde"])
def test_any_string_within_the_limit_belongs(text):
    assert text in UnicodeText(max_length=8)
    assert text in UnicodeText()


@pytest.mark.parametrize("other", [b"a", 1, None, ["a"], "a" * 9])
def test_longer_strings_and_other_things_do_not(other):
    assert other not in UnicodeText(max_length=8)


def test_samples_belong_differ_and_follow_the_seed():
    space, twin = UnicodeText(max_length=20, seed=3), UnicodeText(max_length=20, seed=3)
    samples = [space.sample() for _ in range(50)]
    assert all(sample in space for sample in samples)
    assert len(set(samples)) > 30
    assert samples == [twin.sample(mask=None) for _ in range(50)]
    assert any(not sample.isascii() for sample in samples)


def test_works_inside_a_dictionary_space():
    space = gymnasium.spaces.Dict({"text": UnicodeText()}, seed=1)
    assert space.contains(space.sample())


def test_equality_copies_and_json():
    assert UnicodeText(5) == UnicodeText(5) != UnicodeText(6)
    assert UnicodeText(5) != gymnasium.spaces.Text(5)
    assert pickle.loads(pickle.dumps(UnicodeText(5))) == UnicodeText(5)
    assert UnicodeText(5).from_jsonable(UnicodeText(5).to_jsonable(["a", "\u2264"])) == [
        "a",
        "\u2264",
    ]
    assert repr(UnicodeText(5)) == "UnicodeText(max_length=5)"


def test_a_bad_limit_is_named():
    with pytest.raises(ValueError, match="max_length must be None or an integer >= 0, got -1"):
        UnicodeText(-1)
