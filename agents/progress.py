"""What is told to who watches something that takes time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from populora_env.records import Request

if TYPE_CHECKING:  # which needs torch
    from agents.engine.jobs import Reply

Progress = Callable[[str, float], None]
"""Called with the name of what is going on, and the fraction of it that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply that has just been given.

    Attributes:
        request: What was asked, and of whom.
        text: The reply.
        tokens: Its tokens.
        seconds: Since the batch that it belongs to was begun.
    """

    request: Request
    text: str
    tokens: int
    seconds: float


def teller(
    requests: Sequence[Request],
    places: Mapping[str, int],
    done: Callable[[int, str], None] | None,
    watcher: Callable[[Answered], object] | None,
) -> "Callable[[Reply], None] | None":
    """What an engine is to call with each reply; None if nobody wants to know.

    Args:
        requests: What is asked.
        places: Id of a reply to the place of its request.
        done: Called with the place and the text.
        watcher: Told of what was answered.
    """
    if watcher is None:
        return None if done is None else lambda reply: done(places[reply.id], reply.text)
    begin = time.monotonic()

    def tell(reply: "Reply") -> None:
        place = places[reply.id]
        if done is not None:
            done(place, reply.text)
        seconds = time.monotonic() - begin
        watcher(Answered(requests[place], reply.text, len(reply.ids), seconds))

    return tell
