"""A population as a policy that always acts in one way: at a temperature, with features."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.policy import Request

if TYPE_CHECKING:
    from agents.population import LoraPopulation


@dataclass(frozen=True, slots=True)
class FixedPolicy:
    """A population that always acts so; see `LoraPopulation.generate`; a `Policy`."""

    population: "LoraPopulation"
    temperature: float | None = None
    features: Collection[str] = ()

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer all requests."""
        return self.population.act(requests, temperature=self.temperature, features=self.features)


class DecodingPolicy:
    """A population that decodes in a fixed way and keeps no tokens for learning; a `Policy`."""

    def __init__(self, population: "LoraPopulation", temperature: float, raw: bool) -> None:
        self._population, self._temperature, self._raw = population, temperature, raw

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer all requests."""
        return self.act_telling(requests, None)

    def act_telling(
        self, requests: Sequence[Request], done: Callable[[int, str], None] | None
    ) -> list[str]:
        """Answer all requests, and tell each reply with its request's place once it is there."""
        # A measurement says that a prompt does not fit, instead of calling it unanswered.
        replies = self._population.generate(
            requests, temperature=self._temperature, raw=self._raw, done=done
        )
        self._population.forget(reply.id for reply in replies)
        return [reply.text for reply in replies]
