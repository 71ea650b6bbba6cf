"""A client for any server that speaks OpenAI's chat completions.

Servers fail: a request that gets no text is None and counted, never an exception, so an episode
goes on. The SDK's timeout bounds single reads, not a reply, so a server that trickles bytes could
hold a caller for ever; therefore requests run on an event loop in a thread of their own, where a
deadline over all tries cancels them. The size of a reply is bounded in `connection`; what it
says is read in `replies`.

Not covered: streaming, tools, images.
"""

import asyncio
import importlib.util
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Self, TypedDict, Unpack

from populora_env.chat.arguments import address_of, fields, key_of, number, text, whole
from populora_env.chat.connection import Connection
from populora_env.chat.replies import (
    NEW_LIMIT_FIELD,
    is_passing,
    read_content,
    reason_of,
    retry_after,
    wants_new_limit_field,
)
from populora_env.storage import storable

_LIMIT = "length limit"  # stands for its name until it is sent
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds between tries, doubling, as the SDK waits
_SEED_BITS = 0x7FFF_FFFF  # some servers keep seeds in 32 bits and read the largest as "random"
_LONGEST_REASON = 500  # characters


class ChatOptions(TypedDict, total=False):
    """The settings of a `ChatClient` that its users pass on; see there."""

    timeout: float
    retries: int
    max_tokens: int
    temperature: float | None
    top_p: float | None
    concurrency: int
    system: str | None
    limit_field: str | None
    extra_body: Mapping[str, Any] | None


