"""Fitness: what an agent's episodes of one generation are worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from populora_env.records import Phase, Transcript


@dataclass(frozen=True, slots=True)
class Scores:
    """What a generation's episodes say of each agent; all arrays are ``[N]``.

    Attributes:
        returns: Mean return over the episodes.
        accuracy: Fraction of final attempts that are correct; NaN where no answer is known.
        length: Mean length of the attempts in characters.
        diversity: See `evolution.diversity`.
        fitness: ``returns + weight * diversity``.
        errors: Standard error of an agent's lead in return over the population's mean, from the
            choice of problems; infinite if there was only one.
    """

    returns: np.ndarray
    accuracy: np.ndarray
    length: np.ndarray
    diversity: np.ndarray
    fitness: np.ndarray
    errors: np.ndarray


def score(
    transcripts: Sequence[Transcript], diversity: np.ndarray, diversity_weight: float
) -> Scores:
    """Score all agents on a generation's episodes.

    Args:
        transcripts: At least one, all with the same agents.
        diversity: Of each agent, ``[N]``.
        diversity_weight: What a unit of diversity is worth in units of return.
    """
    agents = transcripts[0].agents
    rewards = np.array([[t.rewards[a] for a in agents] for t in transcripts])
    returns = rewards.mean(0)
    correct = np.full((len(transcripts), len(agents)), np.nan)
    length = np.zeros((len(transcripts), len(agents)))
    for row, transcript in enumerate(transcripts):
        for column, attempt in enumerate(transcript.final_attempts):
            length[row, column] = len(attempt.text)
            if attempt.grade is not None and attempt.grade.correct is not None:
                correct[row, column] = attempt.grade.correct
    known = np.isfinite(correct).any()
    accuracy = np.nanmean(correct, 0) if known else np.full(len(agents), np.nan)
    fitness = returns + diversity_weight * diversity
    errors = lead_errors(rewards)
    return Scores(returns, accuracy, length.mean(0), diversity, fitness, errors)


def lead_errors(rewards: np.ndarray) -> np.ndarray:
    """Standard errors of leads over the mean of those who played the same problems.

    Args:
        rewards: ``[problems, N]``.

    Returns:
        ``[N]``; infinite where there is one problem. What all find hard or easy does not count.
    """
    if len(rewards) < 2:
        return np.full(rewards.shape[1], np.inf)
    leads = rewards - rewards.mean(1, keepdims=True)
    return leads.std(0, ddof=1) / len(rewards) ** 0.5


def solve_replies(transcript: Transcript) -> dict[str, tuple[str, str]]:
    """Prompt and reply of each agent's attempt."""
    return {
        turn.agent: (turn.prompt, turn.reply)
        for turn in transcript.turns
        if turn.phase is Phase.SOLVE
    }
