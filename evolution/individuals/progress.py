"""What solvers gain on fixed training problems, from one generation to the next.

Proposers can be paid by it (SOAR, Sundaram et al., 2026): a problem is good if those who solved it
do better afterwards.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.measuring.evaluate import evaluate
from agents.population import LoraPopulation
from evolution.config import EvolutionConfig
from populora_env.episodes.rewards import RewardWeights
from populora_env.grading import Grader
from populora_env.keys import generator
from populora_env.problems import ProblemSource
from populora_env.proposals.source import SelfPlaySource
from populora_env.records import Problem

PROBLEMS = 32  # that progress is measured on


class ProgressMeter:
    """Measures the solvers, and tells their source what each has gained since it was last.

    Args:
        population: Whose members solve.
        source: Told of the gains.
        solvers: Their agents.
        problems: The same ones each time.
        grader: Used and left open.
        max_new_tokens: Length limit of an attempt.
    """

    def __init__(
        self,
        population: LoraPopulation,
        source: SelfPlaySource,
        solvers: Sequence[str],
        problems: Sequence[Problem],
        grader: Grader,
        max_new_tokens: int,
    ) -> None:
        self._population, self._source = population, source
        self._solvers, self._problems = list(solvers), problems
        self._grader, self._max_new_tokens = grader, max_new_tokens
        self._before: dict[str, float] = {}

    def measure(self) -> None:
        """Tell what each solver has gained, in [-1, 1]; 0 where it is measured for the first."""
        measured = evaluate(
            self._population.greedy(),
            self._problems,
            agents=self._solvers,
            grader=self._grader,
            max_new_tokens=self._max_new_tokens,
        )
        self._population.forget()
        now = {agent: float(measured.scores[agent].accuracy) for agent in self._solvers}
        gains = {agent: now[agent] - self._before.get(agent, now[agent]) for agent in now}
        self._before = now
        self._source.tell_gains(gains)

    def state(self) -> dict[str, float]:
        """As JSON types."""
        return dict(self._before)

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        self._before = {agent: float(value) for agent, value in saved.items()}


def make_meter(
    population: LoraPopulation, problems: ProblemSource, config: EvolutionConfig, grader: Grader
) -> ProgressMeter | None:
    """The meter that a run needs; None where nobody is paid for progress."""
    paid = RewardWeights.preset(config.rewards).progress
    if not (paid and isinstance(problems, SelfPlaySource)):
        return None
    fixed = problems.fresh(generator("progress", config.seed), PROBLEMS)
    solvers = population.agents[config.only_propose :]
    return ProgressMeter(population, problems, solvers, fixed, grader, config.solve_tokens)
