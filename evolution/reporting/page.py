"""The report's HTML: pieces, and the page around them.

The page loads nothing: style, scripts and data are in it, and a content security policy forbids
everything else. Scripts run by their hash alone, so even a text that got past the escaping could
not run. Every text that a run has written goes through `text`.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from evolution.reporting.charts import Chart
from populora_env.episodes.rendering import visible

Cell = str | int | float | None

NOT_RECORDED = "Not recorded in this run."


def text(value: object) -> str:
    """Return a text for HTML, as content or as a quoted attribute; control characters are shown."""
    return html.escape(visible(str(value)), quote=True)


def paragraph(words: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{text(words)}</p>"


def section(key: str, title: str, *parts: str) -> str:
    """Return a section with a heading; parts are HTML."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{key}"><h2>{text(title)}</h2>\n{body}\n</section>'


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    marked: str | None = None,
    texts: bool = False,
) -> str:
    """Return a table; the first cell of a row is its heading, and None an empty cell.

    Args:
        caption: What the numbers are.
        columns: Headings.
        rows: Cells; floats are shown with three digits after the point.
        marked: Heading of a row that stands out.
        texts: Whether cells are texts, not numbers.
    """
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in columns)
    lines: list[str] = []
    for row in rows:
        first, *others = [text(_shown(cell)) for cell in row]
        cells = f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr class="mark">{cells}</tr>' if row[0] == marked else f"<tr>{cells}</tr>")
    kind = ' class="texts"' if texts else ""
    return (
        f"<figure><figcaption>{text(caption)}</figcaption>\n"
        f'<div class="scroll" tabindex="0"><table{kind} aria-label="{text(caption)}">\n<thead><tr>'
        f"{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div></figure>"
    )


def details(summary: str, body: str) -> str:
    """Return HTML that is shown on demand."""
    return f"<details><summary>{text(summary)}</summary>\n{body}\n</details>"


def figure(chart: Chart) -> str:
    """Return the place of a chart, with its heading and caption."""
    shape = "chart square" if chart.square else "chart"
    return (
        f'<figure aria-labelledby="{chart.key}-title"><h3 id="{chart.key}-title">'
        f'{text(chart.title)}</h3>\n<div class="{shape}" id="{chart.key}" role="img" '
        f'aria-label="{text(chart.title)}" style="height:{chart.height}px"></div>\n'
        f"<figcaption>{text(chart.caption)}</figcaption></figure>"
    )


def figures(charts: Sequence[Chart]) -> str:
    """Return charts beside each other, where there is room."""
    return f'<div class="charts">{"".join(map(figure, charts))}</div>' if charts else ""


def verdict(word: str) -> str:
    """Return an audit's verdict as a badge."""
    return f'<span class="verdict v-{word.replace(" ", "-")}">{text(word)}</span>'


def page(
    title: str, header: str, sections: Mapping[str, tuple[str, str]], charts: Sequence[Chart]
) -> str:
    """Return the whole page.

    Args:
        title: Of the window.
        header: HTML above the sections.
        sections: Id to the name in the list of sections, and the section.
        charts: All charts that the sections have a place for.
    """
    scripts = [get_plotlyjs().replace("\r", ""), _asset("page.js")]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<li><a href="#{key}">{text(name)}</a></li>'
                    for key, (name, _) in sections.items())  # fmt: skip
    body = "\n".join(part for _, part in sections.values())
    data = {chart.key: json.loads(chart.figure.to_json() or "{}") for chart in charts}
    first, second = scripts
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
{header}
</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="content">
<noscript><p>The charts need JavaScript; their numbers are in the tables.</p></noscript>
{body}
</main>
<footer>
<p>Made by populora report from this run's files alone. The page loads nothing from anywhere.</p>
</footer>
<script type="application/json" id="charts">{embedded(data)}</script>
<script>{first}</script>
<script>{second}</script>
</body>
</html>
"""


def embedded(data: Any) -> str:
    """Return JSON that can stand inside a script element: no text of it can end the element."""
    plain = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _asset(name: str) -> str:
    file = resources.files("evolution.reporting") / "assets" / name
    return file.read_text(encoding="utf-8").replace("\r", "")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
