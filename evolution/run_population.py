"""The population of a run, as its settings ask for it."""

from agents.engine.jobs import Engine
from agents.loading.models import BaseModel
from agents.population import LoraPopulation
from evolution.config import Learner, RunConfig
from evolution.errors import UsageError


def newborn(base: BaseModel, config: RunConfig, engine: Engine | None = None) -> LoraPopulation:
    """A population of adapters that are equal to the base.

    Raises:
        UsageError: If its targets match nothing.
    """
    try:
        population = LoraPopulation(
            base,
            config.size,
            config.rank,
            alpha=config.alpha,
            targets=config.targets,
            dropout=config.dropout,
            adapter_dtype=config.adapter_dtype,
            max_rows=config.max_rows,
            top_p=config.top_p,
            engine=engine,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if config.gradient_checkpointing and config.learner != Learner.NONE:
        population.lora.gradient_checkpointing()
    return population
