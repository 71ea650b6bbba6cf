"""What the guard came to in a run, in two lines and as JSON types."""

from collections import Counter
from typing import Any

from rich.console import Console

from evolution.runs.checkpoint import RunFolder
from evolution.runs.files import GUARD_FILE
from evolution.runs.saved_run import SavedRun


def show_guard(folder: RunFolder, console: Console, stop: str) -> dict[str, Any] | None:
    """Print and return what the guard measured and did; None where a run never had one.

    Args:
        folder: The run's.
        console: Where to.
        stop: Why it ended the run; empty if it did not.
    """
    rows = [row for _, row in SavedRun(folder.path).rows(GUARD_FILE)]
    if not rows:
        return None
    first = {row["generation"]: row for row in rows}
    replies, places = (sum(row[name] for row in first.values()) for name in ("replies", "places"))
    verdicts = [row["verdict"] for row in rows if row["verdict"] is not None]
    bad = sum(verdict["bad"] for verdict in verdicts)
    steps = Counter(row["step"] for row in rows if row["up"])
    flags = sum(bool(row["flags"]) for row in rows)
    done = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in steps.items())
    console.print(
        f"Guard: {len(verdicts)} verdicts, {bad} bad; steps: {done or 'none'}; {flags} times an "
        f"agent was flagged; {replies:,} replies to anchors, {places:,} of one token."
    )
    if stop:
        console.print(f"Stopped by the guard: {stop}", soft_wrap=True)
    found = {"verdicts": len(verdicts), "bad": bad, "steps": dict(steps), "flagged": flags}
    return {**found, "replies": replies, "places": places, "stopped": stop}
