"""What a study's questions come to: means over seeds, and differences paired by seed.

A seed's value is a mean over its held-out problems. A difference is that of two arms with the same
seed, on the same problems; seeds that only one of the two has finished do not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.measuring.paired import Interval, holm, problem_error, sign_flip
from evolution.studies.design import Entry, Question, Study
from evolution.studies.measured import FIGURES, Cell, Measured
from evolution.studies.results import Results


@dataclass(frozen=True, slots=True)
class Comparison:
    """An entry less the one that it is compared with.

    Attributes:
        difference: Of the seeds' values.
        by_seed: Seed to difference.
        problem_error: Standard error from the choice of problems alone; None where the figure has
            no value by problem.
        p: Of `agents.measuring.paired.sign_flip`; None of a single seed.
        corrected: The same, corrected for the question's comparisons.
    """

    difference: Interval
    by_seed: Mapping[int, float]
    problem_error: float | None
    p: float | None
    corrected: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What an entry of a question came to.

    Attributes:
        entry: Of the question.
        label: As tables and figures call it.
        budget: Replies that it was measured at; None for the arm's last budget.
        values: Seed to value.
        interval: Of these.
        replies: Mean over seeds.
        seconds: Mean over seeds, of training.
        cut_off: Seeds whose time was up before the budget was.
        comparison: With what the question compares it with; None for that itself, and where there
            is no seed in common.
    """

    entry: Entry
    label: str
    budget: int | None
    values: Mapping[int, float]
    interval: Interval
    replies: float
    seconds: float
    cut_off: int
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question came to.

    Attributes:
        question: The question.
        rows: Of its entries, at each budget if it asks so; without those of which nothing is known.
        against: Label of what the others are compared with; empty for nothing.
        notes: What else is to be said.
    """

    question: Question
    rows: tuple[Row, ...]
    against: str
    notes: tuple[str, ...]

    @property
    def words(self) -> str:
        """What its values are; of several figures, what these have in common."""
        names = {row.entry.figure for row in self.rows} or {self.question.figure}
        if len(names) > 1:
            return "share of the problems that is right"
        return FIGURES[names.pop()].words

    @property
    def share(self) -> bool:
        """Whether its values are shares of the problems."""
        return all(FIGURES[row.entry.figure].share for row in self.rows)


def label_of(study: Study, question: Question, entry: Entry) -> str:
    """What an entry is called: its arm, and its figure where that is not the question's."""
    label = study.arms[entry.arm].label
    if entry.figure == question.figure:
        return label
    return f"{label}: {FIGURES[entry.figure].short}"


def finished(study: Study, results: Results) -> dict[str, dict[int, Cell]]:
    """Arm to seed to what came of it."""
    return {
        name: {
            seed: cell
            for seed in study.seeds
            if (cell := results.cell(study, arm, seed)) is not None
        }
        for name, arm in study.arms.items()
    }


def answers(study: Study, cells: Mapping[str, Mapping[int, Cell]]) -> list[Answer]:
    """What all questions come to.

    Args:
        study: Whose they are.
        cells: As `finished` gives them.
    """
    return [_answer(study, question, cells) for question in study.questions]


def _answer(study: Study, question: Question, cells: Mapping[str, Mapping[int, Cell]]) -> Answer:
    rows: list[Row] = []
    notes: list[str] = []
    for entry in question.beside + question.entries:
        budgets: Sequence[int | None] = study.arms[entry.arm].replies
        for budget in budgets if question.over_replies and budgets else [None]:
            own = _found(cells[entry.arm], budget)
            values = _values(own, entry.figure)
            if not values:
                continue
            row = Row(
                entry,
                label_of(study, question, entry),
                budget,
                {seed: float(value.mean()) for seed, value in values.items()},
                _interval([float(value.mean()) for value in values.values()], entry.figure),
                float(np.mean([own[seed].replies for seed in values])),
                float(np.mean([own[seed].seconds for seed in values])),
                sum(cells[entry.arm][seed].cut_at(budget) for seed in values),
            )
            reference = question.against
            if reference not in (None, entry) and entry in question.entries:
                other = _found(cells[reference.arm], budget if _has(study, reference) else None)
                same = {
                    seed
                    for seed in values
                    if seed in other
                    and cells[entry.arm][seed].problems == cells[reference.arm][seed].problems
                }
                if len(same) < len(values.keys() & other.keys()):
                    notes.append(
                        f"{row.label}: seeds that were measured on other problems than "
                        f"{label_of(study, question, reference)} are not compared"
                    )
                theirs = _values({seed: other[seed] for seed in other if seed in same},
                                 reference.figure)  # fmt: skip
                digests = {cells[entry.arm][seed].problems for seed in values if seed in theirs}
                row = replace(row, comparison=_compare(values, theirs, len(digests) == 1))
            rows.append(row)
    compared = [i for i, row in enumerate(rows) if row.comparison and row.comparison.p is not None]
    corrected = holm([_p(rows[i]) for i in compared])
    for i, value in zip(compared, corrected, strict=True):
        comparison = rows[i].comparison
        assert comparison is not None
        rows[i] = replace(rows[i], comparison=replace(comparison, corrected=value))
    absent = [
        entry
        for entry in question.beside + question.entries
        if not any(row.entry == entry for row in rows)
    ]
    for said, some in (
        ("not played yet", [entry for entry in absent if not cells[entry.arm]]),
        ("without this figure", [entry for entry in absent if cells[entry.arm]]),
    ):
        if some:
            notes.append(f"{said}: {', '.join(label_of(study, question, entry) for entry in some)}")
    against = "" if question.against is None else label_of(study, question, question.against)
    return Answer(question, tuple(rows), against, tuple(dict.fromkeys(notes)))


def _p(row: Row) -> float:
    assert row.comparison is not None
    assert row.comparison.p is not None
    return row.comparison.p


def _has(study: Study, entry: Entry) -> bool:
    """Whether an entry's arm has budgets; the base model has none, and is itself at any."""
    return bool(study.arms[entry.arm].replies)


def _found(cells: Mapping[int, Cell], budget: int | None) -> dict[int, Measured]:
    """Seed to what was measured at a budget, of those that reached it."""
    found = {seed: cell.at(budget) for seed, cell in cells.items()}
    return {seed: own for seed, own in found.items() if own is not None}


def _values(found: Mapping[int, Measured], figure: str) -> dict[int, np.ndarray]:
    """Seed to a figure at each problem, where it is known."""
    values = {seed: FIGURES[figure].values(own) for seed, own in found.items()}
    return {seed: own for seed, own in values.items() if np.isfinite(own).all()}


def _interval(values: Sequence[float], figure: str) -> Interval:
    """Of a figure's values; that of a share holds no more than shares."""
    found = Interval.of(values)
    return found.within(0.0, 1.0) if FIGURES[figure].share else found


def _compare(
    ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray], shared: bool
) -> Comparison | None:
    """Compare values by seed and problem; ``shared``: whether all seeds had the same problems."""
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    by_seed = {seed: float(ours[seed].mean() - theirs[seed].mean()) for seed in seeds}
    by_problem = [
        ours[seed] - theirs[seed] for seed in seeds if len(ours[seed]) == len(theirs[seed]) > 1
    ]
    differences = list(by_seed.values())
    return Comparison(
        Interval.of(differences),
        by_seed,
        problem_error(by_problem, shared=shared) if len(by_problem) == len(seeds) else None,
        sign_flip(differences) if len(seeds) > 1 else None,
    )
