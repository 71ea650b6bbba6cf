"""Procedural problems from reasoning-gym.

Each item has a generator seed of its own, derived by hashing: reasoning-gym's own seeds overlap
(item 1 of seed 42 is item 0 of seed 43). Two of its generators use global random state; it is set
from the item's seed and put back afterwards. Answers are compared with the one answer that the
generator gives, not with its own scoring, which pays for any text that contains the answer.
"""

import difflib
import random
import threading
import warnings
from bisect import bisect
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import accumulate
from typing import Any

import numpy as np

from populora_env.keys import Key, derive_seed
from populora_env.problems.drawing.generating import draw
from populora_env.problems.drawing.watched import DrawError, check_sizes, draw_watched, is_cheap
from populora_env.problems.sources.base import ProblemSource, ProblemSpecError, Split, split_of
from populora_env.problems.sources.spec import GeneratorSpec, mixture_text
from populora_env.reading.numerals import parse_number
from populora_env.records import AnswerKind, Problem
from populora_env.settings import did_you_mean
from populora_env.storage import plain

VIRTUAL_LENGTH = 1_000_000
SPLIT_TRIES = 300  # draws for one item until one falls into the split
_SEEDS = 2**32 - 2**20  # NumPy takes seeds below 2**32, and some generators add to theirs
_LIST_COMMAND = (
    "python -c 'from populora_env.problems.drawing import procedural as p; print(*p.names())'"
)

# Generators that draw from global random state, which belongs to the whole process.
_GLOBAL_STATE = threading.RLock()


@contextmanager
def _global_state_kept() -> Generator[None]:
    """Put global random state back as it was; one thread at a time."""
    with _GLOBAL_STATE:
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _factory() -> Any:
    """Return reasoning-gym's module of generators; some draw while they are imported."""
    with _global_state_kept(), warnings.catch_warnings():
        # What Python has to say of a dependency's code when it compiles it first.
        warnings.simplefilter("ignore", SyntaxWarning)
        from reasoning_gym import factory
    return factory


def names() -> list[str]:
    """Return the names of all generators, sorted."""
    return sorted(_factory().DATASETS)


def curricula() -> dict[str, Callable[[], Any]]:
    """Return what makes the curriculum of a generator, by name; a few have none."""
    return dict(sorted(_factory().CURRICULA.items()))


