"""Appraisal: from a generation's episodes to fitness.

The one place where task return and diversity meet: attempts are gathered, their similarity is
measured, the weight of diversity is set, and a rule says what that adds to the return. Everything
that goes into fitness stays visible in `Scores`.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.engine.jobs import Engine, EngineError, check_features
from agents.population import LoraPopulation
from evolution.errors import ConfigError, OperatorError
from evolution.fitness import diversity
from evolution.fitness.attempts import MINIMAL_CRITERIA, gather
from evolution.fitness.rules import FITNESSES, Measured, Rule
from evolution.fitness.scaling import SCALES, SCHEDULES, Progress, scaled
from evolution.fitness.task import Scores, mean_of, score
from populora_env.records import Transcript

if TYPE_CHECKING:
    from evolution.config import EvolutionConfig

_PREFIX = "fitness."


class FitnessEvaluator:
    """Scores the agents of a run, generation by generation.

    Args:
        config: Settings of the run.

    Attributes:
        weight: What a unit of diversity was worth in the last generation.
        needs: What attempts are to carry, by name; see `agents.engine.jobs.Feature`.

    Raises:
        ConfigError: If a setting names what does not exist, or an optional package is missing.
    """

    def __init__(self, config: "EvolutionConfig") -> None:
        self._config = config
        self.weight = float(config.diversity_weight)
        try:
            self._measures = diversity.KERNELS.read_several(config.diversity)
            self._bar = MINIMAL_CRITERIA.read_one(config.diversity_bar)
            self._schedule = SCHEDULES.read(config.diversity_schedule)
            self._scale = SCALES.read_one(config.fitness_scale)
            rule = FITNESSES.read(config.fitness)
            self._rule: Rule = rule()
            for use in self._measures:
                if use.name == "embeddings":
                    diversity.embedder(use.parameters.get("model", diversity.EMBEDDING_MODEL))
        except OperatorError as error:
            raise ConfigError(str(error)) from error
        if rule.name == "map_elites" and importlib.util.find_spec("ribs") is None:
            raise ConfigError("fitness: map_elites needs pyribs: pip install 'populora-env[qd]'")

        needs = [diversity.NEEDS[u.name] for u in self._measures if u.name in diversity.NEEDS]
        self.needs: frozenset[str] = frozenset([*needs, *getattr(self._rule, "needs", ())])

    def check_engine(self, engine: Engine) -> None:
        """Check that an engine gives what the measures and the rule need.

        Raises:
            ConfigError: If it does not.
        """
        try:
            check_features(engine, self.needs)
        except EngineError as error:
            raise ConfigError(
                f"diversity: {self._config.diversity} with fitness: {self._config.fitness} cannot "
                f"be measured here; {error}; measures without it are answers, strategies, "
                "embeddings and none, behaviours length and strategy"
            ) from None

    def evaluate(
        self,
        transcripts: Sequence[Transcript],
        population: LoraPopulation,
        births: np.ndarray,
        generation: int,
    ) -> Scores:
        """Score a generation; call it once for each, in order.

        Args:
            transcripts: At least one, of the population's agents.
            population: Recalls what it generated.
            births: Of those who live in the slots, ``[N, 2]``: generation and slot of birth.
            generation: Its number, from 0.
        """
        attempts = gather(transcripts, population, self._bar)
        measures = self._measures if attempts.texts else ()
        similarity = diversity.kernel(measures, attempts)
        vendi = mean_of(diversity.vendi(similarity))
        start = float(self._config.diversity_weight)
        progress = Progress(start, generation, self.weight, vendi)
        self.weight = float(self._schedule(progress))
        if not math.isfinite(self.weight):
            raise OperatorError(
                f"diversity_schedule: {self._schedule} returned {self.weight}, expected a finite "
                "number"
            )
        distances = diversity.distances(similarity)
        returns, accuracy, length, errors = score(transcripts)
        values, unit = scaled(self._scale, returns)
        counted, bonus = np.zeros((2, population.size))
        if attempts.texts:  # none, where no proposal was valid
            counted = np.isfinite(np.diagonal(similarity, axis1=1, axis2=2)).mean(0)
            bonus = self._rule.bonus(
                Measured(attempts, similarity, distances, returns, values, births, self.weight)
            )
        return Scores(
            returns,
            accuracy,
            length,
            np.array([mean_of(column) for column in distances.T]),
            counted,
            bonus,
            values + bonus,
            unit * errors,
            vendi,
            self.weight,
            unit,
            self._rule.figures(),
        )

    def state(self) -> dict[str, Any]:
        """What is remembered: the weight, and the rule's archive as tensors by name."""
        archive = {
            f"{_PREFIX}{name}": torch.from_numpy(np.ascontiguousarray(array))
            for name, array in self._rule.state().items()
        }
        return {"weight": self.weight, **archive}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave.

        Raises:
            KeyError: If the weight is missing.
            ValueError: If the archive does not fit the rule.
        """
        self.weight = float(saved["weight"])
        archive = {k.removeprefix(_PREFIX): v for k, v in saved.items() if k.startswith(_PREFIX)}
        self._rule.load({name: tensor.numpy() for name, tensor in archive.items()})
