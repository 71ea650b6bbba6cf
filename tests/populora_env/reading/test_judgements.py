"""Scores, preferences and verdicts, read from what people and language models write."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from populora_env.reading.judgements import read_preference, read_score, read_verdict
from populora_env.records import Preference, ReplyStatus

OK, LENIENT, UNREADABLE = ReplyStatus.OK, ReplyStatus.LENIENT, ReplyStatus.UNREADABLE
READERS = (read_preference, read_score, read_verdict)


@pytest.mark.parametrize(
    ("reply", "preference", "status"),
    [
        ("A", Preference.A, OK),
        ("b.", Preference.B, OK),
        (" TIE\n", Preference.TIE, OK),
        ("[[B]]", Preference.B, OK),
        ("**A**", Preference.A, OK),
        ("\uff22", Preference.B, OK),
        ("A is worse than B. Verdict: B", Preference.B, OK),
        ("Verdict: A\nno, Verdict: tie", Preference.TIE, OK),
        ("I think B is better", Preference.B, LENIENT),
        ("It is a tie", Preference.TIE, LENIENT),
        ("A tie", Preference.TIE, OK),
        ("A: it is right, and B is not.", Preference.A, OK),
        ("**B**. A forgets to carry.", Preference.B, OK),
        ("Attempt B because A is wrong", Preference.B, OK),
        ("Tie. A and B agree.", Preference.TIE, OK),
        ("A\n\nB is wrong", Preference.A, OK),
        ("A: good. Verdict: B", Preference.B, OK),
        ("A student would write this", None, UNREADABLE),
        ("A is right", Preference.A, LENIENT),
        ("I choose attempt A without doubt", Preference.A, LENIENT),
        ("B is wrong", None, UNREADABLE),
        ("B isn't any good", None, UNREADABLE),
        ("A, B", None, UNREADABLE),
        ("A/B", None, UNREADABLE),
        ("A or B", None, UNREADABLE),
        ("A and B", None, UNREADABLE),
        ("Verdict: A and B", None, UNREADABLE),
        ("a good attempt", None, UNREADABLE),
        ("ABBA", None, UNREADABLE),
        ("1", None, UNREADABLE),
        ("", None, ReplyStatus.EMPTY),
        ("\ud800", None, UNREADABLE),
    ],
)
def test_preferences(reply, preference, status):
    reading = read_preference(reply)
    assert (reading.value, reading.status) == (preference, status)


@pytest.mark.parametrize(
    ("reply", "preference"),
    [
        ("Preferred: A", "A"),
        ("Better: A", "A"),
        ("Better attempt: A\nWorse attempt: B", "A"),
        ("Worse: A\nBetter: B", "B"),
        ("A over B", "A"),
        ("B over A.", "B"),
        ("A's answer is better than B's.", "A"),
        ("It's B, not A.", "B"),
        ("I read both. It is A.", "A"),
        ("It is A that has it wrong.", None),
        ("Attempt A is incorrect. Attempt B is correct.", "B"),
        ("A is correct and B is incorrect.", "A"),
        ("A is not correct and B is incorrect.", None),
        ("If A is correct and B is incorrect, then that one.", None),
        ("A is correct, B is incorrect, but neither shows its work.", None),
        ("A is incorrect. B is incorrect.", None),
        ("B is wrong. B is right.", None),
        ("A\n\nWait, B is the better one.", "B"),
        ("A. No, I prefer B.", "B"),
        ("A. I prefer A.", "A"),
        ("Verdict: [A/B/tie]", None),
        ("Verdict: A|B|tie", None),
        ("Verdict: tie/A/B", None),
    ],
)
def test_preferences_as_judges_elsewhere_write_them(reply, preference):
    assert read_preference(reply).value == preference


@pytest.mark.parametrize("reply", ["Verdict: correct?", "Correct?", "Verdict: is it incorrect?"])
def test_a_question_is_no_verdict(reply):
    assert read_verdict(reply).value is None


@pytest.mark.parametrize(
    ("reply", "score", "status"),
    [
        ("7", 0.7, OK),
        ("10", 1.0, OK),
        ("0.", 0.0, OK),
        ("7.5", 0.75, OK),
        ("**8/10**", 0.8, OK),
        ("9 out of 10", 0.9, OK),
        ("\uff17", 0.7, OK),
        ("Good work. Score: 6", 0.6, OK),
        ("**Score:** 6/10", 0.6, OK),
        ("Score: 3\nno, Score: 4", 0.4, OK),
        ("9: two steps of 3 are left out", 0.9, OK),
        ("7/10. Step 2 is vague.", 0.7, OK),
        ("10, because 3 + 4 = 7", 1.0, OK),
        ("3.5\n2 errors", 0.35, OK),
        ("7 + 7 = 14", None, UNREADABLE),
        ("14. The sum is 7 + 7.", None, UNREADABLE),
        ("3, 4", None, UNREADABLE),
        ("I would give it 8/10 because it is right", 0.8, LENIENT),
        ("It deserves a 3.", 0.3, LENIENT),
        ("The answer to the problem is 3.", None, UNREADABLE),
        ("5 is indeed the last number", None, UNREADABLE),
        ("11", None, UNREADABLE),
        ("-1", None, UNREADABLE),
        ("1e999", None, UNREADABLE),
        ("Score: 1e999", None, UNREADABLE),
        ("11/10", None, UNREADABLE),
        ("110/10", None, UNREADABLE),
        ("85%", None, UNREADABLE),
        ("80/100", 0.8, OK),
        ("7/8", None, UNREADABLE),
        ("between 3 and 4", None, UNREADABLE),
        ("ten", None, UNREADABLE),
        ("nan", None, UNREADABLE),
        ("inf", None, UNREADABLE),
        ("A and B", None, UNREADABLE),
        (" \n", None, ReplyStatus.EMPTY),
        ("\ud800", None, UNREADABLE),
    ],
)
def test_scores(reply, score, status):
    reading = read_score(reply)
    assert (reading.value, reading.status) == (pytest.approx(score), status)


@pytest.mark.parametrize(
    ("reply", "correct", "status"),
    [
        ("correct", True, OK),
        ("Incorrect.", False, OK),
        ("not correct", False, OK),
        ("wrong", False, OK),
        ("All steps hold.\nVerdict: correct", True, OK),
        ("3 + 4 is 7, not 8.\n**Verdict:** incorrect", False, OK),
        ("Verdict: correct\nOn second thought:\nVerdict: incorrect", False, OK),
        ("Verdict: not correct", False, OK),
        ("Verdict: the attempt is wrong", False, OK),
        ("This is correct.", True, LENIENT),
        ("The attempt isn't correct.", False, LENIENT),
        ("The attempt is not quite correct", False, LENIENT),
        ("The sum is wrong.", False, LENIENT),
        ("It is not wrong", True, LENIENT),
        ("That's right.", True, LENIENT),
        ("Verdict: correct, because 3 + 4 = 7", True, OK),
        ("Verdict: **incorrect**", False, OK),
        ("Here's the correct answer: 9 + 4 = 13.", None, UNREADABLE),
        ("9 + 4 = 13 is the correct answer", None, UNREADABLE),
        ("You've used the wrong word.", None, UNREADABLE),
        ("The first step is correct, the second is wrong", None, UNREADABLE),
        ("Verdict: correct or incorrect", None, UNREADABLE),
        ("Well done", None, UNREADABLE),
        ("", None, ReplyStatus.EMPTY),
    ],
)
def test_verdicts_of_critiques(reply, correct, status):
    reading = read_verdict(reply)
    assert (reading.value, reading.status) == (correct, status)


@settings(max_examples=100)
@given(st.text(max_size=300))
def test_any_text_gives_a_reading_with_a_value_exactly_if_it_was_read(text):
    for read in READERS:
        reading = read(text)
        assert (reading.value is not None) == (reading.status in (OK, LENIENT))
    score = read_score(text).value
    assert score is None or 0 <= score <= 1


@pytest.mark.parametrize(
    "piece", ["a ", "A ", " ", "verdict:", "score: ", "9", "1 ", "7/10 ", "10/", "not ", "wrong "]
)
def test_a_megabyte_is_read_in_bounded_time(piece):
    text = piece * (10**6 // len(piece))
    start = time.perf_counter()
    for read in READERS:
        read(text)
    assert time.perf_counter() - start < 1.0


WRITTEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "verdicts.jsonl").read_text("utf-8").splitlines()
]
READ = {"preference": read_preference, "score": read_score, "verdict": read_verdict}


@pytest.mark.parametrize(("what", "reply", "value"), WRITTEN)
def test_judgements_as_models_write_them(what, reply, value):
    read = READ[what](reply).value
    assert read == (pytest.approx(value) if what == "score" else value)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.sampled_from(["", "<think>Verdict: B. 3/10, incorrect</think>", "Verdict: B</think>\n"]),
    st.sampled_from(["", "Let me compare them.\n", "I checked every line. "]),
    st.sampled_from(["Verdict: {}", "[[{}]]", "\\boxed{{{}}}", "<verdict>{}</verdict>"]),
    st.sampled_from(["{}", "**{}**"]),
    st.sampled_from(["", ".", "\n", "<|im_end|>", "</s>"]),
)
def test_what_surrounds_a_judgement_never_changes_it(thought, before, form, marks, end):
    for read, stated, value in (
        (read_preference, "A", Preference.A), (read_score, "8", 0.8), (read_verdict, "correct", True)  # noqa: E501
    ):  # fmt: skip
        reading = read(thought + before + form.format(marks.format(stated)) + end)
        assert reading.value == pytest.approx(value) if read is read_score else value


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("Answer: B", "B"),
        ("Final answer: (A)", "A"),
        ("My choice: (A)", "A"),
        ("Verdict - A", "A"),
        ("Verdict \u2013 **B**", "B"),
        ("A, not B", "A"),
        ("B, and not attempt A.", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("A or tie", None),
        ("A tie or B", None),
        ("A\nB", None),
        ("A\n\nB is wrong.\n\nAttempt B", None),
        ("B\nA is worse at the start.\nB", "B"),
        ("This needs good decision-making.\nB", "B"),
    ],
)
def test_preferences_in_more_forms_and_those_that_contradict_themselves(text, preference):
    assert read_preference(text).value == preference


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("The attempt is correct except for the sign.", None),
        ("It is right, but it has an error.", None),
        ("The answer is correct, although step 2 divides by zero.", None),
        ("The attempt is correct only if x is positive.", None),
        ("The attempt is incorrect, but well written.", False),
        ("The attempt is correct. But it is long.", True),
        ("Verdict - incorrect", False),
        (r"\boxed{\text{correct}}", True),
    ],
)
def test_a_restricted_finding_finds_nothing(text, correct):
    assert read_verdict(text).value is correct


def test_a_scale_may_stand_behind_the_word():
    assert read_score("Score (0-10): 7").value == pytest.approx(0.7)
    assert read_score("**Rating** (out of 10): 9/10").value == pytest.approx(0.9)
    assert read_score(r"\boxed{\text{8}}").value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Verdict: Correct \u2705", True),
        ("Verdict: \u274c incorrect", False),
        ("\u2705 Correct", True),
        ("Verdict: \u2705 not correct", False),
        ("Correct \u2714\ufe0f", True),
    ],
)
def test_verdicts_are_read_without_emoji(text, value):
    assert read_verdict(text).value is value


@pytest.mark.parametrize("text", ["Score: 8/10 \u2b50", "\u2b50 8", "Score: 8 \u2b50\u2b50"])
def test_scores_are_read_without_emoji(text):
    assert read_score(text).value == 0.8
