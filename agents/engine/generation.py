"""Mixed-adapter batched decoding that keeps the batch full.

Requests of all agents are decoded together, in any mixture. Keys and values live in preallocated
slots, a slot for each row, and every row writes at its own length, so no prompt is padded on the
left. Rows that end leave, the last rows take their places, and waiting requests enter; prompts are
read in blocks of similar length within a budget of tokens. What all prompts begin with (a chat
template's opening) is computed once per agent, and so is a prompt that one agent answers several
times. While it decodes, the mean last hidden state of each reply is gathered, and its mean token
distribution if asked for, so diversity needs no second pass.

What is asked and what comes back is in `agents.engine.jobs`, how tokens are drawn in
`agents.engine.sampling`, memory in `agents.engine.kv_cache`.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import RowLayout, StackedLora
from agents.engine.jobs import Decoded, DecodeStats, Job, check_jobs
from agents.engine.kv_cache import KVCache, elements_per_token, free_memory, is_out_of_memory
from agents.engine.sampling import choose
from agents.loading.models import BaseModel, backbone
from populora_env.keys import generator

_COMPACT_AT = 15 / 16  # rows still running / rows held, at which the held ones are compacted
_ADMIT_AT = 1 / 8  # rows free / room, at which waiting requests enter
_PREFILL_TOKENS = 8192  # tokens of prompts that are read at once
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
        temperature: Softmax temperature; 0 is greedy.
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
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: got {temperature}, expected a finite number >= 0")
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
                    with _Decoder(base, None if bare else lora, jobs, rows, how, counts) as decoder:
                        decoder.done = done
                        decoder.run(waiting, replies)
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


def pad_right(rows: Sequence[Sequence[int]], value: int = 0) -> Tensor:
    """Stack rows of token ids into ``[rows, longest]``, filled up with ``value``."""
    table = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)


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
    ) -> None:
        self.base, self.lora, self.jobs, self.how, self.stats = base, lora, jobs, how, stats
        self.room, self.device = room, base.device
        self.body, self.head = backbone(base.model), base.model.get_output_embeddings()
        self.ends = base.stop_ids()
        self.rows: list[_Row] = []  # as many as are in use; row i has slot i
        self.next = torch.zeros(room, dtype=torch.long, device=self.device)
        self.features = torch.zeros(
            room, self.head.weight.shape[1], dtype=torch.float32, device=self.device
        )
        size = self.head.weight.shape[0] if how.distribution else 0
        self.distributions = torch.zeros(room, size, dtype=torch.float32, device=self.device)
        self.done: Callable[[int, Decoded], None] | None = None
        self._serving = ExitStack()
        self._layout: RowLayout | None = None
        # What all prompts begin with: its keys and values, its agents and its size.
        self._before: tuple[KVCache, list[int | None], int] | None = None

    def __enter__(self) -> "_Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.close()

    def run(self, waiting: Sequence[int], replies: list[Decoded | None]) -> None:
        """Decode all of these jobs and fill in ``replies``, each as soon as it is done."""
        self.replies = replies
        queue = self._in_order(waiting)
        longest = max(len(self.jobs[i].prompt_ids) + self.jobs[i].max_new_tokens for i in waiting)
        self.slots = KVCache(self.room, longest)
        self._read_prefix(waiting)
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
        if not shared or len(known) == len(agents):
            return
        slots = KVCache(len(agents), shared)
        slots.visible = shared
        ids = torch.tensor([next(iter(known))[1][:shared]], device=self.device)
        positions = torch.arange(shared, device=self.device)[None]
        self._forward(slots, ids.expand(len(agents), -1), positions, None, agents)
        self.stats.prompt_tokens_read += shared * len(agents)
        self._before = slots, agents, shared

    def _admit(self, newcomers: Sequence[int]) -> None:
        """Read the prompts of these jobs, and draw the first token of each."""
        asked: dict[tuple[int | None, tuple[int, ...]], list[int]] = {}
        for i in newcomers:
            job = self.jobs[i]
            asked.setdefault((job.agent, tuple(job.prompt_ids)), []).append(i)
        shared = self._before[2] if self._before else 0
        block: list[tuple[int | None, tuple[int, ...]]] = []
        longest = 0
        blocks = [block]
        for key in sorted(asked, key=lambda key: -len(key[1])):
            longest = longest or len(key[1])
            if block and (len(block) + 1) * (longest - shared) > _PREFILL_TOKENS:
                block, longest = [], len(key[1])
                blocks.append(block)
            block.append(key)
        for block in blocks:
            block.sort(key=lambda key: key[0] or 0)  # stable: rows agent by agent
            last = self._read(block, [len(asked[key]) for key in block])
            first = len(self.rows)
            for key in block:
                for i in asked[key]:
                    job = self.jobs[i]
                    drawn = generator(job.seed).random(job.max_new_tokens)
                    self.rows.append(_Row(i, drawn, job.max_new_tokens, len(key[1]), []))
            new = slice(first, len(self.rows))
            self.features[new], self.distributions[new] = 0, 0
            self._take(new, last)

    def _read(
        self, block: Sequence[tuple[int | None, tuple[int, ...]]], copies: Sequence[int]
    ) -> Tensor:
        """Store each prompt's keys and values in so many new rows; return its last states."""
        lengths = torch.tensor([len(ids) for _, ids in block], device=self.device)
        longest = int(lengths.max())
        slots = KVCache(len(block), longest)
        shared = 0
        if self._before is not None:
            prefix, agents, shared = self._before
            slots.take(prefix, [agents.index(agent) for agent, _ in block], 0, shared)
        slots.offset, slots.visible = shared, longest
        rest = pad_right([ids[shared:] for _, ids in block]).to(self.device)
        positions = torch.arange(shared, longest, device=self.device)
        seen = torch.arange(longest, device=self.device)[None] <= positions[:, None]
        mask = seen[None, None] if shared else None
        hidden = self._forward(slots, rest, positions[None], mask, [agent for agent, _ in block])
        self.stats.prompt_tokens_read += sum(len(ids) - shared for _, ids in block)
        origins = [i for i, count in enumerate(copies) for _ in range(count)]
        self.slots.take(slots, origins, len(self.rows), longest)
        last = hidden[torch.arange(len(block), device=self.device), lengths - 1 - shared]
        return last[torch.tensor(origins, device=self.device)]

    def _advance(self) -> None:
        """Append the drawn token of every row, and draw the next."""
        slots, count = self.slots, len(self.rows)
        lengths = torch.tensor([row.length for row in self.rows], device=self.device)
        slots.places = torch.arange(count, device=self.device) * slots.capacity + lengths
        slots.rows = count
        slots.visible = max(row.length for row in self.rows) + 1
        seen = torch.arange(slots.visible, device=self.device)[None] <= lengths[:, None]
        agents = [self.jobs[row.job].agent for row in self.rows]
        hidden = self._forward(
            slots, self.next[:count, None], lengths[:, None], seen[:, None, None], agents
        )[:, 0]
        running = [not row.done for row in self.rows]
        for row in self.rows:
            if not row.done:  # rows that have ended are decoded along in place
                row.length += 1
                row.advanced += 1
        self.features[:count] += hidden * torch.tensor(running, device=self.device)[:, None]
        self.stats.slot_steps += count
        self.stats.decoded += sum(running)
        self._take(slice(0, count), hidden)

    def _take(self, which: slice, hidden: Tensor) -> None:
        """Draw a token for each of these rows; end those that it ends."""
        rows = self.rows[which]
        logits = self.head(hidden).float()
        drawn = np.array([row.uniforms[min(len(row.ids), row.limit - 1)] for row in rows])
        chosen = choose(logits, drawn, self.how.temperature, self.how.top_p)
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
        # A token is a character or more, but for parts of one: look a few tokens further back.
        tail = row.ids[-(max(map(len, stops)) + 8) :]
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
            self.slots.move(sources, targets, max(self.rows[i].length for i in sources))
            here, there = (torch.tensor(x, device=self.device) for x in (sources, targets))
            for kept in (self.next, self.features, self.distributions):
                kept[there] = kept[here]
            for source, target in zip(sources, targets, strict=True):
                self.rows[target] = self.rows[source]
        del self.rows[count:]

    def _forward(
        self,
        slots: KVCache,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        agents: Sequence[int | None],
    ) -> Tensor:
        """Last hidden states ``[rows, T, width]`` of a block of tokens."""
        named = [agent for agent in agents if agent is not None]
        layout = RowLayout(tuple(named)) if named else None
        if self.lora is not None and layout != self._layout:
            self._serving.close()  # kept open from step to step: making it ready takes time
            self._serving.enter_context(self.lora.active(layout))
            self._layout = layout
        return self.body(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=slots,
            use_cache=True,
        ).last_hidden_state
