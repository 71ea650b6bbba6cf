"""Kinds of problems of users' own, by name in specs."""

import re
from unittest import mock

import pytest

from populora_env import SOURCES, Problem, ProblemSpecError, load_problems


@pytest.fixture(autouse=True)
def _squares():
    with mock.patch.dict(SOURCES):

        @SOURCES.add("squares")
        def squares(*, upto: int = 30, wrong: bool = False):
            return [
                Problem.create(f"What is {n} times {n}?", str(n * n + wrong)) for n in range(upto)
            ]

        yield


def test_a_spec_names_them_with_options_and_splits_them():
    every = load_problems("squares")
    assert [len(every), len(load_problems("Squares(upto=7)"))] == [30, 7]
    halves = [load_problems("squares", split=split) for split in ("train", "test")]
    assert sorted(p.id for half in halves for p in half.given()) == sorted(p.id for p in every)
    assert min(map(len, halves)) > 0


def test_they_mix_with_others_and_contradictions_are_refused(tmp_path):
    file = tmp_path / "more.csv"
    file.write_text("prompt,answer\nWhat is 2 times 2?,5\n")
    mixed = load_problems("squares(upto=5)+procedural:3*chain_sum", limit=50)
    assert {mixed.part_of(i).rpartition(":")[2] for i in range(50)} == {"squares", "chain_sum"}
    with pytest.raises(ProblemSpecError, match=r"more\.csv.*question 'What is 2 times 2\?' is th"):
        load_problems(f"squares+{file}")
    with pytest.raises(ProblemSpecError, match=r"first at .*more\.csv"):
        load_problems(f"{file}+squares")


def test_other_letters_case_and_another_answer_is_a_warning(tmp_path):
    file = tmp_path / "more.csv"
    file.write_text("prompt,answer\nwhat is 2 times 2?,5\n")
    for spec in (f"squares+{file}", f"{file}+squares"):
        with pytest.warns(UserWarning, match=r"more\.csv.*its letters' case only"):
            assert len(load_problems(spec)) == 31


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "squares(down=3)",
            "squares: got an unexpected keyword argument 'down'; expected squ",
        ),
        ("squares(upto=0)", "squares: problems must hold at least one Problem, got none"),
        ("squares(upto=many)", "squares: 'str' object cannot be interpreted as an integer"),
        ("squarse", "did you mean squares?"),
    ],
)
def test_what_cannot_be_met_is_said_in_a_line(spec, said):
    with pytest.raises(ProblemSpecError, match=re.escape(said)) as caught:
        load_problems(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"), [("Squares", "must be lower-case"), ("squares", "exists already")]
)
def test_names_that_cannot_be_given(name, said):
    with pytest.raises(ProblemSpecError, match=said):
        SOURCES.add(name)
