"""Literals, functions and calls are read without running anything."""

import time

import pytest

from populora_env.code.checks import CodeCheck, read_check, same_code
from populora_env.code.literals import (
    LIMIT,
    arguments_text,
    read_arguments,
    read_literal,
    same_texts,
    written,
)
from populora_env.code.replies import calls_in, code_answer, functions_in, lines_of
from populora_env.code.trees import DEPTH, NODES, NoProgramError, read_program
from populora_env.reading.answers import canonical_answer, read_answer
from populora_env.records import AnswerKind, ReplyStatus


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("3", "3"),
        ("-2.50", "-2.5"),
        ("None", "None"),
        ("True", "True"),
        ('"a"', "'a'"),
        ("[1,2 , 'x']", "[1, 2, 'x']"),
        ("(1,)", "(1,)"),
        ("()", "()"),
        ("set()", "set()"),
        ("{2, 1}", "{1, 2}"),
        ("{'b': 1, 'a': [2]}", "{'a': [2], 'b': 1}"),
    ],
)
def test_plain_values_are_written_in_one_way(text, canonical):
    assert written(read_literal(text)) == canonical
    assert written(read_literal(canonical)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1 + x",
        "1e999",
        "b'a'",
        "...",
        "1j",
        "f(3)",
        "[1",
        "{[1]: 2}",
        "1\x00",
        "\ud800",
        "[" * 30 + "]" * 30,
        "9" * (LIMIT + 1),
        "(" * 10_000,
        "-" * 900 + "1",
        "{}[0]",
        "[i for i in x]",
    ],
)
def test_what_is_no_plain_value_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        read_literal(text)


def test_equality_is_that_of_python_but_for_bools_and_the_last_digits_of_floats():
    equal = [
        ("1", "1.0"),
        ("[1, 2.0]", "[1.0, 2]"),
        ("0.30000000000000004", "0.3"),
        ("{1, 2}", "{2, 1}"),
    ]
    unequal = [
        ("1", "True"),
        ("[1, 2]", "(1, 2)"),
        ("[1, 2]", "[2, 1]"),
        ("'1'", "1"),
        ("1.5", "1.4"),
        ("{'a': 1}", "{'a': 2}"),
        ("None", "False"),
        ("[0]", "[False]"),
        ("0", "'x'("),
    ]
    assert all(same_texts(*pair) for pair in equal)
    assert not any(same_texts(*pair) for pair in unequal)


def test_arguments_are_read_back():
    for values in [(), (3,), (3, "a, b)"), ([1, (2,)], {"x": None})]:
        assert read_arguments(arguments_text(values)) == values
    for text in ["x", "a=3", "*[1]", "3) + f(4", "lambda: 3"]:
        with pytest.raises(ValueError, match=r"."):
            read_arguments(text)


def test_programs_that_differ_in_names_and_comments_are_the_same():
    one = read_program(
        'def f(a: int, b) -> int:\n    """Add."""\n    t: int = a  # sum\n    return t + b'
    )
    other = read_program("def f(x, y):\n    z = x\n    return z+y")
    assert one.normal == other.normal
    assert one.digest == other.digest
    assert one.source == "def f(a, b):\n    t = a\n    return t + b"
    assert (one.parameters, one.required, one.unused, one.refused) == (("a", "b"), 2, (), "")
    assert read_program("def f(x, y):\n    z = x\n    return z+y+1").digest != one.digest
    assert read_program("def g(n):\n    return g(n - 1) if n else 0", "g").source == (
        "def f(n):\n    return f(n - 1) if n else 0"
    )


def test_measures_count():
    program = read_program(
        "def f(x):\n    for a in x:\n        if a:\n            return a\n    return [b for b in x]"
    )
    assert {**program.measures, "nodes": 0} == {"lines": 5, "nodes": 0, "loops": 2, "branches": 1}
    assert program.measures["nodes"] > 10


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("import os\ndef f(a):\n    return a", "it imports os"),
        ("def f(a):\n    from random import random\n    return a", "it imports random"),
        ("def f(a):\n    return a.__class__", "it uses __class__"),
        ("def f(a):\n    return eval(a)", "it uses eval"),
        ("def f(a):\n    return __import__(a)", "it uses __import__"),
        ("def f(a):\n    global t\n    t = a\n    return t", "it uses global"),
        ("@g\ndef f(a):\n    return a", "it has a decorator"),
        ("import math\ndef f(a):\n    return math.gcd(a, 4)", ""),
        ("from typing import List\ndef f(a: List[int]):\n    return a", ""),
    ],
)
def test_what_no_task_may_use_is_named(text, refused):
    assert read_program(text).refused == refused


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 3",
        "def f(",
        "def g(a):\n    return a",
        "def f(*a):\n    return a",
        "def f(a):\n    return " + "(" * 10_000,
        "def f(a):\n    return " + "[" * 100 + "]" * 100,
        "def f(a):\n    return " + "-" * 1500 + "a",
        "def f(a):\n    return a" + ".b" * 900,
        "def f(a):\n    return a" + "+a" * 900,
        "def f(a):\n    return '\x00'",
        "def f(a):\n" + "".join(" " * n + "if a:\n" for n in range(1, 60)) + " " * 60 + "pass",
        "def f(a):\n    return a\n" * 300,
        "class f: pass",
        "async def f(a): pass",
    ],
)
def test_what_is_no_program_of_bounded_size_is_refused(text):
    with pytest.raises(NoProgramError):
        read_program(text)
    assert (DEPTH, NODES) == (40, 600)


