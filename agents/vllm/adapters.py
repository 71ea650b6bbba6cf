"""Adapters on their way to a server: folders by content hash, and which of them it holds.

An adapter is written once, as a PEFT folder in a place that the server sees, too, under a name that
says whose it is and its content hash: what is under a name never changes. Its ``lora_alpha`` is its
rank, and its scale is in ``B``: whoever folds the scale in, or does so twice, multiplies by one.
Files are float32, so that a scale that is a power of two, such as the usual 2, changes no digit of
an adapter; any other rounds ``B`` once, to 24 bits.

An adapter that has not been named for some calls is unloaded, and its folder deleted. A server that
holds no more is given one in another's place, once nobody waits for that one's replies.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents.engine.adapters import factors_hash
from agents.engine.jobs import EngineError
from agents.peft_io import AdapterError, PeftAdapter, write_adapter
from agents.plain_files import discard, remove, whole_folder
from agents.vllm.server import Refusal, Server, is_no_path

_PREFIX = "populora"
_CALLS = 4  # in a row that do not name an adapter, and it is forgotten
_LAST_WORDS = 2.0  # seconds for unloading when all is over
_FULL = re.compile(r"no free|\bslots?\b|max_(cpu_)?loras|capacity|too many|maximum number", re.I)


def owner_of(text: str) -> str:
    """A short mark of whoever writes adapters, such as a run by its folder."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


class AdapterFolders:
    """The folders of one owner in a place that others may use as well.

    Args:
        place: Shared with the server under the same path; made if it does not exist.
        owner: Letters and digits; what is there of this owner is deleted.

    Raises:
        EngineError: If the place cannot be written.
    """

    def __init__(self, place: str | Path, owner: str) -> None:
        self.place = Path(place).expanduser().resolve()
        self._start = f"{_PREFIX}-{owner}-"
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            for pattern in (f"{self._start}*", f".{self._start}*.tmp"):
                for left in self.place.glob(pattern):
                    remove(left)
            probe = self.place / f".{self._start}probe.tmp"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise EngineError(
                f"adapter_folder: cannot write to {self.place} ({error.strerror}); choose a folder "
                "that this process can write and the server can read, under the same path"
            ) from error

    def name(self, content_hash: str) -> str:
        """What an adapter is called, by the server and in the folder."""
        return self._start + content_hash

    def hash_of(self, name: str) -> str | None:
        """The content hash in a name; None in a name that this owner did not give."""
        return name.removeprefix(self._start) if name.startswith(self._start) else None

    def path(self, content_hash: str) -> Path:
        """Of an adapter's folder."""
        return self.place / self.name(content_hash)

    def write(self, adapters: Mapping[str, PeftAdapter], wanted: Iterable[str]) -> None:
        """Write the adapters of these hashes that are not there yet, each whole or not at all.

        Raises:
            EngineError: If one cannot be written, or is not what its hash says.
        """
        for content_hash in wanted:
            if (path := self.path(content_hash)).is_dir():
                continue
            adapter = adapters[content_hash]
            found = factors_hash(adapter.alpha, adapter.factors.values())
            if found != content_hash:
                raise EngineError(
                    f"adapters: got one of hash {found} under {content_hash}, expected what it is "
                    "called; it changed while it was written"
                )
            try:
                with whole_folder(path) as work:
                    folded = {n: (A, B.float() * adapter.scale)
                              for n, (A, B) in adapter.factors.items()}  # fmt: skip
                    write_adapter(
                        work,
                        {n: (A.float(), B) for n, (A, B) in folded.items()},
                        alpha=max(A.shape[0] for A, _ in folded.values()),
                        dropout=0.0,
                        base=adapter.base,
                    )
            except AdapterError as error:
                raise EngineError(f"adapters: {error}") from error
            except OSError as error:
                raise EngineError(
                    f"adapter_folder: {path} could not be written ({error.strerror})"
                ) from error

    def delete(self, content_hash: str) -> None:
        """Delete an adapter's folder, if it can be."""
        with suppress(OSError):
            discard(self.path(content_hash))


@dataclass(slots=True)
class _Entry:
    """An adapter that the server holds, for all that is known."""

    known: bool = True  # False after the server said that it is not
    users: int = 0  # requests under way that name it


