"""Chat templates that would take for ever, or all memory, are refused when a model is loaded."""

from __future__ import annotations

import copy
import time

import pytest

from agents.loading.models import ModelError, freeze, load_base
from agents.loading.template_trial import try_template
from agents.prompts import PromptError, check_template
from tests.conftest import forget_memory_peak, make_tiny_base, memory_peak

WHOLE = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}<agent>"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(x='xy') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
)


@pytest.fixture(scope="module")
def saying():
    """A tokenizer with another template."""
    tokenizer = make_tiny_base().tokenizer

    def made(template):
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        return other

    return made


@pytest.mark.parametrize(
    "odd",
    [
        "{{ 'x' * 10**10 }}",
        "{{ [messages] * 10**10 }}",
        "{{ 'x' | center(10**10) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ [1] | tojson(indent=10**10) }}",
        "{{ 'x'.ljust(10**10) | length }}",
        "{% if messages | length == 2 %}{{ 'x' * 10**10 }}{% endif %}",
        "{% if messages[0]['content'] | length > 200 %}{{ 'x' * 10**10 }}{% endif %}",
        "{% generation %}{{ 'x' * 10**10 }}{% endgeneration %}",
        pytest.param(DOUBLING, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_template_that_takes_all_memory_is_refused(saying, odd, first):
    held = forget_memory_peak()
    with pytest.raises(PromptError, match="chat template: takes over 512 MiB to write") as caught:
        try_template(saying(odd + WHOLE if first else WHOLE + odd))
    assert str(caught.value).isprintable()
    assert memory_peak() - held < 1 << 28


def test_a_template_that_writes_a_book_is_refused(saying):
    with pytest.raises(
        PromptError, match=r"takes 300,0\d\d characters, of at most 262,144, to write"
    ):
        try_template(saying("{{ 'x' * 300000 }}" + WHOLE))


@pytest.mark.slow
@pytest.mark.parametrize("odd", [LOOP, "{{ lipsum(n=10**6) }}", "{{ (7 ** (10**8)) % 10 }}"])
def test_a_template_that_goes_on_and_on_is_refused(saying, odd):
    before = time.monotonic()
    with pytest.raises(PromptError, match="chat template: takes over 2 s to write a prompt"):
        try_template(saying(WHOLE + odd))
    assert time.monotonic() - before < 60  # two seconds of a processor's time, and it may be busy


@pytest.mark.parametrize(
    "template",
    [
        WHOLE,
        "{%- set n = namespace(i=0) -%}{% for m in messages %}{% set n.i = n.i + 1 %}"
        "{{ m.content }}{% if n.i > 1 %}{% break %}{% endif %}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%d %b %Y') }}{{ bos_token }}{{ dict(a=1) | tojson(indent=2) }}",
    ],
)
def test_an_ordinary_template_is_taken(saying, template):
    try_template(saying(template))
    check_template(saying(template))


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% if %}", "{{ 1 / 0 }}"])
def test_a_template_that_fails_is_said_where_it_is_used(saying, template):
    try_template(saying(template))
    with pytest.raises(PromptError, match="refuses a user turn"):
        check_template(saying(template))


def test_a_model_with_such_a_template_is_not_loaded(saying, tmp_path):
    base = make_tiny_base()
    base.model.save_pretrained(tmp_path)
    saying(WHOLE + "{{ 'x' * 10**10 }}").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="chat template: takes over 512 MiB to write"):
        load_base(str(tmp_path))
    with pytest.raises(ModelError, match="chat template: takes over 512 MiB to write"):
        freeze(base.model, saying(WHOLE + "{{ 'x' * 10**10 }}"))
