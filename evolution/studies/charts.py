"""A question as an SVG: a dot for each seed, the mean and its interval; or curves over replies."""

import math
import textwrap
from collections.abc import Callable

from evolution.studies.comparing import Answer, Row
from evolution.studies.drawing import (
    CHAR,
    COLOURS,
    FAINT,
    GRID,
    WIDTH,
    cut,
    dot,
    figure,
    grid,
    line,
    path,
    round_ticks,
    text,
    tick_text,
)
from evolution.studies.measured import BASE
from evolution.studies.tables import p_text

_Place = Callable[[float], float]
_DASHES = ("", "6 3", "2 3")
_LINE = 28  # characters of a line of a label


def chart(answer: Answer, held_out: int) -> str:
    """The SVG of a question.

    Args:
        answer: What it came to, at least one row.
        held_out: Problems that each seed was measured on.
    """
    seeds = sorted({row.interval.seeds for row in answer.rows})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    about = (
        f"{held_out} held-out problems a seed, {over} seed{'s' * (seeds[-1] > 1)}: small dots are "
        "seeds" + (", lines are 95 % intervals of the mean" if seeds[-1] > 1 else "")
    )
    curve = answer.question.over_replies and any(row.budget is not None for row in answer.rows)
    height, marks = _curves(answer) if curve else _rows(answer)
    title = answer.question.title
    return figure(title, about, height, marks)


def _rows(answer: Answer) -> tuple[int, list[str]]:
    """A line for each entry, from top to bottom."""
    compared = any(row.comparison for row in answer.rows)
    wrapped = [_wrap(row.label) for row in answer.rows]
    top, step = 66, 16 * max(map(len, wrapped)) + 10 if max(map(len, wrapped)) > 1 else 40
    left = 28 + CHAR * max(len(part) for parts in wrapped for part in parts)
    right = WIDTH - (190 if compared else 24)
    bottom = top + step * len(answer.rows) + 18 * compared
    numbers = [n for row in answer.rows for n in _numbers(row)]
    ticks = round_ticks(min(numbers), max(numbers), share=answer.share)

    def x(value: float) -> float:
        return left + 10 + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left - 30)

    marks = [
        mark
        for tick in ticks
        for mark in (
            line(x(tick), top, x(tick), bottom, GRID),
            text(x(tick), bottom + 18, tick_text(tick, ticks), colour=FAINT, anchor="middle"),
        )
    ]
    marks.append(text((left + right) / 2, bottom + 40, answer.words, anchor="middle"))
    reference = next((row for row in answer.rows if row.entry == answer.question.against), None)
    if reference is not None:
        at = x(reference.interval.mean)
        marks.append(line(at, top, at, bottom, FAINT, dash="4 4"))
    if compared:
        said = f"less {answer.against}"
        marks.append(text(right + 2, top + 10, cut(said, 27), colour=FAINT, size=12))
    for i, (row, lines) in enumerate(zip(answer.rows, wrapped, strict=True)):
        y = top + 18 * compared + step * (i + 0.5)
        first = y + 4.5 - 8 * (len(lines) - 1)
        marks += [text(16, first + 16 * n, part) for n, part in enumerate(lines)]
        plain = row is reference or row.entry.arm == BASE
        marks += _spread(row, x, y, "#555555" if plain else COLOURS[0])
        if (found := row.comparison) is not None:
            ends = found.difference
            said = f"{ends.mean:+.3f}"
            if ends.low is not None and ends.high is not None:
                said += f" ({ends.low:+.3f} to {ends.high:+.3f})"
            marks.append(text(right + 2, y - 1, said, size=12))
            p = "" if found.corrected is None else p_text(found.corrected)
            p = f"p {p}" if p.startswith("<") else f"p = {p}" if p else "one seed"
            marks.append(text(right + 2, y + 14, f"{p}{', Holm' * (p[0] == 'p')}", colour=FAINT,
                               size=12))  # fmt: skip
    return round(bottom + 56), marks


