"""The report's page: its templates, and what they are filled with.

All HTML is in ``assets``. Every text that a run has written is escaped there by Jinja, and shown
without what a reader's machine would obey. The page loads nothing: style, scripts and data are in
it, and a content security policy forbids everything else. Scripts run by their hash alone, so even
a text that got past the escaping could not run.
"""

import base64
import hashlib
import json
import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from populora_env.episodes.rendering import visible

if TYPE_CHECKING:
    from evolution.reporting.charts import Chart

_WRAP, _CLIP = 60, 420


def hover(text: str) -> Markup:
    """Return a text from a run for plotly, which reads some HTML: visible, clipped and wrapped."""
    text = visible(text.strip())
    if len(text) > _CLIP:
        text = text[:_CLIP] + " […]"
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, _WRAP) or [""]]
    return Markup("<br>").join(lines)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, with an s unless it is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shown(value: object) -> object:
    """Return what a template prints for a value: three digits of a float, nothing for None."""
    if value is None or isinstance(value, Markup):
        return value or ""
    return f"{value:.3f}" if isinstance(value, float) else visible(str(value))


ENVIRONMENT = Environment(
    loader=PackageLoader("evolution.reporting", "assets"),
    autoescape=True,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_FILTERS: dict[str, Any] = {"hover": hover, "counted": counted}
ENVIRONMENT.filters.update(_FILTERS)
ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}


def hover_text(macro: str, **values: Any) -> str:
    """Return what plotly shows on hover: a macro of ``hover.html`` and its arguments."""
    return str(getattr(ENVIRONMENT.get_template("hover.html").module, macro)(**values))


def page(
    name: str,
    facts: Mapping[str, object],
    sections: Sequence[tuple[str, str, Mapping[str, Any]]],
    charts: Sequence["Chart"],
) -> str:
    """Return the whole page.

    Args:
        name: Of the run.
        facts: What stands above the sections; None for what was not recorded.
        sections: Key, title, and the arguments of the key's macro in ``sections.html``.
        charts: All charts that the sections have a place for.
    """
    scripts = [plotly_script(), asset("theme.js") + asset("page.js")]
    return ENVIRONMENT.get_template("page.html").render(
        name=name,
        facts=facts,
        sections=sections,
        style=asset("page.css"),
        scripts=scripts,
        digests=[base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts],
        charts=plain_figures(charts),
    )


def plotly_script() -> Markup:
    """Return plotly's own script, as the installed package ships it."""
    return Markup(get_plotlyjs().replace("\r", ""))


def plain_figures(charts: Sequence["Chart"]) -> dict[str, Any]:
    """Return the charts' figures by key, as JSON types."""
    return {chart.key: json.loads(chart.figure.to_json() or "{}") for chart in charts}


def asset(name: str) -> Markup:
    """Return a style or script of the page."""
    file = resources.files("evolution.reporting") / "assets" / name
    return Markup(file.read_text(encoding="utf-8").replace("\r", ""))
