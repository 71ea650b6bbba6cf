"""What a generation is asked to play, what it measured, and its rows of ``history.jsonl``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agents.learning.learners import LearnerStats
from evolution.fitness.proposals import ProposalScores
from evolution.fitness.task import Scores, known
from evolution.guard.records import GuardReport
from evolution.individuals.births import Moved
from evolution.individuals.exchanging import ExchangeRecord
from evolution.individuals.lineage import Individual
from evolution.individuals.reevaluation import Reevaluation
from populora_env.ratings import BradleyTerry
from populora_env.records import Problem, Transcript


def _asked(transcript: Transcript) -> str:
    """The problem that an episode began with; of a proposal, the request for it."""
    proposal = transcript.proposal
    return transcript.problem.id if proposal is None else proposal.request_id


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """What the population is to play next.

    Attributes:
        generation: Number of the generation, from 0.
        problems: One episode each, the same for all agents.
        judged: Which of the episodes have an evaluation phase.
        born: Individuals made for this generation.
        trial: What was confirmed before they were made, if anything was in question.
        exchange: What became of the exchange before the generation, if there was one.
    """

    generation: int
    problems: tuple[Problem, ...]
    judged: tuple[bool, ...]
    born: tuple[Individual, ...]
    trial: Reevaluation | None = None
    exchange: ExchangeRecord | None = None

    def check(self, transcripts: Sequence[Transcript], agents: Sequence[str]) -> None:
        """Raise a ValueError unless these are the plan's episodes, played by these agents."""
        asked, told = [p.id for p in self.problems], [_asked(t) for t in transcripts]
        if asked != told:
            raise ValueError(
                f"transcripts: got {len(told)}, expected one for each of the plan's {len(asked)} "
                "problems, in order"
            )
        if any(tuple(t.agents) != tuple(agents) for t in transcripts):
            raise ValueError(f"transcripts: expected the agents {agents[0]} to {agents[-1]}")


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a generation measured and did; arrays are ``[N]``, in the population's order.

    Attributes:
        generation: Its number.
        agents: Names.
        individuals: Who lives in which slot.
        scores: Before learning.
        peers: How the attempts fared in comparison, by Bradley and Terry's model.
        ratings: Means of the ratings across generations.
        standing: Lead over the population across an individual's life; see
            `evolution.individuals.standing`.
        standing_errors: Standard errors of these.
        best: Agent of highest standing, among those who solve.
        champion: Individual that the champion is a snapshot of; empty before the first trial.
        trial: What was confirmed before the generation was played, if anything was in question.
        learning: What the learner did, if there is one.
        seconds: Wall-clock time from ``ask`` to the end of learning.
        proposals: What the agents' proposals came to, in self-play.
        moved: How large updates are and how far they moved since birth, after learning; None in a
            run that began with a version that did not keep track.
        exchange: What became of the exchange before the generation, if there was one.
        guard: What the guard saw and did, if there is one.
    """

    generation: int
    agents: tuple[str, ...]
    individuals: tuple[Individual, ...]
    scores: Scores
    peers: BradleyTerry
    ratings: np.ndarray
    standing: np.ndarray
    standing_errors: np.ndarray
    best: str
    champion: str
    trial: Reevaluation | None
    learning: LearnerStats | None
    seconds: float
    proposals: ProposalScores | None = None
    moved: Moved | None = None
    exchange: ExchangeRecord | None = None
    guard: GuardReport | None = None

    @property
    def stop(self) -> str:
        """Why the guard ends the run here; empty if it does not."""
        return "" if self.guard is None else self.guard.stop


def history_rows(result: GenerationResult) -> list[dict[str, Any]]:
    """A row for each agent, as JSON types; None is what is not known."""
    scores, learning, trial = result.scores, result.learning, result.trial
    rows: list[dict[str, Any]] = []
    proposals = result.proposals
    gates = {} if result.exchange is None else {g.slot: g for g in result.exchange.gates}
    for i, (agent, individual) in enumerate(zip(result.agents, result.individuals, strict=True)):
        rows.append(
            {
                "generation": result.generation,
                "agent": agent,
                "individual": individual.name,
                "operator": individual.operator,
                "parents": list(individual.parents),
                "return": known(scores.returns[i]),
                "accuracy": known(scores.accuracy[i]),
                "length": known(scores.length[i]),
                "diversity": known(scores.diversity[i]),
                "counted": known(scores.counted[i]),
                "bonus": known(scores.bonus[i]),
                "vendi": known(scores.vendi),
                "diversity_weight": known(scores.diversity_weight),
                **{name: known(value) for name, value in scores.archive.items()},
                "fitness": known(scores.fitness[i]),
                "fitness_error": known(scores.errors[i]),
                "standing": known(result.standing[i]),
                "standing_error": known(result.standing_errors[i]),
                "peer_strength": known(result.peers.strengths[i]),
                "rating": known(result.ratings[i]),
                "best": agent == result.best,
                "broken": individual.broken is not None,
                "champion": result.champion,
                "trial": None if trial is None else trial.accuracy.get(i),
                "grad_norm": None if learning is None else known(learning.grad_norms[i]),
                "kl": None if learning is None or not learning.kl else known(learning.kl[i]),
            }
        )
        if (gate := gates.get(i)) is not None:
            rows[-1]["gate"] = asdict(gate)
        if proposals is not None:
            own = {"validity": known(proposals.validity[i]), "proposals": proposals.to_dict()}
            rows[-1] |= own
        if (moved := result.moved) is not None:
            rows[-1] |= {"update_norm": known(moved.norms[i]), "drift": known(moved.drift[i])}
    return rows
