"""A policy behind an OpenAI-compatible server.

What goes over the network, and how failures are kept from the episode, is in
`populora_env.chat.api`. Not covered: per-agent models; play them with `MixedPolicy`.
"""

from collections.abc import Sequence
from typing import Literal, Unpack

from populora_env.chat.api import ChatOptions, ModelOnServer
from populora_env.reading.no_reply import NoReply
from populora_env.records import Request


class HttpPolicy(ModelOnServer):
    """A language model on a server that answers requests.

    Each request's length limit and seed are passed on; a server that ignores the seed makes
    episodes that cannot be repeated. A request that fails is an empty reply, a `NoReply`, which the
    arena records as `ReplyStatus.FAILED`; ``failures`` counts them, and `rollout` and `evaluate`
    warn of them. Copies, pickled ones too, have the same settings and connections of their own.

    Args:
        model: The model's name on the server.
        base_url: Address of the server; see `ChatClient`.
        api_key: See `ChatClient`.
        seed: ``"request"`` sends each request's seed, None none at all, as some servers insist.
        **options: More settings of `ChatClient`. The temperature is 1 unless said otherwise, so
            that agents with the same model differ; ``max_tokens`` has no effect here.

    Raises:
        ImportError: If the package ``openai`` is missing.
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        seed: Literal["request"] | None = "request",
        **options: Unpack[ChatOptions],
    ) -> None:
        if seed not in ("request", None):
            raise ValueError(f"seed must be 'request' or None, got {seed!r}")
        self._seed = seed
        settings: ChatOptions = {"temperature": 1.0, **options}
        super().__init__(model, base_url, api_key, **settings)

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Return one reply per request, in order; `NoReply` where the server gave none."""
        replies = self._client.complete_many(
            [request.prompt for request in requests],
            max_tokens=[request.max_new_tokens for request in requests],
            seeds=None if self._seed is None else [request.seed for request in requests],
        )
        return [NoReply() if reply is None else reply for reply in replies]
