"""Who plays the other agents beside one learner."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from populora_env.judges.builtin import Acting
from populora_env.keys import generator
from populora_env.reading.forms import FORMS
from populora_env.records import Request

Peer = Callable[[str], str] | Acting


class GuessingPeer:
    """A peer without a model: it guesses answers and judges at random.

    Its answer is a number of the prompt, or the sum, difference or product of two, so among the
    attempts at a short sum some are right; where the prompt has no number, it is one of its words.
    Every draw comes from the request's seed.
    """

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Draw one reply for each request."""
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> str:
        rng = generator("guessing peer", request.seed)
        form = FORMS.get(request.phase)
        if form is not None:
            return form.examples[rng.integers(len(form.examples))]
        numbers = [int(found) for found in re.findall(r"[0-9]{1,9}", request.prompt)]
        if not numbers:
            words = request.prompt.split() or ["0"]
            return f"Answer: {words[rng.integers(len(words))]}"
        first, second = (numbers[place] for place in rng.integers(len(numbers), size=2))
        guesses = (first, first + second, first - second, first * second)
        return f"Answer: {guesses[rng.integers(4)]}"


def each_peer(peers: Any, count: int) -> list[Peer]:
    """Return one peer for each of ``count`` agents."""
    if peers is None:
        peers = GuessingPeer()
    if _is_peer(peers):
        return [peers] * count
    if not isinstance(peers, Sequence) or isinstance(peers, str):
        raise TypeError(
            "peers must be a function of the prompt, an object with act(requests), or a sequence "
            f"of these, got {type(peers).__name__}"
        )
    listed: list[Any] = list(peers)
    if len(listed) != count:
        raise ValueError(
            f"peers must be one for all, or num_agents - 1 = {count} of them, got {len(listed)}"
        )
    for place, peer in enumerate(listed):
        if not _is_peer(peer):
            raise TypeError(
                f"peers[{place}] must be a function of the prompt or an object with "
                f"act(requests), got {type(peer).__name__}"
            )
    return listed


def _is_peer(peer: Any) -> bool:
    return callable(peer) or callable(getattr(peer, "act", None))
