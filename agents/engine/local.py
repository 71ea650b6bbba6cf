"""LocalEngine: this project's own decoding as an engine, in the caller's process."""

import time
from collections.abc import Callable, Mapping, Sequence

from agents.engine.adapters import StackedLora
from agents.engine.generation import generate
from agents.engine.jobs import BASE, Decoded, DecodeStats, Feature, Job, Reply
from agents.loading.models import BaseModel
from agents.peft_io import PeftAdapter
from agents.workers.shards import limited, split_jobs


class LocalEngine:
    """Decodes jobs of all adapters of a stack in one batch; an `Engine`.

    Args:
        base: The frozen base.
        lora: Its adapters, which are used as they are at any time.
        max_rows: Rows decoded at once; see `agents.engine.generation.generate`.
        shards: Parts of the jobs that are decoded one after another; see `agents.workers.shards`.
        threads: CPU threads that decode them; 0 for PyTorch's.
    """

    def __init__(
        self,
        base: BaseModel,
        lora: StackedLora,
        max_rows: int = 64,
        shards: int = 1,
        threads: int = 0,
    ) -> None:
        self.shards, self.threads = shards, threads
        self.features: frozenset[str] = frozenset(Feature)
        self.max_rows, self.stats = max_rows, DecodeStats()
        self._base, self._lora = base, lora

    def generate(
        self,
        adapters: Mapping[str, PeftAdapter],
        jobs: Sequence[Job],
        *,
        temperature: float,
        top_p: float,
        done: Callable[[Reply], None] | None = None,
    ) -> list[Reply]:
        """Generate one reply per job, in their order; see `Engine`.

        A job's row in the stack says who writes it, so two agents of one hash stay two.

        Raises:
            ValueError: See `agents.engine.generation.generate`.
            RuntimeError: If memory runs out with a single row.
        """
        del adapters  # they are in the stack
        prompts, limits = [job.prompt_ids for job in jobs], [job.max_new_tokens for job in jobs]
        replies: dict[int, Reply] = {}
        for places in split_jobs(prompts, limits, self.shards):
            own = [jobs[place] for place in places]
            with limited(self.threads):
                made = self._decode(own, temperature, top_p, done)
            replies.update(zip(places, made, strict=True))
        return [replies[place] for place in range(len(jobs))]

    def _decode(
        self,
        jobs: Sequence[Job],
        temperature: float,
        top_p: float,
        done: Callable[[Reply], None] | None,
    ) -> list[Reply]:
        """Decode one shard."""

        def tell(i: int, decoded: Decoded) -> None:
            if done is not None:
                done(self._replies(jobs[i : i + 1], [decoded])[0])

        begin = time.perf_counter()
        made = generate(
            self._base,
            self._lora,
            jobs,
            temperature=temperature,
            top_p=top_p,
            max_rows=self.max_rows,
            distribution=any(Feature.DISTRIBUTIONS in job.features for job in jobs),
            stats=self.stats,
            done=None if done is None else tell,
        )
        self.stats.seconds += time.perf_counter() - begin
        return self._replies(jobs, made)

    def _replies(self, jobs: Sequence[Job], made: Sequence[Decoded]) -> list[Reply]:
        # Of the factors as they are after decoding: if they changed meanwhile, the hash tells.
        hashes = self._lora.hashes({job.agent for job in jobs if job.agent is not None})
        texts = self._base.tokenizer.batch_decode(
            [list(decoded.ids) for decoded in made], skip_special_tokens=True
        )
        return [
            Reply(
                job.id,
                BASE if job.agent is None else hashes[job.agent],
                text,
                decoded.ids if decoded.end is None else (*decoded.ids, decoded.end),
                {
                    name: tensor
                    for name, tensor in (
                        (Feature.HIDDEN_STATES, decoded.feature),
                        (Feature.DISTRIBUTIONS, decoded.distribution),
                    )
                    if name in job.features and tensor is not None
                },
            )
            for job, text, decoded in zip(jobs, texts, made, strict=True)
        ]
