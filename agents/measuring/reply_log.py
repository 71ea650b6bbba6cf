"""Replies on disk, so that a measurement can be cut off and go on.

A JSONL file: the first line holds the settings that all replies share, every other line one reply.
A file made with other settings is refused, and so is a reply to another prompt or by an agent whose
weights have changed since. A last line that was cut off by a kill is dropped.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.plain_files import appending, truncate
from populora_env.errors import PopuloraError


class ReplyLogError(PopuloraError, ValueError):
    """A file of replies that cannot be used; the message is one line."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which reply: to what, by whom, and the number of the sample, from 0."""

    task: str
    prompt: str
    agent: str
    problem: str
    sample: int = 0


@dataclass(frozen=True, slots=True)
class LoggedReply:
    """One reply.

    Attributes:
        key: Which reply.
        content: Hash of the agent's weights; empty where it has none.
        asked: Hash of the prompt's text; see `text_hash`.
        max_new_tokens: Its length limit.
        reply: The text, cut at the first stop.
        marks: Rule of extraction to ``[answer, correct]``.
        drawn: How, such as ``greedy``; empty if an earlier version wrote it, which did not say.
    """

    key: Key
    content: str
    asked: str
    max_new_tokens: int
    reply: str
    marks: Mapping[str, tuple[str | None, bool]]
    drawn: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return one flat mapping of plain JSON types."""
        named = ("content", "asked", "max_new_tokens", "drawn")
        rest = {name: getattr(self, name) for name in named}
        return {**asdict(self.key), **rest, "reply": self.reply, "marks": dict(self.marks)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "LoggedReply":
        """Read back what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        key = Key(row["task"], row["prompt"], row["agent"], row["problem"], int(row["sample"]))
        marks = {str(rule): (answer, bool(right)) for rule, (answer, right) in row["marks"].items()}
        limit, drawn = int(row["max_new_tokens"]), row.get("drawn", "")
        return cls(key, row["content"], row["asked"], limit, row["reply"], marks, drawn)


def text_hash(text: str) -> str:
    """Return 16 hexadecimal characters that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


class ReplyLog:
    """Replies by key, kept in a file or only in memory.

    Args:
        path: The file, made if it does not exist; None for memory.
        settings: What all replies share, as plain JSON types.

    Raises:
        ReplyLogError: If the file cannot be read or written, or was made with other settings.
    """

    def __init__(
        self, path: str | Path | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path = None if path is None else Path(path)
        self.settings = json.loads(json.dumps(dict(settings or {})))
        self._replies: dict[Key, LoggedReply] = {}
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._read(self.path)
            if not self.path.exists() or not self.path.stat().st_size:
                self._append([{"settings": self.settings}])
        except OSError as error:
            raise ReplyLogError(
                f"out: {self.path} cannot be used ({error.strerror}); choose another folder"
            ) from error

    def __len__(self) -> int:
        return len(self._replies)

    def find(
        self, key: Key, *, content: str, asked: str, max_new_tokens: int, drawn: str
    ) -> LoggedReply | None:
        """Return a reply, or None if it is not there yet.

        Raises:
            ReplyLogError: If there is one that was made under other conditions.
        """
        found = self._replies.get(key)
        if found is None:
            return None
        for what, before, now in (
            ("weights", found.content, content),
            ("prompt", found.asked, asked),
            ("max_new_tokens", found.max_new_tokens, max_new_tokens),
            ("sampling", found.drawn or drawn, drawn),
        ):
            if before != now:
                where, remedy = f"out: {self.path}", "choose another out folder"
                if self.path is None:
                    where, remedy = "log: it", "pass another ReplyLog"
                raise ReplyLogError(
                    f"{where} holds replies of {key.agent} to {key.task} with other {what} "
                    f"({before}, now {now}); {remedy}"
                )
        return found

    def add(self, replies: Iterable[LoggedReply]) -> None:
        """Keep replies, on disk before this returns."""
        rows = list(replies)
        self._replies.update((row.key, row) for row in rows)
        if self.path is not None:
            self._append([row.to_dict() for row in rows])

    def _append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        assert self.path is not None
        with appending(self.path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _read(self, path: Path) -> None:
        """Read all whole lines, and cut off the rest."""
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                if number == 1:
                    before = dict(row["settings"])
                else:
                    reply = LoggedReply.from_dict(row)
                    self._replies[reply.key] = reply
                    continue
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ReplyLogError(
                    f"out: line {number} of {path} is no reply ({type(error).__name__}: {error}); "
                    "choose another out folder"
                ) from error
            for name in sorted(set(before) | set(self.settings)):
                if before.get(name) != self.settings.get(name):
                    raise ReplyLogError(
                        f"{name}: got {self.settings.get(name)!r}, but {path} was made with "
                        f"{before.get(name)!r}; set it back or choose another out folder"
                    )
