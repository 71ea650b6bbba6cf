"""To and from `verifiers` (Prime Intellect), whose package this imports: its API `verifiers.v1`.

`ProblemTaskset` gives our problems to its evaluations and trainers, graded by our grader;
`problems_of` makes problems of its tasks, for arenas, runs and benchmarks here.

Not covered: its tasks that need tools, containers or rewards other than a known answer.
"""

import importlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from populora_env.grading import Grader
from populora_env.problems import ProblemSource
from populora_env.records import AnswerKind, Problem

__all__ = ["ProblemData", "ProblemTask", "ProblemTaskset", "problems_of"]

vf: Any = importlib.import_module("verifiers.v1")


class ProblemData(vf.TaskData):
    """A problem as a task's data; ``id`` is the problem's, ``prompt`` what it asks."""

    answer: str | None = None
    answer_kind: str = "number"


class ProblemTask(vf.Task[ProblemData, vf.State, vf.TaskConfig]):
    """A problem as a task, rewarded 1 for a right last reply and 0 for any other.

    Attributes:
        grader: Of the taskset.
    """

    grader: Grader

    @property
    def key(self) -> str:
        """The problem's content hash, wherever it is drawn from."""
        return self.data.id

    @vf.reward
    async def correct(self, trace: Any) -> float:
        """Grade the last reply."""
        data = self.data
        problem = Problem.create(data.prompt, data.answer, data.answer_kind)
        return float(self.grader.grade(problem, trace.last_reply).correct is True)


class ProblemTaskset(vf.Taskset[ProblemTask, vf.TasksetConfig]):
    """Our problems as a taskset; those without a known answer have no place in it.

    Args:
        problems: Problems, or a source of them; each is a task, in order.
        limit: How many at most; None for all, which a source without end has no end of.
        grader: Used and left open; None makes one.
        config: As verifiers wants it; None for its defaults.

    Raises:
        ValueError: If there is no problem, or one without a known answer is met.
    """

    def __init__(
        self,
        problems: ProblemSource | Sequence[Problem],
        *,
        limit: int | None = None,
        grader: Grader | None = None,
        config: Any = None,
    ) -> None:
        super().__init__(vf.TasksetConfig(id="populora") if config is None else config)
        if not len(problems):
            raise ValueError("problems: got none, expected at least one")
        self._problems = problems
        self._count = len(problems) if limit is None else min(limit, len(problems))
        self._grader = grader or Grader()

    def load(self) -> Iterator[ProblemTask]:
        """Yield the tasks."""
        for number in range(self._count):
            problem = self._problems[number]
            if problem.answer is None:
                raise ValueError(
                    f"problems: number {number} has no known answer, which the reward needs: "
                    f"{problem.prompt[:60]!r}"
                )
            data = ProblemData(id=problem.id, prompt=problem.prompt, answer=problem.answer,
                               answer_kind=problem.answer_kind.value)  # fmt: skip
            task = ProblemTask(data, self.config.task)
            task.grader = self._grader
            yield task


def problems_of(
    tasks: Any,
    *,
    answer: str = "answer",
    answer_kind: AnswerKind | str = AnswerKind.NUMBER,
    limit: int = 10_000,
) -> list[Problem]:
    """Problems from a taskset, or from tasks, of verifiers.

    Args:
        tasks: What yields tasks: a taskset, also one without end.
        answer: Entry of a task's data that holds the known answer.
        answer_kind: How replies are compared with it.
        limit: How many tasks are read at most.

    Returns:
        One problem for each task, with a system prompt above its prompt if it has one.

    Raises:
        ValueError: If a task has no prompt, or no such entry.
    """
    made: list[Problem] = []
    for number, task in enumerate(islice(tasks, limit)):
        data = task.data
        if not data.prompt_text:
            raise ValueError(f"tasks: number {number} has no prompt, expected one to answer")
        if not hasattr(data, answer):
            known = ", ".join(sorted(set(type(data).model_fields) - set(vf.TaskData.model_fields)))
            raise ValueError(
                f"answer: number {number} has no {answer!r}, expected one of its entries: "
                f"{known or 'it has none of its own'}"
            )
        value = getattr(data, answer)
        prompt = "\n\n".join(filter(None, (data.system_prompt, data.prompt_text)))
        made.append(Problem.create(prompt, None if value is None else str(value), answer_kind))
    return made
