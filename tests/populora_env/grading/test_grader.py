"""Grading, in this process and in a worker that can be killed."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from populora_env.grading import Grader, WorkerError, worker
from populora_env.records import AnswerKind, GradeStatus, Problem


def problem(answer, kind=AnswerKind.NUMBER):
    return Problem.create("?", answer, kind)


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, timeout=2.0) as made:
        yield made


@pytest.mark.parametrize(
    ("gold", "reply", "status"),
    [
        ("18", "18.00", GradeStatus.CORRECT),
        ("18", "Answer: 18 dollars", GradeStatus.CORRECT),
        ("1,234", "1234", GradeStatus.CORRECT),
        ("0.5", "1/2", GradeStatus.CORRECT),
        ("0.333", "1/3", GradeStatus.WRONG),
        ("50", "50%", GradeStatus.CORRECT),
        ("0.5", "50%", GradeStatus.WRONG),
        ("18", "118", GradeStatus.WRONG),
        ("18", "#### 18 #### 17", GradeStatus.WRONG),
        ("18", "17 or 18 or 19", GradeStatus.SEVERAL),
        ("18", "Answer: 17, 18", GradeStatus.SEVERAL),
        ("18", "#### None", GradeStatus.NO_ANSWER),
        ("3", "12/4", GradeStatus.UNREADABLE),
        ("18", "", GradeStatus.NO_ANSWER),
        ("18", "I do not know", GradeStatus.NO_ANSWER),
        ("18", "1e999", GradeStatus.UNREADABLE),
        ("18", "\uff11\uff18", GradeStatus.CORRECT),
    ],
)
def test_numbers(grader, gold, reply, status):
    grade = grader.grade(problem(gold), reply)
    assert grade.status is status
    assert grade.correct is (status is GradeStatus.CORRECT)
    assert grade.seconds >= 0


def test_without_a_known_answer_the_grade_is_open_but_the_answer_is_read(grader):
    grade = grader.grade(problem(None), "Answer: 18.0")
    assert (grade.correct, grade.extracted, grade.status) == (None, "18", GradeStatus.UNGRADED)


@pytest.mark.parametrize(
    ("gold", "reply", "correct"),
    [("New  York.", "Answer: new york", True), ("New York", "Answer: York", False)],
)
def test_texts(grader, gold, reply, correct):
    assert grader.grade(problem(gold, AnswerKind.TEXT), reply).correct is correct


def test_a_known_answer_that_is_no_number_is_the_problems_fault(grader):
    with pytest.raises(ValueError, match="must be a number, got 'seven'"):
        grader.grade(problem("seven"), "7")


@pytest.mark.parametrize(
    ("gold", "reply", "correct"),
    [
        (r"\sqrt{2}", "Answer: \u221a2", True),
        ("x^2+1", "\\boxed{1+x\u00b2}", True),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", True),
        (r"\pi", "Answer: 3", False),
        ("5", r"\boxed{5x}", False),
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        ("(1,2)", r"\boxed{(2, 1)}", False),
        ("7", r"\boxed{\unknown{" + "}" * 5, False),
        ("x", "\\boxed{x\ud800}", False),
    ],
)
def test_mathematics(grader, gold, reply, correct):
    assert grader.grade(problem(gold, AnswerKind.MATH), reply).correct is correct


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        (r"12000\pi", r"12{,}000\pi", True),
        (r"12000\pi", r"12,000\pi", True),
        (r"12000\pi", r"12,\!000\pi", True),
        (r"12000\pi", r"12\,000\pi", True),
        (r"12,\!000\pi", r"12000\pi", True),
        ("1500x", "1{,}500x", True),
        (r"1000\sqrt{2}", r"1,000\sqrt{2}", True),
        (r"\frac{20000}{\pi}", r"20{,}000/\pi", True),
        (r"\frac{20000}{\pi}", r"\frac{20,000}{\pi}", True),
        ("20000", "{20{,}000}", True),
        ("1000x+2000", "1,000x+2,000", True),
        ("(1, 200x)", "(1,200x)", True),
        ("1, 200", "200, 1", True),
        (r"12\pi", r"12,000\pi", False),
        ("200x", "1,200x", False),
    ],
)
def test_separators_of_thousands(grader, gold, answer, correct):
    reply = rf"\boxed{{{answer}}}"
    assert grader.grade(problem(gold, AnswerKind.MATH), reply).correct is correct


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("72", r"\text{72 clips}", True),
        ("72", r"\textbf{72 clips}", True),
        ("72", r"\text{72 or 73}", False),
        ("72", r"\text{72 thousand}", False),
        ("72", r"\text{72 more than x}", False),
        ("72", r"\text{72 squared}", False),
        ("72", r"72\text{ factorial}", False),
        ("72", r"72\text{ cm squared}", True),
        ("52_8", "(52)_8", True),
        ("52_8", r"52\text{ in base 8}", True),
        ("52_8", "(52)_9", False),
        ("52_8", r"52\text{ in base 9}", False),
        ("27", r"27 \text{ (cubic units)}", True),
        ("27", r"27\ \text{(cm)}", True),
        ("27", r"27 \text{ (wrong)}", False),
        (r"\text{(C)}", r"\text{(C)}", True),
        ("10", r"\overline{AB} = 10", True),
        ("10", r"\|v\| = 10", True),
        ("9", r"\|v\| = 10", False),
        ("10", r"\begin{aligned} x &= 10 \end{aligned}", True),
        ("10", r"\begin{aligned} x &= 9 \\ y &= 10 \end{aligned}", False),
        ("5.4", "5.4\u00a2", True),
        ("540", "5.4\u00a2", False),
        ("10", "\u20b910", True),
        ("10", r"\pounds 10", True),
        ("3", "3 \u2705", True),
        ("3", "3 \u274c", False),
    ],
)
def test_words_labels_and_currencies_around_a_boxed_value(grader, gold, answer, correct):
    reply = rf"\boxed{{{answer}}}"
    assert grader.grade(problem(gold, AnswerKind.MATH), reply).correct is correct


def test_plain_numbers_and_equal_texts_start_no_process(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(worker, "Program", refuse)
    with Grader() as made:
        assert made.grade(problem("7", AnswerKind.MATH), r"\boxed{7.0}").correct is True
        assert made.grade(problem("7", AnswerKind.MATH), r"\boxed{8}").correct is False
        assert made.grade(problem("x+1", AnswerKind.MATH), r"\boxed{x+1}").correct is True
        with pytest.raises(AssertionError, match="a process was started"):
            made.grade(problem("x+1", AnswerKind.MATH), r"\boxed{1+x}")


@pytest.mark.slow
def test_a_hanging_check_is_killed_and_the_next_one_works():
    with Grader(timeout=1.0) as made:
        assert made.grade(problem("x+1", AnswerKind.MATH), r"\boxed{1+x}").correct is True
        program = made._workers.queue[0]._program
        start = time.perf_counter()
        grade = made.grade(problem("2", AnswerKind.MATH), r"\boxed{9^{9^{9^9}}}")
        assert time.perf_counter() - start < 1.0 + 5.0
        assert (grade.correct, grade.status) == (False, GradeStatus.TIMED_OUT)
        assert made.grade(problem("x+1", AnswerKind.MATH), r"\boxed{1+x}").correct is True
        assert made._workers.queue[0]._program is program  # it forked the next: no new start
    assert program.status is not None
    with pytest.raises(RuntimeError, match="the grader is closed"):
        made.grade(problem("x+1", AnswerKind.MATH), r"\boxed{1+x}")


def test_a_grade_names_the_rule_and_whether_strict_rules_alone_find_it_right(grader):
    strict = grader.grade(problem("18"), "#### 18")
    lenient = grader.grade(problem("18"), "that makes 18 a day")
    wrong = grader.grade(problem("18"), "#### 17")
    unread = grader.grade(problem("18"), "no idea")
    open_ = grader.grade(problem(None), "#### 18")
    assert (strict.rule, strict.correct, strict.strict) == ("hashes", True, True)
    assert (lenient.rule, lenient.correct, lenient.strict) == ("last_number", True, False)
    assert (wrong.rule, wrong.correct, wrong.strict) == ("hashes", False, False)
    assert (unread.rule, unread.correct, unread.strict) == (None, False, False)
    assert (open_.rule, open_.correct, open_.strict) == ("hashes", None, None)


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        ("x+1", "1+x", GradeStatus.CORRECT),
        ("x+1", "x+2", GradeStatus.WRONG),
        ("x+1", "x+1, x+2", GradeStatus.SEVERAL),
        ("x+1", r"\unknown{x+1", GradeStatus.UNREADABLE),
        ("x+1", "x+1\x00", GradeStatus.UNREADABLE),
        ("x+1", "x" * 5000, GradeStatus.UNREADABLE),
        ("x+1", "9^{9^{9^9}}", GradeStatus.TIMED_OUT),
    ],
)
def test_every_outcome_of_mathematics_has_a_status(grader, gold, answer, status):
    reply = f"Answer: {answer}"
    assert grader.grade(problem(gold, AnswerKind.MATH), reply).status is status


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory limit needs /proc")
def test_a_check_that_takes_too_much_memory_is_not_right_and_the_next_one_works():
    mathematics = worker.MathWorker(timeout=20.0, memory=1 << 26)
    try:
        big = "+".join(f"x^{{{power}}}" for power in range(500))
        assert mathematics.check("x", f"({big})({big})({big})") is not worker.Outcome.EQUAL
        assert mathematics.check("x+1", "1+x") is worker.Outcome.EQUAL
    finally:
        mathematics.close()


def test_threads_get_the_verdicts_that_one_thread_gets(grader):
    pairs = [
        (problem("x+1", AnswerKind.MATH), rf"\boxed{{{number}+x}}") for number in (1, 2, 1, 3)
    ] + [(problem("18"), "18")]
    expected = [True, False, True, False, True]
    assert [grade.correct for grade in grader.grade_many(pairs)] == expected
    seen: dict[int, list] = {}

    def run(name):
        seen[name] = [grader.grade(*pair).correct for pair in pairs]

    threads = [threading.Thread(target=run, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(seen.values()) == [expected] * 4


@pytest.mark.slow
def test_a_script_without_a_main_guard_may_grade_mathematics():
    script = (
        "print('once')\n"
        "from populora_env.grading import Grader\n"
        "from populora_env.records import Problem\n"
        "grader = Grader()\n"
        "print(grader.grade(Problem.create('?', 'x+1', 'math'), r'\\boxed{1+x}').correct)\n"
        "grader.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["once", "True"]


def test_a_worker_that_does_not_start_says_so(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(1)")
    monkeypatch.setattr(worker, "_PROGRAM", broken)
    with Grader() as made, pytest.raises(WorkerError, match="did not start"):
        made.grade(problem("x+1", AnswerKind.MATH), r"\boxed{1+x}")


@pytest.mark.parametrize(
    ("arguments", "name"), [({"workers": 0}, "workers"), ({"timeout": float("nan")}, "timeout")]
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Grader(**arguments)


@pytest.mark.parametrize(
    ("prompt", "gold", "reply", "correct"),
    [
        ("How many eggs are there?", "24", "Answer: 2 dozen", True),
        ("How many eggs are there?", "2", "Answer: 2 dozen", False),
        ("How many dozen eggs are there?", "2", "Answer: 2 dozen", True),
        ("What is the temperature, in kelvin?", "300", "Answer: 300K", True),
        ("What does the house cost?", "300", "Answer: 300K", False),
        ("What does the house cost?", "300000", "Answer: 300K", True),
        ("How many million people live there?", "3", "Answer: 3 million people", True),
    ],
)
def test_a_word_that_multiplies_counts_as_a_unit_only_where_the_question_counts_in_it(
    prompt, gold, reply, correct
):
    with Grader() as grader:
        assert grader.grade(Problem.create(prompt, gold), reply).correct is correct


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "gold", "reply"),
    [
        ("math", r"\text{(A)}", r"\boxed{\text{(A) or (B)}}"),
        ("math", r"\text{(A)}", r"\boxed{(A) \text{ is wrong, so } (B)}"),
        ("text", "B", "The answer is (B) or (C)."),
        ("text", "B", "Answer: A, B"),
        ("math", "5", r"\boxed{5,5}"),
        ("math", r"(2,\infty)", r"\boxed{(2,\infty) \text{ or } (8,\infty)}"),
    ],
)
def test_a_hedge_is_several_answers(kind, gold, reply):
    with Grader(timeout=20.0) as grader:
        assert grader.grade(Problem.create("?", gold, kind), reply).status is GradeStatus.SEVERAL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": "2"}, "workers must be an integer >= 1, got '2'"),
        ({"workers": True}, "workers must be an integer >= 1, got True"),
        ({"timeout": "2"}, "timeout must be a finite number of seconds > 0, got '2'"),
        ({"timeout": None}, "timeout must be a finite number of seconds > 0, got None"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grader(**arguments)


def test_what_is_no_problem_and_no_text_is_named():
    problem = Problem.create("2+2?", "4")
    with Grader(workers=np.int64(1)) as grader:
        with pytest.raises(TypeError, match="problem must be a Problem"):
            grader.grade("2+2?", "4")
        for reply in (None, b"4"):
            with pytest.raises(TypeError, match="reply must be a string, got"):
                grader.grade(problem, reply)
