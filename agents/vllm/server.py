"""What is asked of a vLLM server, and what its refusals mean.

The paths and fields are those of vLLM's OpenAI-compatible server: completions of token ids, and
adapters that are loaded and unloaded by name while it runs. Each call has a deadline over all its
tries. What may pass (a lost connection, status 408, 429, 502, 503, 504) is tried again until then,
with growing pauses or those that the server asks for; what may be a fault of the server's own is
tried three times. All that is left is an `EngineError` in one line.

Not covered here: which adapters are loaded when (`agents.vllm.adapters`), and what a completion has
to look like (`agents.vllm.replies`).
"""

import asyncio
import importlib.util
import json
import os
import re
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from agents.engine.jobs import EngineError
from populora_env.chat.arguments import check_key, is_address, without_secrets
from populora_env.chat.connection import Connection, StatusError
from populora_env.chat.replies import is_passing, reason_of, retry_after, said

OLDEST = (0, 10, 2)
"""The first version of vLLM that gives the token ids of completions."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # seconds between tries, doubling
_TRIES = 3  # where a server says that it failed
_WAITED_FOR = {408, 429, 502, 503, 504}
_LONGEST = 400  # characters of what a server says
_KEY = "VLLM_API_KEY"

Result = TypeVar("Result")


class Refusal(EngineError):
    """A request that the server refuses.

    Attributes:
        status: Of its reply.
        words: What it says.
    """

    def __init__(self, line: str, status: int, words: str) -> None:
        super().__init__(line)
        self.status, self.words = status, words


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that the server lists.

    Attributes:
        name: What requests call it.
        root: What it was loaded from: a folder or a hub id.
        parent: The model that it is an adapter of; empty for a base.
        context: Most tokens of a prompt and its reply together; None where it is not said.
    """

    name: str
    root: str
    parent: str
    context: int | None


