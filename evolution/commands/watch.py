"""``populora watch``: a page on this machine that follows a run.

What the page shows is in `evolution.watch`. The run's folder is only read, and no model is loaded.
"""

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evolution.commands.usage import parse
from evolution.errors import UsageError
from populora_env.episodes.rendering import visible
from populora_env.settings import Range


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Follow a run on a page in the browser, while it goes on or when it is over."""

    run: tyro.conf.Positional[str]
    """Run folder; it may be empty still."""
    port: Annotated[int, Range(0, 65535)] = 0
    """Port on 127.0.0.1; 0 takes any that is free."""
    open: bool = False
    """Whether to open the page in a browser."""


def main(arguments: Sequence[str]) -> int:
    """Run the command, until Ctrl-C."""
    options = parse(WatchOptions, arguments, prog="populora watch")
    folder = _folder(options.run)
    from evolution.watch.server import ADDRESS, application, open_socket, server

    with open_socket(options.port) as listening:
        address = f"http://{ADDRESS}:{listening.getsockname()[1]}/"
        print(visible(f"Watching {folder} at {address} (Ctrl-C ends it)"), flush=True)
        if options.open:
            webbrowser.open(address)
        server(application(folder)).run(sockets=[listening])
    return 0


def _folder(run: str) -> Path:
    """Return the folder to watch.

    Raises:
        UsageError: If there is none, or it holds runs and is none itself.
    """
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"run: {folder} is no folder; expected that of a run, which populora evolve makes"
        )
    runs = sorted(file.parent for file in folder.glob("*/run.toml"))
    if runs and not (folder / "run.toml").exists():
        raise UsageError(
            f"run: {folder} is no run but holds {len(runs)}; name one, such as {runs[-1]}"
        )
    return folder
