"""Judges that come along, to be passed as ``judge=``.

`AnswerJudge` knows the answers, `TextJudge` asks a language model, `PanelJudge` takes the majority
of other judges, and `LengthJudge` is a baseline that looks at nothing but length. Whether a judge
can be fooled is measured in `attacks`, how it leans in `bias`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from populora_env.grading.grader import Grader
from populora_env.judges.asking import Judge, ask
from populora_env.judges.awaiting import FAULTS, last_error_of, said, settled
from populora_env.keys import derive_seed
from populora_env.prompts import compare_prompt
from populora_env.reading.judgements import read_preference
from populora_env.reading.no_reply import NoReply, failures_of, marked
from populora_env.records import Comparison, Phase, Preference, ReplyStatus, Request, Verdict


class AnswerJudge:
    """Prefers the attempt whose final answer is right.

    A tie if both are or neither is; abstains where no answer is known. A context manager that
    ends the worker processes of a grader of its own.

    Args:
        grader: Checks the answers, and stays open; None to make one.
    """

    def __init__(self, grader: Grader | None = None) -> None:
        self._owned = grader is None
        self._grader = Grader() if grader is None else grader

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Grade both attempts of each comparison.

        Raises:
            ValueError: If a problem's own answer is not of its kind.
        """
        grades = self._grader.grade_many(
            (entry.problem, text) for entry in comparisons for text in (entry.first, entry.second)
        )
        return [
            Verdict(None if first.correct is None else better(first.correct, second.correct))
            for first, second in zip(grades[::2], grades[1::2], strict=True)
        ]

    def close(self) -> None:
        """End the worker processes, unless the grader belongs to someone else."""
        if self._owned:
            self._grader.close()

    def __enter__(self) -> "AnswerJudge":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class LengthJudge:
    """Prefers the attempt with more characters: what a length-biased judge looks like.

    Args:
        shorter: Whether to prefer the one with fewer instead.
    """

    def __init__(self, *, shorter: bool = False) -> None:
        self._sign = -1 if shorter else 1

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Compare lengths; equal ones tie."""
        return [
            Verdict(better(self._sign * len(entry.first), self._sign * len(entry.second)))
            for entry in comparisons
        ]


class Acting(Protocol):
    """Anything that answers requests, such as a policy."""

    def act(self, requests: Sequence[Request]) -> Sequence[str]:
        """Return one reply for each request, in order."""
        ...


class TextJudge:
    """A judge from whatever answers texts.

    It is shown what agents are shown, `prompts.compare_prompt`, and its replies are read like
    theirs, by `judgements.read_preference`.

    Args:
        respond: A function of the prompt, or an object with ``act``, which is asked for all
            comparisons in one batch.
        agent: In whose name ``act`` is asked.
        max_new_tokens: Length limit of a reply, for those that count tokens.
        seed: With the prompt, decides the seed of each request.

    Raises:
        TypeError: If ``respond`` is neither.
    """

    def __init__(
        self,
        respond: Callable[[str], str] | Acting,
        *,
        agent: str = "judge",
        max_new_tokens: int = 64,
        seed: int = 0,
    ) -> None:
        if not callable(getattr(respond, "act", None)) and not callable(respond):
            raise TypeError(
                f"respond must be callable or have a method act, got {type(respond).__name__}"
            )
        self._respond: Any = respond
        self._error: str | None = None
        self._agent, self._max_new_tokens, self._seed = agent, max_new_tokens, seed

    @property
    def last_error(self) -> str | None:
        """Why what answers failed last, as it says or raised; None if it does not say."""
        return last_error_of(self._respond) or self._error

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Ask for a reply to each comparison and read it.

        A function that raises fails for that comparison alone; what ``act`` raises goes through,
        for `ask` to record.

        Raises:
            ValueError: If ``act`` returns another number of replies.
        """
        prompts = [compare_prompt(entry) for entry in comparisons]
        acts = callable(getattr(self._respond, "act", None))
        return [verdict_of(reply) for reply in (self._batch if acts else self._each)(prompts)]

    def _each(self, prompts: Sequence[str]) -> list[object]:
        replies: list[object] = []
        for prompt in prompts:
            try:
                replies.append(settled(self._respond(prompt)))
            except FAULTS as error:
                replies.append(None)
                self._error = said(error)
        return replies

    def _batch(self, prompts: Sequence[str]) -> list[object]:
        requests = [
            Request(
                self._agent,
                Phase.COMPARE,
                prompt,
                self._max_new_tokens,
                derive_seed("text judge", self._seed, prompt),
            )
            for prompt in prompts
        ]
        before = failures_of(self._respond)
        replies: list[object] = list(settled(self._respond.act(requests)))
        if len(replies) != len(requests):
            raise ValueError(
                f"{type(self._respond).__name__}.act must return {len(requests)} replies, one for "
                f"each request, got {len(replies)}"
            )
        return list(marked(replies, failures_of(self._respond) - before))


class PanelJudge:
    """The majority of several judges.

    The preference with most votes wins; two with equally many are a tie. Members that abstain or
    fail have no vote, and if none has one, the panel abstains: with `ReplyStatus.FAILED` if all
    failed. A member that fails stops nobody, but is not silent: ``Verdict.failed`` says how many
    failed at that comparison (members of a member that is a panel are counted one by one), `ask`
    counts the verdict among its failures, and ``last_error`` names the member and its reason.

    Args:
        judges: The members, at least one.

    Raises:
        ValueError: If there are none.
        TypeError: If one has no method ``judge``.
    """

    def __init__(self, judges: Sequence[Judge]) -> None:
        self._judges = tuple(judges)
        if not self._judges:
            raise ValueError("judges: got none, expected at least one")
        for member in self._judges:
            if not isinstance(member, Judge):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"judges must have a method judge, got {type(member).__name__}: wrap a "
                    "function in TextJudge"
                )
        self._last_error: str | None = None

    @property
    def last_error(self) -> str | None:
        """Which member failed latest and why, in one line; None if none did."""
        return self._last_error

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Ask every member about all comparisons and count votes."""
        ballots: list[tuple[Verdict, ...]] = []
        errors: list[str] = []
        for place, member in enumerate(self._judges):
            judgement = ask(member, comparisons)
            ballots.append(judgement.verdicts)
            if judgement.error is not None:
                errors.append(f"member {place} ({type(member).__name__}): {judgement.error}")
        self._last_error = errors[0] if errors else self._last_error
        return [_elected(votes) for votes in zip(*ballots, strict=True)]


def better(first: Any, second: Any) -> Preference:
    """Return which of two values is larger."""
    if first == second:
        return Preference.TIE
    return Preference.A if first > second else Preference.B


def verdict_of(reply: object) -> Verdict:
    """Return what a reply prefers; a failure where there is no reply."""
    if not isinstance(reply, str) or isinstance(reply, NoReply):
        return Verdict(None, ReplyStatus.FAILED)
    reading = read_preference(reply)
    return Verdict(reading.value, reading.status)


def _elected(votes: Sequence[Verdict]) -> Verdict:
    failed = sum(max(vote.failed, vote.status is ReplyStatus.FAILED) for vote in votes)
    ranked = Counter(vote.preference for vote in votes if vote.preference is not None).most_common()
    if not ranked:
        said = {vote.status for vote in votes}
        status = said.pop() if len(said) == 1 else ReplyStatus.UNREADABLE
        return Verdict(None, status, failed)
    contested = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return Verdict(Preference.TIE if contested else ranked[0][0], failed=failed)
