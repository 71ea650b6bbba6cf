"""Mixed-adapter batched decoding that keeps the batch full.

Requests of all agents are decoded together, in any mixture. Keys and values live in preallocated
slots, a slot for each row, and every row writes at its own length, so no prompt is padded on the
left. Rows that end leave, the last rows take their places, and waiting requests enter; prompts are
read in blocks of similar length within a budget of tokens. What all prompts begin with (a chat
template's opening) is computed once per agent, and so is a prompt that one agent answers several
times. While it decodes, the mean last hidden state of each reply is gathered, and its mean token
distribution if asked for, so diversity needs no second pass.

What is asked and what comes back is in `agents.engine.jobs`, memory in `agents.engine.kv_cache`.
The passes through the model are `agents.engine.compiled_pass` where that knows the model, else
`agents.engine.general_pass`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from agents.engine.compiled_pass import CompiledPass, compiled_forward
from agents.engine.general_pass import GeneralPass
from agents.engine.jobs import Decoded, DecodeStats, Job, check_jobs, check_temperature
from agents.engine.kv_cache import elements_per_token, free_memory, is_out_of_memory
from agents.loading.models import BaseModel
from populora_env.keys import generator

_COMPACT_AT = 15 / 16  # rows still running / rows held, at which the held ones are compacted
_ADMIT_AT = 1 / 8  # rows free / room, at which waiting requests enter
PREFILL_TOKENS = 8192  # tokens of prompts that are read at once
_MEMORY_SHARE = 0.5  # of the free memory that keys and values may take

_log = logging.getLogger(__name__)


def generate(
    base: BaseModel,
    lora: StackedLora | None,
    jobs: Sequence[Job],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_rows: int = 64,
    distribution: bool = False,
    stats: DecodeStats | None = None,
    done: Callable[[int, Decoded], None] | None = None,
) -> list[Decoded]:
    """Generate one reply per job, in the order of the jobs.

    Args:
        base: The frozen base.
        lora: Its adapters; may be ``None`` where every job asks for the bare base.
        jobs: What to generate. Jobs of the bare base and of agents may be mixed.
        temperature: Softmax temperature of jobs that name none; 0 is greedy.
        top_p: Share of the probability from which tokens are drawn; see
            `agents.engine.sampling.nucleus`.
        max_rows: Rows decoded at once. Fewer where their keys and values would take more than half
            of the free memory; where memory runs out all the same, replies that are done are kept
            and the others start again with half the rows.
        distribution: Whether replies carry their mean token distribution.
        stats: Counts to add to.
        done: Called with the place of a job and its reply as soon as it is there, once for each.

    Raises:
        ValueError: If temperature, top_p or max_rows is out of range, a prompt is empty, or a job
            does not fit the model's context.
        RuntimeError: If memory runs out with a single row.
    """
    check_temperature("temperature", temperature)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, expected above 0, up to 1")
    if max_rows < 1:
        raise ValueError(f"max_rows: got {max_rows}, expected at least 1")
    check_jobs(base, lora, jobs)
    replies: list[Decoded | None] = [None] * len(jobs)
    counts = DecodeStats() if stats is None else stats
    how = _How(temperature, top_p, distribution)
    with torch.inference_mode():
        for bare in (True, False):
            waiting = [i for i, job in enumerate(jobs) if (job.agent is None) == bare]
            rows = max_rows
            while waiting:
                rows = min(rows, _fitting(base, [jobs[i] for i in waiting]), len(waiting))
                try:
                    adapters = None if bare else lora
                    with _Decoder(base, adapters, jobs, rows, how, counts, waiting) as decoder:
                        decoder.done = done
                        decoder.run(replies)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or rows == 1:
                        raise
                    rows //= 2
                    _log.warning("out of memory: going on with %d rows at once", rows)
                if torch.cuda.is_available() and any(replies[i] is None for i in waiting):
                    torch.cuda.empty_cache()
                waiting = [i for i in waiting if replies[i] is None]
    return [reply for reply in replies if reply is not None]


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts share from the first, leaving each at least one of its own."""
    low, high = min(prompts, key=list), max(prompts, key=list)
    limit = min(len(ids) for ids in prompts) - 1
    return next((i for i in range(limit) if low[i] != high[i]), limit)


