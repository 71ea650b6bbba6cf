"""Functions as a kind of task: reading, verifying and grading of all three problems."""

import json
from contextlib import closing, suppress

import numpy as np
import pytest

from populora_env import parallel_env
from populora_env.code.checks import read_check
from populora_env.grading import Grader
from populora_env.problems import ProblemSpecError, load_problems
from populora_env.proposals.function_bank import BANK
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.task import NotATask
from populora_env.records import AnswerKind, GradeStatus, Problem
from tests.populora_env.proposals.hostile import HUGE, texts

VALID = "def f(a, b):\n    return a * b + 2\nf(3, 4)"
WORDS = "def f(s):\n    return s[::-1]\nf('house')"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


pytest.importorskip("pydantic_monty", reason="pydantic-monty is not installed")
from populora_env.proposals.functions import functions  # noqa: E402


@pytest.fixture(scope="module", params=["output", "input", "function"])
def kind(request):
    with closing(functions(kind=request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def mixed():
    with closing(functions(kind="output|input|function")) as made:
        yield made


@pytest.fixture(scope="module")
def grader():
    with Grader(timeout=0.5) as made:
        yield made


def test_every_function_of_the_bank_is_a_task_and_its_answer_right(kind, grader):
    assert len(BANK) == 30
    for at, parts in enumerate(BANK):
        task = kind.read("\n".join(parts), rng(at))
        problem = task.problem
        assert problem.answer is not None
        check = read_check(problem.answer)
        reply = f"Answer: {problem.answer}" if check is None else check.known
        grade = grader.grade(problem, reply)
        assert grade.correct, (problem, grade)
        assert kind.key_of(problem) == task.key
        assert kind.key_of(Problem.create("What is 1 + 1?", "2")) is None
        assert task.text == " ".join("\n".join(parts).split())
        json.dumps(problem.metadata)


def test_problems_of_the_three_kinds():
    made = {}
    for name in ("output", "input", "function"):
        with closing(functions(kind=name)) as kind:
            made[name] = kind.read(WORDS, rng()), kind.read(VALID, rng())
    output, number = made["output"]
    assert (output.problem.answer, output.problem.answer_kind) == ("'esuoh'", AnswerKind.LITERAL)
    assert (number.problem.answer, number.problem.answer_kind) == ("14", AnswerKind.NUMBER)
    assert "What does f(3, 4) return?" in number.problem.prompt
    assert "def f(a, b):" in number.problem.prompt
    given = made["input"][1].problem
    assert given.answer_kind is AnswerKind.CODE
    assert "returns 14" in given.prompt
    assert "f(3, 4)" not in given.prompt
    shown = made["function"][1].problem
    assert "f(3, 4) returns 14" in shown.prompt
    assert "def f(" not in shown.prompt
    check = read_check(shown.answer or "")
    assert check is not None
    assert len(check.examples) == 6
    assert shown.prompt.count("returns") == 3
    assert len({value for _, value in check.examples[:3]}) > 1
    assert len({task.key for pair in made.values() for task in pair}) == 6


@pytest.mark.parametrize(
    ("name", "reply", "status"),
    [
        ("output", "Answer: 14", GradeStatus.CORRECT),
        ("output", "Answer: 15", GradeStatus.WRONG),
        ("input", "Answer: f(3, 4)", GradeStatus.CORRECT),
        ("input", "```python\nf(1, 12)\n```", GradeStatus.CORRECT),
        ("input", "f(a=6, b=2)", GradeStatus.CORRECT),
        ("input", "f(1, 1)", GradeStatus.WRONG),
        ("input", "f('x', 'y')", GradeStatus.WRONG),
        ("input", "f(3)", GradeStatus.WRONG),
        ("input", "I do not know", GradeStatus.NO_ANSWER),
        ("input", "def f(a, b):\n    return 14", GradeStatus.UNREADABLE),
        ("input", f"f(9**9, 9**9)\n{VALID}", GradeStatus.CORRECT),
        ("function", "def f(x, y):\n    return 2 + y * x", GradeStatus.CORRECT),
        ("function", "```python\ndef g(x, y):\n    return x*y + 2\n```", GradeStatus.CORRECT),
        ("function", f"```\n{VALID}\n```\nAnswer: f(3, 4)", GradeStatus.CORRECT),
        ("function", "def f(a, b):\n    return 14", GradeStatus.WRONG),
        ("function", "def f(a):\n    return 14", GradeStatus.WRONG),
        ("function", "def f(a, b):\n    return a / 0", GradeStatus.WRONG),
        ("function", "def f(a, b):\n    while True:\n        pass", GradeStatus.TIMED_OUT),
        ("function", "def f(a, b):\n    return 9**9**9**9", GradeStatus.TIMED_OUT),
        ("function", "def f(a, b):\n    yield a", GradeStatus.UNREADABLE),
        ("function", "Answer: f(3, 4)", GradeStatus.UNREADABLE),
        ("function", "no", GradeStatus.NO_ANSWER),
    ],
)
def test_grades_of_the_three_kinds(name, reply, status, grader):
    with closing(functions(kind=name)) as kind:
        problem = kind.read(VALID, rng()).problem
    grade = grader.grade(problem, reply)
    assert grade.status is status, grade
    assert grade.correct is (status is GradeStatus.CORRECT)


def test_examples_that_are_not_shown_count(grader):
    with closing(functions(kind="function")) as kind:
        problem = kind.read(VALID, rng()).problem
    check = read_check(problem.answer or "")
    assert check is not None
    table = "\n".join(
        f"    if (a, b) == ({given}): return {value}" for given, value in check.examples[:3]
    )
    assert grader.grade(problem, f"def f(a, b):\n{table}").status is GradeStatus.WRONG
    everything = "\n".join(f"    if (a, b) == ({x}): return {value}" for x, value in check.examples)
    assert grader.grade(problem, f"def f(a, b):\n{everything}").correct


def test_values_of_all_kinds_are_graded(grader):
    for literal, right, wrong in [
        ("[1, 'a']", ["[1,'a']", '[1, "a"]'], ["(1, 'a')", "[1]", "1"]),
        ("'ab'", ["'ab'", "ab", '"ab"'], ["'ba'"]),
        ("True", ["True"], ["1", "False"]),
        ("{'a': 1, 'b': 2}", ["{'b': 2, 'a': 1}"], ["{'a': 1}"]),
        ("None", ["None"], ["0"]),
        ("0.30000000000000004", ["0.3"], ["0.31"]),
    ]:
        problem = Problem.create("?", literal, AnswerKind.LITERAL)
        assert all(grader.grade(problem, f"Answer: {reply}").correct for reply in right), literal
        assert not any(grader.grade(problem, f"Answer: {reply}").correct for reply in wrong)
    same = grader.same("f(3)", "f(3.0)", AnswerKind.CODE)
    assert same is GradeStatus.CORRECT
    assert grader.same("[1]", "[1.0]", AnswerKind.LITERAL) is GradeStatus.CORRECT
    assert grader.same("[1]", "[2]", AnswerKind.LITERAL) is GradeStatus.WRONG


@pytest.mark.parametrize(
    ("reply", "status", "reason"),
    [
        ("", ProposalStatus.UNREADABLE, "no Python function"),
        ("f(3)", ProposalStatus.UNREADABLE, "no Python function"),
        ("def f(x):\n    return x", ProposalStatus.UNREADABLE, "no call"),
        ("def f(x):\n    return x\nf(y)", ProposalStatus.UNREADABLE, "no call"),
        ("def f(x):\n    return x\nf(1, 2)", ProposalStatus.NO_ANSWER, "number of arguments"),
        ("def f():\n    return 3\nf()", ProposalStatus.OUT_OF_RANGE, "no arguments"),
        ("def f(x, y):\n    return x\nf(1, 2)", ProposalStatus.OUT_OF_RANGE, "not use .* y"),
        ("def f(x):\n    return x * 0\nf(1)", ProposalStatus.OUT_OF_RANGE, "same for every"),
        ("import os\ndef f(x):\n    return x\nf(1)", ProposalStatus.OUT_OF_RANGE, "imports os"),
        ("def f(x):\n    return id(x)\nf(1)", ProposalStatus.OUT_OF_RANGE, "uses id"),
        ("def f(x):\n    return x / 0\nf(1)", ProposalStatus.NO_ANSWER, "ZeroDivisionError"),
        ("def f(x):\n    return [f, x]\nf(1)", ProposalStatus.NO_ANSWER, "plain"),
        ("def f(x):\n    yield x\nf(1)", ProposalStatus.UNREADABLE, "does not know"),
        ("def f(x):\n    return f(x)\nf(1)", ProposalStatus.TIMED_OUT, "calls itself"),
        ("def f(x):\n    return 'a' * 10**12 * x\nf(1)", ProposalStatus.TIMED_OUT, "memory"),
        (
            "def f(x):\n" + "    x += 1\n" * 30 + "    return x\nf(1)",
            ProposalStatus.OUT_OF_RANGE,
            "lines",
        ),
        (
            "def f(x):\n    return x\nf('" + "a" * 400 + "')",
            ProposalStatus.OUT_OF_RANGE,
            "too long",
        ),
    ],
)
def test_what_is_no_task(reply, status, reason, mixed):
    with pytest.raises(NotATask, match=reason) as caught:
        mixed.read(reply, rng())
    assert caught.value.status is status


def test_a_call_is_of_the_function_before_it(mixed):
    reply = "def f(a):\n    return a + 1\ndef f(a, b):\n    return a - b\nf(9, 2)\ndef f(c):"
    assert mixed.read(reply, rng()).problem.metadata["output"] == "7"


def test_the_same_function_written_differently_has_the_same_key():
    with closing(functions()) as kind:
        other = "Here:\n```python\ndef add(x, y):\n    # so\n    return x*y + 2\n\nadd(3, 4)\n```"
        assert kind.read(VALID, rng()).key == kind.read(other, rng(1)).key
        assert kind.read(VALID, rng()).key != kind.read(VALID.replace("3, 4", "3, 5"), rng()).key
        assert kind.read(VALID, rng()).key != kind.read(VALID.replace("+", "-"), rng()).key


def test_everything_depends_on_the_generator_alone(mixed):
    with closing(functions(kind="output|input|function")) as other:
        assert mixed.read(VALID, rng(1)) == other.read(VALID, rng(1))
        assert mixed.request(rng(1), ()) == other.request(rng(1), ())
        assert mixed.example(rng(3)) == other.example(rng(3))
    assert len({mixed.request(rng(seed), ()) for seed in range(20)}) > 15
    kinds = {mixed.read(VALID, rng(seed)).problem.metadata["problem"] for seed in range(20)}
    assert kinds == {"output", "input", "function"}


def test_options_are_checked():
    for options in [
        {"kind": "both"},
        {"kind": ""},
        {"kind": "output|"},
        {"lines": 1},
        {"shown": 1},
    ]:
        with pytest.raises(ValueError, match=r"kind|lines|shown"):
            functions(**options)
    with pytest.raises(ProblemSpecError, match="functions accepts kind, lines"):
        load_problems("self-play:functions(size=3)")


def test_a_source_of_functions_verifies_and_closes():
    source = load_problems("self-play:functions(kind='output|function')+expressions")
    request = next(entry for entry in source if "Python function" in entry.prompt)
    proposal, problem = source.verify(request, "agent_0", VALID)
    assert proposal.valid
    assert problem is not None
    again, none = source.verify(request, "agent_1", VALID)
    assert (again.status, none) == (ProposalStatus.REPEATED, None)
    source.exclude([problem])
    assert source.verify(request, "agent_1", VALID)[0].status is ProposalStatus.HELD_OUT
    source.close()
    source.close()


def test_copies_of_examples_are_no_proposals():
    source = load_problems("self-play:functions")
    request = source[0]
    for example in request.prompt.split("\ndef ")[1:]:
        copied = "Sure:\n```python\ndef " + example.replace("f(", "f (") + "\n```"
        proposal, problem = source.verify(request, "agent_0", copied)
        assert (proposal.reason, problem) == ("an example of the request", None)
    source.close()


@pytest.mark.slow
def test_no_text_raises_anything_else(mixed):
    read = 0
    short = [VALID, WORDS, "def f(n):\n    return n % 7\nprint(f(9))"]
    for text in [*HUGE, *texts(10_000, 4, short)]:
        with suppress(NotATask):
            mixed.read(text, rng(read))
            read += 1
    assert read > 300


@pytest.mark.parametrize("text", [
    "def f(n):\n    return 2 ** n\nf(1500)",  # a number of more digits than are compared
    "def f(x):\n    return x / 2\nf(1.7e308)",  # of which there is no larger one
    'def f(x):\n    return f"{x.replace(\'\u00a0\', \'\')}"\nf("a")',  # written down nowhere
])  # fmt: skip
def test_no_function_stops_an_episode(text):
    env = parallel_env("self-play:functions", num_agents=2, proposers=1, evaluation="none")
    env.reset(seed=1)
    try:
        env.step({"agent_0": text, "agent_1": ""})
        while env.agents:
            env.step(dict.fromkeys(env.agents, "Answer: 5"))
        assert env.transcript.proposal is not None
    finally:
        env.close()
