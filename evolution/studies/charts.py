"""A question as an SVG: a dot for each seed, the mean and its interval; or curves over replies.

Written by hand, from the numbers alone: the same results give the same bytes, nothing is fetched,
and the background is white whatever the page's is.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from html import escape

from evolution.studies.comparing import Answer, Row
from evolution.studies.measured import BASE, FIGURES
from evolution.studies.tables import p_text

WIDTH = 760
_Place = Callable[[float], float]
_INK, _FAINT, _GRID = "#222", "#666", "#ddd"
# Okabe and Ito (2008), distinct for colour-blind readers, without yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_DASHES = ("", "6 3", "2 3")
_LINE = 28  # characters of a line of a label
_CHAR = 7.1  # width of a character at 13 pixels


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
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" font-size="13" '
            "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">",
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            _text(16, 26, title, size=16, weight="600"),
            _text(16, 46, about, colour=_FAINT, size=12),
            *marks,
            "</svg>\n",
        ]
    )


def _rows(answer: Answer) -> tuple[int, list[str]]:
    """A line for each entry, from top to bottom."""
    compared = any(row.comparison for row in answer.rows)
    wrapped = [_wrap(row.label) for row in answer.rows]
    top, step = 66, 16 * max(map(len, wrapped)) + 10 if max(map(len, wrapped)) > 1 else 40
    left = 28 + _CHAR * max(len(line) for lines in wrapped for line in lines)
    right = WIDTH - (190 if compared else 24)
    bottom = top + step * len(answer.rows) + 18 * compared
    numbers = [n for row in answer.rows for n in _numbers(row)]
    ticks = _ticks(min(numbers), max(numbers), answer.question.figure)

    def x(value: float) -> float:
        return left + 10 + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left - 30)

    marks = [
        mark
        for tick in ticks
        for mark in (
            _line(x(tick), top, x(tick), bottom, _GRID),
            _text(x(tick), bottom + 18, _tick(tick, ticks), colour=_FAINT, anchor="middle"),
        )
    ]
    marks.append(_text((left + right) / 2, bottom + 40, answer.words, anchor="middle"))
    reference = next((row for row in answer.rows if row.entry == answer.question.against), None)
    if reference is not None:
        at = x(reference.interval.mean)
        marks.append(_line(at, top, at, bottom, _FAINT, dash="4 4"))
    if compared:
        said = f"less {answer.against}"
        marks.append(_text(right + 2, top + 10, _cut(said, 27), colour=_FAINT, size=12))
    for i, (row, lines) in enumerate(zip(answer.rows, wrapped, strict=True)):
        y = top + 18 * compared + step * (i + 0.5)
        first = y + 4.5 - 8 * (len(lines) - 1)
        marks += [_text(16, first + 16 * n, line) for n, line in enumerate(lines)]
        plain = row is reference or row.entry.arm == BASE
        marks += _spread(row, x, y, "#555555" if plain else _COLOURS[0])
        if (found := row.comparison) is not None:
            ends = found.difference
            said = f"{ends.mean:+.3f}"
            if ends.low is not None and ends.high is not None:
                said += f" ({ends.low:+.3f} to {ends.high:+.3f})"
            marks.append(_text(right + 2, y - 1, said, size=12))
            p = "" if found.corrected is None else p_text(found.corrected)
            p = f"p {p}" if p.startswith("<") else f"p = {p}" if p else "one seed"
            marks.append(_text(right + 2, y + 14, f"{p}{', Holm' * (p[0] == 'p')}", colour=_FAINT,
                               size=12))  # fmt: skip
    return round(bottom + 56), marks


def _spread(row: Row, x: _Place, y: float, colour: str) -> list[str]:
    """Seeds, and below them the mean and its interval."""
    marks = [_dot(x(value), y - 6, colour, 3, 0.4) for value in row.values.values()]
    if row.interval.low is not None and row.interval.high is not None:
        low, high = x(row.interval.low), x(row.interval.high)
        marks.append(_line(low, y + 5, high, y + 5, colour, width=2))
        marks += [_line(end, y + 1, end, y + 9, colour, width=2) for end in (low, high)]
    return [*marks, _dot(x(row.interval.mean), y + 5, colour, 4)]


def _curves(answer: Answer) -> tuple[int, list[str]]:
    """A curve for each entry, over replies."""
    entries = list(dict.fromkeys(row.entry for row in answer.rows))
    labels = {row.entry: _wrap(row.label) for row in answer.rows}
    top, bottom, left = 66, 376, 72
    most = max(len(line) for lines in labels.values() for line in lines)
    right = WIDTH - 50 - _CHAR * most
    numbers = [n for row in answer.rows for n in _numbers(row)]
    ticks = _ticks(min(numbers), max(numbers), answer.question.figure)
    replies = sorted({row.budget for row in answer.rows if row.budget is not None})
    wide = replies[-1] / replies[0] >= 8

    def x(value: float) -> float:
        low, high = (math.log(replies[0]), math.log(replies[-1])) if wide else (0.0, replies[-1])
        share = ((math.log(value) if wide else value) - low) / ((high - low) or 1.0)
        return left + 16 + share * (right - left - 32)

    def y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)

    marks: list[str] = []
    for tick in ticks:
        marks.append(_line(left, y(tick), right, y(tick), _GRID))
        marks.append(_text(left - 8, y(tick) + 4.5, _tick(tick, ticks), _FAINT, anchor="end"))
    for budget in replies:
        marks.append(_line(x(budget), bottom, x(budget), bottom + 5, _FAINT))
        marks.append(_text(x(budget), bottom + 20, f"{budget:,}", _FAINT, anchor="middle"))
    axis = "replies in training" + " (logarithmic)" * wide
    marks.append(_text((left + right) / 2, bottom + 42, axis, anchor="middle"))
    marks.append(_text(20, (top + bottom) / 2, answer.words, anchor="middle", turned=True))
    at = top + 6.0
    drawn = [row.entry for row in answer.rows if row.budget is not None]
    places = {entry: k for k, entry in enumerate(dict.fromkeys(drawn))}
    for entry in entries:
        own = [row for row in answer.rows if row.entry == entry]
        k = places.get(entry, 0)
        colour, dash = _COLOURS[k % len(_COLOURS)], _DASHES[k // len(_COLOURS) % len(_DASHES)]
        shift = 5.0 * (k - (len(places) - 1) / 2)  # so that intervals do not hide each other
        if own[0].budget is None:  # the base model is the same at any
            level = y(own[0].interval.mean)
            colour, dash = "#555555", "4 4"
            marks.append(_line(left, level, right, level, colour, width=1.5, dash=dash))
        else:
            points = [(x(row.budget or 1) + shift, y(row.interval.mean)) for row in own]
            marks.append(_path(points, colour, dash))
            for row, (px, py) in zip(own, points, strict=True):
                marks += [_dot(px, y(value), colour, 2, 0.35) for value in row.values.values()]
                if row.interval.low is not None and row.interval.high is not None:
                    ends = y(row.interval.low), y(row.interval.high)
                    marks.append(_line(px, ends[0], px, ends[1], colour, width=2))
                marks.append(_dot(px, py, colour, 4.5))
        marks.append(_line(right + 12, at, right + 32, at, colour, width=2.5, dash=dash))
        for line in labels[entry]:
            marks.append(_text(right + 38, at + 4.5, line))
            at += 17
        at += 6
    return max(bottom + 58, round(at) + 16), marks


def _numbers(row: Row) -> list[float]:
    """All values that a row shows."""
    ends = [row.interval.low, row.interval.high]
    return [*row.values.values(), row.interval.mean, *(end for end in ends if end is not None)]


def _ticks(low: float, high: float, figure: str) -> list[float]:
    """Round numbers that enclose all values, five or so."""
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(n * unit for n in (1, 2, 2.5, 5, 10) if n * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(n * step, 10) for n in range(first, last + 1)]
    if FIGURES[figure].share:
        ticks = [tick for tick in ticks if -1e-9 <= tick <= 1 + 1e-9] or [0.0, 1.0]
    return ticks if len(ticks) > 1 else [ticks[0], ticks[0] + step]


def _tick(value: float, ticks: Sequence[float]) -> str:
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    digits += round((ticks[1] - ticks[0]) * 10**digits, 6) % 1 > 0
    return f"{value:.{digits}f}"


def _wrap(label: str) -> list[str]:
    """A label in lines; what does not fit is left out of the middle line."""
    lines = textwrap.wrap(label, _LINE) or [""]
    if len(lines) <= 3:
        return lines
    return [lines[0], _cut(" ".join(lines[1:-1]), _LINE - 1), lines[-1]]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(
    x: float,
    y: float,
    words: str,
    colour: str = _INK,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "400",
    turned: bool = False,
) -> str:
    extra = f' font-size="{size}"' if size != 13 else ""
    extra += f' font-weight="{weight}"' if weight != "400" else ""
    extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
    extra += f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" fill="{colour}"{extra}>{escape(words)}</text>'


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = ""
) -> str:
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke="{colour}" '
        f'stroke-width="{_n(width)}"{extra}/>'
    )


def _dot(x: float, y: float, colour: str, radius: float, opacity: float = 1) -> str:
    extra = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{colour}"{extra}/>'


def _path(points: Iterable[tuple[float, float]], colour: str, dash: str) -> str:
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    places = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{extra}/>'
