"""Which number a sentence states."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.reading.answers import read_answer
from populora_env.reading.numerals import parse_number
from populora_env.reading.statements import read_last, read_stated
from populora_env.records import AnswerKind


@pytest.mark.parametrize(
    ("text", "value", "exact"),
    [
        ("x = 18 apples", 18, True),
        ("18 - 3 = 15", 15, True),
        ("2 apples + 3 apples = 5 apples", 5, True),
        ("18 (16 + 2)", 18, False),
        ("18, since 15 + 3 = 18", 18, False),
        ("18 because 2 * 9 = 18 and 1 = 1", 18, False),
        ("18 eggs a day = 126 eggs a week", 126, True),
        ("1/2 of 36 = 18", 18, True),
        ("20% (or 0.2)", 20, False),
        ("18 dollars or 1800 cents", 18, False),
        ("at 6:00 PM", 6, False),
        ("about 18 dollars", 18, False),
    ],
)
def test_a_statement_is_about_one_number(text, value, exact):
    stated = read_stated(text)
    assert stated.number is not None
    assert (parse_number(stated.number), stated.exact) == (value, exact)


@pytest.mark.parametrize(
    "text",
    ["12 or 13", "1, 2, 3, 4", "12 apples or 13 apples", "either 12, or maybe 13", "12 and 13",
     "x = 5, y = 3", "(3, 4)", "between 12 and 13", "12 to 13", "12; 13"],
)  # fmt: skip
def test_several_numbers_are_no_statement(text):
    assert read_stated(text).several
    assert read_last(text).several


@pytest.mark.parametrize("text", ["18 - 3", "5+3", "12/4", "2 x 3", r"2 \times 3", "(1+2)*3"])
def test_a_problem_left_undone_is_no_statement(text):
    stated = read_stated(text)
    assert (stated.number, stated.undone) == (None, True)


@pytest.mark.parametrize(
    "text",
    [r"\sqrt{12}", r"\sqrt[3]{12}", r"2^{12}", "2^12", r"12\pi", r"12\sqrt2", r"\frac{12}{x}",
     r"\frac{x}{12}", "12x", "12 y", "7+12i", r"\log_2 12", "log(12)", r"\pm 12", "x > 12",
     r"x \ge 12", r"x \neq 12", "x \u2265 12", r"(-\infty,12)", r"(12, \infty)", "x^2+12",
     "12\u03c0", "\u221a12", r"\binom{x}{12}", "12_8", "x_{12}", "12 - x", "12/x", r"\pi/12",
     r"12 \cdot x", "x = 12y", r"x \in (3, 12]", "f(12)", "3R^2", "12 < x", "$12!$",
     r"\begin{pmatrix} 1 \\ 12 \end{pmatrix}", r"\frac{\sqrt{3}}{12}"],
)  # fmt: skip
def test_a_part_of_a_formula_is_no_statement(text):
    for reply in (rf"\boxed{{{text}}}", f"The answer is {text}.", f"#### {text}"):
        assert read_answer(reply, AnswerKind.NUMBER).answer is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("160 minutes (2 hours and 40 minutes)", "160"),
        ("160 minutes, which is 2 hours and 40 minutes", "160"),
        ("66 inches (5 feet 6 inches)", "66"),
        ("5 feet 6 inches (66 inches)", "66"),
        ("160 minutes (2 hours and 30 minutes)", None),
        ("160 meters (2 hours and 40 minutes)", None),
        ("2 hours and 40 minutes", None),
    ],
)
def test_a_quantity_said_in_one_unit_and_in_two_is_one_number(text, number):
    assert read_stated(text).number == number
    assert read_last(f"It is {text}").number == number


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The net proceeds are $118 000.", "118000"),
        ("So x = 118 000.", "118000"),
        ("$400 000 - $282 000 = $118 000", "118000"),
        ("That is 12 000 dollars.", "12000"),
        ("It is 1 118 000.", "1118000"),
        ("She needs 3 100 gram bags", "100"),
        ("2400 / 200 = 12 200-kilobyte videos", "12"),
    ],
)
def test_thousands_may_be_separated_by_spaces_in_any_sentence(reply, answer):
    assert read_answer(reply, AnswerKind.NUMBER).answer == answer


def test_a_factorial_in_a_box_is_no_number():
    assert read_answer(r"\boxed{12!}", AnswerKind.NUMBER).answer is None
    assert read_answer("The answer is 12!", AnswerKind.NUMBER).answer == "12"


@pytest.mark.parametrize("text", [r"12\pi", "2^{12}", "x > 12", "12x", r"\sqrt{12}"])
def test_a_part_of_a_formula_is_not_what_the_last_sentence_is_about(text):
    assert read_answer(f"So the area is {text}.", AnswerKind.NUMBER).answer is None


@pytest.mark.parametrize(
    "text",
    ["12 apples", "12 cm", "12 m", "12h", "12x more apples", "12 i.e. a dozen", "<b>12</b>", "_12_",
     "a *12* here", "x = 12", "12^{th}", r"12^\circ", "12 m^2", "12 m/s", "12 a day", "12 per year",
     "12 because 12 > 10", "12, and x > 3", "x \u2192 12", "f(3) = 12", "A - 12", "(b) - 12",
     "12 e-mails", "6 x 2 = 12", "12 and x is not", "12 years - a dozen", "2x = 24, x = 12"],
)  # fmt: skip
def test_what_stands_beside_a_number_may_be_words_and_units(text):
    assert read_answer(f"The answer is {text}.", AnswerKind.NUMBER).answer == "12"


@pytest.mark.parametrize(
    ("text", "last"),
    [("9 * 2 = $18 for 7 days", "$18"), ("18 eggs in 7 days", "7"), ("x = 3, so it is 18", "18")],
)
def test_the_last_sentence_is_about_the_last_side_or_the_last_number(text, last):
    assert read_last(text).number == last


@settings(max_examples=100)
@given(st.text(alphabet="0123456789 ,.;/-+*=x$()orand%", max_size=60))
def test_at_most_one_of_three_outcomes(text):
    stated = read_stated(text)
    assert (stated.number is not None) + stated.several + stated.undone <= 1


@pytest.mark.parametrize(
    "piece", ["1 or ", "1,", "1 ", "1 a ", "1-", "1=", "a ", "1:00", "(", "1, maybe "]
)
def test_a_megabyte_takes_no_time(piece):
    text = piece * (10**6 // len(piece))
    start = time.perf_counter()
    read_stated(text)
    read_last(text)
    assert time.perf_counter() - start < 0.5
