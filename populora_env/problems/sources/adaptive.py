"""Sources whose problems depend on what was played before: curricula, and self-play.

Between two calls of `AdaptiveSource.observe` a source is what every source is: the same index
gives the same problem. Whoever plays tells it of whole episodes, in an order that does not depend
on time, and saves its state beside its own.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from populora_env.problems.sources.base import ProblemSource
from populora_env.records import Problem, Transcript


class AdaptiveSource(ProblemSource):
    """A source that learns from what is played."""

    @abstractmethod
    def observe(self, transcripts: Sequence[Transcript]) -> None:
        """Take in episodes, in their order; from then on items may be others."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what was learned, as plain JSON types."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Become as a source with this state.

        Raises:
            ValueError: If it is not a state of such a source.
        """

    @abstractmethod
    def fork(self) -> Self:
        """Return a source in the same state that goes its own way from here."""

    @abstractmethod
    def restart(self) -> None:
        """Forget what was learned."""

    def exclude(self, problems: Collection[Problem]) -> None:
        """Be told of problems that must never be learned from. Forks and restarts keep them."""
        del problems