MESSY = [
    "Sure! Here:\n```python\ndef f(a, b):\n    return a + b\n```\nExample: `f(3, 4)` is 7.",
    "def f(a, b): return a + b\nprint(f(3, 4))",
    ">>> def f(a, b):\n...     return a + b\n>>> f(3, 4)\n7",
    "Function: def add(a, b):\n    return a + b\n\nresult = add(3, b=4)  # 7",
    "`def f(a, b):\n    return a + b`\n`f(3, 4)`",
    "    def f(a, b):\n        return a + b\n    f(3, 4)\n    def g(",
    "```\ndef f(a, b):\n\treturn a + b\nf(3, 4) == 7\n",
    "def f(a, b):\n    return a + b\n    print('and now the li",
]


@pytest.mark.parametrize("text", MESSY)
def test_a_small_models_mess_is_read(text):
    lines = lines_of(text)
    blocks = functions_in(lines)
    assert blocks[0].program.source == "def f(a, b):\n    return a + b"
    calls = calls_in(lines, blocks, {"f", blocks[0].name})
    assert [call.values for call in calls] == ([] if "now" in text else [(3, 4)])


def test_functions_that_are_called_come_along():
    text = "import math\ndef half(n):\n    return n // 2\ndef other(n):\n    return n\n"
    text += "def f(n):\n    return half(n)"
    assert functions_in(lines_of(text))[-1].program.source == (
        "import math\n\ndef half(n):\n    return n // 2\n\ndef f(n):\n    return half(n)"
    )


F = "def f(x):\n    return x * 2"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (f"```python\n{F}\n```", F),
        (f"```python\n{F}\n\nprint(f(3))\n```", F),
        (f"```python\n{F}\nf(3)\n```\nThis doubles.", F),
        (f"The code is\n{F}\nso f(3) is 6, as asked.", F),
        ("def double(y):\n    # twice\n    return y * 2", "def f(y):\n    return y * 2"),
        ("f(3)", "f(3)"),
        ("Answer: f(3, 'a')", "f(3, 'a')"),
        ("Answer: 3, 'a'", "f(3, 'a')"),
        ("I think that\n```python\nf([1, 2])\n```", "f([1, 2])"),
        ("The input is f(x=3)", "f(3)"),
        ("so 6 / 2 is\n3", "f(3)"),
        (f"Of\n```python\n{F}\n```\nthe call is\n\nAnswer: `f(3)`.", "f(3)"),
        ("no idea", None),
        ("<think>f(4)</think>f(3)", "f(3)"),
    ],
)
def test_replies_of_code(reply, answer):
    reading = read_answer(reply, AnswerKind.CODE)
    assert reading.answer == answer
    assert reading.status is (ReplyStatus.NO_ANSWER if answer is None else ReplyStatus.OK)
    if answer is not None:
        assert canonical_answer(answer, AnswerKind.CODE) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Answer: [1,2]", "[1, 2]"),
        ("The answer is 'ab'.", "'ab'"),
        ("```\n{'a': 1}\n```", "{'a': 1}"),
        ("f returns\n**True**", "True"),
        ("Answer: ab", "'ab'"),
        ("#### (1, 2)", "(1, 2)"),
        ("It is reversed, so\n'esuoh'", "'esuoh'"),
        ("\\boxed{[3]}", "[3]"),
    ],
)
def test_replies_of_values(reply, answer):
    reading = read_answer(reply, AnswerKind.LITERAL)
    assert reading.answer == answer
    assert canonical_answer(answer, AnswerKind.LITERAL) == answer


def test_checks_are_read_back_and_nothing_else_is():
    for check in [
        CodeCheck("input", F, "6", known="f(3)"),
        CodeCheck("function", examples=(("3", "6"), ("4", "8")), known=F),
    ]:
        assert read_check(check.text()) == check
        assert canonical_answer(check.text(), AnswerKind.CODE) == check.text()
    for text in [
        "",
        "{}",
        "[]",
        "f(3)",
        '{"task": "input"}',
        '{"task": "function", "examples": []}',
        '{"task": "function", "examples": [["1", 2]]}',
        '{"task": "input", "known": 3}',
        "{" * 5000,
    ]:
        assert read_check(text) is None


def test_answers_of_code_are_compared_by_their_normal_form():
    assert same_code(F, "def f(y):\n    return y * 2")
    assert same_code("f(3, 1.0)", "f(3, 1)")
    assert not same_code(F, "def f(y):\n    return y * 3")
    assert not same_code("f(3)", F)


def test_long_replies_take_little_time():
    began = time.process_time()
    for text in [
        "def f(a):\n" * 5000,
        "def f(a): return a\n" * 5000,
        "f(" * 20_000,
        "f(1)\n" * 5000,
        "def f(a):\n    return a\n    (" * 500,
        "Answer: (" * 3000,
        "`" * 50_000,
        "def f(" + "a," * 20_000,
        "import a\n" * 5000 + F,
        ("def f(a):\n" + "    a = a\n" * 300) * 10,
    ]:
        code_answer(text)
    assert time.process_time() - began < 20


def test_names_that_are_taken_are_left_to_those_who_have_them():
    source = read_program(
        "def solve(x):\n    f = x + 1\n    g = x * 2\n    return f + g", "solve"
    ).source
    assert source == "def f(x):\n    g0 = x + 1\n    g = x * 2\n    return g0 + g"


def test_what_is_longer_written_down_than_it_came_is_read_as_it_came():
    text, indent = "def helper(x):\n return x\ndef f(x):\n", " "
    for depth in range(12):
        text += f"{indent}if x > {depth}:\n"
        indent += " "
    text += f"{indent}x += 1\n" * 50 + " return x\n"
    assert read_answer(text, AnswerKind.CODE).answer is not None
    assert read_answer("-\n" * 20_000 + "x", AnswerKind.CODE).answer is None  # and at once
