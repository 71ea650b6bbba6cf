"""A program that draws procedural items, so that a draw can be ended and its memory bounded.

It reads requests ``(generator, parameters, seed)`` and writes replies ``(question, answer,
metadata)``, or the one text that says why there is none; first of all it writes None, when it is
ready. Each is a line: pickled, in Base64. Started and watched by `watched`, as a script of its own.
"""

import base64
import contextlib
import importlib
import os
import pickle
import random
import sys
from typing import Any, BinaryIO

MEMORY = 768 << 20  # bytes for one item, beyond what the program uses when idle
LONGEST = 60  # seconds after which it ends by itself, should nobody watch any more


def draw(name: str, parameters: dict[str, Any], seed: int) -> tuple[str, str, Any]:
    """Return question, answer and metadata of an item; sets global random state."""
    import numpy as np
    from reasoning_gym import factory

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    dataset: Any = factory.create_dataset(name, seed=seed, size=1, **parameters)
    item = dataset[0]
    return str(item["question"]), str(item["answer"]), item["metadata"]


def main(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
    importlib.import_module("reasoning_gym")  # which takes seconds

    _bound_memory()
    reply: Any = None
    while True:
        try:
            data = pickle.dumps(reply)
        except Exception as error:
            data = pickle.dumps(f"its metadata cannot be sent on: {error}")
        replies.write(base64.b64encode(data) + b"\n")
        replies.flush()
        if not (line := requests.readline()):
            return
        name, parameters, seed = pickle.loads(base64.b64decode(line))
        _alarm(LONGEST)
        try:
            reply = draw(name, parameters, seed)
        except MemoryError:
            reply = "it needs more than 1 GiB for an item: make its parameters smaller"
        except Exception as error:
            reply = str(error) or type(error).__name__
        _alarm(0)


def _bound_memory() -> None:
    """Bound the address space, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as statm:
            idle = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (idle + MEMORY, idle + MEMORY))


def _alarm(seconds: int) -> None:
    import signal

    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if __name__ == "__main__":
    # What generators print must not come between the replies.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    main(sys.stdin.buffer, pipe)
