"""Who proposes and who solves, who meets whom, and what that says about them.

An agent has a rating for each of its roles, beside the one that its attempts have among others'.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from populora_env.errors import at_least_one
from populora_env.ratings import Ratings
from populora_env.records import Evaluation, Preference, Transcript, Verdict

PROPOSER, SOLVER = "proposer", "solver"


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of an arena's agents.

    Attributes:
        proposers: Who writes problems, in turn.
        solvers: Who may solve them; nobody solves its own, unless it is alone.
        matched: How many solvers a proposal gets, at least 1.
        tries: How often each of them answers it, at least 1.
    """

    proposers: tuple[str, ...]
    solvers: tuple[str, ...]
    matched: int
    tries: int

    def match(self, proposer: str, ratings: Ratings, rng: np.random.Generator) -> tuple[str, ...]:
        """Draw who solves a proposal, near-equals first.

        The chance of a solver goes by p(1 - p), where p is its chance to beat the proposer.

        Returns:
            Solvers in the order of the arena's agents.
        """
        free = [agent for agent in self.solvers if agent != proposer] or [proposer]
        if len(free) <= self.matched:
            return tuple(free)
        name = role_name(proposer, PROPOSER)
        chances = np.array([ratings.win_probability(role_name(a, SOLVER), name) for a in free])
        weights = np.maximum(chances * (1 - chances), 1e-6)
        drawn = rng.choice(len(free), self.matched, replace=False, p=weights / weights.sum())
        return tuple(free[i] for i in sorted(int(place) for place in drawn))


def role_name(agent: str, role: str) -> str:
    """Return the name by which `Ratings` know an agent in a role."""
    return f"{agent}:{role}"


def read_roles(
    agents: Sequence[str], proposers: Any, solvers: int | None, tries: int
) -> Roles | None:
    """Return the roles that an arena's arguments ask for; None if nobody proposes.

    Raises:
        ValueError: If an argument is out of range, or nobody is left to solve.
    """
    tries = at_least_one("tries", tries)
    if proposers == "all":
        chosen, rest = tuple(agents), tuple(agents)
    else:
        whole = hasattr(type(proposers), "__index__") and not isinstance(proposers, bool)
        if not whole or not 0 <= proposers < max(len(agents), 1):
            raise ValueError(
                f"proposers must be 'all' or an integer from 0 to num_agents - 1 = "
                f"{len(agents) - 1}, got {proposers!r}"
            )
        chosen, rest = tuple(agents[:proposers]), tuple(agents[proposers:])
    if not chosen:
        if solvers is not None:
            raise ValueError(
                f"solvers is for proposals: got {solvers!r} with proposers={proposers!r}"
            )
        return None
    most = max(len(rest) - (proposers == "all"), 1)
    matched = most if solvers is None else at_least_one("solvers", solvers)
    if matched > most:
        raise ValueError(f"solvers must be at most {most}, the agents left to solve, got {matched}")
    return Roles(chosen, rest, matched, tries)


def role_games(transcripts: Iterable[Transcript]) -> list[Evaluation]:
    """Return each attempt at a proposal as a game of its author against the proposer.

    A right attempt is won by the solver, a wrong one by the proposer. A proposal that nobody
    solved is no game: it says more about the problem than about anyone.
    """
    games: list[Evaluation] = []
    for transcript in transcripts:
        proposal = transcript.proposal
        if proposal is None or not proposal.solve_rate:
            continue
        proposer = role_name(proposal.agent, PROPOSER)
        for attempt in transcript.attempts:
            if attempt.correct is not None:
                won = Verdict(Preference.A if attempt.correct else Preference.B)
                lost = Verdict(Preference.B if attempt.correct else Preference.A)
                solver = role_name(attempt.agent, SOLVER)
                games.append(Evaluation.from_verdicts(None, solver, proposer, won, lost))
    return games
