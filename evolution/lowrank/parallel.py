"""Lanes: the same work on many parts of a population, one thread for each of torch's threads.

Small matrix work does not fill the threads that torch starts inside an operation. Here each thread
takes whole parts instead and runs its operations alone; what is computed does not depend on how
many there are.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(work: Callable[[T], R], parts: Sequence[T], device: torch.device) -> list[R]:
    """Do the work on each part, several at a time on a CPU.

    Args:
        work: Called once for each part, in any order; may write to what no other part touches.
        parts: What to call it with.
        device: Where the tensors are; on a GPU one thread keeps it busy.

    Returns:
        The results, in the order of the parts.
    """
    count = min(torch.get_num_threads(), len(parts)) if device.type == "cpu" else 1
    if count <= 1:
        return [work(part) for part in parts]
    with _one_thread_each() as prepare, ThreadPoolExecutor(count, initializer=prepare) as pool:
        return list(pool.map(work, parts))


@contextmanager
def _one_thread_each() -> Generator[Callable[[], None], None, None]:
    """Let operations inside the block use one thread, and as many as before after it."""
    before = torch.get_num_threads()

    def prepare() -> None:
        torch.set_num_threads(1)  # OpenMP keeps this number for each thread, MKL for all

    prepare()
    try:
        yield prepare
    finally:
        torch.set_num_threads(before)
