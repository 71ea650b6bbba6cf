"""Replies of a benchmark as they come: told, marked, and logged a few at a time."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from agents.measuring.reply_log import Key, LoggedReply, ReplyLog, text_hash
from agents.policy import Request
from populora_env.grading import Grader
from populora_env.grading.extraction import EXTRACTIONS
from populora_env.problems.fewshot import PromptPreset
from populora_env.reading.answers import canonical_answer
from populora_env.reading.no_reply import NoReply
from populora_env.records import Problem
from populora_env.storage import storable

_TOGETHER = 8  # replies that are written at once: few are lost in a kill, and writing costs nothing


@runtime_checkable
class Tells(Protocol):
    """A policy that tells each reply as soon as it is there."""

    def act_telling(
        self, requests: Sequence[Request], done: Callable[[int, str], None] | None
    ) -> Sequence[str]:
        """Answer all requests; ``done`` gets a request's place and its reply."""
        ...


class Telling:
    """A policy that tells its replies to someone; a `Policy`."""

    def __init__(self, policy: Tells, done: Callable[[int, str], None]) -> None:
        self._policy, self._done = policy, done

    def act(self, requests: Sequence[Request]) -> Sequence[str]:
        """Answer all requests, and tell each reply."""
        return self._policy.act_telling(requests, self._done)


class BatchLog:
    """Marks replies as they come, in any order, and writes them a few at a time.

    Args:
        asked: Each request with its key, its problem, and what stands for the weights it goes to.
        preset: Cuts replies and says how answers are read.
        drawn: How replies are drawn; see `LoggedReply`.
        grader: Marks them.
        log: Where they go.

    Attributes:
        rows: Replies by the place of their request.
    """

    def __init__(
        self,
        asked: Sequence[tuple[Key, Request, Problem, str]],
        preset: PromptPreset,
        drawn: str,
        grader: Grader,
        log: ReplyLog,
    ) -> None:
        self.rows: dict[int, LoggedReply] = {}
        self._asked, self._preset, self._drawn = asked, preset, drawn
        self._grader, self._log = grader, log
        self._waiting: list[int] = []

    def keep(self, place: int, reply: str) -> None:
        """Take the reply to a request; one that was told before is not taken again."""
        if place in self.rows:
            return
        key, request, problem, content = self._asked[place]
        text = storable(self._preset.cut(reply))
        marks = mark(problem, text, self._preset.extractions, self._grader)
        asked = text_hash(request.prompt)
        limit = request.max_new_tokens
        self.rows[place] = LoggedReply(key, content, asked, limit, text, marks, self._drawn)
        if isinstance(reply, NoReply):  # counts here, and is asked for again another time
            return
        self._waiting.append(place)
        if len(self._waiting) >= _TOGETHER:
            self.write()

    def write(self) -> None:
        """Write what is not yet in the log, in the order of the requests."""
        if self._waiting:
            self._log.add(self.rows[place] for place in sorted(self._waiting))
            self._waiting = []


def mark(
    problem: Problem, reply: str, rules: Sequence[str], grader: Grader
) -> dict[str, tuple[str | None, bool]]:
    """Return what each rule of extraction reads from a reply, and whether it is right."""
    marks: dict[str, tuple[str | None, bool]] = {}
    for name in rules:
        rule = EXTRACTIONS[name]
        answer = rule.extract(reply, problem)
        right = answer is not None and rule.correct(reply, problem, grader)
        # The harness's rules leave 1,000 and 1000. as they are, which are one opinion.
        known = None if answer is None else canonical_answer(answer, problem.answer_kind)
        marks[name] = (known or answer, right)
    return marks
