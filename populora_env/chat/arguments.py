"""Checks of a chat client's arguments; each error names the argument and the fix."""

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from populora_env.storage import storable

_OPENAI_HOST = "api.openai.com"
_RESERVED = {  # fields that have an argument of their own, or would change what a reply is
    "model": "give it as model",
    "messages": "they are the prompts, and system",
    "stream": "streamed replies are not read",
}


def fields(extra: Any) -> dict[str, Any]:
    """Return a copy of more fields of the body, as JSON has them."""
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise TypeError(f"extra_body must be a mapping, got {type(extra).__name__}")
    given: Mapping[Any, Any] = extra
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"extra_body must have texts as keys, got {type(name).__name__}")
        if name in _RESERVED:
            raise ValueError(f"extra_body must not hold {name!r}: {_RESERVED[name]}")
    try:
        return json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"extra_body must be what JSON can hold: {error}") from None


def address_of(base_url: str | None) -> str:
    """Return the address of a server; None is ``OPENAI_BASE_URL``, else OpenAI's."""
    default = os.environ.get("OPENAI_BASE_URL") or f"https://{_OPENAI_HOST}/v1"
    address = text("base_url", default if base_url is None else base_url).strip()
    shown = without_secrets(address)
    if not is_address(address):
        raise ValueError(
            f"base_url must be an address such as http://localhost:8000/v1, got {shown!r}"
        )
    if urlsplit(address).path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(
            f"base_url must end before /chat/completions, which is added to it, got {shown!r}"
        )
    return address


def key_of(api_key: str | None, address: str) -> str:
    """Return the key for a server; None is ``OPENAI_API_KEY``."""
    found = os.environ.get("OPENAI_API_KEY") if api_key is None else text("api_key", api_key)
    if not found:
        if urlsplit(address).hostname == _OPENAI_HOST:
            raise ValueError("api_key: none given for OpenAI: pass it, or set OPENAI_API_KEY")
        return "no-key-needed"  # the SDK insists on one
    return check_key(found)


def check_key(key: str) -> str:
    """Return a key that a header can hold.

    Raises:
        ValueError: If it is none.
    """
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(  # the key itself is not shown
            "api_key must be printable ASCII without spaces or line ends: strip what was read"
        )
    return key


def is_address(text: str) -> bool:
    """Return whether a text is the address of a server, all of it printable."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    return known and text.isprintable()


def without_secrets(address: str) -> str:
    """Return an address, or what was given as one, without user and password."""
    return re.sub(r"//[^/]*@", "//", address)


def text(name: str, value: Any) -> str:
    """Return a text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    return storable(value)


def whole(name: str, value: Any, least: int | None) -> int:
    """Return an integer, at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def number(name: str, value: Any, *, positive: bool) -> float:
    """Return a finite number, at least 0, or above it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} must be finite and {'> 0' if positive else '>= 0'}, got {value}")
    return float(value)
