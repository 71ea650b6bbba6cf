"""What a source of problems is.

A source is an indexed, deterministic collection that may be virtual: item ``i`` is made when it
is asked for. Items may repeat; `ProblemSource.distinct` leaves repeats out. How particular
sources make their items is in `procedural`, `columns` and `benchmarks`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from functools import wraps
from typing import Any

from populora_env.errors import PopuloraError
from populora_env.records import Problem

EXHAUSTED_AFTER = 500  # repeats in a row after which a part of a source counts as exhausted
TEST_PERCENT = 50


class ProblemSpecError(PopuloraError, ValueError):
    """A description of problems that cannot be met; the message is one line."""


class Split(StrEnum):
    """One of two disjoint parts of all problems there can be."""

    TRAIN = "train"
    TEST = "test"


def split_of(problem: Problem) -> Split:
    """Return the part a problem belongs to, by its id alone: half of all ids are test.

    The same problem is in the same part in every source, with every seed.

    Raises:
        ValueError: If the id is not a hexadecimal content hash.
    """
    try:
        number = int(problem.id, 16)
    except ValueError:
        raise ValueError(
            f"problem id must be a hexadecimal content hash, got {problem.id!r}: "
            "make problems with Problem.create"
        ) from None
    return Split.TEST if number % 100 < TEST_PERCENT else Split.TRAIN


class ProblemSource(ABC):
    """Indexed problems; the same index gives the same problem each time.

    Attributes:
        spec: One line that says what the source holds.
    """

    spec: str

    def __init_subclass__(cls, **settings: Any) -> None:
        """Let every source be sliced: ``source[:2]`` is a list of problems."""
        super().__init_subclass__(**settings)
        one = cls.__dict__.get("__getitem__")
        if one is None:
            return

        @wraps(one)
        def one_or_some(self: Any, index: Any) -> Any:
            if isinstance(index, slice):
                return [one(self, at) for at in range(*index.indices(len(self)))]
            return one(self, index)

        cls.__getitem__ = one_or_some

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items; a virtual source has a large one."""

    @abstractmethod
    def __getitem__(self, index: int) -> Problem:
        """Return item ``index``, 0 <= index < len; of a slice, a list.

        Raises:
            IndexError: If the index is out of range.
        """

    def __iter__(self) -> Iterator[Problem]:
        for index in range(len(self)):
            yield self[index]

    def part_of(self, index: int) -> str:
        """Return the name of the part of a mixture that item ``index`` comes from."""
        del index
        return self.spec

    def parts(self) -> frozenset[str]:
        """Return the names of all parts of a mixture."""
        return frozenset({self.spec})

    def given(self) -> Iterator[Problem]:
        """Yield the problems that the source was given; none of those that it makes when asked."""
        return iter(())

    def distinct(self, n: int) -> list[Problem]:
        """Return the first ``n`` distinct problems, by id.

        A part of a mixture that gave `EXHAUSTED_AFTER` repeats in a row is left out from then on,
        so a small part does not keep the others from filling the list.

        Raises:
            ValueError: If ``n`` is negative.
            ProblemSpecError: If the source ends, or only repeats itself, before.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        found: dict[str, Problem] = {}
        repeats = dict.fromkeys(self.parts(), 0)
        for index in range(len(self)):
            if len(found) == n or not repeats:
                break
            part = self.part_of(index)
            if part not in repeats:
                continue
            problem = self[index]
            if problem.id not in found:
                found[problem.id] = problem
                repeats[part] = 0
            elif repeats[part] + 1 == EXHAUSTED_AFTER:
                del repeats[part]
            else:
                repeats[part] += 1
        if len(found) < n:
            raise ProblemSpecError(
                f"{self.spec}: {n} distinct problems asked for, {len(found)} found: "
                "ask for fewer, or widen the range of its parameters"
            )
        return list(found.values())

    def close(self) -> None:  # noqa: B027, most sources have nothing to end
        """End what runs for it. May be called twice; it starts again when it is needed."""

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}")


class SequenceSource(ProblemSource):
    """Given problems as a source.

    Args:
        problems: At least one `Problem`.
        spec: One line that says what they are.

    Raises:
        TypeError: If an item is not a `Problem`.
        ValueError: If there are none.
    """

    def __init__(self, problems: Sequence[Problem], spec: str = "given problems") -> None:
        self._problems = tuple(problems)
        self.spec = spec
        for position, problem in enumerate(self._problems):
            if not isinstance(problem, Problem):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"problems[{position}] must be a Problem, got {type(problem).__name__}: "
                    "make one with Problem.create(prompt, answer)"
                )
        if not self._problems:
            raise ValueError("problems must hold at least one Problem, got none")

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, index: int) -> Problem:
        self._check_index(index)
        return self._problems[index]

    def given(self) -> Iterator[Problem]:
        """Yield all of them."""
        return iter(self._problems)

    def distinct(self, n: int) -> list[Problem]:
        """Return the first ``n`` distinct problems, however many repeats lie between them."""
        found: dict[str, Problem] = {}
        for problem in self._problems:
            found.setdefault(problem.id, problem)
        if not 0 <= n <= len(found):
            return super().distinct(n)  # which says what is wrong
        return list(found.values())[:n]


def check_disjoint(a: Iterable[Problem], b: Iterable[Problem]) -> None:
    """Refuse two collections that share a problem.

    Raises:
        ValueError: If a problem of ``a`` is in ``b`` as well, by id.
    """
    known = {problem.id: problem for problem in a}
    shared = [problem for problem in b if problem.id in known]
    if shared:
        raise ValueError(
            f"a and b must share no problem, but {len(shared)} of b are in a, such as "
            f"{shared[0].id} ({shared[0].prompt[:60]!r}): use split='train' and split='test'"
        )
