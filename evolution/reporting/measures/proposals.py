"""What agents proposed in a run of self-play, by generation, by agent, and to read.

All from the transcripts. A proposal is learnable if some attempts at it were right and some wrong.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.reporting.measures.data import RunData, Series
from populora_env.keys import generator
from populora_env.proposals.record import Proposal, ProposalStatus
from populora_env.records import Attempt, Problem

_LARGEST = 1e60  # a measure beyond it is not drawn


@dataclass(frozen=True, slots=True)
class Proposed:
    """One proposal of a run.

    Attributes:
        generation: When it was made.
        proposal: What became of it.
        problem: The problem, if it is valid.
        attempts: At it; empty if it is not valid.
        measures: Its size by name, such as ``operands``; empty if it is not valid.
    """

    generation: int
    proposal: Proposal
    problem: Problem
    attempts: tuple[Attempt, ...]
    measures: Mapping[str, float]

    @property
    def marks(self) -> list[bool]:
        """Which of the attempts are right, of those of which that is known."""
        return [mark for attempt in self.attempts if (mark := attempt.correct) is not None]


def read_proposals(run: RunData) -> tuple[Proposed, ...]:
    """Return a run's proposals in order; empty where agents wrote no problems."""
    known = frozenset(run.generations)
    return tuple(
        Proposed(
            episode.generation,
            proposal,
            episode.transcript.problem,
            episode.transcript.attempts,
            _measures(episode.transcript.problem) if proposal.valid else {},
        )
        for episode in run.episodes
        if (proposal := episode.transcript.proposal) is not None and episode.generation in known
    )


def _measures(problem: Problem) -> dict[str, float]:
    found = problem.metadata.get("measures")
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in found.items()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= _LARGEST  # which is false of NaN
    }


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Proposals over generations; NaN where there is nothing to count.

    Attributes:
        statuses: Status to how many proposals came to it, [G]; of those that occur, valid first.
        valid: Share that is valid, [G].
        learnable: Share of the tried ones that some attempts solved and some did not, [G].
        solve_rate: Mean share of right attempts, [G].
        novelty: Mean distance to the nearest of the last ones, [G].
        distinct: How many different ones were valid so far, [G].
    """

    statuses: Mapping[str, NDArray[np.int64]]
    valid: Series
    learnable: Series
    solve_rate: Series
    novelty: Series
    distinct: NDArray[np.int64]


def course(run: RunData, proposed: Sequence[Proposed]) -> Course:
    """Sum up proposals by generation."""
    places = {number: place for place, number in enumerate(run.generations)}
    occurring = {entry.proposal.status for entry in proposed}
    statuses = {
        status.value: np.zeros(len(places), np.int64)
        for status in ProposalStatus
        if status in occurring
    }
    seen: set[tuple[str, str]] = set()
    distinct = np.zeros(len(places), np.int64)
    for entry in proposed:
        place = places[entry.generation]
        statuses[entry.proposal.status.value][place] += 1
        if entry.proposal.valid:
            seen.add((entry.proposal.kind, entry.proposal.key))
        distinct[place] = len(seen)
    return Course(
        statuses,
        by_generation(run, proposed, lambda entry: float(entry.proposal.valid)),
        by_generation(run, proposed, lambda entry: _learnable(entry.proposal.solve_rate)),
        by_generation(run, proposed, lambda entry: entry.proposal.solve_rate),
        by_generation(run, proposed, lambda entry: entry.proposal.novelty),
        np.maximum.accumulate(distinct),
    )


def _learnable(rate: float | None) -> float | None:
    return None if rate is None else float(0 < rate < 1)


def by_generation(
    run: RunData, proposed: Sequence[Proposed], figure: Callable[[Proposed], float | None]
) -> Series:
    """Return the mean of a figure over each generation's proposals, where it is known, [G]."""
    found: dict[int, list[float]] = {number: [] for number in run.generations}
    for entry in proposed:
        if (value := figure(entry)) is not None:
            found[entry.generation].append(value)
    return np.array([np.mean(own) if own else np.nan for own in found.values()])


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """One measure of valid proposals over generations.

    Attributes:
        name: Of the measure.
        mean: [G]; NaN where nothing was valid.
        low: Tenth percentile over proposals, [G].
        high: Ninetieth, [G].
    """

    name: str
    mean: Series
    low: Series
    high: Series


