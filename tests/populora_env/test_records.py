"""Records, and their way to JSON and back."""

import dataclasses

import numpy as np
import pytest

from populora_env.records import AnswerKind, Grade, GradeStatus, Preference, Problem
from populora_env.storage import plain, storable


def test_the_id_is_a_hash_of_the_content_and_of_nothing_else():
    problem = Problem.create("1 + 1 =", "2", source="a", metadata={"x": 1})
    assert problem.id == Problem.create("1 + 1 =", "2", source="b").id == "e81a4921641d63e9"
    others = [
        Problem.create("1 + 1 = ", "2"),
        Problem.create("1 + 1 =", "3"),
        Problem.create("1 + 1 =", None),
        Problem.create("1 + 1 =", "2", AnswerKind.MATH),
        Problem.create("\ud800", "2"),
    ]
    assert len({problem.id, *(other.id for other in others)}) == 6


def test_records_are_frozen_and_hashable():
    problem = Problem.create("1 + 1 =", "2", metadata={"x": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.answer = "3"
    assert len({problem, Problem.create("1 + 1 =", "2", metadata={"x": 1})}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "prompt must be a string, got int"),
        (("x", 2), "answer must be a string or None, got int: write str"),
        (
            ("x", "2", "digit"),
            "answer_kind must be one of number, .*, literal, code, got 'digit'",
        ),
    ],
)
def test_bad_problems_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Problem.create(*arguments)


def test_the_time_a_grade_took_is_no_part_of_the_result():
    slow, fast = Grade(True, "2", GradeStatus.CORRECT, 9.0), Grade(True, "2", GradeStatus.CORRECT)
    assert slow == fast
    assert "seconds" not in plain(slow)
    assert plain(slow) == plain(fast)


def test_plain_leaves_only_json_types():
    value = {1: (float("nan"), {2, 1}, np.int64(3)), Preference.A: "\ud800", "f": np.float64(0.5)}
    assert plain(value) == {"1": ["nan", [1, 2], 3], "A": "\ufffd", "f": 0.5}
    assert type(plain(np.float64(0.5))) is float


def test_storable_texts_keep_everything_but_lone_surrogates():
    assert storable("a\x00\u2264\U0001f600") == "a\x00\u2264\U0001f600"
    assert storable("a\ud800b\udfff") == "a\ufffdb\ufffd"


def test_a_mirrored_preference_mirrors_back():
    assert [entry.mirrored for entry in Preference] == [Preference.B, Preference.A, Preference.TIE]
