from __future__ import annotations

import math

import pytest

from evolution.engine_benchmark.timing import Spread, interleaved, ratios


def test_contenders_take_turns_and_the_first_changes():
    log = []

    def contender(name):
        def run(number):
            log.append((number, name))
            return float(10 * number + len(name))

        return run

    told = []
    measured = interleaved(
        {name: contender(name) for name in ("a", "bb", "ccc")}, 3, warmup=1,
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert [number for number, _ in log] == sorted(number for number, _ in log)
    assert [name for number, name in log if number == 0] == ["a", "bb", "ccc"]
    assert [name for number, name in log if number == 1] == ["bb", "ccc", "a"]
    assert [name for number, name in log if number == 2] == ["ccc", "a", "bb"]
    assert sum(number < 0 for number, _ in log) == 3
    assert [name for name, _ in told] == [name for _, name in log]
    assert [done for _, done in told] == pytest.approx([n / 12 for n in range(12)])
    assert measured == {"a": (1, 11, 21), "bb": (2, 12, 22), "ccc": (3, 13, 23)}


def test_drift_cancels_in_ratios_but_not_in_medians():
    clock = iter(1.5**i for i in range(100))  # a machine that slows down all the time
    work = {"whole": 1.0, "half": 0.5}
    measured = interleaved(
        {name: lambda _, size=size: size * next(clock) for name, size in work.items()}, 8, warmup=0
    )
    # Taking turns at being first, each meets the slower half of a round as often.
    found = ratios(measured["half"], measured["whole"])
    logs = [math.log(value / 0.5) for value in found]
    assert sum(logs) == pytest.approx(0, abs=1e-9)
    assert max(measured["whole"]) / min(measured["whole"]) > 10


def test_spread_by_hand():
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="values: got none"):
        Spread.of([])


def test_what_cannot_be_timed():
    with pytest.raises(ValueError, match="rounds and warmup: got 0 and 1"):
        interleaved({}, 0)
    with pytest.raises(ValueError, match="got 1 and -1"):
        interleaved({}, 1, warmup=-1)
    with pytest.raises(ValueError, match="rounds: got 1 and 0 of two contenders"):
        ratios([1.0], [])


def test_slow_contenders_run_in_the_first_rounds_only():
    log, told = [], []

    def contender(name):
        def run(number):
            log.append((number, name))
            return 1.0 + number

        return run

    measured = interleaved(
        {name: contender(name) for name in ("ours", "theirs")}, 4, slow=["theirs"], slow_rounds=2,
        progress=lambda _, done: told.append(done),
    )  # fmt: skip
    assert log == [(-1, "ours"), (0, "ours"), (0, "theirs"), (1, "theirs"), (1, "ours"),
                   (2, "ours"), (3, "ours")]  # fmt: skip
    assert measured == {"ours": (1, 2, 3, 4), "theirs": (1, 2)}
    assert told == pytest.approx([i / 7 for i in range(7)])
    assert ratios((2.0, 6.0, 9.0), (1.0, 2.0)) == (2.0, 3.0)
    assert interleaved({"a": float, "b": float}, 1, slow="b") == {"a": (0.0,), "b": ()}
