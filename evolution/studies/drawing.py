"""What figures are made of: SVG written by hand, from the numbers alone.

The same numbers give the same bytes, nothing is fetched, and the background is white whatever the
page's is. What a figure shows is not decided here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

WIDTH = 760
INK, FAINT, GRID = "#222", "#666", "#ddd"
# Okabe and Ito (2008), distinct for colour-blind readers, without yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
CHAR = 7.1
"""Width of a character at 13 pixels."""


def figure(title: str, about: str, height: int, marks: Iterable[str]) -> str:
    """A whole figure: its title, a line about it, and marks that others made.

    Args:
        title: What it asks or shows.
        about: What its marks are, in one line.
        height: In pixels; it is `WIDTH` wide.
        marks: Elements, below the two lines: from 66 pixels on.
    """
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" font-size="13" '
            "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">",
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            text(16, 26, title, size=16, weight="600"),
            text(16, 46, about, colour=FAINT, size=12),
            *marks,
            "</svg>\n",
        ]
    )


def band(
    lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], colour: str
) -> str:
    """The area between two lines, light enough to see a line on it."""
    places = " ".join(f"{number(x)},{number(y)}" for x, y in [*lower, *reversed(upper)])
    return f'<polygon points="{places}" fill="{colour}" fill-opacity="0.18"/>'


def cut(words: str, most: int) -> str:
    """Words, at most so many characters of them."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def number(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def text(
    x: float,
    y: float,
    words: str,
    colour: str = INK,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "400",
    turned: bool = False,
) -> str:
    """Words at a place; turned ones read upwards."""
    extra = f' font-size="{size}"' if size != 13 else ""
    extra += f' font-weight="{weight}"' if weight != "400" else ""
    extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
    extra += f' transform="rotate(-90 {number(x)} {number(y)})"' if turned else ""
    return f'<text x="{number(x)}" y="{number(y)}" fill="{colour}"{extra}>{escape(words)}</text>'


def line(
    x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = ""
) -> str:
    """A line from one place to another."""
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{number(width)}"{extra}/>'


def dot(x: float, y: float, colour: str, radius: float, opacity: float = 1) -> str:
    """A filled circle."""
    extra = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    place = f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"'
    return f'<circle {place} fill="{colour}"{extra}/>'


def path(points: Iterable[tuple[float, float]], colour: str, dash: str = "") -> str:
    """A line through several places."""
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    places = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{extra}/>'


def grid(
    ticks: Sequence[float], left: float, right: float, place: Callable[[float], float]
) -> list[str]:
    """Level lines at an axis' ticks, with their numbers left of them.

    Args:
        ticks: Of the axis, as `round_ticks` gives them.
        left: Where the lines begin.
        right: Where they end.
        place: Height of a value.
    """
    marks: list[str] = []
    for tick in ticks:
        at = place(tick)
        marks.append(line(left, at, right, at, GRID))
        marks.append(text(left - 8, at + 4.5, tick_text(tick, ticks), FAINT, anchor="end"))
    return marks


def round_ticks(low: float, high: float, *, share: bool) -> list[float]:
    """Round numbers that enclose all values, five or so; those of a share lie from 0 to 1."""
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(n * unit for n in (1, 2, 2.5, 5, 10) if n * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(n * step, 10) for n in range(first, last + 1)]
    if share:
        ticks = [tick for tick in ticks if -1e-9 <= tick <= 1 + 1e-9] or [0.0, 1.0]
    return ticks if len(ticks) > 1 else [ticks[0], ticks[0] + step]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's number, with as many digits as tell it from the next."""
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    digits += round((ticks[1] - ticks[0]) * 10**digits, 6) % 1 > 0
    return f"{value:.{digits}f}"