def _spread(row: Row, x: _Place, y: float, colour: str) -> list[str]:
    """Seeds, and below them the mean and its interval."""
    marks = [dot(x(value), y - 6, colour, 3, 0.4) for value in row.values.values()]
    if row.interval.low is not None and row.interval.high is not None:
        low, high = x(row.interval.low), x(row.interval.high)
        marks.append(line(low, y + 5, high, y + 5, colour, width=2))
        marks += [line(end, y + 1, end, y + 9, colour, width=2) for end in (low, high)]
    return [*marks, dot(x(row.interval.mean), y + 5, colour, 4)]


def _curves(answer: Answer) -> tuple[int, list[str]]:
    """A curve for each entry, over replies."""
    entries = list(dict.fromkeys(row.entry for row in answer.rows))
    labels = {row.entry: _wrap(row.label) for row in answer.rows}
    top, bottom, left = 66, 376, 72
    most = max(len(part) for parts in labels.values() for part in parts)
    right = WIDTH - 50 - CHAR * most
    numbers = [n for row in answer.rows for n in _numbers(row)]
    ticks = round_ticks(min(numbers), max(numbers), share=answer.share)
    replies = sorted({row.budget for row in answer.rows if row.budget is not None})
    wide = replies[-1] / replies[0] >= 8

    def x(value: float) -> float:
        low, high = (math.log(replies[0]), math.log(replies[-1])) if wide else (0.0, replies[-1])
        share = ((math.log(value) if wide else value) - low) / ((high - low) or 1.0)
        return left + 16 + share * (right - left - 32)

    def y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)

    marks = grid(ticks, left, right, y)
    for budget in replies:
        marks.append(line(x(budget), bottom, x(budget), bottom + 5, FAINT))
        marks.append(text(x(budget), bottom + 20, f"{budget:,}", FAINT, anchor="middle"))
    axis = "replies in training" + " (logarithmic)" * wide
    marks.append(text((left + right) / 2, bottom + 42, axis, anchor="middle"))
    marks.append(text(20, (top + bottom) / 2, answer.words, anchor="middle", turned=True))
    at = top + 6.0
    drawn = [row.entry for row in answer.rows if row.budget is not None]
    places = {entry: k for k, entry in enumerate(dict.fromkeys(drawn))}
    for entry in entries:
        own = [row for row in answer.rows if row.entry == entry]
        k = places.get(entry, 0)
        colour, dash = COLOURS[k % len(COLOURS)], _DASHES[k // len(COLOURS) % len(_DASHES)]
        shift = 5.0 * (k - (len(places) - 1) / 2)  # so that intervals do not hide each other
        if own[0].budget is None:  # the base model is the same at any
            level = y(own[0].interval.mean)
            colour, dash = "#555555", "4 4"
            marks.append(line(left, level, right, level, colour, width=1.5, dash=dash))
        else:
            points = [(x(row.budget or 1) + shift, y(row.interval.mean)) for row in own]
            marks.append(path(points, colour, dash))
            for row, (px, py) in zip(own, points, strict=True):
                marks += [dot(px, y(value), colour, 2, 0.35) for value in row.values.values()]
                if row.interval.low is not None and row.interval.high is not None:
                    ends = y(row.interval.low), y(row.interval.high)
                    marks.append(line(px, ends[0], px, ends[1], colour, width=2))
                marks.append(dot(px, py, colour, 4.5))
        marks.append(line(right + 12, at, right + 32, at, colour, width=2.5, dash=dash))
        for part in labels[entry]:
            marks.append(text(right + 38, at + 4.5, part))
            at += 17
        at += 6
    return max(bottom + 58, round(at) + 16), marks


def _numbers(row: Row) -> list[float]:
    """All values that a row shows."""
    ends = [row.interval.low, row.interval.high]
    return [*row.values.values(), row.interval.mean, *(end for end in ends if end is not None)]


def _wrap(label: str) -> list[str]:
    """A label in lines; what does not fit is left out of the middle line."""
    lines = textwrap.wrap(label, _LINE) or [""]
    if len(lines) <= 3:
        return lines
    return [lines[0], cut(" ".join(lines[1:-1]), _LINE - 1), lines[-1]]
