"""Reading final answers and preferences."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.reading.answers import Rule, read_answer
from populora_env.records import AnswerKind, ReplyStatus

OK, LENIENT = ReplyStatus.OK, ReplyStatus.LENIENT


@pytest.mark.parametrize(
    ("reply", "answer", "rule", "status"),
    [
        (r"so \boxed{18}", "18", Rule.BOXED, OK),
        (r"\boxed{1} or rather \boxed{2}", "2", Rule.BOXED, OK),
        (r"\boxed{\frac{3}{4}}", "0.75", Rule.BOXED, OK),
        (r"\boxed{{18}}", "18", Rule.BOXED, LENIENT),
        (r"\boxed{\boxed{7}}", "7", Rule.BOXED, LENIENT),
        (r"\boxed{7} and \boxed{8", "7", Rule.BOXED, OK),
        (r"\boxed{18} #### 5", "18", Rule.BOXED, OK),
        ("work\n#### 72", "72", Rule.HASHES, OK),
        ("#### 72\nAnswer: 5", "72", Rule.HASHES, OK),
        ("Answer: 18 dollars", "18", Rule.PHRASE, OK),
        ("**Answer:** $1,234.50", "1234.5", Rule.PHRASE, OK),
        ("The answer is 18. Because 3+4=7.", "18", Rule.PHRASE, OK),
        ("The answer is 5 + 3 = 8.", "8", Rule.PHRASE, OK),
        ("The answer is:\n\n42\n", "42", Rule.PHRASE, OK),
        ("####18", "18", Rule.HASHES, OK),
        ("#### Step 2: add\nso 18", "18", Rule.LAST_NUMBER, LENIENT),
        ("#### 18. That is all.", "18", Rule.HASHES, LENIENT),
        ("#### 2. Add them up\nso 18", "18", Rule.LAST_NUMBER, LENIENT),
        ("####", None, None, ReplyStatus.NO_ANSWER),
        ("9 + 9 = 18\n####", "18", Rule.LAST_NUMBER, LENIENT),
        ("A: 18", "18", Rule.PHRASE, OK),
        ("**Final Answer**\n18", "18", Rule.PHRASE, OK),
        ("the answer is not 5 but 18", "18", Rule.LAST_NUMBER, LENIENT),
        ("It makes **$18** for 7 days", "18", Rule.BOLD, LENIENT),
        ("9 * 2 = $<<9*2=18>>18 for 7 days", "18", Rule.LAST_NUMBER, LENIENT),
        ("9 * 2 = $<<9*2=18>>", "18", Rule.LAST_NUMBER, LENIENT),
        ("#### 18\nQuestion: 2+2?\n#### 4", "18", Rule.HASHES, OK),
        ("Question: 2+2?\n#### 4", "4", Rule.HASHES, OK),
        ("#### 18<|im_end|>5", "18", Rule.HASHES, OK),
        ("<think>#### 5</think>It is 18", "18", Rule.LAST_NUMBER, LENIENT),
        ("#### 5</think>18", "18", Rule.BARE, OK),
        ("Answer: 1\nAnswer: 2", "2", Rule.PHRASE, OK),
        ("-4", "-4", Rule.BARE, OK),
        ("4 - 1 - 7 = -4", "-4", Rule.LAST_NUMBER, LENIENT),
        ("I have 3 and then 5 apples", "5", Rule.LAST_NUMBER, LENIENT),
        (r"\boxed{x} with 5", "5", Rule.LAST_NUMBER, LENIENT),
    ],
)
def test_numbers_are_read_by_the_first_rule_that_applies(reply, answer, rule, status):
    reading = read_answer(reply, AnswerKind.NUMBER)
    assert (reading.answer, reading.rule, reading.status) == (answer, rule, status)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ("", ReplyStatus.EMPTY),
        (" \n\t", ReplyStatus.EMPTY),
        ("no idea", ReplyStatus.NO_ANSWER),
        ("Answer: 1e999", ReplyStatus.UNREADABLE),
        ("1/0", ReplyStatus.UNREADABLE),
        ("12/4", ReplyStatus.UNREADABLE),
        ("Answer: 16 - 3", ReplyStatus.UNREADABLE),
        ("So 5.\n#### None", ReplyStatus.NO_ANSWER),
        ("#### 5</think>", ReplyStatus.NO_ANSWER),
        ("Answer: 12 or 13", ReplyStatus.SEVERAL),
        ("1, 2, 3", ReplyStatus.SEVERAL),
        (r"\boxed{1}, \boxed{2}", ReplyStatus.SEVERAL),
        ("9" * 10**6, ReplyStatus.UNREADABLE),
    ],
)
def test_what_holds_no_number_says_why(reply, status):
    reading = read_answer(reply, AnswerKind.NUMBER)
    assert (reading.answer, reading.rule, reading.status) == (None, None, status)


@pytest.mark.parametrize(
    ("reply", "answer", "status"),
    [
        ("Answer:  The  QUICK fox.", "the quick fox", OK),
        (r"\boxed{Paris}", "paris", OK),
        (r"\boxed{\text{Paris}}", "paris", OK),
        ("thinking\nParis.", "paris", LENIENT),
    ],
)
def test_texts_are_read_without_case_spacing_and_final_period(reply, answer, status):
    reading = read_answer(reply, AnswerKind.TEXT)
    assert (reading.answer, reading.status) == (answer, status)


def test_mathematics_falls_back_to_the_last_formula():
    reading = read_answer("we get $x+1$ and then $x+2$ .", AnswerKind.MATH)
    assert (reading.answer, reading.rule) == ("x+2", Rule.LAST_MATH)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"3\sqrt{13}", r"3\sqrt{13}"),
        ("6 - 5i", "6 - 5i"),
        ("(2, 3).", "(2, 3)"),
        ("y = 2x + 3", "y = 2x + 3"),
        (r"8\pi", r"8\pi"),
        ("Evelyn", "Evelyn"),
        ("(C)", "(C)"),
        (r"\(x + 1\)", "x + 1"),
        (r"$$\frac{x}{2}$$", r"\frac{x}{2}"),
        ("**x > 3**", "x > 3"),
        (r"3\pi cm", r"3\pi cm"),
        ("x = 2 or x = 3", "x = 2 or x = 3"),
        (r"\text{one half}", r"\text{one half}"),
    ],
)
def test_a_reply_that_is_nothing_but_a_formula_is_the_answer(reply, answer):
    reading = read_answer(reply, AnswerKind.MATH)
    assert (reading.answer, reading.rule, reading.status) == (answer, Rule.BARE, OK)


@pytest.mark.parametrize(
    "reply",
    ["The area is 8\u03c0.", "It is 6 - 5i.", "We find x > 3.", "It is (2, 3).", "This is x^2 - 1.",
     r"The distance is 3\sqrt{13}.", "Then x = 2 or x = 3.", "not 12"],
)  # fmt: skip
def test_the_last_number_of_a_formula_in_a_sentence_is_no_answer(reply):
    assert read_answer(reply, AnswerKind.MATH).answer is None


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Therefore, the value of $k$ is 5.", "5"),
        (r"Therefore, the value of \(k\) is 5.", "5"),
        ("There are $5$ values of $n$.", "5"),
        ("Therefore $k = 5$ is the smallest value of $k$.", "k = 5"),
        ("The length of $AB$ is 12 cm.", "12 cm"),
        ("The final answer is $x$ = 5.", "5"),
        ("Answer: $x$ = 5", "5"),
        ("Answer: $x$ is 5", "5"),
        ("Answer: $x$ = $5$", "5"),
        ("Answer: $x$ = 4 or 5", "4 or 5"),
        ("The answer is that there are $5$ values of $n$.", "5"),
        (r"So $x$ is 5\pi.", r"5\pi"),
        ("So $x$ is prime.", "x"),
        ("For $n=5$, the choice is $B$.", "B"),
        ("The answer is $C$.", "C"),
        ("So we get $k$.", "k"),
    ],
)
def test_a_variable_is_the_answer_only_if_nothing_is_said_of_it(reply, answer):
    assert read_answer(reply, AnswerKind.MATH).answer == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Answer:\n- 12 apples", "12"),
        ("**Answer:**\n\n- 12 apples", "12"),
        ("The answer is:\n- **12**", "12"),
        ("The answer is:\n1. 12", "12"),
        ("The answer is:\n1. 12\n2. 13", None),
        ("The answer is:\n- 12\n- 13", None),
        ("Answer: - 12", "-12"),
        ("Answer:\n-12", "-12"),
        ("The answer is:\n1.5", "1.5"),
        ("The answer is 1 + 2 + ... + 10 = 55.", "55"),
        ("The answer is 12...", "12"),
    ],
)
def test_marks_of_lists_and_dots_are_no_part_of_a_number(reply, answer):
    assert read_answer(reply, AnswerKind.NUMBER).answer == answer


@pytest.mark.parametrize("reply", ["This gives 5 of them.", "So x = 5.", "There are 5\nof them."])
def test_the_number_of_a_mathematical_sentence_is_read(reply):
    reading = read_answer(reply, AnswerKind.MATH)
    assert (reading.answer, reading.status) == ("5", LENIENT)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"\boxed{1}, \boxed{2}", "1, 2"),
        (r"\boxed{1} and $\boxed{2}$", "1, 2"),
        (r"\boxed{1}, or rather \boxed{2}", "2"),
        (r"\boxed{x} \boxed{x}", "x"),
        ("the answer is $x$ and $y$", "x, y"),
        ("the answer is that $x$ is $y$", "y"),
        ("the answer is $x$ because $x=y$", "x"),
        ("Answer:\n\\[ x+1 \\]", "x+1"),
    ],
)
def test_mathematics_may_be_a_list(reply, answer):
    assert read_answer(reply, AnswerKind.MATH).answer == answer


@settings(max_examples=60)
@given(st.text(max_size=300), st.sampled_from(list(AnswerKind)))
def test_any_text_gives_a_reading_with_an_answer_exactly_if_it_was_read(text, kind):
    reading = read_answer(text, kind)
    assert (reading.answer is not None) == (reading.status in (OK, LENIENT))


@pytest.mark.parametrize(
    "piece",
    ["answer is ", r"\boxed{", "}{", "####", "a ", "A ", " ", "verdict:", "9", "$", "(",
     "Answer:\n", "a\u0301\u0316", "\ufdfa", "<<", "<<1=", "1 or ", "1,", "**",
     "#### Step 1\n", "\\(",
     "answer is $x$", "$x$ is 5 ", "answer is:\n- 1", "\n- 1",
     "1:00 ", "1 x ", r"\boxed{1},", "\n\nQ:", "text{", "\\text{ or }"],
)  # fmt: skip
@pytest.mark.parametrize("kind", list(AnswerKind))
def test_a_megabyte_is_read_in_bounded_time(piece, kind):
    text = piece * (10**6 // len(piece))
    start = time.perf_counter()
    read_answer(text, kind)
    assert time.perf_counter() - start < 1.0
