"""Answers of coroutines, for code that does not wait itself.

Policies and judges may be written with ``async def``; `settled` runs what they return to its end.
"""

import asyncio
import inspect
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


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
