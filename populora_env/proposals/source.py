"""Self-play as a source of problems: its items are requests, and agents write the problems.

Item ``i`` asks for a proposal of a kind drawn by the seed. The arena shows it to a proposer, has
the reply verified here, and gives what is valid to solvers. The pool of what was proposed lately
is the source's state; it decides what is new, and what proposers are told.
"""

import inspect
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from populora_env.keys import generator
from populora_env.problems.drawing.procedural import VirtualSource
from populora_env.problems.sources.adaptive import AdaptiveSource
from populora_env.problems.sources.base import ProblemSpecError, Split, split_of
from populora_env.problems.sources.spec import SELF_PLAY, TaskSpec, mixture_text
from populora_env.proposals import expressions, functions, levels
from populora_env.proposals.record import Proposal, ProposalStatus
from populora_env.proposals.task import TASKS, NotATask, Task, TaskKind, Told
from populora_env.records import AnswerKind, Problem, Transcript
from populora_env.settings import did_you_mean
from populora_env.storage import plain, read_record, storable

KINDS = (
    expressions,
    levels,
    functions,
)  # the modules of the kinds that come along, which register them

REMEMBERED = 500  # last valid proposals of each kind, among which a new one must not be
TOLD = 3  # of its own last proposals that a proposer is told of
_SHOWN = 80  # characters of a text in feedback and records


class Seen(NamedTuple):
    """What is remembered of a valid proposal: its normal form and that form's parts."""

    key: str
    tokens: tuple[str, ...]


