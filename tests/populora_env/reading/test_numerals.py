"""Exact numbers in text."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.reading.numerals import (
    MAX_DIGITS,
    canonical,
    canonical_number,
    is_undone_division,
    last_number,
    parse_number,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        ("18.00", "18"),
        ("018", "18"),
        ("+5", "5"),
        ("-4", "-4"),
        ("- 4", "-4"),
        ("\u22127", "-7"),
        ("1,234,567.5", "1234567.5"),
        ("1{,}234", "1234"),
        ("$18", "18"),
        (r"\$18", "18"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("18 dollars", "18"),
        ("18 square feet", "18"),
        ("18 km/h", "18"),
        ("5 m^2", "5"),
        (r"18\text{ apples}", "18"),
        (r"30^{\circ}", "30"),
        ("50%", "50"),
        (r"50\%", "50"),
        (".5", "0.5"),
        ("3/4", "0.75"),
        (r"\frac{3}{4}", "0.75"),
        (r"-\dfrac{1}{3}", "-1/3"),
        ("1 1/2", "1.5"),
        ("3\u00bd", "3.5"),
        ("1.2e3", "1200"),
        ("5E-1", "0.5"),
        (r"1.2 \times 10^{3}", "1200"),
        ("\uff11\uff18", "18"),  # full-width
        ("\u0663\u0664", "34"),  # Arabic-Indic
        ("**18**.", "18"),
        ("(18)", "18"),
        ("10 000", "10000"),
        ("1,00,000", "100000"),
        ("2 million dollars", "2000000"),
        ("1.5 thousand", "1500"),
        ("negative 5", "-5"),
        ("minus $5", "-5"),
        (r"\frac12", "0.5"),
        (r"1\frac{1}{2}", "1.5"),
        (r"10,\!080", "10080"),
        ("18 m/s", "18"),
        ("18-hour shift", "18"),
        ("$18 USD", "18"),
    ],
)
def test_a_plain_number_has_one_canonical_form(text, value):
    parsed = parse_number(text)
    assert parsed is not None
    assert canonical(parsed) == value


@pytest.mark.parametrize(
    "text",
    ["", "no", "1,23", "1.2.3", "2+3", "2^10", "10\u00b2", "5x", "--5", "-$-5", "1/0", "1e999",
     "1e-999", "1e99999999999", "NaN", "inf", "0x1F", "1 2", "\u00b2", "9" * (MAX_DIGITS + 1),
     "9" * 10**6, "1/" + "0" * 50, "18\ud800"],
)  # fmt: skip
def test_what_is_not_one_plain_number_is_not_read(text):
    assert parse_number(text) is None


def test_an_exclamation_mark_is_a_factorial_where_words_are_variables():
    assert parse_number("5!") == 5
    assert parse_number("5!", units=False) is None


@given(st.from_regex(r"-?\$?[0-9]{1,20}(,[0-9]{3}){0,2}(\.[0-9]{0,3})?", fullmatch=True))
def test_the_fast_path_reads_what_the_slow_one_reads(text):
    value = parse_number(text)
    assert canonical_number(text) == (None if value is None else canonical(value))


def test_units_are_refused_where_a_word_may_be_a_variable():
    assert parse_number("18 dollars", units=False) is None
    assert parse_number("18", units=False) == 18


@pytest.mark.parametrize(
    ("text", "last"),
    [("4 - 1 - 7 = -4", "-4"), ("5-3", "3"), ("x=-3", "-3"), ("a1 then b2", "2"), ("none", None),
     ("1,2,3", "3"), ("total $1,234.", "$1,234")],
)  # fmt: skip
def test_the_last_number_of_a_text(text, last):
    assert last_number(text) == last


@pytest.mark.parametrize(
    ("text", "undone"),
    [("12/4", True), ("3/4", False), ("3", False), ("3 eggs/day", False), (r"\frac{12}{4}", True)],
)
def test_a_division_that_comes_out_whole_is_left_undone(text, undone):
    assert is_undone_division(text) is undone


@given(st.fractions())
def test_canonical_form_reads_back_as_the_same_number(value: Fraction):
    assert parse_number(canonical(value)) == value


@settings(max_examples=60)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    value = parse_number(text)
    assert value is None or parse_number(canonical(value)) == value
    last_number(text)


@pytest.mark.parametrize(
    "text", [" " * 10**6, "-" * 10**6, "1," * 500_000, "1 " * 500_000, "1/" * 500_000, "(" * 10**6]
)
def test_a_megabyte_takes_no_time(text):
    start = time.perf_counter()
    parse_number(text)
    last_number(text)
    assert time.perf_counter() - start < 0.5
