"""Progress bars: one shape for all commands, and nothing where nobody watches."""

from __future__ import annotations

import io

import pytest

from agents.engine.jobs import DecodeStats
from evolution.commands.progress import Bars
from evolution.terminal import PlainConsole


@pytest.fixture
def terminal():
    return PlainConsole(file=io.StringIO(), force_terminal=True, width=110, color_system=None)


def drawn(bars):
    """The lines of the bars as they are now."""
    page = PlainConsole(file=io.StringIO(), width=110)
    page.print(bars._shown.get_renderable())
    return [" ".join(line.split()) for line in page.file.getvalue().splitlines()]


def test_a_stage_is_shown_below_the_whole_and_replaced_by_the_next(terminal):
    with Bars(terminal) as bars:
        bars.count("generations", 3, 12)
        bars.tell("playing", 0.25)
        whole, stage = drawn(bars)
        assert whole.startswith("generations ")
        assert " 25% " in whole
        assert whole.endswith(" 3/12")
        assert stage.startswith("playing ")
        assert " 25% " in stage
        bars.tell("learning [b]" + "x" * 90, 1.0)
        bars.count("generations", 4, 12)
        whole, stage = drawn(bars)
        assert whole.endswith(" 4/12")
        assert stage.startswith("learning [b]xxx")
        assert "100%" in stage


def test_tokens_per_second_are_those_of_the_policy(terminal):
    with Bars(terminal, stats := DecodeStats()) as bars:
        bars.tell("playing", 0.0)
        assert "tokens" not in drawn(bars)[0]
        stats.tokens, stats.seconds = 300, 2.0
        bars.tell("playing", 0.5)
        assert drawn(bars)[0].endswith("150 tokens/s")


def test_a_log_holds_no_bars():
    console = PlainConsole(file=io.StringIO(), width=80)
    with Bars(console) as bars:
        bars.count("generations", 1, 2)
        bars.tell("playing", 0.5)
        console.print("a line")
    assert console.file.getvalue() == "a line\n"
