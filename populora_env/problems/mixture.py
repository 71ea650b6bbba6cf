"""Several sources as one, each drawn as often as its weight says.

For sources of which at least one is virtual or has a weight. Finite sources without weights are
simply put one after the other (`loading`).
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from populora_env.problems.drawing.procedural import VirtualSource
from populora_env.problems.sources.base import ProblemSource
from populora_env.records import Problem


class MixtureSource(VirtualSource):
    """A weighted mixture of sources as one virtual source.

    Which source item ``i`` comes from is drawn by the seed; it is that source's own item ``i``,
    counted round and round where the source is shorter.

    Args:
        sources: At least one.
        weights: One above 0 for each source.
        spec: One line that says what the mixture holds.
        seed: Another seed draws the sources in another order.
        limit: Number of items; None for `procedural.VIRTUAL_LENGTH`.

    Raises:
        ValueError: If ``limit`` is below 1, or the weights do not fit the sources.
    """

    def __init__(
        self,
        sources: Sequence[ProblemSource],
        weights: Sequence[float],
        *,
        spec: str,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(weights, "sources", seed, limit)
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise ValueError(
                f"weights must be one number above 0 for each of {len(sources)} sources, "
                f"got {list(weights)}"
            )
        self._sources, self.spec = tuple(sources), spec

    def __getitem__(self, index: int) -> Problem:
        self._check_index(index)
        source = self._sources[self._choose(index)]
        return source[index % len(source)]

    def given(self) -> Iterator[Problem]:
        """Yield the problems that its sources were given."""
        return chain.from_iterable(source.given() for source in self._sources)

    def part_of(self, index: int) -> str:
        """Return the part of the source that item ``index`` comes from."""
        at = self._choose(index)
        return f"{at}:{self._sources[at].part_of(index % len(self._sources[at]))}"

    def parts(self) -> frozenset[str]:
        """Return the names of all parts of all sources."""
        return frozenset(
            f"{at}:{part}" for at, source in enumerate(self._sources) for part in source.parts()
        )
