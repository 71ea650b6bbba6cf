"""Anchors: what verdicts rest on, and nobody trains on.

Anchor problems are ordinary ones with known answers. They come from the half of all problems that
is never trained on, without those that the run's last table is about; where that half has too few,
as with small sets of problems, some of the training problems are set aside, at most a quarter.

They are answered greedily, so that nothing but weights makes a difference.
"""

from collections.abc import Collection, Sequence
from itertools import islice

from agents.measuring.evaluate import evaluate
from agents.population import LoraPopulation
from evolution.config import EvolutionConfig
from evolution.errors import ConfigError
from populora_env.grading import Grader
from populora_env.keys import generator
from populora_env.problems import ProblemSource, SequenceSource, load_problems
from populora_env.problems.sources.base import ProblemSpecError
from populora_env.proposals.source import SelfPlaySource
from populora_env.records import Problem

FEWEST = 12
_SHARE = 4  # of training problems, one in so many may be set aside
_REPEATS = 300  # items in a row that were there before, after which a source counts as exhausted


def choose_anchors(
    source: ProblemSource, config: EvolutionConfig, excluded: Collection[Problem]
) -> tuple[Problem, ...]:
    """The anchor problems of a run; the same each time. None where it has no guard.

    Args:
        source: Where training problems come from.
        config: Settings of the run.
        excluded: Problems that are kept for something else.

    Raises:
        ConfigError: If there are too few.
    """
    if config.guard == "off":
        return ()
    wanted, found = config.guard_anchors, dict[str, Problem]()
    taken = {problem.id for problem in excluded}

    test = _held_out(source, config)
    if test is not None:
        found |= _known(_distinct(test, wanted, taken))
    if len(found) < wanted and not config.guard_from:
        aside = _known(_of_training(source, config, wanted - len(found), taken))
        found |= dict(islice(aside.items(), wanted - len(found)))
    if len(found) < min(FEWEST, wanted):
        spec = config.guard_from or source.spec
        raise ConfigError(
            f"guard_from: got {spec!r:.80} with {len(found)} problems of known answers to spare, "
            f"expected at least {min(FEWEST, wanted)}; name a spec that has them, such as "
            "procedural:chain_sum, or set guard = off"
        )
    return tuple(found.values())


def _held_out(source: ProblemSource, config: EvolutionConfig) -> ProblemSource | None:
    """The half of the problems that is never trained on; None where it cannot be had.

    Raises:
        ConfigError: If the settings name one that there is not.
    """
    if not config.guard_from and isinstance(source, SelfPlaySource):
        return None
    try:
        return load_problems(config.guard_from or source.spec, split="test", seed=config.seed)
    except ProblemSpecError as error:
        if config.guard_from:
            raise ConfigError(f"guard_from: {error}") from error
        return None


def _of_training(
    source: ProblemSource, config: EvolutionConfig, wanted: int, taken: Collection[str]
) -> Sequence[Problem]:
    """Training problems that may be set aside."""
    rng = generator("guard", config.seed)
    if isinstance(source, SelfPlaySource):
        fresh = source.fresh(rng, wanted + len(taken))
        return [problem for problem in fresh if problem.id not in taken]
    if isinstance(source, SequenceSource):
        own = list({p.id: p for p in source if p.id not in taken}.values())
        order = rng.permutation(len(own))[: len(own) // _SHARE]
        return [own[i] for i in order.tolist()]
    own = _distinct(source, _SHARE * wanted, taken)
    return own[: len(own) // _SHARE]


def _distinct(source: ProblemSource, most: int, taken: Collection[str]) -> list[Problem]:
    """The first different problems of a source, as many as it has up to ``most``."""
    seen: dict[str, Problem] = {}
    free, repeats = 0, 0
    for problem in source:
        if free == most or repeats == _REPEATS:
            break
        repeats = repeats + 1 if problem.id in seen else 0
        free += problem.id not in seen and problem.id not in taken
        seen[problem.id] = problem
    return [problem for problem in seen.values() if problem.id not in taken]


def _known(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Those whose answer is known, by id."""
    return {problem.id: problem for problem in problems if problem.answer is not None}


class Anchors:
    """The anchor problems, and how agents do on them.

    Args:
        population: Whose members answer.
        problems: At least one, each with a known answer.
        grader: Used and left open.
        max_new_tokens: Length limit of a reply.

    Attributes:
        replies: How many were asked for so far.
    """

    def __init__(
        self,
        population: LoraPopulation,
        problems: Sequence[Problem],
        grader: Grader,
        max_new_tokens: int,
    ) -> None:
        self._population, self.problems = population, tuple(problems)
        self._grader, self._max_new_tokens = grader, max_new_tokens
        self.replies = 0

    def marks(self, agents: Sequence[str]) -> dict[str, tuple[bool, ...]]:
        """Which anchors each agent answers rightly, ``[anchors]``; what was recalled is forgotten.

        Args:
            agents: Names; ``base`` for the bare base.
        """
        if not agents:
            return {}
        measured = evaluate(
            self._population.greedy(),
            self.problems,
            agents=agents,
            grader=self._grader,
            max_new_tokens=self._max_new_tokens,
        )
        self._population.forget()
        self.replies += len(agents) * len(self.problems)
        return {
            agent: tuple(bool(grade.correct) for grade in measured.scores[agent].grades)
            for agent in agents
        }
