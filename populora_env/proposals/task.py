"""What a kind of task is: what a proposer is asked for, and what becomes of its reply.

A proposer writes a task; a verifier, never the proposer, computes its answer. A kind knows both
ends: the text of the request and the reading of the reply. It holds no state: what was proposed
before is the pool's (`pool`), who proposes and who solves is the arena's.

    @TASKS.add("capitals")
    def capitals() -> TaskKind:
        return TextTask("capitals", "Ask for the capital of a country.", read)

where ``read`` makes a `Problem` of a text, or raises `NotATask`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from populora_env.proposals.record import ProposalStatus
from populora_env.records import Problem
from populora_env.settings import Registry


class NotATask(Exception):
    """Why a text is no valid task.

    Args:
        status: What is wrong.
        reason: In one line.
    """

    def __init__(self, status: ProposalStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was read and verified.

    Attributes:
        problem: What solvers get, with its verified answer.
        text: The task itself in one line, as examples and feedback show it.
        key: Normal form; tasks that are the same written differently have the same.
        tokens: Of the normal form, in order; how new a task is goes by them.
        measures: Its size in numbers, such as ``{"operands": 3, "largest": 12}``; for the report.
    """

    problem: Problem
    text: str
    key: str
    tokens: tuple[str, ...]
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Told:
    """What a proposer is told of one of its last proposals.

    Attributes:
        text: The task in one line.
        status: What became of it.
        solve_rate: Share of the attempts that were right; None if nobody tried.
        reason: Why it is not valid, in one line; empty if it is.
    """

    text: str
    status: ProposalStatus
    solve_rate: float | None
    reason: str = ""


class TaskKind(ABC):
    """One kind of task.

    Attributes:
        name: Its own, as in a spec.
        recipe: Whether a task is a recipe for problems that are drawn anew each time. Of other
            kinds, a copy of an example from the request is no proposal.
    """

    name: str
    recipe: bool = False

    @abstractmethod
    def request(self, rng: np.random.Generator, told: Sequence[Told]) -> str:
        """Return what a proposer is asked, with worked examples that the generator draws.

        Args:
            rng: For the examples.
            told: What its last proposals came to, the latest last; may be empty.
        """

    @abstractmethod
    def read(self, reply: str, rng: np.random.Generator) -> Task:
        """Return the task that a reply holds, verified.

        Args:
            reply: Any text.
            rng: For a kind whose task is a recipe, from which the problem is drawn.

        Raises:
            NotATask: If there is none; nothing else is raised, whatever the text.
        """

    @abstractmethod
    def example(self, rng: np.random.Generator) -> Task:
        """Return a task of its own making, such as those that requests show."""

    def key_of(self, problem: Problem) -> str | None:
        """Return the normal form of a problem that was made elsewhere.

        By it, a proposal is known for a held-out problem written differently. None where the
        problem is none of this kind.
        """
        del problem
        return None

    def close(self) -> None:  # noqa: B027, most kinds have nothing to end
        """End what runs for it. May be called twice; it starts again when it is needed."""


TASKS = Registry[Callable[..., TaskKind]]("task")
"""Kinds of task by name: functions of the options of a spec that return a `TaskKind`."""


class TextTask(TaskKind):
    """A kind of task made of a request and one function.

    Args:
        name: Its own.
        request: What a proposer is asked, without examples and feedback.
        make: From a text to a `Problem`; raises `NotATask` if it is none.
        examples: Texts that ``make`` accepts, to show three of; at least one.

    Raises:
        ValueError: If an example is no task.
    """

    def __init__(
        self, name: str, request: str, make: Callable[[str], Problem], examples: Sequence[str]
    ) -> None:
        self.name, self._request, self._make = name, request, make
        if not examples:
            raise ValueError("examples must be at least one text that make accepts, got none")
        self._examples: list[Task] = []
        for text in examples:
            try:
                self._examples.append(self._task(text))
            except NotATask as error:
                raise ValueError(
                    f"examples must be tasks, but {text!r} is none: {error.reason}"
                ) from None

    def request(self, rng: np.random.Generator, told: Sequence[Told]) -> str:
        """Return the request with up to three of the examples."""
        count = min(3, len(self._examples))
        chosen = rng.choice(len(self._examples), count, replace=False)
        return request_text(self._request, [self._examples[int(i)].text for i in chosen], told)

    def read(self, reply: str, rng: np.random.Generator) -> Task:
        """Return what ``make`` makes of the reply."""
        del rng
        return self._task(reply)

    def example(self, rng: np.random.Generator) -> Task:
        """Return one of the examples."""
        return self._examples[int(rng.integers(len(self._examples)))]

    def _task(self, text: str) -> Task:
        problem = self._make(text)
        tokens = tuple(re.findall(r"\w+|[^\w\s]", problem.prompt.lower()))
        line = " ".join(text.split())
        return Task(problem, line, " ".join(tokens), tokens, {"tokens": len(tokens)})


def request_text(ask: str, examples: Sequence[str], told: Sequence[Told]) -> str:
    """Return a request in the form that all kinds share.

    Args:
        ask: What is asked for, a sentence or two.
        examples: Tasks in one line each.
        told: What the proposer's last proposals came to.
    """
    lines = [ask, "Examples:", *examples]
    if told:
        lines += ["Your last ones:", *map(_outcome, told)]
    return "\n".join(lines)


def _outcome(told: Told) -> str:
    """Return one line of feedback; what was no task is not shown, lest it be written again."""
    if told.status is ProposalStatus.VALID:
        rate = told.solve_rate
        return f"{told.text} ({'not tried' if rate is None else f'{rate:.0%} solved it'})"
    if told.status is ProposalStatus.REPEATED:
        return f"{told.text} (not valid: {told.reason})"
    return f"(not valid: {told.reason})"