class Server:
    """A vLLM server, asked from a thread of its own.

    Args:
        url: Such as ``http://localhost:8000``, with or without ``/v1``.
        api_key: None is ``VLLM_API_KEY``, if it is set.
        timeout: Seconds within which a call is answered, all its tries and pauses included.

    Attributes:
        url: Without ``/v1``.

    Raises:
        EngineError: If the address is none, or the package ``openai`` is missing.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        if importlib.util.find_spec("openai") is None:
            raise EngineError(
                'engine: vllm needs the package openai: pip install "populora-env[http]"'
            )
        if not timeout > 0:
            raise EngineError(f"timeout: got {timeout!r}, expected seconds above 0")
        self.url, self.timeout = check_address(url), timeout
        try:
            self._key = check_key(api_key or os.environ.get(_KEY) or "no-key-needed")
        except ValueError as error:
            raise EngineError(str(error)) from None
        settings = {"api_key": self._key, "base_url": f"{self.url}/v1", "timeout": timeout}
        self._connection = Connection(settings, 1)

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine of this server's on its thread."""
        return self._connection.submit(work)

    def close(self) -> None:
        """Give up what is under way and close the connections. May be called twice."""
        self._connection.close()

    async def version(self, within: float) -> str:
        """The server's version of vLLM.

        Args:
            within: Seconds.
        """
        try:
            data = await self._json("GET", "/version", within=within)
        except Refusal as error:
            if error.status not in (404, 405):
                raise
            data = None
        found = data.get("version") if isinstance(data, dict) else None  # pyright: ignore
        if not isinstance(found, str):
            raise EngineError(
                f"server: {self.url} says no version of vLLM at /version, expected a vLLM server, "
                f"{_dotted(OLDEST)} or later"
            )
        return found[:100]

    async def models(self) -> list[ServedModel]:
        """Bases and adapters that it serves, in its order."""
        data = await self._json("GET", "/v1/models")
        cards: Any = data.get("data") if isinstance(data, dict) else None  # pyright: ignore
        if not isinstance(cards, list):
            raise EngineError(
                f"server: {self.url}/v1/models lists no models, expected a list under data"
            )
        found: list[ServedModel] = []
        for card in cards:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(card, dict) and isinstance(card.get("id"), str):  # pyright: ignore
                given: dict[str, Any] = card
                most: Any = given.get("max_model_len")
                root, parent = (given.get(field) or "" for field in ("root", "parent"))
                found.append(
                    ServedModel(
                        given["id"], str(root), str(parent), most if isinstance(most, int) else None
                    )
                )
        return found

    async def load(self, name: str, path: str) -> None:
        """Load an adapter from a folder that the server sees, too."""
        await self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    async def unload(self, name: str, within: float | None = None) -> None:
        """Forget an adapter; one that is not loaded is forgotten already."""
        try:
            await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, within=within)
        except Refusal as error:
            if error.status != 404 or is_no_path(error):
                raise

    async def complete(self, body: Mapping[str, Any]) -> Any:
        """What a completion's reply holds, as JSON types."""
        return await self._json("POST", "/v1/completions", body)

    async def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        within: float | None = None,
    ) -> Any:
        return await self._call(method, path, body, json.loads, within)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        read: Any = bytes,
        within: float | None = None,
    ) -> Any:
        clock, faults, tries, last = asyncio.get_running_loop(), 0, 0, ""
        seconds = self.timeout if within is None else within
        end = clock.time() + seconds
        try:
            async with asyncio.timeout_at(end):
                while True:
                    asked: float | None = None
                    content = b""
                    try:
                        content = await self._connection.send(method, self.url + path, body)
                        return read(content)
                    except StatusError as error:
                        status = error.response.status_code
                        words = self._plain(error.response.content)
                        last = f"status {status}: {words}"
                        if not is_passing(error):
                            raise Refusal(self._line(path, last), status, words) from None
                        asked = retry_after(error)
                        if status not in _WAITED_FOR and (faults := faults + 1) >= _TRIES:
                            raise Refusal(self._line(path, last), status, words) from None
                    except Exception as error:
                        is_bad = isinstance(error, ValueError)  # what came, and not how
                        if is_bad and content:
                            last = f"no JSON, but {self._plain(content)!r}"
                        else:
                            last = self._plain(reason_of(error).encode())
                        if (is_bad or not is_passing(error)) and (faults := faults + 1) >= _TRIES:
                            raise EngineError(self._line(path, last)) from None
                    pause = min(_FIRST_PAUSE * 2.0**tries, _LONGEST_PAUSE)
                    pause = pause if asked is None else asked
                    if clock.time() + pause >= end:
                        break
                    await asyncio.sleep(pause)
                    tries = min(tries + 1, 10)
        except TimeoutError:
            pass
        before = f"; the last: {last}" if last else ""
        raise EngineError(
            f"server: {self.url}{path} gave no reply within {seconds:.3g} s{before}; see that the "
            "server runs and is not overloaded, or give it more time"
        )

    def _line(self, path: str, what: str) -> str:
        return f"server: {self.url}{path}: got {what}"

    def _plain(self, content: bytes) -> str:
        """What a reply says, in one line that can be shown: without the key."""
        line = said(content[: 1 << 16]).replace(self._key, "[key]")
        line = " ".join(line.split())[:_LONGEST]
        return "".join(c if c.isprintable() else "?" for c in line)


def is_no_path(error: Refusal) -> bool:
    """Whether a server refuses because it does not know the path, and not what was asked there."""
    return error.status in (404, 405) and error.words.strip() in (
        "Not Found",
        "Method Not Allowed",
        "nothing",
    )


def check_version(version: str, url: str) -> None:
    """Check that a server gives the token ids of completions.

    A version that was built from a checkout, and says no release, is taken as new.

    Raises:
        EngineError: If it is too old.
    """
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?(.*)", version)
    if found is None or (found[1] == "0" and found[2] == "1" and "dev" in found[4] + version):
        return
    if tuple(int(part or 0) for part in found.groups()[:3]) < OLDEST:
        raise EngineError(
            f"server: {url} runs vLLM {version}, expected {_dotted(OLDEST)} or later, which gives "
            "the token ids of completions; install a newer one there"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def check_address(url: str) -> str:
    """The address of a server without ``/v1``.

    Raises:
        EngineError: If it is none, or has a user or password, which would be kept with a run.
    """
    shown = without_secrets(url)
    if not is_address(url):
        raise EngineError(
            f"server: got {shown!r}, expected the address of a vLLM server such as "
            "http://localhost:8000"
        )
    if shown != url:
        raise EngineError(
            f"server: got {shown!r} with a user before it, expected none, since it is kept with "
            f"the run; what the server asks for can be a key in {_KEY}"
        )
    return url.rstrip("/").removesuffix("/v1")
