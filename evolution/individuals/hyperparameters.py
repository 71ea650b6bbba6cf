"""What individuals have of their own besides weights: learning rate, weight of KL, temperature.

An individual's own values are in its record, by name. Here they are written to where they are
used, the learner and the population; what it does not have of its own is the run's.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agents.learning.learners import PolicyGradient
from agents.population import LoraPopulation
from evolution.config import EvolutionConfig, Settings
from evolution.config.checks import rate_range
from evolution.individuals.lineage import Individual, Lineage
from populora_env.keys import generator

if TYPE_CHECKING:
    from evolution.learning import AnyLearner
    from evolution.runs.changes import Change


def founding_rates(config: EvolutionConfig, size: int) -> list[float]:
    """Learning rates of a run's first individuals, by slot.

    All have the run's, or they are spread log-evenly over a range, both ends included, in an order
    that the seed draws; one individual alone has the middle.
    """
    ends = rate_range(config.learning_rates)
    if ends is None:
        return [config.learning_rate] * size
    least, most = ends
    shares = np.arange(size) / (size - 1) if size > 1 else np.array([0.5])
    order = generator("learning_rates", config.seed).permutation(size)
    return [float(least * (most / least) ** share) for share in shares[order]]


class Hyperparameters:
    """Puts what individuals have of their own where it is used.

    Args:
        population: Samples at their temperatures.
        learner: Learns at their rates, with their weights of KL; None if nobody learns.
        config: The run's settings.
        settings: What they come to for this population.
    """

    def __init__(
        self,
        population: LoraPopulation,
        learner: "AnyLearner | None",
        config: EvolutionConfig,
        settings: Settings,
    ) -> None:
        self._population, self._learner = population, learner
        self._config, self._settings = config, settings
        population.temperature = settings.temperature

    def write(self, individuals: Iterable[Individual]) -> None:
        """Write the values of individuals that entered their slots, or changed there."""
        for individual in individuals:
            slot, own = individual.slot, individual.hyperparameters
            self._write_temperature(individual)
            if self._learner is not None:
                self._learner.kl_weights[slot] = own.get("kl", self._config.kl)
                if (rate := own.get("learning_rate")) is not None:
                    self._learner.learning_rates[slot] = rate

    def restore(self, lineage: Lineage, changes: "Iterable[Change]") -> None:
        """Write what a saved run does not hold, and follow changes of its settings.

        Where the run's learning rate, weight of KL or temperature changes, individuals' own change
        in proportion.

        Args:
            lineage: As it was loaded; values of the living are amended.
            changes: Of settings, since the run was saved.
        """
        for change in changes:
            if change.option in ("learning_rate", "kl", "temperature"):
                before, after = map(self._number, (change.before, change.after))
                self._change(lineage, change.option, before, after)
        for individual in lineage.members:
            self._write_temperature(individual)

    def follow(self) -> None:
        """Let the learner take replies for sampled as they were; before it learns from them."""
        if isinstance(self._learner, PolicyGradient):
            for slot, heat in enumerate(self._population.temperatures.tolist()):
                self._learner.temperatures[slot] = heat

    def _write_temperature(self, individual: Individual) -> None:
        own = individual.hyperparameters.get("temperature", self._settings.temperature)
        self._population.temperatures[individual.slot] = own

    def _number(self, value: float | None) -> float:
        """A value of the run's; None is the temperature that a run has by default."""
        if value is not None:
            return value
        usual = replace(self._config, temperature=None)
        return usual.resolved(self._population.size).temperature

    def _change(self, lineage: Lineage, name: str, before: float, after: float) -> None:
        """Change a value of every living individual, its own in proportion to the run's."""
        for slot, individual in lineage.living.items():
            own, new = individual.hyperparameters, after
            if name in own:
                new = after if own[name] == before or not before else own[name] * after / before
                lineage.amend(slot, hyperparameters={**own, name: new})
            elif name == "learning_rate":
                continue
            if self._learner is not None and name != "temperature":
                kept = self._learner.kl_weights if name == "kl" else self._learner.learning_rates
                kept[slot] = new
