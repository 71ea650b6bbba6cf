"""From a spec to a source.

One function for all specs. Procedural specs are supported; GSM8K, MATH and files are not yet.
"""

from collections.abc import Sequence

from populora_env.problems.source import ProblemSource, ProblemSpecError, SequenceSource, Split
from populora_env.problems.spec import parse_mixture
from populora_env.records import Problem

_PROCEDURAL = "procedural:"


def load_problems(
    spec: str, *, split: str | None = None, seed: int = 0, limit: int | None = None
) -> ProblemSource:
    """Return the source of problems that a spec names.

    Args:
        spec: ``procedural:NAME[(parameter=value, ...)][+NAME...]``, where NAME is a generator of
            reasoning-gym, and ``2*NAME`` draws it twice as often.
        split: ``"train"`` or ``"test"``, disjoint whatever the seeds (half of all
            problems, by content); None for all.
        seed: Which items a virtual source holds.
        limit: Number of items; None for all there are.

    Raises:
        ProblemSpecError: If the spec cannot be met; the message says why in one line.
        ValueError: If another argument is out of range.
    """
    if not isinstance(spec, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ProblemSpecError(f"spec must be a string, got {type(spec).__name__}")
    if split is not None and split not in set(Split):
        raise ValueError(f"split must be 'train', 'test' or None, got {split!r}")
    if not spec.startswith(_PROCEDURAL):
        raise ProblemSpecError(
            f"unknown problem spec {spec[:120]!r}: supported are procedural:NAME[+NAME...], "
            "as in procedural:chain_sum"
        )
    from populora_env.problems.procedural import ProceduralSource

    return ProceduralSource(
        parse_mixture(spec[len(_PROCEDURAL) :]),
        split=None if split is None else Split(split),
        seed=seed,
        limit=limit,
    )


def as_source(problems: str | ProblemSource | Sequence[Problem], *, seed: int = 0) -> ProblemSource:
    """Return a source from a spec, a source, or a plain sequence of problems.

    Args:
        problems: A spec is loaded with ``seed``; a source is returned as it is.
        seed: Used for a spec only.

    Raises:
        ProblemSpecError: If a spec cannot be met.
        TypeError: If ``problems`` is something else.
    """
    if isinstance(problems, ProblemSource):
        return problems
    if isinstance(problems, str):
        return load_problems(problems, seed=seed)
    if not isinstance(problems, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            "problems must be a spec, a ProblemSource or a sequence of Problem, "
            f"got {type(problems).__name__}"
        )
    return SequenceSource(problems)