class VirtualSource(ProblemSource):
    """A source whose items are each made by one of several makers, drawn by weight and seed."""

    def __init__(self, weights: Iterable[float], key: str, seed: int, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be None or at least 1, got {limit}")
        self._key, self._seed = key, seed
        self._length = VIRTUAL_LENGTH if limit is None else limit
        self._thresholds = list(accumulate(weights))

    def __len__(self) -> int:
        return self._length

    def _choose(self, index: int) -> int:
        """Return the number of the maker of item ``index``."""
        point = derive_seed(self._key, self._seed, index) / 2**63 * self._thresholds[-1]
        return min(bisect(self._thresholds, point), len(self._thresholds) - 1)


class ProceduralSource(VirtualSource):
    """A weighted mixture of generators as one virtual source.

    Args:
        generators: At least one; checked by drawing an item from each.
        split: Part of all problems to keep, or None for all.
        seed: Another seed gives other items, of the same split.
        limit: Number of items; None for `VIRTUAL_LENGTH`.

    Raises:
        ProblemSpecError: If a generator or a parameter does not exist, a value is refused, or no
            item falls into the split, or its parameters make an item too large; see `watched`.
        ValueError: If ``limit`` is below 1.
    """

    def __init__(
        self,
        generators: Sequence[GeneratorSpec],
        *,
        split: Split | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__([entry.weight for entry in generators], "mixture", seed, limit)
        self._generators = tuple(generators)
        self._split = split
        self._names = [f"{at}:{entry}" for at, entry in enumerate(self._generators)]
        self.spec = f"procedural:{mixture_text(self._generators)}"
        for entry in self._generators:
            check_generator(entry)
            self._item(entry, 0)

    def __getitem__(self, index: int) -> Problem:
        self._check_index(index)
        return self._item(self._generators[self._choose(index)], index)

    def part_of(self, index: int) -> str:
        """Return the generator that item ``index`` comes from."""
        return self._names[self._choose(index)]

    def parts(self) -> frozenset[str]:
        """Return all generators of the mixture."""
        return frozenset(self._names)

    def _item(self, generator: GeneratorSpec, index: int) -> Problem:
        return draw_problem(generator, self._split, "procedural", self._seed, generator.name, index)


def draw_problem(
    generator: GeneratorSpec,
    split: Split | None,
    *key: Key,
    refused: Collection[str] = (),
) -> Problem:
    """Return the problem of a generator that belongs to a key.

    Args:
        generator: One that `check_generator` accepts.
        split: Part of all problems to keep, or None for all.
        key: What the draw is for; see `derive_seed`.
        refused: Ids of problems that must not be drawn.

    Raises:
        ProblemSpecError: If the generator refuses its parameters, or none of `SPLIT_TRIES` draws
            falls into the split.
    """
    for attempt in range(SPLIT_TRIES):
        problem = _generate(generator, derive_seed(*key, attempt) % _SEEDS)
        if problem.id not in refused and (split is None or split_of(problem) is split):
            return problem
    raise ProblemSpecError(
        f"procedural:{generator} has no item in split {split!s} ({SPLIT_TRIES} drawn): "
        "widen the range of its parameters, or load it with split=None"
    )


def _generate(generator: GeneratorSpec, seed: int) -> Problem:
    """Return the problem that a generator makes from one seed."""
    try:
        if is_cheap(generator.name, generator.parameters):
            with _global_state_kept():
                question, answer, item = draw(generator.name, generator.parameters, seed)
        else:
            question, answer, item = draw_watched(generator.name, generator.parameters, seed)
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        accepted = ", ".join(_parameters(generator.name))
        raise ProblemSpecError(
            f"procedural:{generator!s:.200} was refused by its generator: {said[:200]} "
            f"(its parameters: {accepted})"
        ) from error
    kind = AnswerKind.TEXT if parse_number(answer, units=False) is None else AnswerKind.NUMBER
    metadata = {
        "generator": generator.name,
        "parameters": plain(generator.parameters),
        "seed": seed,
        "item": plain(item),
    }
    return Problem.create(question, answer, kind, f"procedural:{generator.name}", metadata)


def _parameters(name: str) -> list[str]:
    """Return the parameters a generator accepts; its seed and size are ours to set."""
    config: Any = _factory().DATASETS[name][1]
    return sorted(
        entry.name for entry in fields(config) if entry.init and entry.name not in ("seed", "size")
    )


def check_generator(generator: GeneratorSpec) -> None:
    """Refuse a generator or parameter that does not exist, and say what does.

    Raises:
        ProblemSpecError: If one does not exist, or is far beyond any problem.
    """
    known = names()
    if generator.name not in known:
        close = difflib.get_close_matches(generator.name, known, 3, 0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ProblemSpecError(
            f"unknown procedural problem {generator.name!r}: {hint}{_LIST_COMMAND} "
            f"lists all {len(known)}"
        )
    accepted = _parameters(generator.name)
    for parameter in generator.parameters:
        if parameter not in accepted:
            raise ProblemSpecError(
                f"unknown parameter {parameter!r} of procedural:{generator.name}: "
                f"it accepts {', '.join(accepted)}{did_you_mean(parameter, accepted)}"
            )
    config: Any = _factory().DATASETS[generator.name][1]
    try:
        check_sizes(generator.parameters, {entry.name: entry.default for entry in fields(config)})
    except DrawError as error:
        raise ProblemSpecError(f"procedural:{generator!s:.200}: {error}") from None
