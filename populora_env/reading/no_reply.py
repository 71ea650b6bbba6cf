"""The text of whoever failed to reply.

A reply is a text, and a policy has to return one even if its server is down. `NoReply` is an empty
text that still says so: the arena records `ReplyStatus.FAILED` for it, and `ReplyStatus.EMPTY` for
a model that answered with nothing.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class NoReply(str):
    """An empty text in the place of a reply that never came."""

    __slots__ = ()

    def __new__(cls) -> "NoReply":
        """Make one; it holds no text."""
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[()]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ()


def failures_of(policy: Any) -> int:
    """Return how often a policy says that it failed so far; 0 if it does not count."""
    count: Any = getattr(policy, "failures", 0)
    return count if isinstance(count, int) else 0


def marked(replies: Sequence[T], failed: int) -> list[T | NoReply]:
    """Return replies in which those that never came are `NoReply`.

    Args:
        replies: What a policy returned.
        failed: How often it says that it failed meanwhile. If it did, and marked none itself, the
            empty texts are taken for those.
    """
    if failed <= 0 or any(isinstance(reply, NoReply) for reply in replies):
        return list(replies)
    return [NoReply() if isinstance(reply, str) and reply == "" else reply for reply in replies]
