"""Writes docs/commands.md from the options' dataclasses: ``python docs/commands.py``."""

import os
from pathlib import Path

from evolution.cli import COMMANDS
from evolution.commands.help_text import help_text

PAGE = Path(__file__).with_name("commands.md")


def page() -> str:
    """Return the page: for each command what its ``--help`` says."""
    parts = [
        "# Commands\n\nWhat `populora COMMAND --help` says, written by `python docs/commands.py`.\n"
    ]
    os.environ["COLUMNS"] = "100"  # as wide wherever it is written
    for name, (what, module, options) in COMMANDS.items():
        text = help_text(f"populora {name}", module, options).strip()
        parts.append(
            f"## populora {name}\n\n{what[0].upper()}{what[1:]}.\n\n```text\n{text}\n```\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