class ChatClient:
    """Asks one model on one server; a context manager that closes its connections.

    May be used from several threads at once. One request takes at most
    ``timeout * (retries + 1)`` seconds and the pauses between its tries, however the server
    behaves; a batch as often that as it has more prompts than ``concurrency``. Copies, pickled
    ones too, have the same settings, the key among them, and connections of their own.

    A server that asks to wait (``Retry-After``) is given the time it asks for, up to ``timeout``;
    if it asks for more, the request fails at once and says so. Redirects to another server are
    refused, and a reply of more than 8 MiB is not read.

    Args:
        model: The model's name on the server.
        base_url: Address of the server, such as ``http://localhost:8000/v1``; None is
            ``OPENAI_BASE_URL``, else OpenAI's.
        api_key: None is ``OPENAI_API_KEY``; a server other than OpenAI's may need none.
        timeout: Longest silence of the server within one try, in seconds, above 0.
        retries: How often a request is tried again after a broken connection, a time-out, or
            status 408, 409, 429 or 5xx; at least 0.
        max_tokens: Default length limit of a reply, at least 1.
        temperature: At least 0; None leaves it to the server.
        top_p: Share of the probability that is sampled from, above 0 and at most 1; None leaves
            it to the server.
        concurrency: Largest number of requests under way at once, at least 1.
        system: System message, or None.
        limit_field: What the server calls the length limit. None is ``max_tokens``, and
            ``max_completion_tokens`` from when the server says that it wants this.
        extra_body: More fields of a request's body, such as ``{"top_k": 20}``; they replace those
            of the same name.

    Attributes:
        failures: Number of requests that got no text, so far.
        last_error: Why the latest of them failed, in one line; None if none did.

    Raises:
        ImportError: If the package ``openai`` is missing.
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range, or OpenAI is asked without a key.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 2,
        max_tokens: int = 256,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        concurrency: int = 8,
        system: str | None = None,
        limit_field: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if not _has_openai():
            raise ImportError(
                'ChatClient needs the package openai: pip install "populora-env[http]"'
            )
        self._model = text("model", model)
        if not model.strip():
            raise ValueError("model must be the model's name on the server, got an empty text")
        self._url = address_of(base_url)
        self._key = key_of(api_key, self._url)
        self._timeout = number("timeout", timeout, positive=True)
        self._retries = whole("retries", retries, 0)
        self._max_tokens = whole("max_tokens", max_tokens, 1)
        self._temperature = (
            None if temperature is None else number("temperature", temperature, positive=False)
        )
        self._concurrency = whole("concurrency", concurrency, 1)
        self._system = None if system is None else text("system", system)
        self._top_p = None if top_p is None else number("top_p", top_p, positive=True)
        if self._top_p is not None and self._top_p > 1:
            raise ValueError(f"top_p must be at most 1, got {top_p}")
        self._limit_field = None if limit_field is None else text("limit_field", limit_field)
        self._extra_body = fields(extra_body)
        pauses = map(_pause, range(min(retries, 1000)))
        self._deadline = timeout * (retries + 1) + sum(pauses)
        self._found_limit_field = "max_tokens"
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closed = False
        self.failures = 0
        self.last_error: str | None = None

    def complete(
        self, prompt: str, *, max_tokens: int | None = None, seed: int | None = None
    ) -> str | None:
        """Return the reply to one prompt, or None if the request failed; see `complete_many`."""
        return self.complete_many(
            [prompt], max_tokens=max_tokens, seeds=None if seed is None else [seed]
        )[0]

    def complete_many(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int | Sequence[int] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> list[str | None]:
        """Return the replies to several prompts, in order; None where a request failed.

        Args:
            prompts: One user message each. Lone surrogates are sent as U+FFFD.
            max_tokens: Length limit of the replies, one for all or one each; None is the
                client's own.
            seeds: One seed each, of which the lowest 31 bits are sent, or None, as one of them
                may be. Whether a server heeds it is up to the server.

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If a limit is below 1, or there is not one limit or seed for each prompt.
            RuntimeError: If the client is closed.
        """
        bodies = self._bodies(prompts, max_tokens, seeds)
        if not bodies:
            return []
        future = self._submit(bodies)
        try:
            return future.result()
        except CancelledError:  # another thread closed the client
            for _ in bodies:
                self._note("the client was closed")
            return [None] * len(bodies)
        finally:
            future.cancel()  # of effect only if this thread was interrupted while waiting

    def close(self) -> None:
        """Give up what is under way and close the connections. May be called twice."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _bodies(
        self,
        prompts: Sequence[str],
        max_tokens: int | Sequence[int] | None,
        seeds: Sequence[int | None] | None,
    ) -> list[dict[str, Any]]:
        if isinstance(prompts, str):
            raise TypeError("prompts must be several texts, got one str: use complete")
        count = len(prompts)
        limit = self._max_tokens if max_tokens is None else max_tokens
        limits = [limit] * count if isinstance(limit, int) else list(limit)
        for name, values in (("max_tokens", limits), ("seeds", seeds)):
            if values is not None and len(values) != count:
                raise ValueError(
                    f"{name} must be one for each of {count} prompts, got {len(values)}"
                )
        head = [] if self._system is None else [{"role": "system", "content": self._system}]
        bodies: list[dict[str, Any]] = []
        for i, prompt in enumerate(prompts):
            body: dict[str, Any] = {
                "model": self._model,
                "messages": [*head, {"role": "user", "content": text("prompt", prompt)}],
                _LIMIT: whole("max_tokens", limits[i], 1),
            }
            if self._temperature is not None:
                body["temperature"] = self._temperature
            if self._top_p is not None:
                body["top_p"] = self._top_p
            if seeds is not None and (seed := seeds[i]) is not None:
                body["seed"] = whole("seed", seed, None) & _SEED_BITS
            bodies.append(body)
        return bodies

    def _submit(self, bodies: list[dict[str, Any]]) -> "Future[list[str | None]]":
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed: make a new ChatClient")
            # In a forked process the thread is gone and the sockets are the parent's.
            if self._connection is None or not self._connection.is_alive:
                settings = {"api_key": self._key, "base_url": self._url, "timeout": self._timeout}
                self._connection = Connection(settings, self._concurrency)
                weakref.finalize(self, self._connection.stop)
            return self._connection.submit(self._all(self._connection, bodies))

    async def _all(self, connection: Connection, bodies: list[dict[str, Any]]) -> list[str | None]:
        return list(await asyncio.gather(*(self._one(connection, body) for body in bodies)))

    async def _one(self, connection: Connection, body: dict[str, Any]) -> str | None:
        """Return the reply to one request, which is tried again while that may help."""
        clock = asyncio.get_running_loop()
        tries, last = 0, ""
        async with connection.gate:
            end = clock.time() + self._deadline
            try:
                async with asyncio.timeout_at(end):
                    while True:
                        sent = self._as_sent(body)
                        try:
                            return read_content(*await connection.ask(sent))
                        except Exception as error:
                            if self._learns(error, sent):
                                continue
                            last = f"{reason_of(error)}{f' ({tries + 1} tries)' if tries else ''}"
                            if not is_passing(error):
                                break
                            asked = retry_after(error)
                        if asked is not None and asked > min(self._timeout, end - clock.time()):
                            last = (
                                f"not waited for, with a timeout of {self._timeout:.3g} s: {last}"
                            )
                            break
                        if tries >= self._retries:
                            break
                        await asyncio.sleep(_pause(tries) if asked is None else asked)
                        tries += 1
            except TimeoutError:
                before = f"; the try before: {last}" if last else ""
                last = f"no whole reply within {self._deadline:.3g} s{before}"
        self._note(last)
        return None

    def _as_sent(self, body: dict[str, Any]) -> dict[str, Any]:
        sent = dict(body)
        sent[self._limit_field or self._found_limit_field] = sent.pop(_LIMIT)
        return {**sent, **self._extra_body}

    def _learns(self, error: Exception, sent: Mapping[str, Any]) -> bool:
        """Return whether the limit's field has another name than was sent, and note which."""
        known = self._limit_field is not None or NEW_LIMIT_FIELD in sent
        if known or not wants_new_limit_field(error):
            return False
        self._found_limit_field = NEW_LIMIT_FIELD
        return True

    def _note(self, reason: str) -> None:
        line = " ".join(storable(reason).replace(self._key, "[key]").split())[:_LONGEST_REASON]
        with self._lock:
            self.failures += 1
            self.last_error = line

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_connection": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class ModelOnServer:
    """A model behind a `ChatClient`, whose arguments it takes, whatever it is asked for."""

    def __init__(
        self, model: str, base_url: str | None, api_key: str | None, **options: Unpack[ChatOptions]
    ) -> None:
        self._client = ChatClient(model, base_url, api_key, **options)

    @property
    def failures(self) -> int:
        """Number of requests that got no text, so far."""
        return self._client.failures

    @property
    def last_error(self) -> str | None:
        """Why the latest failed request failed, in one line; None if none did."""
        return self._client.last_error

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _has_openai() -> bool:
    try:
        return importlib.util.find_spec("openai") is not None
    except ValueError:  # a module without a spec, or None in its place
        return False


def _pause(tries: int) -> float:
    return min(_FIRST_PAUSE * 2.0 ** min(tries, 9), _LONGEST_PAUSE)
