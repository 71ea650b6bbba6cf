"""What a reply denies is not its answer."""

import pytest

from populora_env.reading.answers import read_answer
from populora_env.reading.statements import denies, without_denied
from populora_env.records import AnswerKind, ReplyStatus


@pytest.mark.parametrize(
    "reply",
    ["Answer: not 12", "The answer isn't 12.", "It cannot be **12**.", "anything but 12",
     "Answer: 12 is wrong.", "Answer: 12 is not correct", "Answer: 12 (incorrect)",
     "Answer: 12? No.", "The answer is not **-12**.", "The answer is not $12.", "Answer: never 12",
     "not 12 or 13", "I don't think it is 12.", "12 cannot be the answer.", "12 is too large."],
)  # fmt: skip
def test_a_denied_number_is_not_read(reply):
    assert read_answer(reply, AnswerKind.NUMBER).answer is None


@pytest.mark.parametrize(
    "reply",
    ["Answer: 12, not 13", "Answer: 12, not 13 or 14", "It is not 13 but 12.",
     "Answer: No, it is 12.", "It's not **13**, it's **12**.", "The answer is 12 and not 13.",
     "Is it 13? No. It is 12.", "Answer: 12 (do not forget the unit)", "Answer: 12 is correct.",
     "It is 12, no more, no less.", "Answer: 12 wrong answers", "He has not won: 12",
     "12 rather than 13"],
)  # fmt: skip
def test_what_is_not_denied_is_read(reply):
    assert read_answer(reply, AnswerKind.NUMBER).answer == "12"


@pytest.mark.parametrize("verb", ["is not", "isn't", "cannot be", "is anything but"])
def test_a_denied_name_or_formula_is_not_read(verb):
    assert read_answer(f"It {verb} **Paris**.", AnswerKind.TEXT).answer != "paris"
    assert read_answer(f"It {verb} $x+1$.", AnswerKind.MATH).answer != "x+1"
    assert read_answer(f"It {verb} 12.", AnswerKind.MATH).status is ReplyStatus.NO_ANSWER


def test_of_two_names_the_one_that_is_not_denied_counts():
    assert read_answer("It isn't **Lyon** but **Paris**.", AnswerKind.TEXT).answer == "paris"


def test_only_what_is_next_to_a_denial_is_denied():
    assert without_denied("12, not 13 nor 14").strip(" ,") == "12"
    assert without_denied("not a prime: 12") == "not a prime: 12"
    assert without_denied("not 5 more") == "not 5 more"
    assert denies("it is not equal to ")
    assert not denies("it is not so: it is ")