class LoadedAdapters:
    """Which adapters a server holds; all but `named` runs on the server's own thread.

    Args:
        server: Where they are loaded.
        folders: Where they are written.
        most: How many may be loaded; None for as many as the server takes.
    """

    def __init__(self, server: Server, folders: AdapterFolders, most: int | None) -> None:
        self._server, self._folders, self._most = server, folders, most
        self._idle: dict[str, int] = {}  # calls since each was named
        self._entries: dict[str, _Entry] = {}  # least recently used first
        self._loading = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def loaded(self) -> list[str]:
        """Hashes of the adapters that the server holds, least recently used first."""
        return [content_hash for content_hash, entry in self._entries.items() if entry.known]

    def named(self, wanted: Collection[str]) -> list[str]:
        """Note that a call names these; the hashes of those that nobody names any more."""
        for content_hash in self._idle:
            self._idle[content_hash] += 1
        self._idle |= dict.fromkeys(wanted, 0)
        return [content_hash for content_hash, calls in self._idle.items() if calls >= _CALLS]

    @asynccontextmanager
    async def held(self, content_hash: str) -> AsyncGenerator[str, None]:
        """Have an adapter loaded inside the block, which is given its name.

        Raises:
            EngineError: If it cannot be loaded.
        """
        entry = self._entries.get(content_hash)
        if entry is None or not entry.known:
            async with self._loading:
                entry = self._entries.get(content_hash) or _Entry(known=False)
                if not entry.known:
                    await self._load(content_hash)
                    entry.known = True
                entry.users += 1
        else:
            entry.users += 1
        self._entries.pop(content_hash, None)
        self._entries[content_hash] = entry
        try:
            yield self._folders.name(content_hash)
        finally:
            entry.users -= 1
            if not entry.users:
                self._freed.set()

    def lost(self, content_hash: str) -> None:
        """Note that the server does not know an adapter that was loaded, as after a restart."""
        if content_hash in self._entries:
            self._entries[content_hash].known = False

    async def forget(self, hashes: Iterable[str]) -> None:
        """Unload adapters and delete their folders.

        One that the server will not unload goes on taking room there, which is tried again when
        room is needed.
        """
        for content_hash in hashes:
            with suppress(EngineError):
                await self._unload(content_hash)
            self._folders.delete(content_hash)
            self._idle.pop(content_hash, None)

    async def forget_left(self, names: Iterable[str]) -> None:
        """Unload what a process of the same owner left that was killed."""
        for name in names:
            if self._folders.hash_of(name) is not None:
                with suppress(EngineError):
                    await self._server.unload(name)

    async def end(self) -> None:
        """Unload all, if the server still listens, and delete all folders."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self.forget(self.loaded)
        for content_hash in [*self._entries, *self._idle]:
            self._folders.delete(content_hash)

    async def _unload(self, content_hash: str) -> None:
        if content_hash in self._entries and self._entries[content_hash].known:
            await self._server.unload(self._folders.name(content_hash))
        self._entries.pop(content_hash, None)

    async def _load(self, content_hash: str) -> None:
        name, path = self._folders.name(content_hash), str(self._folders.path(content_hash))
        while True:
            if self._most is not None:
                await self._make_room(self._most)
            try:
                return await self._server.load(name, path)
            except Refusal as error:
                if "already been loaded" in error.words:
                    return None  # what is under a name never changes
                if not is_full(error):
                    raise EngineError(why_not_loaded(error, path)) from None
                held = len(self.loaded)
                if not held or self._most == held:
                    raise EngineError(
                        f"{error}; the server holds no adapter of ours that could go, expected "
                        "room for one; unload others' there, or start it with more --max-loras"
                    ) from None
                self._most = held

    async def _make_room(self, most: int) -> None:
        """Unload adapters that nobody waits for until one more may be loaded."""
        while len(self.loaded) >= most:
            free = [name for name in self.loaded if not self._entries[name].users]
            if free:
                await self._unload(free[0])
                continue
            self._freed.clear()
            await self._freed.wait()


def is_full(error: Refusal) -> bool:
    """Whether a server refuses an adapter because it holds as many as it can."""
    return _FULL.search(error.words) is not None and "max_lora_rank" not in error.words


def why_not_loaded(error: Refusal, path: str) -> str:
    """Why a server does not load an adapter, and what to do."""
    if is_no_path(error):
        return (
            f"{error}; expected a server that loads adapters while it runs; start it with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora"
        )
    if "max_lora_rank" in error.words:
        return f"{error}; start it with a larger --max-lora-rank, or set a smaller rank"
    if error.status == 404 or "No adapter found" in error.words:
        return (
            f"{error}; expected it to find the adapter in {path}; adapter_folder has to be a "
            "folder that the server sees under the same path"
        )
    return (
        f"{error}; expected it to load the adapter in {path}; it needs --enable-lora, the same "
        "base model, and one whose adapted layers it supports"
    )
