"""Crossover: what children take from their parents' updates.

A crossover overwrites the slots of all children of a step at once, on the whole population tensor,
and returns what the lineage is to say about each: weights, draws, errors. Here are those that weigh
whole updates or layers, and the controls; `evolution.operators.crossover_subspace` has those on
singular components, `evolution.operators.crossover_entries` those on single entries. To add one,
see `evolution.registry`; `mix` makes any weighted sum.

Parents come from best to worst. Draws are keyed by the child's slot, so a child does not depend on
who else is born.
"""

import re
from typing import Any

import numpy as np

from agents.engine.adapters import StackedLora
from evolution.lowrank.genomes import Genome, factors_hash, read_genome, write_genome
from evolution.lowrank.layers import recombine
from evolution.lowrank.noise import Noise
from evolution.operators.crossover_entries import dare, ties
from evolution.operators.crossover_step import (
    CROSSOVERS,
    Crossover,
    CrossoverStep,
    mix,
    number,
    shares,
)
from evolution.operators.crossover_subspace import subspace_interpolation, subspace_split

__all__ = [
    "CROSSOVERS",
    "Crossover",
    "CrossoverStep",
    "average",
    "clone",
    "dare",
    "extrapolation",
    "fitness_weighted",
    "from_scratch",
    "layer_wise",
    "mix",
    "subspace_interpolation",
    "subspace_split",
    "ties",
    "weighted_average",
]

_NUMBER = re.compile(r"\.(\d+)\.")


@CROSSOVERS.add("weighted_average")
def weighted_average(lora: StackedLora, step: CrossoverStep) -> list[dict[str, Any]]:
    """Random weights from a Dirichlet distribution, the larger ones for the fitter parents."""
    count, parents = step.parents.shape
    drawn = [step.generator(i).dirichlet(np.full(parents, 2.0)) for i in range(count)]
    return mix(lora, step, np.sort(drawn, axis=1)[:, ::-1])


@CROSSOVERS.add("fitness_weighted", temperature=(1e-3, 1e3))
def fitness_weighted(
    lora: StackedLora, step: CrossoverStep, *, temperature: float = 1.0
) -> list[dict[str, Any]]:
    """Weights by a softmax of fitness, in units of the population's standard deviation."""
    fitness = np.where(np.isfinite(step.fitness), step.fitness, -np.inf)
    best = fitness.max(axis=1, keepdims=True)
    lead = np.where(np.isfinite(best), fitness - best, 0.0)
    unit = temperature * (step.spread if step.spread > 0 else 1.0)
    weights = np.exp(lead / unit)
    return mix(lora, step, weights / weights.sum(axis=1, keepdims=True))


@CROSSOVERS.add("average")
def average(lora: StackedLora, step: CrossoverStep) -> list[dict[str, Any]]:
    """Equal weights: the plain mean, a control."""
    return mix(lora, step, np.array(1 / step.parents.shape[1]))


@CROSSOVERS.add("extrapolation", least=(1, 10), most=(1, 10))
def extrapolation(
    lora: StackedLora, step: CrossoverStep, *, least: float = 1.0, most: float = 1.5
) -> list[dict[str, Any]]:
    """Past the best parent, away from the mean of the others, by a factor from least to most."""
    count, parents = step.parents.shape
    factors = [float(step.generator(i).uniform(least, most)) for i in range(count)]
    return mix(lora, step, np.array([shares(parents, factor) for factor in factors]))


@CROSSOVERS.add("layer_wise", run=(1, 10_000), share=(0, 1))
def layer_wise(
    lora: StackedLora, step: CrossoverStep, *, run: int = 1, share: float = 0.5
) -> list[dict[str, Any]]:
    """Each block of layers from one parent.

    Args:
        lora: The population.
        step: Children and parents.
        run: Neighbouring transformer blocks that stay together.
        share: Chance of the best parent; the others share the rest.
    """
    count, parents = step.parents.shape
    runs = [_run_of(layer.name, run) for layer in lora.layers()]
    chances = shares(parents, share)
    taken = [
        {name: int(step.generator(i, name).choice(parents, p=chances)) for name in runs}
        for i in range(count)
    ]
    chosen = np.array([[[step.parents[i, taken[i][name]]] for i in range(count)] for name in runs])
    errors = recombine(lora, step.slots, chosen, np.ones(chosen.shape))
    step.is_canonical = True
    return [
        {"taken": {name: f"parent {which}" for name, which in own.items()},
         "recompression_error": number(error)}
        for own, error in zip(taken, errors, strict=True)
    ]  # fmt: skip


def _run_of(name: str, run: int) -> str:
    """Name of the run of blocks that a layer is in; a layer outside any block is its own."""
    number = _NUMBER.search(name)
    if number is None:
        return name
    first = int(number[1]) // run * run
    return str(first) if run == 1 else f"{first} to {first + run - 1}"


@CROSSOVERS.add("clone")
def clone(lora: StackedLora, step: CrossoverStep) -> list[dict[str, Any]]:
    """A copy of the best parent, number by number: a control.

    ``parent_hash`` is the content hash of the parent when it was copied. A parent of another rank
    than the child's slot cannot be copied; the child is then the best update of its own rank.
    """
    best = step.parents[:, 0].tolist()
    genomes = {parent: read_genome(lora, parent) for parent in best}
    hashes = {parent: factors_hash(g.alpha, g.factors) for parent, g in genomes.items()}
    return [
        write_copy(lora, slot, genomes[parent], hashes[parent])
        for slot, parent in zip(step.slots.tolist(), best, strict=True)
    ]


def write_copy(lora: StackedLora, slot: int, genome: Genome, known: str) -> dict[str, Any]:
    """Write a member, of which this is the hash, into a slot; what the lineage is to say of it."""
    error = write_genome(lora, slot, genome)
    return {"parent_hash": known, "recompression_error": number(error)}


@CROSSOVERS.add("from_scratch", strength=(0, 10))
def from_scratch(
    lora: StackedLora, step: CrossoverStep, *, strength: float = 0.04
) -> list[dict[str, Any]]:
    """Nothing of the parents: random factors; random search, a control.

    Args:
        lora: The population.
        step: Children and parents.
        strength: Entries of ``B`` deviate by ``strength / sqrt(r)``, those of ``A`` by the root of
            one over its inputs, as in a first population of this spread.
    """
    for i, slot in enumerate(step.slots.tolist()):
        draws = Noise(step.generator(i))
        for layer in lora.layers():
            A, B = layer.A[slot], layer.B[slot]
            A.copy_(draws.normal(*A.shape) * A.shape[1] ** -0.5)
            B.copy_(draws.normal(*B.shape) * (strength * lora.rank**-0.5))
    lora.enforce_ranks()
    return [{} for _ in step.slots]
