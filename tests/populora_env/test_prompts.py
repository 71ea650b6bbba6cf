"""What agents are shown."""

import pytest

from populora_env.prompts import CLIPPED, clip, compare_prompt, fill, solve_prompt
from populora_env.records import AnswerKind, Comparison, Problem


def test_values_are_filled_in_once():
    assert fill("{a} {b}", {"a": "{b}", "b": "[[B]] {a}"}) == "{b} [[B]] {a}"
    with pytest.raises(KeyError):
        fill("{a}", {})


def test_solve_asks_for_the_kind_of_answer():
    assert solve_prompt(Problem.create("1 + 1 =", "2")) == "1 + 1 =\nAnswer with the final number."
    assert "number" not in solve_prompt(Problem.create("Who?", "I", AnswerKind.TEXT))


def test_compare_names_nobody_and_clips():
    problem = Problem.create("1 + 1 =", "2")
    comparison = Comparison(problem, "x" * 500, "short", "agent_0", "agent_1", "agent_2")
    prompt = compare_prompt(comparison, limit=100)
    assert "agent_" not in prompt
    assert "x" * 51 not in prompt
    assert "x" * 40 + CLIPPED + "x" * 40 in prompt
    assert prompt.index("Attempt A:\nx") < prompt.index("Attempt B:\nshort")


@pytest.mark.parametrize("length", [0, 1, 20, 21, 5000])
def test_clipped_texts_keep_both_ends_within_the_limit(length):
    text = "".join(chr(97 + at % 26) for at in range(length))
    clipped = clip(text, 20)
    assert len(clipped) == min(length, 20)
    assert clipped == text or (text.startswith(clipped[:6]) and text.endswith(clipped[-6:]))


def test_a_limit_without_room_is_refused():
    with pytest.raises(ValueError, match="limit must be at least"):
        clip("x" * 30, 5)
