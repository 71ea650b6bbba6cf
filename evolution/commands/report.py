"""``populora report``: a run as one HTML page that needs no network.

What the page shows is worked out in `reporting.findings` and `reporting.sections`; its words are in
`reporting/assets`.
No model is loaded and the run is not changed, unless --ablate-blocks asks for a measurement: that
loads the base and is kept in the run's folder.
"""

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from agents.plain_files import write_whole
from evolution.commands.usage import parse, writing_to
from evolution.errors import UsageError
from evolution.reporting.findings import Findings, find
from evolution.runs.files import read_while_it_goes_on
from evolution.runs.saved_run import read_run
from evolution.terminal import PlainConsole
from populora_env.episodes.rendering import visible
from populora_env.settings import Range


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write a report of a run: one HTML page, readable without a network."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    out: str = ""
    """File to write; by default report.html in the run folder."""
    open: bool = False
    """Whether to open the page in a browser."""
    ablate_blocks: Annotated[int, Range(0)] = 0
    """Measure what an agent loses when its adapter is switched off in one of so many blocks of
    layers at a time; loads the base. 0 measures nothing, and shows what was measured before."""
    ablate_problems: Annotated[int, Range(1)] = 64
    """Problems for that, of the training split."""
    ablate_agents: tuple[str, ...] = ("best",)
    """Agents for that: best (by standing), all, or their names."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(ReportOptions, arguments, prog="populora report")
    if options.ablate_blocks:
        from evolution.commands.ablation import ablate

        ablate(
            read_run(options.run),
            options.ablate_blocks,
            options.ablate_problems,
            options.ablate_agents,
            PlainConsole(),
        )
    file, found = write_report(options.run, options.out or None)
    for audit in found.audits:
        print(visible(f"{audit.name}: {audit.verdict}. {audit.reason}"))
    print(visible(f"Report: {file}"))
    if options.open:
        webbrowser.open(file.resolve().as_uri())
    return 0


def write_report(run: str | Path, out: str | Path | None = None) -> tuple[Path, Findings]:
    """Write a run's report, whole or not at all.

    Args:
        run: Its folder.
        out: File to write; None for ``report.html`` in the folder.

    Returns:
        The file, and what it says.

    Raises:
        UsageError: If plotly or jinja2 is missing, the run cannot be used, or the file cannot be
            written.
    """
    missing = [name for name in ("plotly", "jinja2") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"report: needs {' and '.join(missing)}, not installed; say pip install "
            '"populora-env[report]"'
        )
    from evolution.reporting.sections import render

    found = read_while_it_goes_on(Path(run).expanduser(), lambda: find(run))
    file = Path(out).expanduser() if out else found.run.path / "report.html"
    if file.is_dir():
        raise UsageError(f"out: {file} is a folder; expected a file, such as {file}/report.html")
    page = render(found)
    with writing_to("out", file):
        write_whole(file, page)
    return file, found
