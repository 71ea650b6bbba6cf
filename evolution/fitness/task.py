"""Fitness: what an agent's episodes of one generation are worth.

How task return and diversity are put together is in `evolution.fitness.evaluator`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from populora_env.records import Transcript


@dataclass(frozen=True, slots=True)
class Scores:
    """What a generation's episodes say of each agent; arrays are ``[N]``.

    Attributes:
        returns: Mean return over the episodes: the task alone.
        accuracy: Fraction of final attempts that are correct; NaN where no answer is known.
        length: Mean length of the attempts in characters.
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
    rewards = np.array([[t.rewards[a] for a in agents] for t in transcripts])
    returns = rewards.mean(0)
    correct = np.full((len(transcripts), len(agents)), np.nan)
    length = np.zeros((len(transcripts), len(agents)))
    for row, transcript in enumerate(transcripts):
        for column, attempt in enumerate(transcript.final_attempts):
            length[row, column] = len(attempt.text)
            if attempt.correct is not None:
                correct[row, column] = attempt.correct
    known = np.isfinite(correct).any()
    accuracy = np.nanmean(correct, 0) if known else np.full(len(agents), np.nan)
    return returns, accuracy, length.mean(0), lead_errors(rewards)


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
