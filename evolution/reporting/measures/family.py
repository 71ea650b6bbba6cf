"""A run's family tree: who lived where and when, and what is left of the founders."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evolution.individuals.lineage import Individual
from evolution.reporting.measures.data import RunData


@dataclass(frozen=True, slots=True)
class Life:
    """One individual's time in a population.

    Attributes:
        birth: Who, from whom, and how.
        last: Last generation it played in.
        living: Whether it is still there at the end.
        accuracy: Mean over its generations; None where not known.
        fitness: Mean over its generations; None where not known.
    """

    birth: Individual
    last: int
    living: bool
    accuracy: float | None
    fitness: float | None


@dataclass(frozen=True, slots=True)
class Family:
    """A family tree.

    Attributes:
        lives: All individuals, in order of birth.
        best: Name of the best one at the end; None where not known.
        ancestors: Names of the best one's ancestors, itself included.
        founders: Founder to its mean share in the living, by the weights of the crossovers; the
            shares sum to 1. Founders without living descendants have 0.
    """

    lives: tuple[Life, ...]
    best: str | None
    ancestors: frozenset[str]
    founders: Mapping[str, float]

    @property
    def measured(self) -> str:
        """What individuals are compared by: accuracy, or fitness where no accuracy is known."""
        known = any(life.accuracy is not None for life in self.lives)
        return "accuracy" if known else "fitness"


def family(run: RunData) -> Family | None:
    """Return a run's family tree; None if births were not recorded."""
    if not run.lineage:
        return None
    last = run.generations[-1]
    ends: dict[str, int] = {}
    occupant: dict[int, Individual] = {}
    for birth in run.lineage:
        if birth.slot in occupant:
            ends[occupant[birth.slot].name] = birth.generation - 1
        occupant[birth.slot] = birth
    living = {birth.name for birth in occupant.values()}
    accuracy, fitness = _means(run, "accuracy"), _means(run, "fitness")
    lives = tuple(
        Life(birth, ends.get(birth.name, last), birth.name in living,
             accuracy.get(birth.name), fitness.get(birth.name))
        for birth in run.lineage
    )  # fmt: skip
    best = None
    if run.best[-1] is not None:
        best = run.individuals[-1][run.agents.index(run.best[-1])] or None
    return Family(lives, best, _ancestors(run, best), _founders(run, living))


def is_copy(birth: Individual) -> bool:
    """Return whether an individual was born as a copy of its first parent, number by number."""
    return birth.content_hash != "" and birth.content_hash == birth.parameters.get("parent_hash")


def weights_of(birth: Individual) -> tuple[float, ...]:
    """Return how much of an individual comes from each parent.

    The weights sum to 1. Clones and migrants come from their first parent alone, before they
    mutate; from what became the base itself, as its operators failed, all weights are 0.
    """
    count = len(birth.parents)
    if not count or birth.operator == "base":
        return (0.0,) * count
    if "parent_hash" in birth.parameters:
        return (1.0,) + (0.0,) * (count - 1)
    given, taken = birth.parameters.get("weights"), birth.parameters.get("taken")
    if isinstance(taken, dict):  # layer by layer
        given = [list(taken.values()).count(f"parent {i}") for i in range(count)]
    if isinstance(given, list):
        try:
            values = np.abs(np.array(given, np.float64))
        except (OverflowError, TypeError, ValueError):
            values = np.zeros(1)
        values = values.mean(0) if values.ndim == 2 else values  # of parts of the model
        if values.shape == (count,) and 0 < float(values.sum()) < np.inf:
            return tuple((values / values.sum()).tolist())
    return (1 / count,) * count


def _means(run: RunData, name: str) -> dict[str, float]:
    """Return each individual's mean of a quantity over the generations that it was measured in."""
    values = run.recorded(name)
    found: dict[str, list[float]] = {}
    if values is not None:
        for row, names in zip(values.tolist(), run.individuals, strict=True):
            for value, who in zip(row, names, strict=True):
                if np.isfinite(value):
                    found.setdefault(who, []).append(value)
    return {who: float(np.mean(own)) for who, own in found.items()}


def _ancestors(run: RunData, best: str | None) -> frozenset[str]:
    parents = {
        birth.name: [p for p, w in zip(birth.parents, weights_of(birth), strict=True) if w > 0]
        for birth in run.lineage
    }
    found: set[str] = set()
    waiting = [best] if best is not None else []
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += parents.get(name, ())
    return frozenset(found)


def _founders(run: RunData, living: set[str]) -> dict[str, float]:
    shares: dict[str, dict[str, float]] = {}
    for birth in run.lineage:
        known = [(p, w) for p, w in zip(birth.parents, weights_of(birth), strict=True)
                 if p in shares and w > 0]  # fmt: skip
        if not known:
            shares[birth.name] = {birth.name: 1.0}
            continue
        own: dict[str, float] = {}
        for parent, weight in known:
            for founder, share in shares[parent].items():
                own[founder] = own.get(founder, 0.0) + weight * share
        total = sum(own.values())
        shares[birth.name] = {founder: share / total for founder, share in own.items()}
    found = {name: 0.0 for name, own in shares.items() if own == {name: 1.0}}
    for name in sorted(living):
        for founder, share in shares[name].items():
            found[founder] += share / len(living)
    return found
