"""The language of specs: tasks, which may be made of generators."""

import pytest

from populora_env.problems.sources.base import ProblemSpecError
from populora_env.problems.sources.spec import (
    GeneratorSpec,
    TaskSpec,
    mixture_text,
    parse_mixture,
    parse_tasks,
)


def test_tasks_with_generators_options_and_weights():
    assert parse_tasks("levels(chain_sum+2*products(max_digits=2), per_level=3)") == [
        TaskSpec(
            "levels",
            (GeneratorSpec("chain_sum", {}, 1), GeneratorSpec("products", {"max_digits": 2}, 2)),
            {"per_level": 3},
            1,
        )
    ]
    text = "expressions(operators='+-*',digits=2) + 0.5*functions(kind='output|input') + plain"
    assert parse_tasks(text) == [
        TaskSpec("expressions", (), {"operators": "+-*", "digits": 2}, 1),
        TaskSpec("functions", (), {"kind": "output|input"}, 0.5),
        TaskSpec("plain", (), {}, 1),
    ]
    assert parse_tasks("window(chain_sum+products, up=0.9, over=8)")[0].parameters == {
        "up": 0.9,
        "over": 8,
    }


def test_bare_words_may_be_joined():
    assert parse_tasks("f(kind=output|input|function)")[0].parameters["kind"] == (
        "output|input|function"
    )


def test_a_task_as_text_is_read_back():
    text = "levels(2*chain_sum(max_terms=3)+products,per_level=3,name='a+b')"
    (task,) = parse_tasks(text)
    assert str(task) == text
    assert parse_tasks(str(task)) == [task]
    assert str(TaskSpec("plain", (), {}, 2)) == "plain"
    assert mixture_text(parse_mixture("2*a(x=1)+b")) == "2*a(x=1)+b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "a*b",
        "a-b",
        "levels(chain_sum, products)",
        "levels(chain_sum-products)",
        "levels(levels(chain_sum))",
        "levels('chain_sum')",
        "levels(*a)",
        "levels(**a)",
        "levels(a=1, a=2)",
        "levels(a=f())",
        "levels(a=1+b)",
        "f(g)(h)",
        "(" * 300 + ")" * 300,
        "f(a=" + "|".join("a" * 1500) + ")",
        "levels(chain_sum",
        "levels(chain_sum)\x00",
    ],
)
def test_anything_else_is_one_clear_line(text):
    with pytest.raises(ProblemSpecError, match="must have the form") as caught:
        parse_tasks(text)
    assert "as in 2*levels(chain_sum+products)" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_weights_and_length_are_checked():
    with pytest.raises(ProblemSpecError, match="weight must be above 0, got 0"):
        parse_tasks("0*expressions")
    with pytest.raises(ProblemSpecError, match="weight must be above 0, got 0"):
        parse_tasks("levels(0*chain_sum)")
    with pytest.raises(ProblemSpecError, match="at most 4000 characters, got 5000"):
        parse_tasks("a" * 5000)