def sizes(run: RunData, proposed: Sequence[Proposed]) -> list[Size]:
    """Return all measures of a run's valid proposals, in the order in which they occur."""
    found: list[Size] = []
    for name in dict.fromkeys(name for entry in proposed for name in entry.measures):
        values: dict[int, list[float]] = {number: [] for number in run.generations}
        for entry in proposed:
            if name in entry.measures:
                values[entry.generation].append(entry.measures[name])
        own = list(values.values())
        mean = np.array([np.mean(v) if v else np.nan for v in own])
        low, high = (
            np.array([np.percentile(v, at) if v else np.nan for v in own]) for at in (10, 90)
        )
        found.append(Size(name, mean, low, high))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Meetings:
    """Who solved whose proposals.

    Attributes:
        proposers: Who proposed, P of them.
        solvers: Who tried, S of them.
        right: Right attempts, [P, S].
        graded: Attempts of which that is known, [P, S].
    """

    proposers: tuple[str, ...]
    solvers: tuple[str, ...]
    right: NDArray[np.int64]
    graded: NDArray[np.int64]

    @property
    def shares(self) -> Series:
        """Share of right attempts, [P, S]; NaN of those who never met."""
        empty = np.full(self.right.shape, np.nan)
        return np.divide(self.right, self.graded, out=empty, where=self.graded > 0)

    @property
    def errors(self) -> Series:
        """Standard errors of the shares, as if a right and a wrong attempt more had been made.

        So that what is right every time is no exactness.
        """
        share = (self.right + 1) / (self.graded + 2)
        return np.sqrt(share * (1 - share) / (self.graded + 2))


def meetings(run: RunData, proposed: Sequence[Proposed]) -> Meetings | None:
    """Count attempts by their author and the proposal's; None if none is graded."""
    counts: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    for entry in proposed:
        for attempt in entry.attempts:
            if attempt.correct is not None:
                pair = entry.proposal.agent, attempt.agent
                counts[pair] += 1
                right[pair] += attempt.correct
    if not counts:
        return None
    wrote = {entry.proposal.agent for entry in proposed}
    solved = {solver for _, solver in counts}
    rows = tuple(agent for agent in run.agents if agent in wrote)
    columns = tuple(agent for agent in run.agents if agent in solved)
    return Meetings(
        rows,
        columns,
        np.array([[right[row, column] for column in columns] for row in rows]),
        np.array([[counts[row, column] for column in columns] for row in rows]),
    )


@dataclass(frozen=True, slots=True)
class Era:
    """Some proposals of a part of a run, drawn by chance.

    Attributes:
        name: Early, middle or late.
        first: First generation of the part.
        last: Its last one.
        total: How many proposals it has that were no held-out problems.
        proposed: Those to show, in order.
    """

    name: str
    first: int
    last: int
    total: int
    proposed: tuple[Proposed, ...]


def eras(proposed: Sequence[Proposed], most: int = 10) -> list[Era]:
    """Return proposals to read from the first, middle and last third of the generations.

    Held-out problems are left out. Fewer parts where there are fewer generations.
    """
    proposed = [e for e in proposed if e.proposal.status is not ProposalStatus.HELD_OUT]
    kept = sorted({entry.generation for entry in proposed})
    if not kept:
        return []
    names = {1: ("all",), 2: ("early", "late")}.get(len(kept), ("early", "middle", "late"))
    found: list[Era] = []
    for name, part in zip(names, np.array_split(np.array(kept), len(names)), strict=True):
        first, last = int(part[0]), int(part[-1])
        own = [entry for entry in proposed if first <= entry.generation <= last]
        order = generator("report proposals", name).permutation(len(own))[:most]
        chosen = tuple(own[i] for i in sorted(order.tolist()))
        found.append(Era(name, first, last, len(own), chosen))
    return found


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
