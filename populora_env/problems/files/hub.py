"""Rows of a data set on the hub, through the package ``datasets``.

The package is imported when it is first needed; without it, and without a network, everything
else works. Revisions are pinned by whoever asks (`benchmarks`).
"""

import contextlib
import importlib
import logging
from collections.abc import Generator
from typing import Any

from populora_env.problems.files.reading import HUB, HUB_EXTRA, Row
from populora_env.problems.sources.base import ProblemSpecError


def hub_rows(
    data_set: str, config: str | None, split: str, revision: str, *, instead: str
) -> list[Row]:
    """Return all rows of one split, in order.

    Args:
        data_set: Owner and name, such as ``openai/gsm8k``.
        config: The part of it to load; None for the only one.
        split: The hub's name of the split.
        revision: Commit hash.
        instead: What to do where the hub is out of reach, for the error message.

    Raises:
        ProblemSpecError: If the package is missing or the hub does not give the data.
    """
    name = f"{HUB}{data_set}{f':{config}' if config else ''}:{split}"
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ProblemSpecError(
            f"{name}: loading it from the hub needs the package datasets: {HUB_EXTRA}; or {instead}"
        ) from error
    try:
        with _quiet():
            table = datasets.load_dataset(data_set, config, split=split, revision=revision)
            listed = [dict(entry) for entry in table]
    except Exception as error:  # whatever a hub, a proxy or a broken cache may raise
        said = " ".join(str(error).split())[:160]
        raise ProblemSpecError(
            f"{name}: the hub did not give it ({type(error).__name__}: {said}); offline, {instead}"
        ) from error
    if not listed:
        raise ProblemSpecError(f"{name}: holds no row at revision {revision[:12]}; {instead}")
    return [Row(name, number, values, is_line=False) for number, values in enumerate(listed, 1)]


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep the hub client from printing a line for each try to connect."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
