"""What the next token is likely to be, asked through the engine: no weights need be here.

A job of one new token that carries its distribution says all there is to know of one place in a
text. So what is worked out here is the same with workers, and unknown where a server tells no
distributions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.engine.jobs import BASE, Feature, Job, matched
from agents.named_adapters import HeldAdapters
from agents.population import LoraPopulation

_LEAST = 1e-12  # probabilities below it count as this much


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a text, by what comes before it.

    Attributes:
        agent: Whose adapter is asked; ``base`` for the bare base.
        ids: Token ids before the place, at least one.
    """

    agent: str
    ids: tuple[int, ...]


def knows_distributions(population: LoraPopulation) -> bool:
    """Whether a population's engine tells them."""
    return Feature.DISTRIBUTIONS in population.engine.features


def next_tokens(population: LoraPopulation, places: Sequence[Place]) -> Tensor:
    """Distributions of the next token at temperature 1, ``[places, vocabulary]`` float64.

    Args:
        population: Whose engine is asked, one new token for each place.
        places: At least one.

    Raises:
        EngineError: If its replies are not those asked for, or carry no distributions.
    """
    rows = [population.index(place.agent) for place in places]
    hashes = population.lora.hashes({row for row in rows if row is not None})
    jobs = [
        Job(row, place.ids, 1, 0, id=f"place {i}", adapter=BASE if row is None else hashes[row],
            features=frozenset({Feature.DISTRIBUTIONS}))
        for i, (row, place) in enumerate(zip(rows, places, strict=True))
    ]  # fmt: skip
    adapters = HeldAdapters(population, {name: population.agents[r] for r, name in hashes.items()})
    given = population.engine.generate(adapters, jobs, temperature=0.0, top_p=1.0)
    replies = matched(population.engine, jobs, given)
    return torch.stack([reply.features[Feature.DISTRIBUTIONS].double() for reply in replies])


def logs(distributions: Tensor) -> Tensor:
    """Natural logarithms of probabilities, none of them infinite."""
    return distributions.clamp(min=_LEAST).log()


def divergences(ours: Tensor, theirs: Tensor) -> np.ndarray:
    """KL(ours ‖ theirs) of each place in nats, ``[places]``; given ``[places, vocabulary]``."""
    return (ours * (logs(ours) - logs(theirs))).sum(-1).clamp(min=0.0).numpy()


def entropies(distributions: Tensor) -> np.ndarray:
    """Entropy of each place in nats, ``[places]``; given ``[places, vocabulary]``."""
    return -(distributions * logs(distributions)).sum(-1).numpy()
