"""What is kept of a cell, an arm with one seed, and the figures that it holds.

Kept is which held-out problem who got right, not a mean: every figure, and every comparison by
problem, is worked out from that again, without playing anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BASE = "base"
"""Name of the arm that is the bare base model; every study has it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run was worth on the held-out problems when it had used up a budget.

    What is right or wrong stands as a text of a ``1`` or ``0`` for each problem.

    Attributes:
        budget: Replies that it was measured at.
        replies: Those it had given by then, trials included, and those of a last trial: as many, or
            a generation and trials more; if the time was up before, maybe less.
        generations: It had played by then.
        seconds: It had taken, without measuring.
        champion: What the adapter got right that one would deploy.
        members: What each agent that solves got right; none where members are not measured, and
            then vote and average are empty.
        vote: What their vote got right; a tie that holds a right answer is a ``0`` here.
        ties: Place of a problem to the share of tied answers that are right, where it is not 0 or
            1; see `populora_env.judges.votes.vote_share`.
        average: What the mean of the members' updates got right, at the population's rank.
        vendi: How many different replies there are in effect, by hidden states, mean over problems.
        vendi_answers: How many different answers, likewise.
        leader: Place among the members of the one of highest standing, confirmed or not.
        training: Names of `Cell.curves` to their means over the last fifth of the generations, two
            at least; without those of which nothing is known.
    """

    budget: int
    replies: int
    generations: int
    seconds: float
    champion: str
    members: tuple[str, ...]
    vote: str
    ties: Mapping[str, float]
    average: str
    vendi: float | None = None
    vendi_answers: float | None = None
    leader: int | None = None
    training: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What came of an arm with one seed.

    Attributes:
        arm: Its name.
        seed: Of the run, its problems and the held-out ones.
        settings: Those of the run that are not the defaults.
        budgets: Replies that it was to be measured at.
        seconds_limit: Seconds after which no generation was to begin; None for no limit.
        cut_off: Whether they were up, or the guard stopped the run, before the last budget that was
            measured.
        problems: Digest of the held-out problems.
        measured: What came of it, one for each budget that was reached, or the time allowed.
        seconds: Of training, trials included.
        measuring_seconds: Of measuring.
        tokens: Tokens of all replies, those that were measured included.
        curves: Of training, by generation: replies so far, mean return, accuracy and length; in
            self-play what proposals came to.
        notes: What else the run has to say.
        versions: Of packages.
        base: Digest of the base; see `agents.loading.digest.base_digest`. Empty where an earlier
            version wrote the cell.
    """

    arm: str
    seed: int
    settings: Mapping[str, Any]
    budgets: tuple[int, ...]
    seconds_limit: float | None
    cut_off: bool
    problems: str
    measured: tuple[Measured, ...]
    seconds: float
    measuring_seconds: float
    tokens: int
    curves: Mapping[str, tuple[float | None, ...]]
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    base: str = ""

    def at(self, budget: int | None = None) -> Measured | None:
        """What was measured at a budget; None if it was not reached, or for the last one."""
        if budget is None:
            return self.measured[-1]
        return next((entry for entry in self.measured if entry.budget == budget), None)

    def cut_at(self, budget: int | None = None) -> bool:
        """Whether the time was up before a budget was, or before the last one measured."""
        return self.cut_off and self.at(budget) is self.measured[-1]


def marks(text: str) -> np.ndarray:
    """Rights and wrongs as numbers, ``[problems]``."""
    return np.array([float(mark) for mark in text])


def text_of(right: Sequence[bool]) -> str:
    """Rights and wrongs as a text."""
    return "".join("1" if mark else "0" for mark in right)


def _members(found: Measured) -> np.ndarray:
    return np.array([marks(own) for own in found.members])


def _vote(found: Measured) -> np.ndarray:
    values = marks(found.vote)
    for place, share in found.ties.items():
        values[int(place)] = share
    return values


def _known(value: float | None) -> np.ndarray:
    return np.array([np.nan if value is None else value])


def _leader(found: Measured) -> np.ndarray:
    """Of a single member it is known anyway."""
    if found.leader is None and len(found.members) > 1:
        return _known(None)
    return marks(found.members[found.leader or 0])


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of what was measured.

    Attributes:
        words: What it is, as a table's heading and an axis say it.
        short: What it is of, behind an arm's name.
        read: Its value at each held-out problem, ``[problems]``, or for all of them, ``[1]``; NaN
            where not known.
        share: Whether it is a share of the problems, from 0 to 1.
        of_members: Whether it takes that the members were measured.
    """

    words: str
    short: str
    read: Callable[[Measured], np.ndarray]
    share: bool = True
    of_members: bool = False

    def values(self, found: Measured) -> np.ndarray:
        """Its values; not known where it takes members that were not measured."""
        return _known(None) if self.of_members and not found.members else self.read(found)


def _in_training(words: str, short: str, name: str) -> Figure:
    """A figure of `Measured.training`."""
    return Figure(f"{words}, last fifth", short, lambda m: _known(m.training.get(name)), False)


FIGURES: Mapping[str, Figure] = {
    "accuracy": Figure("accuracy of the champion", "champion", lambda m: marks(m.champion)),
    "leader": Figure(
        "accuracy of the leader in standing", "leader", _leader, of_members=True
    ),
    "members": Figure(
        "mean accuracy of the members", "mean of members", lambda m: _members(m).mean(axis=0),
        of_members=True,
    ),
    "vote": Figure("accuracy of the members' vote", "vote", _vote, of_members=True),
    "any": Figure(
        "share that any member gets right", "any member", lambda m: _members(m).max(axis=0),
        of_members=True,
    ),
    "average": Figure(
        "accuracy of the members' average", "average of members", lambda m: marks(m.average),
        of_members=True,
    ),
    "vote_gain": Figure(
        "vote less mean of the members", "vote less mean",
        lambda m: _vote(m) - _members(m).mean(axis=0), share=False, of_members=True,
    ),
    "vendi": Figure(
        "Vendi score of replies", "Vendi, replies", lambda m: _known(m.vendi), False, True
    ),
    "vendi_answers": Figure(
        "Vendi score of answers", "Vendi, answers", lambda m: _known(m.vendi_answers), False, True
    ),
    "train_return": _in_training("return in training", "return", "return"),
    "train_accuracy": _in_training("accuracy in training", "in training", "accuracy"),
    "length": _in_training("length of replies in training", "length", "length"),
    "proposals_valid": _in_training("share of valid proposals", "valid", "valid"),
    "proposals_solved": _in_training("solve rate of proposals", "solved", "solve_rate"),
    "proposals_learnable": _in_training("share of learnable proposals", "learnable", "learnable"),
    "proposals_new": _in_training("novelty of proposals", "new", "novelty"),
}  # fmt: skip
"""What a study can show, by name."""
