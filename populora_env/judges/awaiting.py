"""Calling code of others: policies, peers and judges.

They may be written with ``async def``; `settled` runs what they return to its end. They may fail in
any way without ending an episode; `FAULTS` are the ways, and `said` is what to note of them.
"""

import asyncio
import inspect
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from populora_env.storage import storable

FAULTS = (Exception, asyncio.CancelledError, GeneratorExit, SystemExit)
"""What a call may raise without ending the episode; KeyboardInterrupt is the user's."""


def settled(value: Any) -> Any:
    """Return ``value``, or what it gives if it has to be awaited.

    Inside a running event loop, which cannot be entered again, it runs in a thread with a loop of
    its own.
    """
    if not inspect.isawaitable(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_wait(value))
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(_wait(value))).result()


async def _wait(value: Awaitable[Any]) -> Any:
    return await value


def said(error: BaseException) -> str:
    """Return an error's name and text in one line of at most some 200 characters."""
    try:
        text = str(error)
    except FAULTS:
        text = "its text cannot be had"
    text = " ".join(storable(text).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def last_error_of(asked: Any) -> str | None:
    """Return why what was asked says that it failed last; None if it does not say."""
    try:
        error = getattr(asked, "last_error", None)
        return None if error is None else " ".join(storable(str(error)).split())[:200]
    except FAULTS as failed:
        return said(failed)