def _fitting(base: BaseModel, jobs: Sequence[Job]) -> int:
    """How many rows of the longest job fit into the free memory, at least 1."""
    free = free_memory(base.device)
    longest = max(len(job.prompt_ids) + job.max_new_tokens for job in jobs)
    dtype = next(p.dtype for p in base.model.parameters() if p.is_floating_point())
    need = longest * elements_per_token(base.model.config) * dtype.itemsize
    return len(jobs) if free is None or not need else max(1, int(_MEMORY_SHARE * free / need))


@dataclass(frozen=True, slots=True)
class _How:
    temperature: float
    top_p: float
    distribution: bool


@dataclass(slots=True)
class _Row:
    """A reply in the making."""

    job: int
    uniforms: np.ndarray
    limit: int
    length: int  # tokens whose keys and values are stored
    ids: list[int]
    advanced: int = 0  # tokens whose state went into the feature
    done: bool = False


class _Decoder:
    """Decodes the jobs of the bare base, or of agents, to their end."""

    def __init__(
        self,
        base: BaseModel,
        lora: StackedLora | None,
        jobs: Sequence[Job],
        room: int,
        how: _How,
        stats: DecodeStats,
        waiting: Sequence[int],
    ) -> None:
        self.base, self.lora, self.jobs, self.how, self.stats = base, lora, jobs, how, stats
        self.room, self.device, self.waiting = room, base.device, waiting
        self.ends = base.stop_ids()
        self.rows: list[_Row] = []  # as many as are in use; row i has slot i
        self.next = torch.zeros(room, dtype=torch.long, device=self.device)
        vocabulary, width = base.model.get_output_embeddings().weight.shape
        self.features = torch.zeros(room, width, dtype=torch.float32, device=self.device)
        size = vocabulary if how.distribution else 0
        self.distributions = torch.zeros(room, size, dtype=torch.float32, device=self.device)
        self.done: Callable[[int, Decoded], None] | None = None
        longest = max(len(jobs[i].prompt_ids) + jobs[i].max_new_tokens for i in waiting)
        forward = compiled_forward(base, lora, longest)
        self.passes = (
            GeneralPass(base, lora, room, longest)
            if forward is None
            else CompiledPass(forward, room, longest)
        )
        self.shared = 0  # tokens that all prompts begin with

    def __enter__(self) -> "_Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.passes.close()

    def run(self, replies: list[Decoded | None]) -> None:
        """Decode all that wait and fill in ``replies``, each as soon as it is done."""
        self.replies = replies
        queue = self._in_order(self.waiting)
        self._read_prefix(self.waiting)
        while queue or self.rows:
            running = sum(not row.done for row in self.rows)
            if running <= _COMPACT_AT * len(self.rows):
                self._compact()
            free = self.room - running
            if queue and (not running or free >= max(1, _ADMIT_AT * self.room)):
                self._compact()
                self._admit(queue[:free])
                del queue[:free]
            elif self.rows:
                self._advance()

    def _in_order(self, waiting: Sequence[int]) -> list[int]:
        """Long prompts first, one of each agent in turn."""
        turns: dict[int | None, int] = {}
        keyed: list[tuple[int, int, int]] = []
        for i in sorted(waiting, key=lambda i: -len(self.jobs[i].prompt_ids)):
            agent = self.jobs[i].agent
            turns[agent] = turns.get(agent, -1) + 1
            keyed.append((turns[agent], -1 if agent is None else agent, i))
        return [i for _, _, i in sorted(keyed)]

    def _read_prefix(self, waiting: Sequence[int]) -> None:
        """Compute what all prompts begin with once per agent, if that saves anything."""
        known = {(self.jobs[i].agent, tuple(self.jobs[i].prompt_ids)) for i in waiting}
        agents = sorted({agent for agent, _ in known}, key=lambda agent: agent or 0)
        shared = common_prefix([ids for _, ids in known])
        self.stats.prompt_tokens += sum(len(self.jobs[i].prompt_ids) for i in waiting)
        if shared and len(known) > len(agents):
            self.passes.read_prefix(agents, next(iter(known))[1][:shared])
            self.stats.prompt_tokens_read += shared * len(agents)
            self.shared = shared

    def _admit(self, newcomers: Sequence[int]) -> None:
        """Read the prompts of these jobs, and draw the first token of each."""
        asked: dict[tuple[int | None, tuple[int, ...]], list[int]] = {}
        for i in newcomers:
            job = self.jobs[i]
            asked.setdefault((job.agent, tuple(job.prompt_ids)), []).append(i)
        shared = self.shared
        block: list[tuple[int | None, tuple[int, ...]]] = []
        longest = 0
        blocks = [block]
        for key in sorted(asked, key=lambda key: -len(key[1])):
            longest = longest or len(key[1])
            if block and (len(block) + 1) * (longest - shared) > PREFILL_TOKENS:
                block, longest = [], len(key[1])
                blocks.append(block)
            block.append(key)
        for block in blocks:
            block.sort(key=lambda key: key[0] or 0)  # stable: rows agent by agent
            first, copies = len(self.rows), [len(asked[key]) for key in block]
            _, logits = self.passes.read(block, copies, first)
            self.stats.prompt_tokens_read += sum(len(ids) - shared for _, ids in block)
            for key in block:
                for i in asked[key]:
                    job = self.jobs[i]
                    drawn = generator(job.seed).random(job.max_new_tokens)
                    self.rows.append(_Row(i, drawn, job.max_new_tokens, len(key[1]), []))
            new = slice(first, len(self.rows))
            self.features[new], self.distributions[new] = 0, 0
            self._take(new, logits)

    def _advance(self) -> None:
        """Append the drawn token of every row, and draw the next."""
        count = len(self.rows)
        hidden, logits = self.passes.step(
            self.next[:count],
            [row.length for row in self.rows],
            [self.jobs[row.job].agent for row in self.rows],
        )
        running = [not row.done for row in self.rows]
        for row in self.rows:
            if not row.done:  # rows that have ended are decoded along in place
                row.length += 1
                row.advanced += 1
        self.features[:count] += hidden * torch.tensor(running, device=self.device)[:, None]
        self.stats.slot_steps += count
        self.stats.decoded += sum(running)
        self._take(slice(0, count), logits)

    def _take(self, which: slice, logits: Tensor) -> None:
        """Draw a token for each of these rows; end those that it ends."""
        rows = self.rows[which]
        drawn = np.array([row.uniforms[min(len(row.ids), row.limit - 1)] for row in rows])
        own = [self.jobs[row.job].temperature for row in rows]
        usual = self.how.temperature
        heat = np.array([usual if each is None else each for each in own])
        chosen = self.passes.choose(logits, drawn, heat, self.how.top_p)
        self.next[which] = chosen
        if self.how.distribution:
            running = torch.tensor([not row.done for row in rows], device=self.device)
            self.distributions[which] += torch.softmax(logits, -1) * running[:, None]
        for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True), which.start):
            if row.done:
                continue
            self.stats.tokens += 1
            if token in self.ends:
                self._finish(i, end=token)
                continue
            row.ids.append(token)
            stopped = self._stopped(row)
            if stopped or len(row.ids) == row.limit:
                self._finish(i, stopped=stopped)

    def _stopped(self, row: _Row) -> bool:
        stops = self.jobs[row.job].stop
        if not stops:
            return False
        # A token is a byte or more: look a few tokens further back.
        tail = row.ids[-(max(len(stop.encode()) for stop in stops) + 8) :]
        text = self.base.tokenizer.decode(tail, skip_special_tokens=True)
        return any(stop in text for stop in stops)

    def _finish(self, i: int, *, end: int | None = None, stopped: bool = False) -> None:
        row = self.rows[i]
        row.done = True
        distribution = None
        if self.how.distribution:
            distribution = self.distributions[i].cpu() / max(len(row.ids) + (end is not None), 1)
        feature = self.features[i].cpu() / max(row.advanced, 1)
        finished = end is not None or stopped
        reply = Decoded(tuple(row.ids), finished, feature, distribution, end)
        self.replies[row.job] = reply
        if self.done is not None:
            self.done(row.job, reply)

    def _compact(self) -> None:
        """Put the last running rows where rows have ended."""
        running = [i for i, row in enumerate(self.rows) if not row.done]
        count = len(running)
        targets = [i for i in range(count) if self.rows[i].done]
        if targets:
            sources = running[count - len(targets) :]
            self.passes.move(sources, targets, max(self.rows[i].length for i in sources))
            here, there = (torch.tensor(x, device=self.device) for x in (sources, targets))
            for kept in (self.next, self.features, self.distributions):
                kept[there] = kept[here]
            for source, target in zip(sources, targets, strict=True):
                self.rows[target] = self.rows[source]
        del self.rows[count:]
