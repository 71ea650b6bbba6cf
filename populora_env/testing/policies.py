"""Whether a policy of your own keeps what a policy promises."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from populora_env.judges.awaiting import settled
from populora_env.judges.builtin import Acting
from populora_env.keys import derive_seed
from populora_env.prompts import revise_prompt, solve_prompt
from populora_env.reading.forms import FORMS
from populora_env.records import Phase, Problem, Request
from populora_env.testing.conformance import STRANGE_TEXTS, require, unharmed


def example_requests() -> list[Request]:
    """Return one request of each phase for two problems, as two agents are asked."""
    requests: list[Request] = []
    for problem in (Problem.create("7 + 5 =", "12"), Problem.create("What is 9 - 4?", "5")):
        right, wrong = f"Answer: {problem.answer}", "I get 3."
        prompts = {
            Phase.SOLVE: solve_prompt(problem),
            **{
                phase: form.prompt(problem, (right, wrong)[: form.attempts])
                for phase, form in FORMS.items()
            },
            Phase.REVISE: revise_prompt(problem, wrong, ["Check it again."]),
        }
        requests += [
            Request(f"agent_{place % 2}", phase, prompt, 16, derive_seed("check", phase, prompt))
            for place, (phase, prompt) in enumerate(prompts.items())
        ]
    return requests


def check_policy(
    policy: Acting,
    requests: Sequence[Request] | None = None,
    *,
    batch_independent: bool = True,
    strange: Mapping[str, str] = STRANGE_TEXTS,
) -> None:
    """Check a policy.

    Its ``act`` has to

    - return one text for each request, in order, and nothing for no requests;
    - return the same replies to the same requests, whatever it was asked in between;
    - leave the requests as they are;
    - answer any prompt, however strange;
    - reply to a request the same whatever else is in the batch, and in whatever order.

    Args:
        policy: The policy.
        requests: What it is asked; None for `example_requests`. Use agents that it knows.
        batch_independent: Whether to check the last promise, by which the order of replies is
            found out, too. Policies that compute in floating point may break it.
        strange: Name to prompt; each is asked in every phase of ``requests``.

    Raises:
        ConformanceError: If a promise is broken.
    """
    asked = example_requests() if requests is None else list(requests)
    name = type(policy).__name__
    require(
        callable(getattr(policy, "act", None)),
        f"a policy must have a method act(requests), got {name}",
    )
    require(_act(policy, [], "no requests") == [], f"{name}.act([]) must return nothing")
    first = _act(policy, asked, "a batch")
    by_phase = {request.phase: request for request in asked}
    for what, text in strange.items():
        prompts = [replace(request, prompt=text) for request in by_phase.values()]
        _act(policy, prompts, f"a batch of which every prompt is {what}")
    again = _act(policy, asked, "a batch for the second time")
    promise = f"{name}.act must reply to the same requests in the same way"
    _compare(asked, first, again, promise, "the first time", "the second")
    if not batch_independent:
        return
    promise = (
        f"{name}.act must reply to each request, in order, whatever else is in the batch "
        "(or pass batch_independent=False)"
    )
    turned = _act(policy, asked[::-1], "a batch in reversed order")[::-1]
    _compare(asked, first, turned, promise, "in a batch", "in the reversed batch")
    alone = [_act(policy, [request], "a batch of one")[0] for request in asked]
    _compare(asked, first, alone, promise, "in a batch", "alone")


def _act(policy: Acting, requests: Sequence[Request], what: str) -> list[str]:
    """Ask, and check what is true of the reply to any batch."""
    name = type(policy).__name__
    handed, kept = list(requests), [replace(request) for request in requests]
    returned: Any = unharmed(lambda: settled(policy.act(handed)), f"{name}.act must answer {what}")
    require(
        handed == kept,
        f"{name}.act must leave the requests as they are; it changed those of {what}",
    )
    require(
        hasattr(returned, "__iter__") and not isinstance(returned, str),
        f"{name}.act must return a sequence of texts for {what}, got {type(returned).__name__}",
    )
    replies: list[Any] = list(returned)
    require(
        len(replies) == len(kept),
        f"{name}.act must return one text for each of {len(kept)} requests ({what}), "
        f"got {len(replies)}",
    )
    for place, reply in enumerate(replies):
        require(
            isinstance(reply, str),
            f"{name}.act must return texts, got {type(reply).__name__} for request {place} "
            f"of {what}",
        )
    return replies


def _compare(
    requests: Sequence[Request],
    ours: Sequence[str],
    theirs: Sequence[str],
    promise: str,
    here: str,
    there: str,
) -> None:
    for place, (request, one, two) in enumerate(zip(requests, ours, theirs, strict=True)):
        require(
            one == two,
            f"{promise}; to request {place} ({request.agent}, {request.phase}) it said "
            f"{one!r:.80} {here}, {two!r:.80} {there}",
        )
