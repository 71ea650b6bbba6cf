"""Who is better, from pairwise evaluations.

`bradley_terry` fits the strengths of one generation at once, with errors, and forgets everything
else. `Ratings` is a memory: OpenSkill ratings that games move a little at a time, across
generations, and that children inherit.

Both take each decided `Evaluation` as one game between the two authors. Several judges of one pair
count as independent games, which they are not quite: they read the same two attempts. So errors
are, if anything, too small. Who judges well is not looked at here (`judges.bias`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openskill.models import BradleyTerryFull, BradleyTerryFullRating

from populora_env.keys import generator
from populora_env.records import Evaluation, Preference

DEFAULT_MU = 25.0
DEFAULT_SIGMA = 25.0 / 3.0
CHILD_SPREAD = DEFAULT_SIGMA / 2  # standard deviation of a child from its parents

_NEWTON_STEPS = 100  # about ten are needed
_HALVINGS = 40
_SETTLED = 1e-12  # Newton decrement, in units of the objective, after which one step is enough


@dataclass(frozen=True, slots=True, eq=False)
class BradleyTerry:
    """Strengths of N agents.

    Attributes:
        agents: Names of the agents.
        strengths: [N], natural logarithms, with mean 0. Between two agents whose strengths differ
            by d, the odds of a win to a loss are exp(d).
        standard_errors: [N], of each strength's distance from the mean (Laplace approximation).
        tie: Davidson's parameter, >= 0: odds of a tie to a win between equals.
        comparisons: [N], the number of decided comparisons of each agent's attempts.
    """

    agents: tuple[str, ...]
    strengths: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    tie: float
    comparisons: NDArray[np.int64]

    def win_probability(self, a: str, b: str) -> float:
        """Return the probability, in [0, 1], that ``a`` beats ``b``; a tie counts as half.

        Raises:
            ValueError: If one of the names is unknown.
        """
        places = {name: place for place, name in enumerate(self.agents)}
        for name in (a, b):
            if name not in places:
                raise ValueError(f"no strength of {name!r}: expected one of {_some(self.agents)}")
        half = float(self.strengths[places[a]] - self.strengths[places[b]]) / 2
        top = abs(half)
        win, loss = math.exp(half - top), math.exp(-half - top)
        tie = self.tie * math.exp(-top)
        return (win + tie / 2) / (win + loss + tie)


def bradley_terry(
    agents: Sequence[str], evaluations: Iterable[Evaluation], *, prior: float = 2.0
) -> BradleyTerry:
    """Fit strengths by penalised maximum likelihood.

    The model is Bradley and Terry's (1952) with ties after Davidson (1970): win, tie and loss have
    weights exp(d/2), nu and exp(-d/2), d the difference of two strengths. A Gaussian prior on each
    strength and on log nu keeps an agent that won everything finite. The penalised likelihood has
    a single optimum, which Newton's method with step halving finds from any data, none included.
    The order of the evaluations, and which author comes first, make no difference.

    Args:
        agents: Names of the agents, all different, at least one.
        evaluations: Pairs of these agents; those with ``preference`` None are left out.
        prior: Standard deviation of the prior, above 0. The smaller, the closer to 0 strengths
            with few comparisons stay.

    Raises:
        ValueError: If ``agents`` is empty or holds a name twice, ``prior`` is out of range, or an
            evaluation is about one author or one that is not among ``agents``.
    """
    names = tuple(agents)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"agents must be at least one name, all different, got {list(names)}")
    if not (prior > 0 and math.isfinite(prior)):
        raise ValueError(f"prior must be a finite number > 0, got {prior!r}")
    places = {name: place for place, name in enumerate(names)}
    count = len(names)
    wins, ties = np.zeros((2, count, count), dtype=np.int64)
    for evaluation in evaluations:
        for author in _authors(evaluation):
            if author not in places:
                raise ValueError(
                    f"evaluations are about {author!r}, expected one of agents: {_some(names)}"
                )
        first, second = places[evaluation.first_author], places[evaluation.second_author]
        if evaluation.preference is Preference.A:
            wins[first, second] += 1
        elif evaluation.preference is Preference.B:
            wins[second, first] += 1
        elif evaluation.preference is Preference.TIE:
            ties[min(first, second), max(first, second)] += 1
    fit = _Davidson(wins, ties, prior)
    point = fit.optimum()
    # The prior holds the mean at 0, with an error of its own; errors are those about the mean.
    centring = np.eye(count) - 1 / count
    covariance = centring @ np.linalg.inv(fit.curvature(point))[:count, :count] @ centring
    games = wins + ties
    return BradleyTerry(
        agents=names,
        strengths=point[:count] - point[:count].mean(),
        standard_errors=np.sqrt(np.maximum(np.diag(covariance), 0.0)),
        tie=float(np.exp(point[count])),
        comparisons=(games + games.T).sum(axis=1),
    )


class _Davidson:
    """The negative log posterior of N strengths and log nu, and its derivatives.

    Args:
        wins: [N, N], how often the row's agent beat the column's.
        ties: [N, N], above the diagonal.
        prior: Standard deviation of the prior.
    """

    def __init__(self, wins: NDArray[np.int64], ties: NDArray[np.int64], prior: float) -> None:
        self._count = len(wins)
        first, second = np.nonzero(np.triu(wins + wins.T + ties, 1))
        won = wins[first, second].astype(np.float64)
        lost = wins[second, first].astype(np.float64)
        self._tied = ties[first, second].astype(np.float64)
        self._lead = (won - lost) / 2
        self._games = won + lost + self._tied
        self._sides = np.eye(self._count)[first] - np.eye(self._count)[second]  # [pairs, N]
        self._precision = prior**-2

    def optimum(self) -> NDArray[np.float64]:
        """Return the point [N + 1] where the objective is smallest."""
        point = np.zeros(self._count + 1)
        value = self.value(point)
        for _ in range(_NEWTON_STEPS):
            gradient = self.gradient(point)
            step = np.linalg.solve(self.curvature(point), gradient)
            decrement = float(gradient @ step)
            if decrement <= _SETTLED * (1 + abs(value)):
                return point - step  # too close for the objective to tell: trust the quadratic
            for halving in range(_HALVINGS):
                trial = point - step * 0.5**halving
                reached = self.value(trial)
                if reached < value - 1e-4 * 0.5**halving * decrement:
                    break
            else:
                return point
            point, value = trial, reached
        return point

    def value(self, point: NDArray[np.float64]) -> float:
        """Return the objective."""
        logits = self._logits(point)
        top = logits.max(axis=0)
        norm = top + np.log(np.exp(logits - top).sum(axis=0))
        likelihood = 2 * self._lead * logits[0] + self._tied * logits[2] - self._games * norm
        return float(self._precision * (point @ point) / 2 - likelihood.sum())

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient [N + 1]."""
        win, loss, tie = self._chances(point)
        result = self._precision * point
        result[:-1] -= self._sides.T @ (self._lead - self._games * (win - loss) / 2)
        result[-1] -= (self._tied - self._games * tie).sum()
        return result

    def curvature(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the matrix of second derivatives [N + 1, N + 1], positive definite."""
        win, loss, tie = self._chances(point)
        of_gap = self._games * ((win + loss) - (win - loss) ** 2) / 4
        mixed = self._sides.T @ (-self._games * tie * (win - loss) / 2)
        result = self._precision * np.eye(self._count + 1)
        result[:-1, :-1] += self._sides.T @ (of_gap[:, None] * self._sides)
        result[:-1, -1] += mixed
        result[-1, :-1] += mixed
        result[-1, -1] += (self._games * tie * (1 - tie)).sum()
        return result

    def _chances(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return [3, pairs], the probabilities that the first wins, that it loses, and of a tie."""
        logits = self._logits(point)
        weights = np.exp(logits - logits.max(axis=0))
        return weights / weights.sum(axis=0)

    def _logits(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        half = self._sides @ point[:-1] / 2
        return np.stack([half, -half, np.full_like(half, point[-1])])


@dataclass(frozen=True, slots=True)
class Rating:
    """A belief about one skill: mean and standard deviation, on OpenSkill's scale."""

    mu: float = DEFAULT_MU
    sigma: float = DEFAULT_SIGMA


class Ratings:
    """Ratings across generations, by name; a name never seen has the default rating.

    The model is OpenSkill's full-pair Bradley-Terry (algorithm 1 of Weng and Lin, "A Bayesian
    Approximation Method for Online Ranking", JMLR 2011). In it a tie is half a win: it draws
    unequal players together and makes both more certain.
    """

    def __init__(self) -> None:
        self._model = BradleyTerryFull(mu=DEFAULT_MU, sigma=DEFAULT_SIGMA)
        self._ratings: dict[str, Rating] = {}

    def update(self, evaluations: Iterable[Evaluation]) -> None:
        """Rate one batch of evaluations, such as all of a generation; each decided pair is a game.

        Games are rated one after the other, so their order matters a little. Which one comes
        first is drawn from the content of the batch: the same evaluations in another order, or
        with the two authors exchanged, give the very same ratings. Splitting a batch does not.

        Raises:
            ValueError: If an evaluation is about one author. No rating has changed then.
        """
        games: list[tuple[str, str, int, int]] = []
        ranks = {Preference.A: (1, 2), Preference.B: (2, 1), Preference.TIE: (1, 1)}
        for evaluation in evaluations:
            first, second = _authors(evaluation)
            if evaluation.preference is None:
                continue
            places = ranks[evaluation.preference]
            one, two = sorted(zip((first, second), places, strict=True))
            games.append((one[0], two[0], one[1], two[1]))
        games.sort()
        rng = generator("rating order", *(part for game in games for part in game))
        for position in rng.permutation(len(games)):
            one, two, *places = games[int(position)]
            sides = [[self._player(one)], [self._player(two)]]
            for name, (player,) in zip(
                (one, two), self._model.rate(sides, ranks=[float(p) for p in places]), strict=True
            ):
                self._ratings[name] = Rating(player.mu, player.sigma)

    def rating(self, name: str) -> Rating:
        """Return a rating."""
        return self._ratings.get(name, Rating())

    def lower_bound(self, name: str, c: float = 3.0) -> float:
        """Return mu - c sigma, a skill that is very likely exceeded."""
        rating = self.rating(name)
        return rating.mu - c * rating.sigma

    def win_probability(self, a: str, b: str) -> float:
        """Return the probability, in [0, 1], that ``a`` is better than ``b`` in one game."""
        return float(self._model.predict_win([[self._player(a)], [self._player(b)]])[0])

    def reset(self, name: str, parents: Sequence[str] = ()) -> None:
        """Give a name to a newborn.

        It starts at its parents' mean mu. Its variance is their mean variance plus
        `CHILD_SPREAD` squared, at most the default's. Without parents it gets the default rating
        and is forgotten. A parent may have the same name.
        """
        if not parents:
            self._ratings.pop(name, None)
            return
        known = [self.rating(parent) for parent in parents]
        variance = sum(rating.sigma**2 for rating in known) / len(known) + CHILD_SPREAD**2
        self._ratings[name] = Rating(
            mu=sum(rating.mu for rating in known) / len(known),
            sigma=min(math.sqrt(variance), DEFAULT_SIGMA),
        )

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return name to mu and sigma, as plain JSON types, by name."""
        return {
            name: {"mu": rating.mu, "sigma": rating.sigma}
            for name, rating in sorted(self._ratings.items())
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> "Ratings":
        """Read back exactly what `to_dict` wrote.

        Raises:
            ValueError: If an entry has no finite mu or no finite sigma above 0.
        """
        ratings = cls()
        for name, entry in data.items():
            try:
                rating = Rating(float(entry["mu"]), float(entry["sigma"]))
            except (KeyError, TypeError, ValueError):
                rating = None
            if rating is None or not (math.isfinite(rating.mu) and 0 < rating.sigma < math.inf):
                raise ValueError(
                    f"data[{name!r}] must hold a finite mu and a sigma > 0, got {entry!r}"
                )
            ratings._ratings[name] = rating
        return ratings

    def _player(self, name: str) -> BradleyTerryFullRating:
        rating = self.rating(name)
        return self._model.create_rating([rating.mu, rating.sigma])


def _authors(evaluation: Evaluation) -> tuple[str, str]:
    """Return the two authors, who have to be two."""
    first, second = evaluation.first_author, evaluation.second_author
    if first == second:
        raise ValueError(f"evaluations must be about two authors, got {first!r} against itself")
    return first, second


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
