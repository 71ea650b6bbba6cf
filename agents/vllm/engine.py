"""VllmEngine: a vLLM server as an engine.

The server has the base model and generates; adapters go to it through a folder that both see, by
names made of their content hash, and token ids come back. What differs from
`agents.engine.local.LocalEngine`: there are no hidden states and no token distributions, a seed
gives the same reply only as far as the server keeps to that, and what is computed for a reply may
differ in its last digits by what else is in the batch, and with them a token.

Needs vLLM 0.10.2 or later, started with ``--enable-lora`` and
``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``.
"""

import asyncio
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from agents.engine.jobs import BASE, DecodeStats, EngineError, Job, Reply, check_features
from agents.loading.models import BaseModel
from agents.peft_io import PeftAdapter
from agents.vllm.adapters import AdapterFolders, LoadedAdapters, owner_of, why_not_loaded
from agents.vllm.replies import completion_request, read_completion
from agents.vllm.server import Refusal, ServedModel, Server, check_version, is_no_path

_LOADS = 3  # of one adapter for one reply: a server that was started again knows none
_GREETING = 10.0  # seconds for the first reply of all
_PROBE = "populora-is-no-adapter"

_Arrived = SimpleQueue[tuple[Job, str, tuple[int, ...]] | None]


class VllmEngine:
    """Has a vLLM server generate; an `Engine`, and a context manager that clears up.

    Args:
        base: The base, of which the tokenizer and the shapes are used; one without weights will do.
        server: Address of the server, such as ``http://localhost:8000``.
        adapter_folder: Where adapters are written for it: a folder that the server sees under the
            same path. Several runs may share it; each deletes its own adapters only.
        model: The base model's name on the server; None if it serves one, by the base's own name.
        owner: Whose the adapters are, such as a run's folder: what a killed process of the same
            owner left is deleted. None for this object alone.
        api_key: None is ``VLLM_API_KEY``, if it is set.
        timeout: Seconds within which a request is answered, all its tries included.
        max_rows: Requests under way at once.
        max_loaded: Adapters that the server may hold of ours; None for as many as it takes, which
            is found out if it refuses one.

    Attributes:
        version: The server's, of vLLM.
        model: The base model, as the server lists it.
        context: Most tokens of a prompt and its reply together on the server; None if unknown.

    Raises:
        EngineError: If the server is not there, too old, has another base model or one of too small
            a context, or does not load adapters while it runs; or the folder cannot be written.
    """

    features: frozenset[str] = frozenset()

    def __init__(
        self,
        base: BaseModel,
        server: str,
        adapter_folder: str | Path,
        *,
        model: str | None = None,
        owner: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        max_rows: int = 64,
        max_loaded: int | None = None,
    ) -> None:
        if max_loaded is not None and max_loaded < 1:
            raise EngineError(f"max_loaded: got {max_loaded}, expected at least 1")
        self.max_rows, self.stats = max_rows, DecodeStats()
        self._base, self._stop_ids = base, base.stop_ids()
        self._rows: int = base.model.get_input_embeddings().weight.shape[0]
        self._server = Server(server, api_key, timeout)
        self._finalize = weakref.finalize(self, self._server.close)
        try:
            self.version, models = self._server.submit(self._greet()).result()
            self.model, self._names = chosen(models, model, base, self._server.url)
            self.context = self.model.context
            self._check_context()
            mark = owner_of(str(uuid.uuid4()) if owner is None else owner)
            self._folders = AdapterFolders(adapter_folder, mark)
            self._adapters = LoadedAdapters(self._server, self._folders, max_loaded)
            left = self._adapters.forget_left([found.name for found in models])
            self._server.submit(left).result()
        except BaseException:
            self._finalize()
            raise

    def __str__(self) -> str:
        """What it is and what it cannot give, in one line."""
        context = "" if self.context is None else f", context {self.context}"
        return (
            f"vLLM {self.version} at {self._server.url}, model {self.model.name}{context}; it "
            "gives no hidden states and no token distributions, and replies that may differ when "
            "they are asked for again"
        )

    def generate(
        self,
        adapters: Mapping[str, PeftAdapter],
        jobs: Sequence[Job],
        *,
        temperature: float,
        top_p: float,
        done: Callable[[Reply], None] | None = None,
    ) -> Iterator[Reply]:
        """Generate one reply per job, as they arrive; see `Engine`.

        Raises:
            EngineError: If the server cannot be reached in time, refuses, or replies with anything
                but what was asked for.
        """
        begin = time.perf_counter()
        check_features(self, {feature for job in jobs for feature in job.features})
        wanted = {job.adapter: place for place, job in enumerate(jobs) if job.adapter != BASE}
        over = self._adapters.named(wanted)
        self._folders.write(adapters, wanted)
        # Those of one adapter one after the other, so that none need be loaded twice.
        order = sorted(jobs, key=lambda job: wanted.get(job.adapter, -1))
        arrived: _Arrived = SimpleQueue()
        future = self._server.submit(self._all(order, over, temperature, top_p, arrived))
        future.add_done_callback(lambda _: arrived.put(None))
        try:
            while (found := arrived.get()) is not None:
                reply = self._read(*found)
                if done is not None:
                    done(reply)
                yield reply
            future.result()
        finally:
            future.cancel()
            self.stats.seconds += time.perf_counter() - begin

    def check(self, adapters: Mapping[str, PeftAdapter]) -> None:
        """Have the server load adapters, to see that it takes them.

        Args:
            adapters: By content hash.

        Raises:
            EngineError: If it does not, as when their rank is above what it was started for.
        """
        over = self._adapters.named(adapters)
        self._folders.write(adapters, adapters)

        async def load() -> None:
            await self._adapters.forget(over)
            for content_hash in adapters:
                async with self._adapters.held(content_hash):
                    pass

        self._server.submit(load()).result()

    def close(self) -> None:
        """Unload our adapters, delete their folders, and hang up. May be called twice."""
        if self._finalize.alive:
            self._server.submit(self._adapters.end()).result()
            self._finalize()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _greet(self) -> tuple[str, list[ServedModel]]:
        server = self._server
        version = await server.version(_GREETING)
        check_version(version, server.url)
        models = await server.models()
        try:
            await server.unload(_PROBE)
        except Refusal as error:
            if is_no_path(error):
                raise EngineError(why_not_loaded(error, "")) from None
        return version, models

    def _check_context(self) -> None:
        needed = len(self._base.chat_ids("a")) + 1
        if self.context is not None and self.context < needed:
            raise EngineError(
                f"server: {self._server.url} has a context of {self.context} tokens, expected at "
                f"least {needed}, for a prompt and a reply of one letter; start it with a larger "
                "--max-model-len"
            )

    async def _all(
        self,
        jobs: Sequence[Job],
        over: Sequence[str],
        temperature: float,
        top_p: float,
        arrived: _Arrived,
    ) -> None:
        await self._adapters.forget(over)
        gate = asyncio.Semaphore(self.max_rows)

        async def one(job: Job) -> None:
            async with gate:
                own = temperature if job.temperature is None else job.temperature
                model, ids = await self._one(job, own, top_p)
                arrived.put((job, model, ids))

        tasks = [asyncio.create_task(one(job)) for job in jobs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, job: Job, temperature: float, top_p: float) -> tuple[str, tuple[int, ...]]:
        def body(name: str) -> dict[str, Any]:
            return completion_request(
                job, name, self._stop_ids, temperature=temperature, top_p=top_p
            )

        if job.adapter == BASE:
            data = await self._server.complete(body(self.model.name))
            return self._checked(data, job, self._names)
        said = ""
        for _ in range(_LOADS):
            async with self._adapters.held(job.adapter) as name:
                try:
                    return self._checked(await self._server.complete(body(name)), job, {name})
                except Refusal as error:
                    if error.status != 404:
                        raise
                    said = str(error)
                    self._adapters.lost(job.adapter)
        raise EngineError(
            f"{said}, after the adapter was loaded {_LOADS} times; expected the server to keep it; "
            "see that one server, and not several in turn, answers under this address"
        )

    def _checked(
        self, data: Any, job: Job, names: frozenset[str] | set[str]
    ) -> tuple[str, tuple[int, ...]]:
        return read_completion(data, job, names, self._stop_ids, self._rows)

    def _read(self, job: Job, model: str, ids: tuple[int, ...]) -> Reply:
        """A reply, whose adapter is known by the name that the server said."""
        adapter = BASE if model in self._names else self._folders.hash_of(model)
        text_ids = ids[:-1] if ids[-1] in self._stop_ids else ids
        text = self._base.tokenizer.batch_decode([list(text_ids)], skip_special_tokens=True)[0]
        stats = self.stats
        stats.tokens += len(ids)
        stats.decoded += len(ids)
        stats.slot_steps += len(ids)
        stats.prompt_tokens += len(job.prompt_ids)
        stats.prompt_tokens_read += len(job.prompt_ids)
        return Reply(job.id, adapter or "", text, ids)


def chosen(
    models: Sequence[ServedModel], name: str | None, base: BaseModel, url: str
) -> tuple[ServedModel, frozenset[str]]:
    """Which of the models that a server lists is the base, and all its names there.

    Args:
        models: All that it lists.
        name: The base's name on the server; None to find it by what it was loaded from.
        base: The base.
        url: Of the server.

    Raises:
        EngineError: If it is not there.
    """
    bases = [model for model in models if not model.parent]
    served = ", ".join(f"{model.name} (from {model.root or '?'})" for model in bases) or "none"
    if name is None:
        ours = {base.name, base.path}
        last = {Path(text).name for text in ours if text}
        fits = [m for m in bases if ours & {m.name, m.root} or last & {Path(m.root).name}]
        if not fits:
            raise EngineError(
                f"server: {url} serves {served}, expected {base.path}; serve that, or name the "
                "base among them by served_model if it is the same model"
            )
    else:
        fits = [model for model in bases if model.name == name]
        if not fits:
            raise EngineError(
                f"served_model: got {name!r}, but {url} serves {served}; expected one of these"
            )
    found = fits[0]
    same = {
        model.name for model in bases if (model.root, model.context) == (found.root, found.context)
    }
    return found, frozenset(same)
