"""What a population is worth on held-out problems, and how different its members are.

All answer greedily, each problem once. Nothing that is measured has an influence on the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from agents.engine.jobs import Feature
from agents.measuring.evaluate import AgentScore, EvaluationResult, evaluate
from agents.population import LoraPopulation
from agents.progress import Progress
from evolution.fitness.diversity import cosine_kernel, same, vendi
from evolution.fitness.task import mean_of
from evolution.individuals.champion import averaged, hosting
from evolution.lowrank.genomes import content_hash
from evolution.manager import EvolutionManager
from evolution.studies.measured import text_of
from populora_env.grading import Grader
from populora_env.reading.reply_ids import reply_id
from populora_env.records import Problem


@dataclass(frozen=True, slots=True)
class Found:
    """What was right; see `evolution.studies.measured.Measured`."""

    champion: str
    members: tuple[str, ...]
    vote: str
    ties: dict[str, float]
    average: str
    vendi: float | None
    vendi_answers: float | None
    leader: int | None


def measure(
    manager: EvolutionManager,
    problems: Sequence[Problem],
    grader: Grader,
    progress: Progress | None = None,
    *,
    members: bool = True,
) -> Found:
    """Measure all who solve, the champion, and the mean of all.

    Args:
        manager: Of a run that has played, and confirmed its champion.
        problems: Held out.
        grader: Used and left open.
        progress: Told how far it is.
        members: Whether to measure them, or the champion alone.
    """
    population = manager.population
    ask = partial(
        evaluate,
        population.greedy(),
        problems,
        grader=grader,
        max_new_tokens=manager.config.solve_tokens,
    )
    population.forget()
    if not members:
        champion = _champion(manager, ask, None)
        population.forget()
        return Found(champion, (), "", {}, "", None, None, None)
    agents = ask(agents=manager.solvers, progress=progress)
    by_states = _vendi(cosine_kernel(_features(population, list(agents.scores.values()))))
    population.forget()
    answers = [[score.grades[i].extracted for score in agents.scores.values()]
               for i in range(len(problems))]  # fmt: skip
    each = tuple(_right(score) for score in agents.scores.values())
    champion, average = _champion(manager, ask, agents), each[0]
    if len(manager.solvers) > 1:
        with averaged(population, manager.solvers) as agent:
            average = _alone(ask, agent)
    population.forget()
    votes, ties = _votes(agents)
    leader = manager.solvers.index(manager.best)
    return Found(champion, each, votes, ties, average, by_states, _vendi(same(answers)), leader)


def _champion(manager: EvolutionManager, ask: Any, agents: EvaluationResult | None) -> str:
    """What the champion gets right, or the best by standing, where nobody's weights are finite."""
    population, champion = manager.population, manager.champion
    name = manager.best if champion is None else champion.agent
    slot = population.agents.index(name)
    if champion is None or content_hash(population.lora, slot) == champion.content_hash:
        return _alone(ask, name) if agents is None else _right(agents.scores[name])
    with hosting(population.lora, slot, champion.genome):
        return _alone(ask, name)


def _alone(ask: Any, agent: str) -> str:
    return _right(ask(agents=(agent,)).scores[agent])


def _right(score: AgentScore) -> str:
    return text_of([bool(grade.correct) for grade in score.grades])


def _votes(agents: EvaluationResult) -> tuple[str, dict[str, float]]:
    """What the vote got right, and ties; a single member's vote is its own."""
    if not agents.votes:
        return _right(next(iter(agents.scores.values()))), {}
    ties = {str(i): share for i, share in enumerate(agents.votes) if share not in (0.0, 1.0)}
    return text_of([share == 1.0 for share in agents.votes]), ties


def _features(population: LoraPopulation, scores: Sequence[AgentScore]) -> np.ndarray:
    """Mean last hidden states of replies ``[problems, agents, width]``; NaN where not known."""
    width = population.base.model.get_input_embeddings().weight.shape[1]
    features = np.full((len(scores[0].replies), len(scores), width), np.nan)
    for column, score in enumerate(scores):
        for row, reply in enumerate(score.replies):
            known = population.recall(reply_id(reply))
            if known is not None and len(known.reply_ids) > 1:
                features[row, column] = known.features[Feature.HIDDEN_STATES].numpy()
    return features


def _vendi(kernel: np.ndarray) -> float | None:
    """Vendi score, mean over the problems of which something is known."""
    value = mean_of(vendi(kernel))
    return round(value, 6) if np.isfinite(value) else None
