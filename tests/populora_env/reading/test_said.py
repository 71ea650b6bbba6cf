"""What a reply says, whatever its template, thoughts, wrappers and Markdown add to it."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.reading.answers import read_answer
from populora_env.reading.said import said, trimmed
from populora_env.records import AnswerKind

N, M, T = AnswerKind.NUMBER, AnswerKind.MATH, AnswerKind.TEXT
REPLIES = [
    (T, "The answer is **Paris**.", "paris"),
    (T, '"Paris".', "paris"),
    (T, "`Paris`.", "paris"),
    (T, "`Paris.`", "paris"),
    (T, "*Paris*.", "paris"),
    (T, "“Paris.”", "paris"),
    (T, r"$\text{Paris}$.", "paris"),
    (T, r"The answer is $\text{Paris}$.", "paris"),
    (T, 'The answer is "Paris." I am sure.', "paris"),
    (T, "It is **Paris**.", "paris"),
    (T, "__Paris__.", "paris"),
    (T, "#### **Paris**.", "paris"),
    (T, r"\boxed{\text{Paris}.}", "paris"),
    (T, r"\boxed{\textbf{Paris}}.", "paris"),
    (T, "**Answer:** *Paris*.", "paris"),
    (T, "The answer is **Paris**, the capital.", "paris"),
    (T, "<answer>Paris</answer>", "paris"),
    (T, "<answer>\n**Paris**.\n</answer>", "paris"),
    (T, '{"answer": "Paris"}', "paris"),
    (T, '```json\n{"reasoning": "x", "answer": "Paris"}\n```', "paris"),
    (M, "The answer is **(2, 3)**.", "(2, 3)"),
    (M, "**(C)**.", "(C)"),
    (M, "The answer is **(C)**.", "(C)"),
    (M, "The answer is **12π** square units.", "12π"),
    (M, "**12π** square units.", "12π"),
    (M, "The area is **12π** square units.", "12π"),
    (M, "`(2,3)`.", "(2,3)"),
    (M, "$(2,3)$.", "(2,3)"),
    (M, 'The answer is "x+1".', "x+1"),
    (M, "Answer: *x+1*.", "x+1"),
    (M, "<answer>$x+1$</answer>", "x+1"),
    (M, r"\(x+1\).", "x+1"),
    (N, "**18**.", "18"),
    (N, "“18”.", "18"),
    (N, "`18`.", "18"),
    (N, 'The answer is "18".', "18"),
    (N, "<answer>18</answer>", "18"),
    (N, "<answer>18</answer><|im_end|>", "18"),
    (N, "<answer>18", "18"),
    (N, '{"answer": 18}', "18"),
    (N, "<think>\nMaybe the answer is 18. Hmm, wait", None),
    (N, r"<think> a \boxed{3}, but wait", None),
    (N, "<thinking>Answer: 5</thinking>\n4", "4"),
    (N, "◁think▷Answer: 5◁/think▷4", "4"),
    (N, "◁think▷Answer: 5", None),
    (N, "[THINK]5[/THINK]6", "6"),
    (N, "<seed:think>Answer: 5</seed:think>4", "4"),
    (
        N,
        "<|channel|>analysis<|message|>Answer: 5<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",  # noqa: E501
        "4",
    ),
    (N, "<|channel|>analysis<|message|>Answer: 5", None),
    (N, "analysisAnswer: 5assistantfinal4", "4"),
    (N, "reasoning Answer: 5</think>\n\nAnswer: 4", "4"),
    (N, "<think>Answer: 5</think>", None),
    (N, "<THINK>Answer: 5</THINK> 4", "4"),
    (N, "<think >5</think >4", "4"),
    (N, "<reasoning>Answer: 5</reasoning><answer>4</answer>", "4"),
    (
        N,
        "<|begin_of_thought|>Answer: 5<|end_of_thought|><|begin_of_solution|>Answer: 4<|end_of_solution|>",  # noqa: E501
        "4",
    ),
    (N, "<|im_start|>assistant\nAnswer: 4<|im_end|>", "4"),
    (N, "Answer: 4<end_of_turn>\n<start_of_turn>user\n5", "4"),
    (N, "Answer: 4<\uff5cend▁of▁sentence\uff5c>5", "4"),
    (N, "<think>a</think>Answer: 4<think>5", "4"),
    (N, "<think>" + "x " * 40000 + "Answer: 5", None),
    (N, "Answer: 4[/INST] 7", "4"),
    (M, "$0<|x|<5$", "0<|x|<5"),
    (M, "the interval is $[0,1]$", "[0,1]"),
    (N, "<s>Answer: 4</s>", "4"),
]
THOUGHTS = ("", "<think>Answer: 77\n</think>", "<thinking>\\boxed{77}</thinking>\n\n",
            "◁think▷77◁/think▷", "[THINK]#### 77[/THINK]", "so 77?\n</think>\n")  # fmt: skip
ENDS = ("", "\n", "<|im_end|>", "</s>", "<|eot_id|>\n", "<end_of_turn>", "<think>or 77")


@pytest.mark.parametrize(("kind", "reply", "answer"), REPLIES)
def test_what_surrounds_an_answer_is_no_part_of_it(kind, reply, answer):
    assert read_answer(reply, kind).answer == answer


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.sampled_from([(N, "18"), (M, "(2, 3)"), (M, "x+1"), (M, "\\text{(C)}"), (T, "Paris")]),
    st.sampled_from(THOUGHTS),
    st.sampled_from(["", "Let me see.\n", "First, add them. "]),
    st.sampled_from(["The answer is {}", "Answer: {}", "**Answer:** {}", "<answer>{}</answer>"]),
    st.sampled_from(["{}", "**{}**", "`{}`", '"{}"', "*{}*", "${}$"]),
    st.sampled_from(["", "."]),
    st.sampled_from(ENDS),
)
def test_formats_never_change_what_is_read(stated, thought, before, phrase, marks, stop, end):
    kind, answer = stated
    plain = read_answer(f"Answer: {answer}", kind).answer
    reply = thought + before + phrase.format(marks.format(answer)) + stop + end
    assert plain is not None
    assert read_answer(reply, kind).answer == plain


def test_a_thought_that_is_not_closed_says_nothing():
    assert said("<think>A is better") == ""
    assert said("B <think> or A") == "B "
    assert said("<think>A</think>") == ""


def test_trimming_keeps_what_belongs_to_the_answer():
    assert [trimmed(text) for text in ('**"(2, 3)"**.', "f'(x)", "5\\,", "*a* or *b*", "**")] == [
        "(2, 3)", "f'(x)", "5\\,", "*a* or *b*", "**",
    ]  # fmt: skip


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<", "think<", "[[", "<|a", "<answer>"])
def test_a_megabyte_of_marks_takes_bounded_time(piece):
    start = time.perf_counter()
    read_answer(piece * (10**6 // len(piece)), AnswerKind.TEXT)
    assert time.perf_counter() - start < 5.0
