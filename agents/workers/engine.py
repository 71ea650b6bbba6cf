"""WorkersEngine: a population's replies and learning steps, done by a pool of workers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from agents.engine.adapters import StackedLora
from agents.engine.jobs import DecodeStats, EngineError, Feature, Job, Reply
from agents.learning.learners import StackedLearner
from agents.learning.steps import LearnerStats, Sample
from agents.peft_io import PeftAdapter
from agents.progress import Progress
from agents.workers.messages import DecodeCall, LearnCall, Learned, to_arrays, to_tensors, unpack
from agents.workers.pool import WorkerPool
from agents.workers.shards import split_jobs
from agents.workers.tasks import DecodeShard, LearnShard, PackedAdapters
from populora_env.keys import Key


@dataclass(slots=True)
class WorkersStats(DecodeStats):
    """Counts of all workers together, and what each of them does.

    Attributes:
        pool: The workers; None for none.
    """

    pool: WorkerPool | None = field(default=None, compare=False)

    @property
    def words(self) -> str:
        """Tokens per second and memory of each worker."""
        counts = self.pool.counts if self.pool else []
        rates = [f"{c.tokens / c.seconds:.0f}" if c.seconds else "-" for c in counts]
        held = [f"{c.memory / 2**20:,.0f}" for c in counts]
        return f"workers: {' + '.join(rates)} tokens/s, {' + '.join(held)} MiB"


class WorkersEngine:
    """Has shards decoded by workers; an `Engine`. Also what takes learning steps to them.

    Args:
        pool: The workers.
        lora: The population's adapters, which are the driver's to change.
        max_rows: Rows that a worker decodes at once.
        shards: Parts of the jobs; see `agents.workers.shards`.

    Attributes:
        pool: The workers.
        shards: Parts of the jobs.
    """

    def __init__(
        self, pool: WorkerPool, lora: StackedLora, max_rows: int = 64, shards: int = 1
    ) -> None:
        self.features: frozenset[str] = frozenset(Feature)
        self.max_rows = max_rows
        self.stats: DecodeStats = WorkersStats(pool=pool)
        self.pool, self.shards, self._lora = pool, shards, lora

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

        Raises:
            WorkerError: If the workers cannot do it.
        """
        del adapters  # they are in the stack
        begin = time.perf_counter()
        parts = split_jobs(
            [job.prompt_ids for job in jobs], [job.max_new_tokens for job in jobs], self.shards
        )
        packed = PackedAdapters(self._lora)
        tasks = [
            DecodeShard(
                f"shard {number + 1} of {len(parts)} of {len(jobs)} replies",
                [jobs[place] for place in places],
                DecodeCall(
                    self._lora.hashes({row for place in places
                                       if (row := jobs[place].agent) is not None}),
                    [jobs[place] for place in places],
                    temperature,
                    top_p,
                    self.max_rows,
                ),
                packed,
            )
            for number, places in enumerate(parts)
        ]  # fmt: skip

        def tell(_: int, found: "tuple[list[Reply], DecodeStats]") -> None:
            for count in fields(DecodeStats):
                if count.name not in ("seconds", "overlong"):
                    value = getattr(self.stats, count.name) + getattr(found[1], count.name)
                    setattr(self.stats, count.name, value)
            for reply in found[0]:
                if done is not None:
                    done(reply)

        results = self.pool.run(tasks, tell)
        self.stats.seconds += time.perf_counter() - begin
        replies = {
            place: reply
            for places, (own, _) in zip(parts, results, strict=True)
            for place, reply in zip(places, own, strict=True)
        }
        return [replies[place] for place in range(len(jobs))]

    def learn(
        self,
        learner: StackedLearner,
        parts: Mapping[tuple[int, ...], Sequence[Sample]],
        progress: Progress | None,
        key: Sequence[Key] | None,
    ) -> list[LearnerStats]:
        """Take a learning step; see `agents.learning.learners.Elsewhere`.

        Adapters and the optimiser's state are as they were until all parts are done.

        Raises:
            WorkerError: If the workers cannot do it.
        """
        packed = PackedAdapters(self._lora)
        tasks = [
            LearnShard(
                f"shard {number + 1} of {len(parts)} of a learning step",
                agents,
                LearnCall(
                    self._lora.hashes(agents),
                    samples,
                    type(learner).__name__,
                    learner.config,
                    to_arrays(learner.rows(agents)),
                    self._lora.dropout,
                    None if key is None else tuple(key),
                ),
                packed,
            )
            for number, (agents, samples) in enumerate(parts.items())
        ]
        over = 0

        def tell(_: int, __: Learned) -> None:
            nonlocal over
            over += 1
            if progress is not None:
                progress("learning", over / len(tasks))

        results = self.pool.run(tasks, tell)
        for task, result in zip(tasks, results, strict=True):
            for row, adapter in result.adapters.items():
                unpack(self._lora, row, adapter)
            learner.load_rows(task.agents, to_tensors(result.optimizer))
        return [result.stats for result in results]


class AwaitedEngine:
    """In the place of an engine that is still to come, such as workers; an `Engine` of no use."""

    def __init__(self, max_rows: int) -> None:
        self.features: frozenset[str] = frozenset(Feature)
        self.max_rows, self.stats = max_rows, DecodeStats()

    def generate(self, *_: object, **__: object) -> list[Reply]:
        """Refuse.

        Raises:
            EngineError: Always.
        """
        raise EngineError("engine: got none yet, expected workers; start them first")
