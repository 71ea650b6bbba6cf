"""What a chat server's reply says: its text, or in one line why there is none.

Servers that speak OpenAI's chat completions agree on the shape of a good reply and on little
else. Errors come as ``{"error": {"message": …}}``, as FastAPI's ``{"detail": [{"loc", "msg"}]}``,
as a plain text, and with status 200, too.

Not covered: streamed replies, tool calls, images.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from populora_env.storage import storable

NEW_LIMIT_FIELD = "max_completion_tokens"  # that of OpenAI's newer models, which refuse max_tokens
_SHOWN = 4096  # characters of a body that is no error as servers write them; who shows it cuts more
_ENDED_BY_ITSELF = {"", "stop", "eos", "eos_token", "end_turn", "stop_sequence"}
_TEXT_PARTS = (None, "text", "output_text")
_SPOKEN = ("message", "msg", "detail", "details", "error", "errors", "reason", "title")
_LEAVE_OUT = {
    "seed": "seed=None leaves it out",
    "temperature": "temperature=None leaves it out",
    "top_p": "top_p=None leaves it out",
    "max_tokens": "limit_field gives the limit another name",
}


class ReplyError(ValueError):
    """A reply with status 200 that holds no answer.

    Attributes:
        code: The status that its body gives, or None.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def read_content(body: bytes, kind: str) -> str:
    """Return the text of a chat completion.

    A text, or the texts among a list of parts; parts of thought are left out. An empty text is an
    answer only if the model ended it itself, as one whose limit went into thinking did not.

    Args:
        body: What the server sent with status 200.
        kind: Its content type.

    Raises:
        ReplyError: If there is no answer in it.
        ValueError: If it is called JSON and is not.
    """
    try:
        data: Any = json.loads(body)
    except ValueError:
        if "json" in kind.lower():
            raise
        shown = body[:_SHOWN].decode(errors="replace")
        raise ReplyError(
            f"the server's reply has no choices, it is {kind or 'of no type'} (is base_url the "
            f"address of the API, often one that ends in /v1?): {shown!r}"
        ) from None
    choices = _get(data, "choices")
    first: Any = choices[0] if isinstance(choices, list) and choices else None
    for error in (_get(data, "error"), _get(first, "error")):
        if error:
            code = _get(error, "code")
            raise ReplyError(
                f"the server's reply is an error: {said(error)}",
                code if isinstance(code, int) else None,
            )
    if first is None:
        raise ReplyError(f"the server's reply has no choices: {said(data)}")
    message, finish = _get(first, "message"), _get(first, "finish_reason")
    content = _text(_get(message, "content"))
    if content is None:
        found = type(_get(message, "content")).__name__
        refusal = _get(message, "refusal")
        refused = f"; the model refused: {refusal}" if isinstance(refusal, str) and refusal else ""
        why = refused or _why(finish)
        raise ReplyError(f"content must be a text, got {found} (finish_reason {finish!r}){why}")
    ended = finish is None or (isinstance(finish, str) and finish in _ENDED_BY_ITSELF)
    if not content.strip() and not ended:
        raise ReplyError(f"the reply is empty (finish_reason {finish!r}){_why(finish)}")
    return storable(content)


def said(body: Any) -> str:
    """Return what the body of an error says, without its wrapping."""
    try:
        return _said(body)
    except RecursionError:
        return "what is nested too deeply"


def _said(body: Any) -> str:
    if isinstance(body, str | bytes):
        text = body.decode(errors="replace") if isinstance(body, bytes) else body
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError):
            return text.strip() or "nothing"
        return _said(data) if isinstance(data, dict | list) else text.strip()
    return _spoken(body, 6) or json.dumps(body)[:_SHOWN]


def reason_of(error: Exception) -> str:
    """Return why a request failed, in a line without breaks; the fix before what is long.

    Args:
        error: What the SDK or `read_content` raised.
    """
    name = type(error).__name__
    reply: Any = getattr(error, "response", None)
    if reply is not None:
        words = said(reply.content)
        status = reply.status_code
        address = _address(str(reply.request.url))
        wait = retry_after(error)
        asked = "" if wait is None else f", asks to wait {wait:.3g} s"
        hint = _hint(status, address, words)
        text = f"{name}: status {status} at {address}{asked}{hint}: {words}"
    else:
        cause = error.__cause__
        why = f" ({type(cause).__name__}: {cause})" if cause is not None else ""
        request: Any = getattr(error, "request", None)
        at = f" at {_address(str(request.url))}" if request is not None else ""
        text = f"{name}: {error}{why}{at}"
    return " ".join(text.split())


def wants_new_limit_field(error: Exception) -> bool:
    """Return whether a server refused ``max_tokens`` and named its new name instead."""
    reply: Any = getattr(error, "response", None)
    if reply is None or reply.status_code not in (400, 422):
        return False
    return NEW_LIMIT_FIELD in said(reply.content)


def is_passing(error: Exception) -> bool:
    """Return whether the same request may do better later."""
    reply: Any = getattr(error, "response", None)
    if reply is not None:
        told = reply.headers.get("x-should-retry")
        if told in ("true", "false"):
            return told == "true"
        return _is_passing_status(reply.status_code)
    if isinstance(error, ReplyError):
        return error.code is not None and _is_passing_status(error.code)
    return hasattr(error, "request")  # of the SDK's errors, that of a connection


def retry_after(error: Exception) -> float | None:
    """Return the seconds that a server asks to wait, or None."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        given = headers.get(name)
        if given is None:
            continue
        try:
            seconds = float(given) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(given).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if not math.isnan(seconds):
            return max(seconds, 0.0)
    return None


def _is_passing_status(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


def _hint(status: int, address: str, words: str) -> str:
    if status in (404, 405):
        base = address.removesuffix("/chat/completions")
        if not re.search(r"/v\d+[a-z]*(/|$)", base):
            return f" (base_url {base} has no /v1 at its end, which most servers need)"
        return f" (base_url {base}: check it and the model's name)"
    if status in (400, 422):
        fixes = [fix for field, fix in _LEAVE_OUT.items() if re.search(rf"\b{field}\b", words)]
        return f" ({'; '.join(fixes)})" if fixes else ""
    if status in (401, 403):
        return " (api_key is wrong or missing)"
    return ""


def _why(finish: Any) -> str:
    if finish in ("length", "max_tokens"):
        return ": the limit was used up before an answer began, by thoughts if the model thinks"
    return ""


def _text(content: Any) -> str | None:
    """Return a text, or the texts of a list of parts; None if there is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    for part in content:  # pyright: ignore[reportUnknownVariableType]
        text: Any = part
        if isinstance(part, dict):
            text = _get(part, "text") if _get(part, "type") in _TEXT_PARTS else None
        if isinstance(text, str):
            texts.append(text)
    return "".join(texts) if texts else None


def _spoken(body: Any, depth: int) -> str:
    if isinstance(body, str):
        return body.strip()
    if depth == 0:
        return ""
    if isinstance(body, list):
        entries: list[Any] = body[:5]
        return "; ".join(filter(None, (_spoken(entry, depth - 1) for entry in entries)))
    if isinstance(body, dict):
        place = _get(body, "loc")
        where = ".".join(map(str, place)) + ": " if isinstance(place, list) and place else ""
        for name in _SPOKEN:
            if found := _spoken(_get(body, name), depth - 1):
                return where + found
    return ""


def _get(data: Any, name: str) -> Any:
    return data.get(name) if isinstance(data, dict) else None  # pyright: ignore


def _address(url: str) -> str:
    """Return a URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
