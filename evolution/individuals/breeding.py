"""Making individuals: the first population, children of the fittest, and migrants.

Only weights, lineage and what is inherited with them are looked after here. What else belongs to an
individual (standing, rating, optimiser state) is the manager's to reset.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agents.engine.adapters import StackedLora
from evolution.config import EvolutionConfig, Learner, Rows, Settings
from evolution.errors import ConfigError
from evolution.exchange.step import Exchanged
from evolution.individuals.hyperparameters import founding_rates
from evolution.individuals.lineage import Individual, Lineage
from evolution.lowrank.genomes import (
    Genome,
    clear,
    content_hash,
    factors_hash,
    read_genome,
    write_genome,
)
from evolution.lowrank.shared_rows import are_shared, bring_back, rows_of
from evolution.operators import mutation_weights as mutation
from evolution.operators.crossover import CrossoverStep, write_copy
from evolution.operators.crossover_step import number
from evolution.operators.mutation import Form
from evolution.operators.mutation_weights import Offspring
from evolution.operators.selection import (
    Candidates,
    Replacement,
    best_of_each,
    draw,
    ranking,
    replacement,
    selection_scores,
)
from populora_env.keys import generator
from populora_env.ratings import Ratings


@dataclass(frozen=True, slots=True)
class Child:
    """A newborn.

    Attributes:
        individual: Its record.
        parent_slots: Slots its parents had when it was made, from best to worst.
        is_copy: Whether it is the first of them, number by number.
        moments: Slot whose optimiser state it goes on with, if the exchange says so.
    """

    individual: Individual
    parent_slots: tuple[int, ...]
    is_copy: bool
    moments: int | None = None


def candidates(
    standing: np.ndarray, ratings: Ratings, agents: Sequence[str], broken: Sequence[int]
) -> Candidates:
    """What selection goes by, of the individuals in slots whose agents these are.

    Args:
        standing: ``[N]``.
        ratings: Of the agents.
        agents: Their names, by slot.
        broken: Slots of those that are never to breed, whatever selection goes by.
    """
    rated = [ratings.rating(agent) for agent in agents]
    mu = np.array([rating.mu for rating in rated])
    mu[list(broken)] = np.nan
    return Candidates(standing, mu, np.array([rating.sigma for rating in rated]))


class Breeder:
    """Writes individuals into the slots of a population and records them.

    Args:
        lora: The population's adapters, changed in place.
        config: Settings of the run.
        settings: What they come to for this population.
        lineage: Where individuals are recorded.
    """

    def __init__(
        self, lora: StackedLora, config: EvolutionConfig, settings: Settings, lineage: Lineage
    ) -> None:
        self._lora, self._config, self._settings = lora, config, settings
        self._operators = config.operators(settings)
        self.lineage = lineage
        self._shares_rows = config.rows is Rows.SHARED
        lora.freeze_rows(self._shares_rows)

    def found(self, arrange: Callable[[], object] = lambda: None) -> tuple[Individual, ...]:
        """Record the first population, and spread it if its adapters are all zero.

        Args:
            arrange: Called before they are recorded; may write to those that were spread.

        Raises:
            ConfigError: If they are to share rows and have rows of their own.
        """
        lora, config = self._lora, self._config
        if any(bool(layer.A.any()) or bool(layer.B.any()) for layer in lora.layers()):
            operator, parameters = "given", {}
        else:
            mutation.spread(lora, config.spread, config.seed)
            operator, parameters = "spread", {"strength": config.spread}
            arrange()
        if self._shares_rows and not are_shared(lora):
            raise ConfigError(
                "rows: got shared, but the adapters given differ in rank or in their rows A; set "
                "rows = own, or begin with new adapters of one rank"
            )
        learns, rates = config.learner is not Learner.NONE, founding_rates(config, lora.size)
        born = [
            Individual(f"g0-{slot}", slot, 0, operator, (), dict(parameters), "", 1.0,
                       {"learning_rate": rate} if learns else {})
            for slot, rate in enumerate(rates)
        ]  # fmt: skip
        return self._record(born)

    def breed(self, generation: int, candidates: Candidates) -> list[Exchanged]:
        """Replace the least fit by children of the fittest and, where it is time, by migrants.

        They are not recorded yet; see `record`.

        Args:
            generation: Number of the generation they are born in.
            candidates: What is known of the individuals.
        """
        config, settings = self._config, self._settings
        score = selection_scores(self._operators.selection, candidates)
        step = generation // settings.evolve_every
        homes = config.homes(self._lora.size)
        fittest = ranking(candidates.fitness)
        fittest = fittest[np.isfinite(candidates.fitness[fittest])]
        plan = replacement(
            ranking(score, candidates.fitness),
            homes,
            settings.offspring,
            config.migrants if config.islands > 1 and step % config.migrate_every == 0 else 0,
            best_of_each(fittest, homes, config.elites),
        )
        before = self.lineage.living
        sent = {slot: read_genome(self._lora, slot) for slot in set(plan.migrants.values())}
        born: list[Exchanged] = []
        if plan.children:
            born += self._cross(generation, plan, score, candidates.fitness, before)
        return born + self._migrate(plan.migrants, sent, before)

    def _cross(
        self,
        generation: int,
        plan: Replacement,
        score: np.ndarray,
        fitness: np.ndarray,
        before: Mapping[int, Individual],
    ) -> list[Exchanged]:
        """Make the children."""
        config, lora, operators = self._config, self._lora, self._operators
        key = (config.seed, generation)
        slots = np.array(list(plan.children))
        parents = np.stack(
            [
                draw(
                    operators.selection,
                    score,
                    fitness,
                    members,
                    config.parents,
                    generator("breed", *key, slot),
                )
                for slot, members in plan.children.items()
            ]
        )
        known = score[np.isfinite(score)]
        spread = float(known.std()) if len(known) else 0.0
        step = CrossoverStep(slots, parents, score[parents], spread, key)
        spare = self._spare(step)
        rows = rows_of(lora, 0) if self._shares_rows else None  # anybody's
        crossover = operators.crossover
        notes = crossover(lora, step)
        form = Form.CANONICAL if step.is_canonical else Form.ANY
        members = [
            Offspring(
                int(slot),
                float(np.exp(np.mean([np.log(before[p].mutation_strength) for p in own]))),
                dict(before[own[0]].hyperparameters),
                form,
            )
            for slot, own in zip(slots, parents.tolist(), strict=True)
        ]
        undergone = mutation.mutate(lora, operators.mutations, members, *key)
        if rows is not None:
            for note, error in zip(notes, bring_back(lora, slots.tolist(), rows), strict=True):
                note["rows_error"] = number(error)
        failed = self._mend(step, spare)
        born: list[Exchanged] = []
        for i, member in enumerate(members):
            operator = crossover.name
            parameters = {**crossover.parameters, **notes[i], "mutations": undergone[i]}
            if member.slot in failed:
                operator, parameters = failed[member.slot]
                parameters["failed"] = f"{crossover} and {undergone[i]}: not finite"
            born.append(
                Exchanged(
                    member.slot,
                    tuple(parents[i].tolist()),
                    parameters,
                    operator,
                    None,
                    member.hyperparameters,
                    round(member.strength, 9),
                )
            )
        return born

    def _spare(self, step: CrossoverStep) -> dict[int, Genome]:
        """The best parents, by slot, to fall back on; copies of those that will be overwritten."""
        lost = set(step.slots.tolist())
        best = set(step.parents[:, 0].tolist())
        return {p: read_genome(self._lora, p, copy=p in lost) for p in sorted(best)}

    def _mend(
        self, step: CrossoverStep, spare: Mapping[int, Genome]
    ) -> dict[int, tuple[str, dict[str, Any]]]:
        """Replace children that are not finite by their best parents, or by the base itself.

        Returns:
            For the slots of these children: operator and parameters.
        """
        lora = self._lora
        sound = lora.finite().tolist()
        mended: dict[int, tuple[str, dict[str, Any]]] = {}
        for slot, parent in zip(step.slots.tolist(), step.parents[:, 0].tolist(), strict=True):
            if sound[slot]:
                continue
            genome = spare[parent]
            if genome.is_finite:
                write_genome(lora, slot, genome)
                known = factors_hash(genome.alpha, genome.factors)
                mended[slot] = "clone", {"parent_hash": known}
            else:
                clear(lora, slot)
                mended[slot] = "base", {}
        return mended

    def _migrate(
        self,
        migrants: Mapping[int, int],
        sent: Mapping[int, Genome],
        before: Mapping[int, Individual],
    ) -> list[Exchanged]:
        """Write the migrants: copies of the best as they were before children were made."""
        hashes = {source: factors_hash(g.alpha, g.factors) for source, g in sent.items()}
        return [
            Exchanged(
                slot,
                (source,),
                write_copy(self._lora, slot, sent[source], hashes[source]),
                "migration",
                None,
                before[source].hyperparameters,
                before[source].mutation_strength,
            )
            for slot, source in migrants.items()
        ]

    def record(
        self, generation: int, made: Sequence[Exchanged], operator: str = ""
    ) -> tuple[Child, ...]:
        """Put newborns into the lineage, as children of those who lived until now.

        Args:
            generation: Number of the generation they are born in.
            made: Who was written.
            operator: What made those that do not say it.
        """
        before = self.lineage.living
        born: list[Individual] = []
        for one in made:
            first = before[one.parents[0]] if one.parents else before[one.slot]
            own = first.hyperparameters if one.hyperparameters is None else one.hyperparameters
            strength = one.mutation_strength
            born.append(
                Individual(
                    f"g{generation}-{one.slot}",
                    one.slot,
                    generation,
                    one.operator or operator,
                    tuple(before[parent].name for parent in one.parents),
                    dict(one.parameters),
                    "",
                    first.mutation_strength if strength is None else strength,
                    dict(own),
                )
            )
        recorded = self._record(born)
        return tuple(
            Child(
                individual,
                one.parents,
                individual.content_hash == individual.parameters.get("parent_hash"),
                one.moments,
            )
            for individual, one in zip(recorded, made, strict=True)
        )

    def _record(self, born: Sequence[Individual]) -> tuple[Individual, ...]:
        """Put newborns into the lineage, with the hash of what is now in their slots."""
        known = [replace(i, content_hash=content_hash(self._lora, i.slot)) for i in born]
        for individual in known:
            self.lineage.add(individual)
        return tuple(known)
