"""Who answers: the `Policy` protocol and the policies that need no model.

A policy answers a batch of requests with a text each. Any ``str -> str`` callable becomes one with
`FunctionPolicy`; `MixedPolicy` lets different policies play different agents of one arena.

Not covered here: language models (`agents.population`) and policies behind a network.
"""

import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from populora_env.errors import PopuloraError
from populora_env.judges.awaiting import last_error_of, settled
from populora_env.keys import generator
from populora_env.reading.no_reply import failures_of, marked
from populora_env.records import Phase, Request


@runtime_checkable
class Policy(Protocol):
    """Anything that answers requests.

    One that may fail to answer, as a server may, returns `populora_env.reading.no_reply.NoReply`
    then and counts them in ``failures``, with the reason of the latest in ``last_error``; see
    `failures_said`. Of one that counts but returns plain empty texts, these are taken for failures.
    """

    def act(self, requests: Sequence[Request]) -> Sequence[str]:
        """Return one reply per request, in order; may be ``async``."""
        ...


class PolicyError(PopuloraError, RuntimeError):
    """A policy that broke its promise: not one text per request."""


def ask(policy: Policy, requests: Sequence[Request]) -> list[str]:
    """Ask a policy and check what comes back.

    Raises:
        TypeError: If ``policy`` is no policy.
        PolicyError: If the policy returns another number of replies, or something that is no text.
    """
    check_policy(policy)
    name = type(policy).__name__
    before = failures_of(policy)
    returned: Any = settled(policy.act(requests))
    if isinstance(returned, str) or not isinstance(returned, Iterable):
        raise PolicyError(
            f"{name}.act returned one {type(returned).__name__}; expected a sequence of "
            f"{len(requests)} texts, one per request, in order"
        )
    replies: list[Any] = list(returned)  # pyright: ignore[reportUnknownArgumentType]
    if len(replies) != len(requests):
        raise PolicyError(
            f"{name}.act returned {len(replies)} replies for {len(requests)} requests; expected "
            "one text per request, in order"
        )
    for request, reply in zip(requests, replies, strict=True):
        if not isinstance(reply, str):
            raise PolicyError(
                f"{name}.act returned {type(reply).__name__} for {request.agent}; expected a str"
            )
    return marked(replies, failures_of(policy) - before)


def check_policy(policy: Any, name: str = "policy") -> None:
    """Say what is wrong with what is no policy.

    Raises:
        TypeError: If it has no method ``act``.
    """
    if isinstance(policy, type) or not callable(getattr(policy, "act", None)):
        wrap = ": wrap the function in FunctionPolicy" if callable(policy) else ""
        wrap = ": make an object of the class" if isinstance(policy, type) else wrap
        got = policy.__name__ if isinstance(policy, type) else type(policy).__name__
        raise TypeError(f"{name} must have a method act(requests), got {got}{wrap}")


@contextmanager
def failures_said(policy: Policy) -> Generator[None]:
    """Warn at the end if the policy failed to answer within, as its own count says.

    Empty replies earn what wrong ones do, so an unreachable server would pass for a weak model.
    """
    before = failures_of(policy)
    yield
    if failed := failures_of(policy) - before:
        reason = last_error_of(policy) or "it does not say why"
        warnings.warn(
            f"{type(policy).__name__} failed to answer {failed} "
            f"request{'s' if failed > 1 else ''}, which count as empty replies; the latest: "
            f"{reason}",
            RuntimeWarning,
            stacklevel=4,  # the caller of whoever plays
        )


class FunctionPolicy:
    """A policy from a function of the prompt.

    Args:
        function: Takes a prompt, returns the reply.
    """

    def __init__(self, function: Callable[[str], str]) -> None:
        self._function = function

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Call the function once per request."""
        return [self._function(request.prompt) for request in requests]


class ScriptedPolicy:
    """A policy that gives fixed replies by phase.

    Args:
        replies: Phase to reply.
        default: Reply in phases that are not named.
    """

    def __init__(self, replies: Mapping[Phase, str], default: str = "") -> None:
        self._replies, self._default = dict(replies), default

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Look each request's phase up."""
        return [self._replies.get(request.phase, self._default) for request in requests]


class RandomPolicy:
    """A policy that draws one of some replies, from each request's own seed.

    Args:
        choices: What to draw from, at least one text.

    Raises:
        ValueError: If there is nothing to draw from.
    """

    def __init__(self, choices: Sequence[str] = ("A", "B", "tie", "0", "1", "42")) -> None:
        if not choices:
            raise ValueError("choices: got none, expected at least one text")
        self._choices = tuple(choices)

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Draw one reply per request."""
        return [
            self._choices[
                int(generator("random policy", request.seed).integers(len(self._choices)))
            ]
            for request in requests
        ]


class MixedPolicy:
    """Different policies for different agents of one arena.

    Args:
        policies: Agent name to policy; one object may play several agents and is then asked once
            for all of them.

    Raises:
        TypeError: If one of them is no policy.
    """

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        if not isinstance(policies, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"policies must map agents to policies, got {type(policies).__name__}")
        for agent, policy in policies.items():
            check_policy(policy, f"policies[{agent!r}]")
        self._policies = dict(policies)

    @property
    def failures(self) -> int:
        """Number of requests that its policies failed to answer, so far, where they count."""
        return sum(failures_of(policy) for policy in self._each())

    @property
    def last_error(self) -> str | None:
        """Why one of them failed latest, of the first that says so; None if none does."""
        errors = (last_error_of(policy) for policy in self._each())
        return next((error for error in errors if error), None)

    def _each(self) -> list[Policy]:
        return list({id(policy): policy for policy in self._policies.values()}.values())

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Hand each policy its requests in one batch.

        Raises:
            PolicyError: If an agent has no policy.
        """
        replies = [""] * len(requests)
        batches: dict[int, tuple[Policy, list[int]]] = {}
        for i, request in enumerate(requests):
            if request.agent not in self._policies:
                raise PolicyError(
                    f"no policy for {request.agent}; there are policies for "
                    f"{', '.join(sorted(self._policies))}"
                )
            policy = self._policies[request.agent]
            batches.setdefault(id(policy), (policy, []))[1].append(i)
        for policy, places in batches.values():
            for i, reply in zip(places, ask(policy, [requests[i] for i in places]), strict=True):
                replies[i] = reply
        return replies
