"""What became of a proposal, as a frozen record of a transcript."""

from dataclasses import dataclass, field
from enum import StrEnum

from populora_env.storage import UNLESS_EMPTY


class ProposalStatus(StrEnum):
    """What became of a proposal."""

    VALID = "valid"
    EMPTY = "empty"  # nothing but white space
    UNREADABLE = "unreadable"  # no task of the kind asked for is there
    OUT_OF_RANGE = "out_of_range"  # a task, but larger or of other parts than was asked for
    NO_ANSWER = "no_answer"  # it has none, such as a division by zero or a program that raises
    UNSTABLE = "unstable"  # two runs of it gave two results
    TIMED_OUT = "timed_out"  # it was stopped for its time, memory or depth
    REPEATED = "repeated"  # among the last ones, written the same or differently
    HELD_OUT = "held_out"  # one of the problems that must never be learned from
    TOO_LONG = "too_long"  # over the length limit, and not read
    FAILED = "failed"  # no reply: whoever was asked raised, hung, or returned something else


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal.

    Attributes:
        agent: Who wrote it.
        kind: Kind of task that was asked for.
        request_id: Id of the request, the problem that the episode began with.
        status: What became of it.
        reason: Why it is not valid, in one line; empty if it is.
        text: The task in one line; of one that is not valid, the beginning of the reply.
        key: Normal form, by which repeats are known; empty if there is none.
        novelty: Distance in [0, 1] to the nearest of the last ones of its kind; None if not valid.
        solve_rate: Share of the attempts that were right; None if nobody tried, or nobody knows.
        task: Place of the task that was asked for among those of the source.
    """

    agent: str
    kind: str
    request_id: str
    status: ProposalStatus
    reason: str = ""
    text: str = ""
    key: str = ""
    novelty: float | None = None
    solve_rate: float | None = None
    task: int = field(default=0, metadata=UNLESS_EMPTY)

    @property
    def valid(self) -> bool:
        """Whether it was given to solvers."""
        return self.status is ProposalStatus.VALID
