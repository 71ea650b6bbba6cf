"""Accuracy of any policy on any problems.

Agents answer each problem once; nobody judges anybody. The vote is the most frequent final answer
of the agents. Not covered here: few-shot prompts, pass@k, comparisons with other harnesses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.measuring.statistics import Estimate
from agents.policy import Policy, Request, ask, failures_said
from agents.progress import Progress
from populora_env.grading import Grader, opened
from populora_env.judges.votes import Opinions, vote_share
from populora_env.keys import derive_seed
from populora_env.prompts import solve_prompt
from populora_env.records import Grade, Phase, Problem


@dataclass(frozen=True, slots=True)
class AgentScore:
    """How one agent did.

    Attributes:
        accuracy: Fraction of correct final answers.
        standard_error: ``sqrt(p (1 - p) / (n - 1))``; see `statistics.Estimate`.
        grades: The grade of each problem.
        replies: The reply to each problem.
    """

    accuracy: float
    standard_error: float
    grades: tuple[Grade, ...]
    replies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """How several agents did on the same problems.

    Attributes:
        problems: What they were asked.
        scores: Agent to its score.
        mean: Mean accuracy of the agents.
        vote: Accuracy of the most frequent final answer, None for a single agent. A tie
            counts the share of its answers that are right; see `votes.vote_share`.
        votes: How right the vote on each problem is, whose mean is ``vote``.
    """

    problems: tuple[Problem, ...]
    scores: Mapping[str, AgentScore]
    mean: float
    vote: float | None
    votes: tuple[float, ...] = ()


def evaluate(
    policy: Policy,
    problems: Sequence[Problem],
    *,
    agents: Sequence[str] = ("agent_0",),
    grader: Grader | None = None,
    max_new_tokens: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Let agents answer problems and grade the answers.

    Args:
        policy: Answers for all agents.
        problems: At least one, each with a known answer.
        agents: Names the policy answers for.
        grader: Used and left open; None for one that is closed at the end.
        max_new_tokens: Length limit of a reply.
        seed: Seed of sampled replies.
        progress: Called with ``measuring`` and the fraction of replies that are there.

    Warns:
        RuntimeWarning: If the policy says that it failed to answer; see `failures_said`.

    Raises:
        ValueError: If there are no problems or agents, or a problem has no answer.
    """
    if not problems or not agents:
        raise ValueError("problems and agents: expected at least one each")
    if unknown := [problem.id for problem in problems if problem.answer is None]:
        raise ValueError(f"problems: {unknown[0]} has no known answer, so accuracy is undefined")
    scores: dict[str, AgentScore] = {}
    with opened(grader) as use:
        pairs = [(agent, problem) for agent in agents for problem in problems]
        with failures_said(policy):
            replies = _replies(policy, pairs, max_new_tokens, seed, progress)
        grades = use.grade_many(
            [(problem, reply) for (_, problem), reply in zip(pairs, replies, strict=True)]
        )
        for n, agent in enumerate(agents):
            mine = slice(n * len(problems), (n + 1) * len(problems))
            accuracy = Estimate.of([bool(grade.correct) for grade in grades[mine]])
            scores[agent] = AgentScore(
                accuracy.value, accuracy.standard_error, tuple(grades[mine]), tuple(replies[mine])
            )
        votes = vote_shares(problems, list(scores.values()), use) if len(scores) > 1 else []
    mean = float(np.mean([score.accuracy for score in scores.values()]))
    vote = sum(votes) / len(votes) if votes else None
    return EvaluationResult(tuple(problems), scores, mean, vote, tuple(votes))


def vote_shares(
    problems: Sequence[Problem], scores: Sequence[AgentScore], grader: Grader | None = None
) -> list[float]:
    """Return how right the most frequent answer to each problem is; see `votes.vote_share`.

    Args:
        problems: What was asked.
        scores: Those of the agents that vote.
        grader: Says which answers are equal in value; None to go by their canonical forms.
    """
    opinions = Opinions(grader)
    found: list[float] = []
    for problem, *grades in zip(problems, *(score.grades for score in scores), strict=True):
        answers = [grade.extracted for grade in grades]
        right = [bool(grade.correct) for grade in grades]
        votes = opinions.read(answers, problem.answer_kind, right, for_winner=True)
        found.append(vote_share(votes, right))
    return found


def _replies(
    policy: Policy,
    pairs: Sequence[tuple[str, Problem]],
    max_new_tokens: int,
    seed: int,
    progress: Progress | None,
) -> list[str]:
    """Ask for one reply to each problem by each agent.

    All at once where the policy can batch; in slices where somebody watches the progress.
    """
    slice_size = -(-len(pairs) // (1 if progress is None else 8))
    replies: list[str] = []
    for start in range(0, len(pairs), slice_size):
        requests = [
            Request(
                agent,
                Phase.SOLVE,
                solve_prompt(problem),
                max_new_tokens,
                derive_seed("evaluate", seed, agent, problem.id),
            )
            for agent, problem in pairs[start : start + slice_size]
        ]
        replies += ask(policy, requests)
        if progress is not None:
            progress("measuring", len(replies) / len(pairs))
    return replies
