"""The program that runs what agents wrote: in Monty, an interpreter without a world around it.

Started as a script by `sandbox.Sandbox`, so it imports nothing of this project. It reads one JSON
object a line from standard input, ``{"source": ..., "call": "f(3)", "runs": 2}``, and writes one,
``{"results": [["done", "'ab'"], ...]}``, one for each run until one of them fails. Each run is a
session of its own with a clock and random numbers of its own. Monty's own process, which this one
restarts when it dies, gets neither functions nor files nor an environment. Of a result, only the
beginning of its text ever leaves that process.
"""

import contextlib
import datetime
import importlib
import json
import os
import sys
from typing import Any

OUTPUT = 10_000  # bytes that a run may print
# What lies in memory before a run differs, and with it all that hangs on addresses.
_BEFORE = ("", "_before = [[at] for at in range(500)]\n")


def run(pool: Any, request: dict[str, Any], limits: dict[str, Any], at: int) -> list[str]:
    """Return the status and the text of one run."""
    monty = _monty()
    clock = datetime.datetime(2001 + 30 * at, 2 + at, 3 + at, 4 + at, 5 + at, 6 + at)
    policy: Any = {"random_start": {"seed": at}, "datetime": clock, "sleep": "zero"}
    text = f"{_BEFORE[at % 2]}{request['source']}\n_result = {request['call']}\n"
    text += f"f'{{_result!r:.{request['length'] + 1}}}'"
    try:
        with pool.checkout(limits=limits, os_policy=policy) as session:
            value = session.feed_run(text, print_callback=monty.CollectString(OUTPUT))
    except monty.MontyCrashedError as error:
        return ["exhausted" if error.timed_out else "crashed", "its interpreter died"]
    except monty.MontySyntaxError:
        return ["unsupported", "the sandbox cannot read it"]
    except monty.MontyError as error:
        name = type(error.exception()).__name__
        if name in ("TimeoutError", "MemoryError", "RecursionError"):
            return ["exhausted", name]
        return ["unsupported" if name == "NotImplementedError" else "raised", name]
    if not isinstance(value, str):
        return ["raised", "no text"]
    return ["done", value[: request["length"] + 1]]


def serve(memory: int, seconds: float, depth: int) -> None:
    """Answer requests until standard input ends."""
    limits = {
        "max_feed_duration_secs": seconds,
        "max_memory": memory,
        "max_recursion_depth": depth,
        "max_suspensions": 10,
    }
    with _monty().Monty(max_processes=1, request_timeout=seconds + 2) as pool:
        say({"ready": True})
        for line in sys.stdin:
            request = json.loads(line)
            results: list[list[str]] = []
            for at in range(request["runs"]):
                results.append(run(pool, request, limits, at))
                if results[-1][0] != "done":
                    break
            say({"results": results})


def _monty() -> Any:
    """Return the module, which no type checker has to find."""
    return importlib.import_module("pydantic_monty")


def say(reply: dict[str, Any]) -> None:
    """Write a line to the caller."""
    os.write(_CALLER, (json.dumps(reply) + "\n").encode("ascii"))


def _limit() -> None:
    """No core dumps, and an end to memory whatever the interpreter counts."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))


if __name__ == "__main__":
    _CALLER = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not a reply
    _limit()
    serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
