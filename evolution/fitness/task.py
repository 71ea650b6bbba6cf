"""Fitness: what an agent's episodes of one generation are worth.

How task return and diversity are put together is in `evolution.fitness.evaluator`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from populora_env.episodes.rewards import RewardPart
from populora_env.records import Phase, Transcript, Turn


@dataclass(frozen=True, slots=True)
class Scores:
    """What a generation's episodes say of each agent; arrays are ``[N]``.

    Attributes:
        returns: Mean return over the episodes: the task alone. Where agents propose and solve,
            what both roles return together; NaN of an agent that had no part in any.
        accuracy: Fraction of final attempts that are correct; NaN where no answer is known.
        length: Mean length of the attempts in characters; NaN without any.
        diversity: Mean distance of the attempts that count from the others', 0 to 1; NaN of an
            agent of whose attempts none could be compared.
        counted: Share of the attempts that count: above the bar, and known to all measures.
        bonus: What diversity adds to the (scaled) return; see `evolution.fitness.rules`.
        fitness: The scaled return plus the bonus.
        errors: Standard error of an agent's lead in scaled return over the population's mean, from
            the choice of problems; infinite if there was only one.
        vendi: Vendi score of the attempts that count, mean over problems: how many different ones
            there are in effect; NaN if none counts.
        diversity_weight: What a unit of diversity was worth.
        unit: What a unit of return is worth in fitness.
        archive: Figures on what the fitness rule remembers, such as coverage.
    """

    returns: np.ndarray
    accuracy: np.ndarray
    length: np.ndarray
    diversity: np.ndarray
    counted: np.ndarray
    bonus: np.ndarray
    fitness: np.ndarray
    errors: np.ndarray
    vendi: float
    diversity_weight: float
    unit: float = 1.0
    archive: Mapping[str, float] = field(default_factory=dict[str, float])


def score(
    transcripts: Sequence[Transcript],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Score all agents on a generation's episodes, diversity apart.

    Args:
        transcripts: At least one, all with the same agents.

    Returns:
        Returns, accuracy, length and errors as in `Scores`, the errors in units of return.
    """
    agents = transcripts[0].agents
    solved, proposed = _rewards(transcripts, agents)
    correct: list[list[float]] = [[] for _ in agents]
    lengths: list[list[int]] = [[] for _ in agents]
    places = {agent: place for place, agent in enumerate(agents)}
    for transcript in transcripts:
        for attempt in transcript.final_attempts:
            lengths[places[attempt.agent]].append(len(attempt.text))
            if attempt.correct is not None:
                correct[places[attempt.agent]].append(attempt.correct)
    returns, errors = mean_known(solved), lead_errors(solved)
    if np.isfinite(proposed).any():
        both = np.stack([returns, mean_known(proposed)])
        returns = np.where(np.isfinite(both).any(0), np.nansum(both, 0), np.nan)
        own = np.where(np.isfinite(proposed), proposed - np.nanmean(proposed), np.nan)
        noise = np.stack([errors, _mean_errors(own)])
        errors = np.sqrt(np.where(np.isnan(both), 0.0, noise**2).sum(0))
    return (
        returns,
        np.array([np.mean(marks) if marks else np.nan for marks in correct]),
        np.array([np.mean(sizes) if sizes else np.nan for sizes in lengths]),
        errors,
    )


def _rewards(
    transcripts: Sequence[Transcript], agents: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """What agents earned by solving and by proposing, ``[episodes, N]`` each.

    NaN where an agent had no such part, or what it earned is not known. Several tries at a given
    problem are worth their mean.
    """
    solved, proposed = np.full((2, len(transcripts), len(agents)), np.nan)
    for row, transcript in enumerate(transcripts):
        proposal = transcript.proposal
        for column, agent in enumerate(agents):
            earned = transcript.rewards.get(agent, np.nan)
            if proposal is None:
                solved[row, column] = earned - _further_tries(transcript, agent)
                continue
            if agent != proposal.agent:
                solved[row, column] = earned
                continue
            turn = transcript.turns[0]
            proposed[row, column] = proposal_reward(turn)
            if any(attempt.agent == agent for attempt in transcript.attempts):  # it is alone
                solved[row, column] = earned - turn.reward
    return solved, proposed


def _further_tries(transcript: Transcript, agent: str) -> float:
    """By how much what an agent's tries earned exceeds their mean."""
    earned = [
        turn.reward
        for turn in transcript.turns
        if turn.phase is Phase.SOLVE and turn.agent == agent
    ]
    return sum(earned) - sum(earned) / len(earned) if len(earned) > 1 else 0.0


def proposal_reward(turn: Turn) -> float:
    """What a proposal earned; NaN where that is not known, as of a held-out problem."""
    unknown = turn.parts.get(RewardPart.VALIDITY.value) is None
    return math.nan if unknown else turn.reward


def mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over what is known along the first axis ``[...]``; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(0)
    total = np.where(known, values, 0.0).sum(0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def lead_errors(rewards: np.ndarray) -> np.ndarray:
    """Standard errors of leads over the mean of those who played the same problems.

    Args:
        rewards: ``[problems, N]``; NaN of those who did not play.

    Returns:
        ``[N]``; infinite where there is one problem. What all find hard or easy does not count.
    """
    return _mean_errors(rewards - mean_known(rewards.T)[:, None])


def _mean_errors(values: np.ndarray) -> np.ndarray:
    """Standard errors of the means of columns ``[columns]``; infinite where one value is known."""
    count = np.isfinite(values).sum(0)
    squares = np.nansum((values - mean_known(values)) ** 2, 0)
    errors = np.full(values.shape[1], np.inf)
    many = count > 1
    errors[many] = np.sqrt(squares[many] / (count[many] - 1)) / count[many] ** 0.5
    return errors


def mean_of(values: Sequence[float] | np.ndarray) -> float:
    """Mean of what is known; NaN if nothing is."""
    given = np.asarray(values, dtype=float)
    known = given[np.isfinite(given)]
    return float(known.mean()) if len(known) else math.nan


def known(value: Any) -> float | None:
    """A number for JSON; None if it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def diversity_words(scores: Scores) -> str:
    """Diversity, Vendi score and bonus of a generation in one line, apart from the return."""
    known = scores.diversity[np.isfinite(scores.diversity)]
    diversity = f"{known.mean():.3f}" if len(known) else "    ?"
    vendi = f"{scores.vendi:4.2f}" if np.isfinite(scores.vendi) else "   ?"
    words = [f"diversity {diversity}", f"vendi {vendi}", f"bonus {np.nanmean(scores.bonus):+.3f}"]
    if "coverage" in scores.archive:
        words.append(f"coverage {scores.archive['coverage']:.2f}")
    return "  ".join(words)
