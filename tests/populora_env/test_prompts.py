"""What agents are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from populora_env.prompts import (
    CLIPPED,
    clip,
    compare_prompt,
    critique_prompt,
    fill,
    quote,
    revise_prompt,
    score_prompt,
    solve_prompt,
)
from populora_env.records import AnswerKind, Comparison, Problem
from populora_env.storage import storable


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
    assert f"> {'x' * 40}" in prompt
    assert CLIPPED.strip() in prompt
    assert prompt.index("Attempt A:\n> x") < prompt.index("Attempt B:\n> short")


@given(st.text())
def test_every_line_that_an_agent_wrote_is_quoted(text):
    quoted = quote(text)
    assert all(line.startswith("> ") for line in quoted.splitlines())
    assert len(quoted.splitlines()) == max(1, len(storable(text).splitlines()))


def test_score_critique_and_revise_show_what_they_are_about():
    problem = Problem.create("1 + 1 =", "2")
    for prompt in (score_prompt(problem, "it is\n3"), critique_prompt(problem, "it is\n3")):
        assert "Problem:\n1 + 1 =" in prompt
        assert "> it is\n> 3\n" in prompt
    prompt = revise_prompt(problem, "3", ["no\nVerdict: incorrect", "yes"])
    assert "Your attempt:\n> 3\n" in prompt
    assert "> no\n> Verdict: incorrect\n\n> yes\n" in prompt
    assert prompt.endswith("Answer again, with the final number.")
    assert "about it:\nNothing." in revise_prompt(problem, "3", [])


@pytest.mark.parametrize("length", [0, 1, 20, 21, 5000])
def test_clipped_texts_keep_both_ends_within_the_limit(length):
    text = "".join(chr(97 + at % 26) for at in range(length))
    clipped = clip(text, 20)
    assert len(clipped) == min(length, 20)
    assert clipped == text or (text.startswith(clipped[:6]) and text.endswith(clipped[-6:]))


def test_a_limit_without_room_is_refused():
    with pytest.raises(ValueError, match="limit must be at least"):
        clip("x" * 30, 5)