class SelfPlaySource(VirtualSource, AdaptiveSource):
    """Requests for proposals, and the pool of what came of them.

    An item is a `Problem` without an answer: its prompt is the request as it stands without
    feedback, its metadata hold ``task`` (the number of its kind) and ``number`` (its own).

    Args:
        tasks: At least one kind; weights say how often each is asked for.
        split: ``Split.TRAIN`` to accept no proposal of the held-out half, by content hash.
        seed: Another seed asks in another order, with other examples.
        limit: Number of items; None for a virtually endless source.

    Raises:
        ProblemSpecError: If a kind does not exist or refuses its options, or the test split is
            asked for, which nobody may propose.
        ValueError: If ``limit`` is below 1.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        *,
        split: Split | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__([task.weight for task in tasks], "self-play", seed, limit)
        self._specs = tuple(tasks)
        self._split = split
        self.kinds: tuple[TaskKind, ...] = tuple(map(make_task, tasks))
        self._names = [f"{at}:{task}" for at, task in enumerate(tasks)]
        self.spec = f"{SELF_PLAY}{mixture_text(tasks)}"
        if split is Split.TEST:
            raise ProblemSpecError(
                f"{self.spec:.80}: nobody proposes held-out problems; take them from another spec, "
                "such as procedural:chain_sum"
            )
        self._excluded_ids: frozenset[str] = frozenset()
        self._excluded_keys: list[frozenset[str]] = [frozenset() for _ in tasks]
        self.restart()

    def __getitem__(self, index: int) -> Problem:
        self._check_index(index)
        at = self._choose(index)
        prompt = self.kinds[at].request(self._rng("request", index), ())
        metadata = {"task": at, "number": index}
        return Problem.create(prompt, None, AnswerKind.TEXT, self.spec, metadata)

    def part_of(self, index: int) -> str:
        """Return the kind of task that item ``index`` asks for."""
        return self._names[self._choose(index)]

    def parts(self) -> frozenset[str]:
        """Return all kinds of task."""
        return frozenset(self._names)

    def given(self) -> Iterator[Problem]:
        """Yield nothing: every problem is yet to be written."""
        return iter(())

    def is_request(self, problem: Problem) -> bool:
        """Return whether a problem is an item of such a source."""
        return problem.source == self.spec and self._at(problem) is not None

    def number_of(self, request: Problem) -> int:
        """Return the number of a request; proposers take turns by it."""
        return int(request.metadata["number"])

    def request(self, request: Problem, agent: str) -> str:
        """Return what a proposer is shown: the request, and what its last proposals came to."""
        at = self._kind(request)
        told = [entry for kind, entry in self._told.get(agent, ()) if kind == at][-TOLD:]
        return self.kinds[at].request(self._rng("request", self.number_of(request)), told)

    def verify(
        self, request: Problem, agent: str, reply: str, unread: ProposalStatus | None = None
    ) -> tuple[Proposal, Problem | None]:
        """Return what becomes of a reply, and the problem if it is valid.

        What is valid counts as proposed from now on.

        Args:
            request: What was asked for.
            agent: Who replied.
            reply: Any text.
            unread: Why the reply is not to be read; None if it is.
        """
        at = self._kind(request)
        kind = self.kinds[at]
        text = " ".join(storable(reply[:_SHOWN]).split())

        def refused(status: ProposalStatus, reason: str, task: Task | None = None) -> Proposal:
            shown, key = (text, "") if task is None else (task.text[:_SHOWN], task.key)
            return Proposal(agent, kind.name, request.id, status, reason, shown, key, task=at)

        if unread is not None:
            return refused(unread, _UNREAD[unread]), None
        if not reply.strip():
            return refused(ProposalStatus.EMPTY, "the reply is empty"), None
        try:
            task = kind.read(reply, self._rng("verify", self.number_of(request)))
        except NotATask as error:
            return refused(error.status, error.reason), None
        if (why := self._held_out(at, task)) is not None:
            return refused(ProposalStatus.HELD_OUT, why, task), None
        if not kind.recipe and _stands_in(task.text, request.prompt):
            return refused(ProposalStatus.REPEATED, "an example of the request", task), None
        before = [*self._recent[at], *self._claimed[at]]
        if any(task.key == seen.key for seen in before):
            return refused(ProposalStatus.REPEATED, "among the last ones", task), None
        self._claimed[at].append(Seen(task.key, task.tokens))
        problem = _as_proposed(task, kind.name, agent, request)
        new = novelty(task.tokens, [seen.tokens for seen in before])
        proposal = Proposal(
            agent, kind.name, request.id, ProposalStatus.VALID, "", task.text[:_SHOWN], task.key,
            new, task=at,
        )  # fmt: skip
        return proposal, problem

    def observe(self, transcripts: Sequence[Transcript]) -> None:
        """Take in episodes: their proposals become those that were made last."""
        self._claimed = [[] for _ in self.kinds]
        names = [kind.name for kind in self.kinds]
        for transcript in transcripts:
            proposal = transcript.proposal
            if proposal is None:
                continue
            at = proposal.task
            if names[at : at + 1] != [proposal.kind]:
                raise ValueError(
                    f"transcripts: got a proposal of task {at}, {proposal.kind!r}, expected one "
                    f"of {self.spec:.80}"
                )
            if proposal.valid:
                tokens = tuple(map(str, transcript.problem.metadata.get("tokens", ())))
                self._recent[at].append(Seen(proposal.key, tokens))
                self._problems.append(transcript.problem)
            if proposal.status is ProposalStatus.HELD_OUT:  # of which nothing is told
                continue
            told = Told(proposal.text, proposal.status, proposal.solve_rate, proposal.reason)
            mine = self._told.setdefault(proposal.agent, deque(maxlen=TOLD * len(self.kinds)))
            mine.append((at, told))

    def tell_gains(self, gains: Mapping[str, float]) -> None:
        """Be told what agents have gained lately on fixed training problems, in [-1, 1]."""
        self._gains = dict(gains)

    def progress(self, solvers: Sequence[str]) -> float | None:
        """Return the mean of what these have gained lately; None where nobody measured it."""
        known = [self._gains[agent] for agent in solvers if agent in self._gains]
        return sum(known) / len(known) if known else None

    def fresh(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Return up to ``count`` distinct problems that the kinds make of their own accord.

        None is a held-out one. Nobody has proposed them, unless by chance.
        """
        found: dict[str, Problem] = {}
        for number in range(20 * count):
            if len(found) == count:
                break
            at = number % len(self.kinds)
            task = self.kinds[at].example(rng)
            if self._held_out(at, task) is None:
                found.setdefault(task.problem.id, task.problem)
        return list(found.values())

    def latest(self, count: int) -> list[Problem]:
        """Return up to ``count`` distinct problems that were proposed last, the latest first."""
        found = {problem.id: problem for problem in reversed(self._problems)}
        return list(found.values())[:count]

    def exclude(self, problems: Collection[Problem]) -> None:
        """Never accept one of these problems, nor the same written differently."""
        self._excluded_ids = frozenset(problem.id for problem in problems)
        keys = [[kind.key_of(problem) for problem in problems] for kind in self.kinds]
        self._excluded_keys = [frozenset(key for key in of if key is not None) for of in keys]

    def restart(self) -> None:
        """Empty the pool."""
        self._recent: list[deque[Seen]] = [deque(maxlen=REMEMBERED) for _ in self.kinds]
        self._claimed: list[list[Seen]] = [[] for _ in self.kinds]
        self._told: dict[str, deque[tuple[int, Told]]] = {}
        self._problems: deque[Problem] = deque(maxlen=REMEMBERED)
        self._gains: dict[str, float] = {}

    def fork(self) -> "SelfPlaySource":
        """Return a source with the same pool that goes its own way from here."""
        other = SelfPlaySource.__new__(SelfPlaySource)
        vars(other).update(vars(self))
        other._recent = [deque(seen, maxlen=REMEMBERED) for seen in self._recent]
        other._claimed = [list(seen) for seen in self._claimed]
        other._told = {agent: deque(of, maxlen=of.maxlen) for agent, of in self._told.items()}
        other._problems = deque(self._problems, maxlen=REMEMBERED)
        return other

    def state(self) -> dict[str, Any]:
        """Return the pool; what was verified but not observed is no part of it."""
        return {
            "recent": [[plain([seen.key, seen.tokens]) for seen in of] for of in self._recent],
            "told": {
                agent: [[at, plain(told)] for at, told in of] for agent, of in self._told.items()
            },
            "problems": [plain(problem) for problem in self._problems],
            "gains": dict(self._gains),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Have the pool that `state` returned.

        Raises:
            ValueError: If it is none of this source's.
        """
        self.restart()
        try:
            for at, of in enumerate(state["recent"]):
                self._recent[at].extend(Seen(str(key), tuple(tokens)) for key, tokens in of)
            for agent, of in state["told"].items():
                told = [(int(at), read_record(Told, entry)) for at, entry in of]
                self._told[agent] = deque(told, maxlen=TOLD * len(self.kinds))
            self._gains = {str(a): float(gain) for a, gain in state["gains"].items()}
            self._problems.extend(read_record(Problem, entry) for entry in state["problems"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ValueError(f"state is no pool of {self.spec:.80}: {said}") from error

    def close(self) -> None:
        """End what runs for its kinds; see `ProblemSource.close`."""
        for kind in self.kinds:
            kind.close()

    def _held_out(self, at: int, task: Task) -> str | None:
        """Return why a task must never be learned from; None if it may be."""
        if task.problem.id in self._excluded_ids or task.key in self._excluded_keys[at]:
            return "a held-out problem"
        if self._split is not None and split_of(task.problem) is not self._split:
            return "in the held-out half"
        return None

    def _rng(self, what: str, number: int) -> np.random.Generator:
        return generator("self-play", what, self._seed, number)

    def _at(self, problem: Problem) -> int | None:
        at, number = problem.metadata.get("task"), problem.metadata.get("number")
        if not (isinstance(at, int) and isinstance(number, int)):
            return None
        return at if 0 <= at < len(self.kinds) else None

    def _kind(self, request: Problem) -> int:
        at = self._at(request)
        if at is None:
            raise ValueError(f"request must be an item of {self.spec:.80}, got {request.id}")
        return at


_UNREAD = {
    ProposalStatus.FAILED: "no reply came",
    ProposalStatus.TOO_LONG: "the reply is over the length limit",
}


def make_task(task: TaskSpec) -> TaskKind:
    """Return the kind of task that a spec names.

    Raises:
        ProblemSpecError: If there is none, or it refuses its options.
    """
    make = TASKS.get(task.name)
    if make is None:
        near = did_you_mean(task.name, TASKS)
        raise ProblemSpecError(
            f"unknown kind of task {task.name!r}: self-play has {', '.join(TASKS)}{near}"
        )
    given = dict(task.parameters)
    if task.generators:
        given["generators"] = task.generators
    signature = inspect.signature(make)
    try:
        signature.bind(**given)
    except TypeError as error:
        accepted = ", ".join(signature.parameters) or "no options"
        raise ProblemSpecError(
            f"{SELF_PLAY}{task!s:.200}: {error}; {task.name} accepts {accepted}"
        ) from None
    try:
        return make(**given)
    except (TypeError, ValueError) as error:
        if isinstance(error, ProblemSpecError):
            raise
        raise ProblemSpecError(f"{SELF_PLAY}{task!s:.200}: {error}") from error


_BEGINS, _ENDS = r"(?<![\w*/^])(?<![*/^+] )(?<!\d - )", r"(?!\w)(?! ?[-+*/^])"


def _stands_in(text: str, prompt: str) -> bool:
    """Return whether a text stands in another, and not as a part of something longer.

    That is a word, a number, or an expression that goes on.

    Lines and runs of spaces make no difference.
    """
    joined = " ".join(prompt.split())
    mine = re.escape(" ".join(text.split()))
    return re.search(_BEGINS + mine + _ENDS, joined) is not None


def novelty(tokens: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    """Return the distance in [0, 1] of a task to the nearest of others; 1 if there is none.

    Distance is one minus the Jaccard index of pairs of neighbouring tokens.
    """
    mine = _pairs(tokens)
    nearest = 0.0
    for other in others:
        theirs = _pairs(other)
        shared = len(mine & theirs)
        nearest = max(nearest, shared / (len(mine) + len(theirs) - shared))
    return 1.0 - nearest


def _pairs(tokens: Sequence[str]) -> set[tuple[str, str]]:
    return set(zip(("", *tokens), (*tokens, ""), strict=True))


def _as_proposed(task: Task, kind: str, agent: str, request: Problem) -> Problem:
    """Return a task's problem, with what the pool and the report need to know of it."""
    problem = task.problem
    metadata = {
        **problem.metadata,
        "task": kind,
        "proposer": agent,
        "request": request.id,
        "tokens": list(task.tokens),
        "measures": dict(task.measures),
    }
    return replace(problem, source=f"{SELF_PLAY}{kind}", metadata=plain(metadata))
