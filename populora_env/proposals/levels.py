"""Levels as a kind of task: a proposer sets how hard a procedural generator's problem is.

It writes settings in JSON, such as ``{"generator": "chain_sum", "terms": 3, "digits": 2}``; the
generator makes the problem and knows its answer.
"""

import json
import re
from collections.abc import Iterator, Sequence

import numpy as np

from populora_env.problems.drawing.levels import Axis, Ladder, make_ladders
from populora_env.problems.drawing.procedural import draw_problem
from populora_env.problems.sources.base import ProblemSpecError, Split
from populora_env.problems.sources.spec import GeneratorSpec
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.task import TASKS, NotATask, Task, TaskKind, Told, request_text
from populora_env.records import Problem

# Small models write prose, or settings of generators that they make up, unless told how to begin.
# Told of ranges as well, they write about them.
ASK = (
    "Write a new problem with other numbers, as JSON. "
    """Begin your reply with "Problem: {{"generator": "{name}","."""
)
SHOWN = 3  # examples in a request
TEXT_LIMIT = 2_000  # characters of a reply that are looked at
_BRACED = re.compile(r"\{([^{}]*)")
_PAIR = re.compile(
    r"""(?<!\w)["'`]?([A-Za-z]\w{0,60})["'`]?\s{0,4}[:=]\s{0,4}["'`]?"""
    r"""(-?[0-9]{1,18}(?:\.[0-9]{1,9})?(?!\w|[.,][0-9])|[A-Za-z]\w{0,60}(?!\w))"""
)
_WORD = re.compile(r"\w+")


class Levels(TaskKind):
    """Settings of procedural generators.

    Args:
        ladders: The levels of each; how often each is asked for goes by its weight.
    """

    name = "levels"
    recipe = True

    def __init__(self, ladders: Sequence[Ladder]) -> None:
        self.ladders = tuple(ladders)
        self._named: dict[str, Ladder] = {}
        for ladder in self.ladders:
            self._named.setdefault(ladder.generator.name.lower(), ladder)
        weights = np.array([ladder.generator.weight for ladder in self.ladders])
        self._chances = weights / weights.sum()

    def request(self, rng: np.random.Generator, told: Sequence[Told]) -> str:
        """Return what a proposer is asked, with three levels of one generator."""
        ladder = self._any(rng)
        shown = [ladder.settings(ladder.any_level(rng)) for _ in range(SHOWN)]
        return request_text(
            ASK.format(name=ladder.generator.name),
            [f"Problem: {_text(ladder, settings)}" for settings in shown],
            told,
        )

    def read(self, reply: str, rng: np.random.Generator) -> Task:
        """Return the first settings of a reply, and a training problem at them."""
        for chunk in _chunks(reply[:TEXT_LIMIT]):
            pairs = {key.lower(): value for key, value in _PAIR.findall(chunk)}
            ladder = self._generator(chunk, pairs)
            if ladder is not None:
                return self._task(ladder, _settings(ladder, pairs), rng)
        raise NotATask(ProposalStatus.UNREADABLE, "no settings in it")

    def example(self, rng: np.random.Generator) -> Task:
        """Return the problem of a level, each with the same chance."""
        for _ in range(20):  # a generator may refuse some of them
            ladder = self._any(rng)
            try:
                return self._task(ladder, ladder.settings(ladder.any_level(rng)), rng)
            except NotATask:
                continue
        ladder = self.ladders[0]
        return self._task(ladder, ladder.settings((0,) * len(ladder.axes)), rng)

    def key_of(self, problem: Problem) -> str | None:
        """Return the id of a problem: what is drawn is known by its content."""
        return problem.id

    def _any(self, rng: np.random.Generator) -> Ladder:
        return self.ladders[int(rng.choice(len(self.ladders), p=self._chances))]

    def _generator(self, chunk: str, pairs: dict[str, str]) -> Ladder | None:
        """Return whose settings these are, or None if they are nobody's.

        Raises:
            NotATask: If a generator is named that is not among those asked for.
        """
        named = pairs.get("generator")
        if named is not None:
            if named.lower() not in self._named:
                reason = f"no generator {named[:40]}, there are {', '.join(self._named):.200}"
                raise NotATask(ProposalStatus.OUT_OF_RANGE, reason)
            return self._named[named.lower()]
        for word in _WORD.findall(chunk.lower()):
            if word in self._named:
                return self._named[word] if pairs else None
        known = any(_given(axis, pairs) is not None for axis in self.ladders[0].axes)
        return self.ladders[0] if known and len(self.ladders) == 1 else None

    def _task(self, ladder: Ladder, settings: dict[str, float], rng: np.random.Generator) -> Task:
        seed = int(rng.integers(2**62))
        try:
            chosen = ladder.chosen(settings)
        except ValueError as error:
            raise NotATask(ProposalStatus.OUT_OF_RANGE, str(error)) from None
        try:
            problem = draw_problem(chosen, Split.TRAIN, "levels", seed)
        except ProblemSpecError as error:
            raise NotATask(ProposalStatus.NO_ANSWER, str(error)) from None
        text = _text(ladder, settings)
        return Task(problem, text, problem.id, tuple(re.findall(r"[\w.-]+", text)), dict(settings))


def _chunks(text: str) -> Iterator[str]:
    """Yield what may be settings: what stands in braces, then line by line."""
    yield from _BRACED.findall(text)
    yield from text.splitlines()


def _settings(ladder: Ladder, pairs: dict[str, str]) -> dict[str, float]:
    """Return a number for each axis.

    Raises:
        NotATask: If one is not given.
    """
    settings: dict[str, float] = {}
    for axis in ladder.axes:
        given = _given(axis, pairs)
        if given is None:
            raise NotATask(ProposalStatus.UNREADABLE, f"no number for {axis.name}")
        settings[axis.name] = given
    return settings


def _given(axis: Axis, pairs: dict[str, str]) -> float | None:
    for name in (axis.name.lower(), *axis.aliases):
        value = pairs.get(name, "")
        if value[-1:].isdigit() and not value[0].isalpha():
            return float(value) if "." in value else int(value)
    return None


def _text(ladder: Ladder, settings: dict[str, float]) -> str:
    shown = {name: int(value) if value == int(value) else value for name, value in settings.items()}
    return json.dumps({"generator": ladder.generator.name, **shown})


@TASKS.add("levels")
def levels(*, generators: Sequence[GeneratorSpec] = (), upto: int | None = None) -> TaskKind:
    """Return the kind of task in which a procedural problem's level is set.

    Args:
        generators: Those whose levels are set; what their parameters fix is not.
        upto: Steps to keep of each of their axes, the easiest ones; None for all.

    Raises:
        ProblemSpecError: If there are no generators, or one has no curriculum.
        ValueError: If ``upto`` is out of range.
    """
    return Levels(make_ladders("levels", generators, upto))
