"""The connections of a chat client: a thread with an event loop, and bounded transfers.

Servers are not trusted: what they send is counted after it is decompressed and cut off at
`MAX_BYTES`, because a megabyte of gzip may hold gigabytes; and a redirect is followed only within
the server that was asked, because it would carry the prompt to whoever it names.
"""

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

MAX_BYTES = 8 * 2**20  # of one reply, decompressed: far more than any limit in tokens lets through
_MAX_REDIRECTS = 5
_PATIENCE = 5.0  # seconds for ending the thread
_PIECE = 2**16  # bytes decompressed at a time
_ENCODINGS = ("gzip", "x-gzip", "deflate")

Result = TypeVar("Result")


class TransferError(ValueError):
    """A reply that was not taken: too long, compressed in another way, or from elsewhere."""


class StatusError(ValueError):
    """A reply of another status than 200.

    Attributes:
        response: The reply.
    """

    def __init__(self, response: Any) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


class Connection:
    """An event loop in a thread of its own, and the SDK's client that lives on it.

    Args:
        settings: Of the SDK's client.
        concurrency: Largest number of requests under way at once.
    """

    def __init__(self, settings: dict[str, Any], concurrency: int) -> None:
        import openai

        self._client = _bounded(openai.DefaultAsyncHttpxClient)(timeout=settings["timeout"])
        self.api = openai.AsyncOpenAI(**settings, max_retries=0, http_client=self._client)
        self.gate = asyncio.Semaphore(concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_serve, args=(self._loop,), name="populora-chat", daemon=True
        )
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs; not so in a forked process."""
        return self._thread.is_alive()

    async def ask(self, body: dict[str, Any]) -> tuple[bytes, str]:
        """Return what the server sends with status 200, and its content type."""
        fixed = {name: body[name] for name in ("model", "messages")}
        more = {name: value for name, value in body.items() if name not in fixed}
        create = self.api.chat.completions.with_raw_response.create
        reply = (await create(**fixed, extra_body=more)).http_response
        return reply.content, reply.headers.get("content-type", "")

    async def send(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Return what the server sends, with status 200, to a request that is no chat.

        Args:
            method: Such as ``POST``.
            url: The whole address.
            body: Sent as JSON.

        Raises:
            StatusError: If it has another status.
        """
        headers = {"authorization": f"Bearer {self.api.api_key}"}
        reply = await self._client.request(method, url, json=body, headers=headers)
        if reply.status_code != 200:
            raise StatusError(reply)
        return reply.content

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End the thread without waiting for it, as a finalizer must."""
        with suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self) -> None:
        """Cancel all tasks, close the connections and end the thread."""
        if self.is_alive:
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
            self.stop()
            self._thread.join(_PATIENCE)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.api.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _bounded(base: type[Any]) -> type[Any]:
    """Return the SDK's own HTTP client with bounded replies.

    It is the SDK's choice which HTTP library it stands on, so this overrides nothing but ``send``.
    """

    class BoundedClient(base):
        async def send(self, request: Any, **options: Any) -> Any:
            options = {**options, "stream": True, "follow_redirects": False}
            request.headers["accept-encoding"] = "gzip, deflate"
            for _ in range(_MAX_REDIRECTS + 1):
                reply = await super().send(request, **options)
                try:
                    following = reply.next_request
                    if following is None:
                        return await _whole(reply)
                    _check_redirect(request.url, following.url)
                    request = following
                finally:
                    await reply.aclose()
            raise TransferError(f"the server redirects more than {_MAX_REDIRECTS} times")

    return BoundedClient


async def _whole(reply: Any) -> Any:
    """Return a reply that has been read, of no more than `MAX_BYTES`."""
    encoding = reply.headers.get("content-encoding", "identity").strip().lower()
    chunks = reply.aiter_raw()
    if encoding not in ("identity", "", *_ENCODINGS):
        raise TransferError(
            f"the server's reply is compressed as {encoding!r:.80}, expected {_ENCODINGS[0]}, "
            f"{_ENCODINGS[-1]} or nothing"
        )
    if encoding in _ENCODINGS:
        chunks = _inflated(chunks, encoding)
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_BYTES:
            raise TransferError(
                f"the server's reply, of status {reply.status_code}, is longer than "
                f"{MAX_BYTES >> 20} MiB"
            )
        parts.append(chunk)
    headers = [  # as they came: what a server or a proxy puts there need not be ASCII
        (name, value)
        for name, value in reply.headers.raw
        if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
    ]
    return type(reply)(
        reply.status_code, headers=headers, content=b"".join(parts), request=reply.request
    )


async def _inflated(chunks: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Decompress in pieces of bounded size."""
    gzip = encoding != "deflate"
    wbits = zlib.MAX_WBITS | 16 if gzip else zlib.MAX_WBITS
    stream, begun = zlib.decompressobj(wbits), False
    try:
        async for chunk in chunks:
            more = bool(chunk)
            while more:
                if stream.eof:  # gzip may have several members; anything else there is padding
                    if not (gzip and chunk.startswith(b"\x1f")):
                        return
                    stream = zlib.decompressobj(wbits)
                try:
                    piece = stream.decompress(chunk, _PIECE)
                except zlib.error:
                    if gzip or begun:
                        raise
                    stream = zlib.decompressobj(-zlib.MAX_WBITS)  # deflate without zlib's header
                    piece = stream.decompress(chunk, _PIECE)
                begun = True
                yield piece
                chunk = stream.unconsumed_tail or stream.unused_data
                more = bool(chunk) or (len(piece) == _PIECE and not stream.eof)
    except zlib.error as error:
        raise TransferError(f"the server's reply cannot be decompressed: {error}") from None
    if begun and not stream.eof:
        raise TransferError("the server's reply breaks off within what is compressed")


def _check_redirect(asked: Any, named: Any) -> None:
    """Raise a TransferError unless a redirect stays with the server that was asked."""
    schemes = asked.scheme, named.scheme
    upgraded = schemes == ("http", "https") and asked.port == named.port is None
    same = (asked.scheme, asked.port) == (named.scheme, named.port) or upgraded
    if asked.host != named.host or not same:
        to = f"{named.scheme}://{named.netloc.decode()}"
        raise TransferError(
            f"the server redirects to {to}, which would send the prompts there: give its address "
            "as base_url if that is meant"
        )
