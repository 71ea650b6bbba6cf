"""Figures of several agents on the same problems: accuracy, votes, pass@k, agreement.

All of them are computed from `Mark`s: what was read from a reply, and whether it is right. What is
read depends on the rule of extraction, so every rule has its own figures. Two answers are one
opinion if their texts are equal or both are right; `benchmark` first gives answers that are equal
in value one text (`populora_env.judges.votes`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from populora_env.judges.votes import vote_share


@dataclass(frozen=True, slots=True)
class Mark:
    """What a rule makes of a reply: the answer, None if it reads none, and if that is right."""

    answer: str | None
    correct: bool


Marks = Sequence[Sequence[Mark]]  # [problems][samples] of one agent


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems.

    Attributes:
        value: The mean.
        standard_error: Standard deviation over problems (divisor n - 1) by the root of n; for
            one reply a problem that is ``sqrt(p (1 - p) / (n - 1))``. Replies to one problem are
            not taken as independent. 0 where all values are equal, or there is but one: then it
            says nothing, and tables leave it out.
    """

    value: float
    standard_error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate from one value per problem, at least one."""
        array = np.asarray(values, dtype=np.float64)
        # Equal values have a deviation of 0 but for rounding, a single one has none.
        spread = 0.0 if array.min() == array.max() else float(array.std(ddof=1))
        return cls(float(array.mean()), spread / math.sqrt(len(array)))

    def error_text(self) -> str:
        """Return the error as ``0.044``; nothing where it would read as if the mean were exact."""
        shown = f"{self.standard_error:.3f}"
        return shown if math.isfinite(self.standard_error) and float(shown) > 0 else ""

    def text(self, form: str = ".3f", *, short: bool = False) -> str:
        """Return it as ``0.523 ± 0.044``, or short as ``0.523 ±.044``.

        The error is left out where none can be told; see `error_text`.

        Args:
            form: How the mean is written; ``+.3f`` for a difference.
            short: For narrow columns.
        """
        error = self.error_text()
        if not error:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} ±" + (error.removeprefix("0") if short else f" {error}")


@dataclass(frozen=True, slots=True)
class Changes:
    """How much better than one agent beside the population, each paired by problem.

    Attributes:
        base: That agent.
        accuracy: Every other agent's difference.
        mean: That of the population's mean.
        vote: That of its vote.
        weighted_vote: That of its weighted vote; None without weights.
    """

    base: str
    accuracy: Mapping[str, Estimate]
    mean: Estimate
    vote: Estimate
    weighted_vote: Estimate | None


@dataclass(frozen=True, slots=True)
class Figures:
    """How agents did on n problems under one rule of extraction.

    Attributes:
        accuracy: Every agent's, those apart from the population included.
        answered: Every agent's share of replies from which an answer could be read.
        mean: Mean accuracy of the population's agents.
        best: The population's most accurate agent, the first of equals. Chosen on these very
            problems, so its accuracy flatters it.
        vote: Accuracy of the most frequent answer of the population; see `votes.vote_share`.
        weighted_vote: The same with a weight for each agent; None without weights.
        pass_at_k: Entry k - 1 is the chance that at least one of k replies, drawn without
            replacement from all of the population's, is right; k = 1 to their number.
        agreement: Mean over pairs of agents of `agreement`; None for a single agent.
        pairs: Agreement of each pair of agents, named ``a|b``.
        changes: What all of them have over an agent beside them; None without one.
    """

    accuracy: Mapping[str, Estimate]
    answered: Mapping[str, float]
    mean: Estimate
    best: str
    vote: Estimate
    weighted_vote: Estimate | None
    pass_at_k: tuple[Estimate, ...]
    agreement: float | None
    pairs: Mapping[str, float]
    changes: Changes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def figures(
    marks: Mapping[str, Marks],
    population: Sequence[str],
    weights: Mapping[str, float] | None = None,
    base: str | None = None,
) -> Figures:
    """Compute the figures of a population.

    Args:
        marks: Agent to its marks, [problems][samples]; as many for every agent.
        population: The agents that vote, at least one; the others are measured beside them.
        weights: Weight of each of the population's agents in the weighted vote, 0 or more.
        base: An agent that all others are compared with, problem by problem; None for none.

    Raises:
        ValueError: If there is no agent or no problem, or a weight is missing or unusable.
    """
    if not population or not marks[population[0]]:
        raise ValueError("population and marks: expected at least one agent and one problem each")
    if weights is not None:
        for agent in population:
            weight = weights.get(agent)
            if weight is None or not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weights[{agent!r}]: got {weight!r}, expected a number >= 0")
    members = [marks[agent] for agent in population]
    shares = {
        agent: [_share(mark.correct for mark in own) for own in rows]
        for agent, rows in marks.items()
    }
    accuracy = {agent: Estimate.of(own) for agent, own in shares.items()}
    answered = {
        agent: _share(mark.answer is not None for own in rows for mark in own)
        for agent, rows in marks.items()
    }
    # By problem, all replies of the population, agent by agent.
    pooled = [[mark for own in rows for mark in own] for rows in zip(*members, strict=True)]
    every = len(pooled[0])
    found = [sum(mark.correct for mark in replies) for replies in pooled]
    pairs = {f"{a}|{b}": agreement(marks[a], marks[b]) for a, b in combinations(population, 2)}
    mean = [_share(mark.correct for mark in replies) for replies in pooled]
    vote = [_elected(replies, [1.0] * every) for replies in pooled]
    weighted = None
    if weights is not None:
        say = [
            weights[agent] for agent, rows in zip(population, members, strict=True) for _ in rows[0]
        ]
        weighted = [_elected(replies, say) for replies in pooled]
    changes = None
    if base is not None:
        others = {agent: own for agent, own in shares.items() if agent != base}
        changes = Changes(
            base=base,
            accuracy={agent: paired(own, shares[base]) for agent, own in others.items()},
            mean=paired(mean, shares[base]),
            vote=paired(vote, shares[base]),
            weighted_vote=None if weighted is None else paired(weighted, shares[base]),
        )
    return Figures(
        accuracy=accuracy,
        answered=answered,
        mean=Estimate.of(mean),
        best=max(population, key=lambda agent: accuracy[agent].value),
        vote=Estimate.of(vote),
        weighted_vote=None if weighted is None else Estimate.of(weighted),
        pass_at_k=tuple(
            Estimate.of([pass_at_k(every, right, k) for right in found])
            for k in range(1, every + 1)
        ),
        agreement=float(np.mean(list(pairs.values()))) if pairs else None,
        pairs=pairs,
        changes=changes,
    )


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Return the mean difference of two lists of one value per problem, in the same order."""
    return Estimate.of([a - b for a, b in zip(ours, theirs, strict=True)])


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the chance that k of n replies, drawn without replacement, hold a right one.

    The unbiased estimator of Chen et al., "Evaluating Large Language Models Trained on Code"
    (2021), computed exactly.

    Raises:
        ValueError: If not ``0 <= right <= n`` and ``1 <= k <= n``.
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(
            f"pass_at_k: got n={n}, right={right}, k={k}; expected 0 <= right <= n, 1 <= k <= n"
        )
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def agreement(first: Marks, second: Marks) -> float:
    """Return the share of pairs of replies to the same problem whose answers are equal.

    A reply without an answer agrees with nothing.
    """
    return float(
        np.mean(
            [
                _share(a.answer is not None and a.answer == b.answer for a in own for b in other)
                for own, other in zip(first, second, strict=True)
            ]
        )
    )


def difference(first: Sequence[Marks], second: Sequence[Marks]) -> Estimate:
    """Return the mean accuracy of some agents less that of others, paired by problem.

    Args:
        first: Marks of the first agents, [agents][problems][samples].
        second: Marks of the others, on the same problems.
    """
    ours, theirs = (
        [_share(mark.correct for own in rows for mark in own) for rows in zip(*side, strict=True)]
        for side in (first, second)
    )
    return paired(ours, theirs)


def _elected(replies: Sequence[Mark], weights: Sequence[float]) -> float:
    return vote_share(
        [mark.answer for mark in replies], [mark.correct for mark in replies], weights
    )


def _share(flags: Any) -> float:
    return float(np.mean([bool(flag) for flag in flags]))
