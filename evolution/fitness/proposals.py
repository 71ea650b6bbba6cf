"""What a generation's proposals came to: how many were valid, new, and near the limit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolution.fitness.task import known, mean_of
from populora_env.proposals.record import Proposal, ProposalStatus
from populora_env.records import Transcript


@dataclass(frozen=True, slots=True)
class ProposalScores:
    """Proposals of one generation.

    Attributes:
        count: How many there were.
        statuses: What became of them, by name.
        learnable: Share of those that were tried which some solved and some did not.
        solve_rate: Mean share of right attempts at valid ones; NaN if none was tried.
        novelty: Mean distance of valid ones to the nearest of the last; NaN if none was valid.
        validity: Share of each agent's proposals that was valid, ``[N]``; NaN without any.
        measures: Mean size of valid ones in each measure of their kind.
    """

    count: int
    statuses: Mapping[str, int]
    learnable: float
    solve_rate: float
    novelty: float
    validity: np.ndarray
    measures: Mapping[str, float]

    @property
    def held_out(self) -> int:
        """How many were held-out problems, which nobody learned from."""
        return self.statuses.get(ProposalStatus.HELD_OUT.value, 0)

    @property
    def valid(self) -> int:
        """How many were given to solvers."""
        return self.statuses.get(ProposalStatus.VALID.value, 0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without what is each agent's own."""
        return {
            "count": self.count,
            "statuses": dict(self.statuses),
            "learnable": known(self.learnable),
            "solve_rate": known(self.solve_rate),
            "novelty": known(self.novelty),
            "measures": dict(self.measures),
        }

    def __str__(self) -> str:
        share = self.valid / self.count if self.count else 0.0
        words = [f"valid {share:.0%}"]
        if self.valid:
            words += [f"learnable {self.learnable:.0%}", f"new {self.novelty:.2f}",
                      f"rate {self.solve_rate:.2f}"]  # fmt: skip
        return "  ".join(words)


def proposal_scores(
    transcripts: Sequence[Transcript], agents: Sequence[str]
) -> ProposalScores | None:
    """Sum up a generation's proposals; None if its problems were not written by agents.

    Args:
        transcripts: The generation's episodes.
        agents: All agents, by slot.
    """
    told = [(t.proposal, t) for t in transcripts if t.proposal is not None]
    if not told:
        return None
    proposals = [proposal for proposal, _ in told]
    rates = [p.solve_rate for p in proposals if p.solve_rate is not None]
    sizes: dict[str, list[float]] = {}
    for proposal, transcript in told:
        if proposal.valid:
            for name, value in transcript.problem.metadata.get("measures", {}).items():
                sizes.setdefault(str(name), []).append(float(value))
    return ProposalScores(
        len(proposals),
        dict(Counter(proposal.status.value for proposal in proposals)),
        mean_of([float(0 < rate < 1) for rate in rates]),
        mean_of(rates),
        mean_of([p.novelty for p in proposals if p.novelty is not None]),
        np.array([_validity(proposals, agent) for agent in agents]),
        {name: mean_of(values) for name, values in sizes.items()},
    )


def _validity(proposals: Sequence[Proposal], agent: str) -> float:
    return mean_of([float(p.valid) for p in proposals if p.agent == agent])
