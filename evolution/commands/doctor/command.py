"""``populora doctor``: what this machine and this installation have, in one table.

Each missing thing comes with what its absence costs and how to get it. No model is loaded; nothing
is written but compiled code, in the cache, as a run would write it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from evolution.commands.doctor.findings import Finding, advice, extra_findings, findings
from evolution.commands.usage import parse
from evolution.terminal import PlainConsole


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Say what this machine and this installation have, and what each missing thing costs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 also where something is missing."""
    parse(DoctorOptions, arguments, prog="populora doctor")
    console = PlainConsole()
    with console.status("looking; without compiled code in the cache this compiles it"):
        groups = [list(findings()), list(extra_findings())]
    console.print(_table(groups))
    console.print(advice())
    return 0


def _table(groups: Iterable[Iterable[Finding]]) -> Table:
    table = Table(caption="the lower part: extras, as in populora-env[NAME]")
    table.add_column("what", no_wrap=True)
    table.add_column("here", ratio=5, overflow="fold")
    table.add_column("what is missing costs", ratio=4, overflow="fold")
    for group in groups:
        for row in group:
            cost = Text(row.cost, style="yellow")
            table.add_row(row.what, row.found, cost)
        table.add_section()
    return table
