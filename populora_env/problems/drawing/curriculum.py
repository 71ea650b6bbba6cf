"""Curricula: procedural problems whose levels follow what is solved, and nobody proposes."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from populora_env.keys import generator
from populora_env.problems.drawing.levels import Ladder, Level, make_ladders
from populora_env.problems.drawing.procedural import VirtualSource, draw_problem
from populora_env.problems.drawing.strategies import CURRICULA, LevelStrategy, Uniform
from populora_env.problems.sources.adaptive import AdaptiveSource
from populora_env.problems.sources.base import ProblemSpecError, Split, split_of
from populora_env.problems.sources.spec import CURRICULUM, TaskSpec, parse_tasks
from populora_env.records import Problem, Transcript
from populora_env.settings import did_you_mean

_LEVEL_TRIES = 20  # a generator may refuse some of its levels


class CurriculumSource(VirtualSource, AdaptiveSource):
    """Problems of several generators, each at levels that a strategy of its own chooses.

    Item ``i`` depends on ``i``, the seed and the state. Which generator it comes from goes by
    their weights alone. The test split has all levels with the same chance and never adapts.

    Args:
        task: A strategy's name, its generators and options; ``upto`` keeps the easiest steps of
            each axis.
        split: Part of all problems to keep, or None for all.
        seed: Another seed gives other items, of the same split.
        limit: Number of items; None for a virtually endless source.

    Raises:
        ProblemSpecError: If there is no such strategy or generator, or an option is refused.
        ValueError: If ``limit`` is below 1.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        split: Split | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__([entry.weight for entry in task.generators] or [1], "mixture", seed, limit)
        self.spec = f"{CURRICULUM}{task}"
        self._split = split
        self._refused: frozenset[str] = frozenset()
        options = dict(task.parameters)
        upto = options.pop("upto", None)
        make = CURRICULA.get(task.name)
        if make is None:
            near = did_you_mean(task.name, CURRICULA)
            raise ProblemSpecError(
                f"unknown curriculum {task.name!r}: there are {', '.join(CURRICULA)}{near}"
            )
        try:
            self._ladders = make_ladders(f"{CURRICULUM}{task.name}", task.generators, upto)
            _check_options(make, self._ladders[0], options)
            self._make, self._options = make, options
            self.restart()
        except ProblemSpecError:
            raise
        except (TypeError, ValueError) as error:
            raise ProblemSpecError(f"{self.spec:.200}: {error}") from None
        self._names = [f"{at}:{ladder.generator}" for at, ladder in enumerate(self._ladders)]
        for at in range(len(self._ladders)):
            self._item(at, 0)

    def __getitem__(self, index: int) -> Problem:
        self._check_index(index)
        return self._item(self._choose(index), index)

    def part_of(self, index: int) -> str:
        """Return the generator that item ``index`` comes from."""
        return self._names[self._choose(index)]

    def parts(self) -> frozenset[str]:
        """Return all generators."""
        return frozenset(self._names)

    def observe(self, transcripts: Sequence[Transcript]) -> None:
        """Take in the grades of attempts at problems that came from such a source.

        Others are left out, as are problems of another split and those that are excluded.
        """
        if self._split is Split.TEST:
            return
        for transcript in transcripts:
            place = self._place(transcript.problem)
            known = [entry.correct for entry in transcript.attempts if entry.correct is not None]
            if place is not None and known:
                self._strategies[place[0]].observe(place[1], sum(known), len(known))

    def state(self) -> dict[str, Any]:
        """Return what each strategy has learned."""
        return {"spec": self.spec, "parts": [strategy.state() for strategy in self._strategies]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Become as a source with this state.

        Raises:
            ValueError: If it is not a state of a source with this spec; nothing is changed then.
        """
        try:
            if state["spec"] != self.spec:
                raise ValueError(f"it belongs to {state['spec']!r:.200}")
            strategies = [self._fresh(at) for at in range(len(self._ladders))]
            for strategy, part in zip(strategies, state["parts"], strict=True):
                strategy.load(part)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"state is none of {self.spec:.200}: {type(error).__name__}: {error}"
            ) from error
        self._strategies = strategies

    def fork(self) -> "CurriculumSource":
        """Return a source in the same state that goes its own way from here."""
        other = CurriculumSource.__new__(CurriculumSource)
        vars(other).update(vars(self))
        other.load(self.state())
        return other

    def restart(self) -> None:
        """Forget what was learned."""
        self._strategies: list[LevelStrategy] = [
            self._fresh(at) for at in range(len(self._ladders))
        ]

    def exclude(self, problems: Collection[Problem]) -> None:
        """Never give one of these problems."""
        self._refused = frozenset(problem.id for problem in problems)

    def _fresh(self, at: int) -> LevelStrategy:
        """Return a strategy that has learned nothing."""
        made = self._make(self._ladders[at], **self._options)
        return Uniform(self._ladders[at]) if self._split is Split.TEST else made

    def _item(self, at: int, index: int) -> Problem:
        rng = generator("curriculum", self._seed, at, index)
        ladder = self._ladders[at]
        refusal: ProblemSpecError | None = None
        for _ in range(_LEVEL_TRIES):
            level = self._strategies[at].choose(rng)
            try:
                problem = draw_problem(
                    ladder.at(level), self._split, "curriculum", self._seed, at, index,
                    refused=self._refused,
                )  # fmt: skip
            except ProblemSpecError as error:
                refusal = error
                continue
            mark = {**self._mark, "part": at, "level": list(level)}
            return replace(problem, metadata={**problem.metadata, "curriculum": mark})
        assert refusal is not None
        raise refusal

    @property
    def _mark(self) -> dict[str, Any]:
        return {"spec": self.spec, "split": None if self._split is None else self._split.value}

    def _place(self, problem: Problem) -> tuple[int, Level] | None:
        """Return which generator and level a problem came from, if it is one of this source's."""
        mark = problem.metadata.get("curriculum")
        if not isinstance(mark, Mapping) or problem.id in self._refused:
            return None
        entries: Mapping[str, Any] = mark  # pyright: ignore[reportUnknownVariableType]
        if any(entries.get(name) != value for name, value in self._mark.items()):
            return None
        if self._split is not None and split_of(problem) is not self._split:
            return None
        at, level = entries.get("part"), entries.get("level")
        if type(at) is not int or not 0 <= at < len(self._ladders) or not isinstance(level, list):
            return None
        steps: list[Any] = level  # pyright: ignore[reportUnknownVariableType]
        return (at, tuple(steps)) if self._ladders[at].holds(steps) else None


def load_curriculum(
    spec: str, *, split: Split | None = None, seed: int = 0, limit: int | None = None
) -> CurriculumSource:
    """Return the curriculum that a spec such as ``curriculum:window(chain_sum,up=0.9)`` names.

    Raises:
        ProblemSpecError: If it names none, or more than one.
        ValueError: If ``limit`` is below 1.
    """
    tasks = parse_tasks(spec.strip().removeprefix(CURRICULUM))
    if len(tasks) > 1 or tasks[0].weight != 1:
        raise ProblemSpecError(
            f"{spec.strip()[:120]!r}: a curriculum stands alone; its generators go into its "
            "brackets, as in curriculum:window(chain_sum+2*products)"
        )
    return CurriculumSource(tasks[0], split=split, seed=seed, limit=limit)


def _check_options(make: Any, ladder: Ladder, options: Mapping[str, Any]) -> None:
    signature = inspect.signature(make)
    try:
        signature.bind(ladder, **options)
    except TypeError as error:
        accepted = [*list(signature.parameters)[1:], "upto"]
        near = "".join(did_you_mean(name, accepted) for name in options if name not in accepted)
        raise TypeError(f"{error}; its options are {', '.join(accepted)}{near}") from None
