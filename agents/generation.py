"""Mixed-adapter batched decoding.

Requests of all agents are decoded together on a grid of (agents x rows each). Keys and values live
in preallocated slots, a slot per row; every row writes at its own length, so no prompt is padded on
the left. What all prompts of a grid begin with (a chat template's opening) is computed once per
agent. Rows that end leave the batch: whenever the fullest agent has lost a quarter of its rows
the grid shrinks. While it decodes, the mean last hidden state of each reply is gathered, so
diversity needs no second pass.

Sampling draws one uniform number per request and step from the request's own seed and inverts the
cumulative distribution, so a reply does not depend on what else is in the batch, up to floating
point.

Not covered here: admission of waiting requests into a running batch, stop strings, top-p.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from agents.adapters import Layout, StackedLora
from agents.models import BaseModel, backbone
from populora_env.keys import generator

_SHRINK_AT = 0.75  # rows still needed / rows held, below which the grid is compacted


@dataclass(frozen=True, slots=True)
class Job:
    """One reply to generate.

    Attributes:
        agent: Row of the stacked adapters that writes it; ``None`` for the bare base.
        prompt_ids: Token ids of the prompt, at least one.
        max_new_tokens: Length limit of the reply, at least 1.
        seed: Seed of its sampling.
    """

    agent: int | None
    prompt_ids: Sequence[int]
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What was generated for one `Job`.

    Attributes:
        ids: Token ids, without the token that ended the reply.
        finished: Whether the model ended it; False: the length limit did.
        feature: Mean last hidden state over the tokens of the reply, ``[width]``, float32.
    """

    ids: tuple[int, ...]
    finished: bool
    feature: Tensor


class _Slots(Cache):
    """Preallocated keys and values, ``[rows, capacity, kv_heads * head_dim]`` per layer.

    While prompts are read, a block of tokens goes to the same places ``offset ...`` of every row;
    while replies are decoded, one token goes to each row's own place.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.rows, self.capacity = rows, capacity
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.offset = 0
        self.places: Tensor | None = None  # flat index of each row's next token, when decoding
        self.visible = 0  # how many places from the first attention looks at

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens of a layer; return the visible keys and values of all rows."""
        if layer_idx == len(self.keys):
            shape = (self.rows, self.capacity, key_states.shape[1] * key_states.shape[3])
            self.keys.append(key_states.new_zeros(shape))
            self.values.append(value_states.new_zeros(shape))
        return (
            self._store(self.keys[layer_idx], key_states),
            self._store(self.values[layer_idx], value_states),
        )

    def _store(self, kept: Tensor, new: Tensor) -> Tensor:
        rows, heads, length, width = new.shape
        flat = new.transpose(1, 2).reshape(rows, length, heads * width)
        if self.places is None:
            kept[:, self.offset : self.offset + length] = flat
        else:
            kept.view(-1, heads * width).index_copy_(0, self.places, flat[:, 0])
        return kept[:, : self.visible].view(rows, -1, heads, width).transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens in front of the present block."""
        del layer_idx
        return self.offset

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first token of the present block."""
        del layer_idx
        return self.offset

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys a block looks at."""
        del query_length, layer_idx
        return self.visible, 0

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        self.rows = len(rows)
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]

    def spread(self, copies: int, capacity: int) -> "_Slots":
        """New slots in which each row of these, read up to ``visible``, stands ``copies`` times."""
        wide = _Slots(self.rows * copies, capacity)
        for mine, theirs in ((self.keys, wide.keys), (self.values, wide.values)):
            for kept in mine:
                new = kept.new_zeros(wide.rows, capacity, kept.shape[2])
                new.view(self.rows, copies, capacity, -1)[:, :, : self.visible] = kept[:, None]
                theirs.append(new)
        wide.offset = self.visible
        return wide


@dataclass(slots=True)
class _Grid:
    """Jobs laid out agent by agent; ``-1`` marks a hole, decoded along but never read."""

    agents: tuple[int | None, ...]
    jobs: np.ndarray  # [agents, rows_each] index of the job, or -1

    @property
    def layout(self) -> Layout | None:
        """The layout for `StackedLora.active`."""
        named = [agent for agent in self.agents if agent is not None]
        return Layout(tuple(named), self.jobs.shape[1]) if named else None


def generate(
    base: BaseModel,
    lora: StackedLora | None,
    jobs: Sequence[Job],
    *,
    temperature: float = 1.0,
    max_rows: int = 64,
) -> list[Reply]:
    """Generate one reply per job, in the order of the jobs.

    Args:
        base: The frozen base.
        lora: Its adapters; may be ``None`` where every job asks for the bare base.
        jobs: What to generate. Jobs of the bare base and of agents may be mixed.
        temperature: Softmax temperature; 0 is greedy.
        max_rows: Rows decoded at once.

    Raises:
        ValueError: If temperature is negative or not finite, a prompt is empty, or a job does not
            fit the model's context.
    """
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: got {temperature}, expected a finite number >= 0")
    limit = getattr(base.model.config, "max_position_embeddings", None)
    for i, job in enumerate(jobs):
        if not job.prompt_ids or job.max_new_tokens < 1:
            raise ValueError(f"jobs[{i}]: a prompt and max_new_tokens need at least 1 token each")
        if limit and len(job.prompt_ids) + job.max_new_tokens > limit:
            raise ValueError(
                f"jobs[{i}]: {len(job.prompt_ids)} prompt tokens + {job.max_new_tokens} new ones "
                f"exceed the model's context of {limit}; shorten the prompt or the limit"
            )
    replies: list[Reply | None] = [None] * len(jobs)
    with torch.inference_mode():
        for grid in _grids(jobs, max_rows):
            _Decoder(base, lora, jobs, grid, temperature).run(replies)
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


def _grids(jobs: Sequence[Job], max_rows: int) -> list[_Grid]:
    """Split jobs into grids: long prompts with long prompts, base jobs apart from agents' jobs."""
    queues: dict[int | None, list[int]] = {}
    for i in sorted(range(len(jobs)), key=lambda i: len(jobs[i].prompt_ids)):
        queues.setdefault(jobs[i].agent, []).append(i)
    grids: list[_Grid] = []
    bare = queues.pop(None, [])
    while bare:
        grids.append(_Grid((None,), np.array([bare[-max_rows:]])))
        del bare[-max_rows:]
    while queues:
        agents = sorted(agent for agent in queues if agent is not None)[:max_rows]
        each = min(max_rows // len(agents), max(len(queues[agent]) for agent in agents))
        table = np.full((len(agents), each), -1)
        for row, agent in enumerate(agents):
            taken = queues[agent][-each:]
            table[row, : len(taken)] = taken
            del queues[agent][-each:]
            if not queues[agent]:
                del queues[agent]
        grids.append(_Grid(tuple(agents), table))
    return grids


class _Decoder:
    """Decodes one grid to its end."""

    def __init__(
        self,
        base: BaseModel,
        lora: StackedLora | None,
        jobs: Sequence[Job],
        grid: _Grid,
        temperature: float,
    ) -> None:
        if grid.layout is not None and lora is None:
            raise ValueError("lora: got None, but a job names an agent; pass the adapters")
        self.lora, self.jobs, self.grid, self.temperature = lora, jobs, grid, temperature
        self.device = base.device
        self.body, self.head = backbone(base.model), base.model.get_output_embeddings()
        self.stop = torch.tensor(sorted(base.stop_ids()), device=self.device)
        flat = grid.jobs.ravel()
        shown = [jobs[i] if i >= 0 else jobs[int(flat.max())] for i in flat]
        self.prompts = [job.prompt_ids for job in shown]
        self.lengths = torch.tensor([len(ids) for ids in self.prompts], device=self.device)
        self.limits = torch.tensor([job.max_new_tokens for job in shown], device=self.device)
        steps = int(self.limits.max())
        self.uniforms = np.stack([generator(job.seed).random(steps) for job in shown])
        self.running = torch.tensor(flat >= 0, device=self.device)
        self.row_jobs = flat.tolist()
        # Gathered for every row of the first grid; `rows` maps the present rows to those.
        self.rows = torch.arange(len(shown), device=self.device)
        self.tokens = torch.full((len(shown), steps), -1, dtype=torch.long, device=self.device)
        self.features = torch.zeros(
            len(shown), self.head.weight.shape[1], dtype=torch.float32, device=self.device
        )
        self.finished = torch.zeros(len(shown), dtype=torch.bool, device=self.device)

    def run(self, replies: list[Reply | None]) -> None:
        """Decode until every row has ended and fill in ``replies``."""
        hidden = self._read_prompts()
        for step in range(self.tokens.shape[1]):
            chosen = self._choose(hidden, step)
            ended = torch.isin(chosen, self.stop) & self.running
            self.finished[self.rows[ended]] = True
            self.running &= ~ended
            self.tokens[self.rows, step] = torch.where(self.running, chosen, -1)
            self.running &= self.limits > step + 1
            # The state that holds the last token of a reply cut short is not computed: its mean
            # runs over the tokens but the last.
            if not bool(self.running.any()):
                break
            chosen = self._shrink(chosen)
            hidden = self._advance(chosen)
            self.features[self.rows] += hidden.float() * self.running[:, None]
        self._collect(replies)

    def _forward(
        self, ids: Tensor, positions: Tensor, mask: Tensor | None, layout: Layout | None
    ) -> Tensor:
        with self.lora.active(layout) if self.lora is not None else nullcontext():
            return self.body(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=self.slots,
                use_cache=True,
            ).last_hidden_state

    def _read_prompts(self) -> Tensor:
        """Compute keys and values of all prompts; return the last hidden state of each row."""
        shared = common_prefix(self.prompts)
        longest = int(self.lengths.max())
        capacity = longest + self.tokens.shape[1]
        groups, each = self.grid.jobs.shape
        if shared and each > 1:
            # A row per agent reads the shared opening, then every row of the agent gets a copy.
            self.slots = _Slots(groups, shared)
            self.slots.visible = shared
            ids = torch.tensor([self.prompts[0][:shared]], device=self.device).expand(groups, -1)
            layout = self.grid.layout
            self._forward(
                ids,
                torch.arange(shared, device=self.device)[None],
                None,
                Layout(layout.agents, 1) if layout else None,
            )
            self.slots = self.slots.spread(each, capacity)
        else:
            shared = 0
            self.slots = _Slots(groups * each, capacity)
        self.slots.visible = longest
        rest = pad_right([ids[shared:] for ids in self.prompts]).to(self.device)
        positions = torch.arange(shared, longest, device=self.device)
        seen = torch.arange(longest, device=self.device)[None] <= positions[:, None]
        hidden = self._forward(
            rest, positions[None], seen[None, None] if shared else None, self.grid.layout
        )
        rows = torch.arange(len(hidden), device=self.device)
        return hidden[rows, self.lengths - 1 - shared]

    def _advance(self, chosen: Tensor) -> Tensor:
        """Append one token per row; return the new last hidden states ``[rows, width]``."""
        slots = self.slots
        slots.places = torch.arange(slots.rows, device=self.device) * slots.capacity + self.lengths
        slots.visible = int(self.lengths.max()) + 1
        seen = torch.arange(slots.visible, device=self.device)[None] <= self.lengths[:, None]
        hidden = self._forward(
            chosen[:, None], self.lengths[:, None], seen[:, None, None], self.grid.layout
        )
        # Rows that have ended are decoded along in place: their length stands still.
        self.lengths = self.lengths + self.running
        return hidden[:, 0]

    def _choose(self, hidden: Tensor, step: int) -> Tensor:
        logits = self.head(hidden).float()
        if self.temperature == 0:
            return logits.argmax(-1)
        cumulative = torch.softmax(logits / self.temperature, -1).cumsum(-1)
        drawn = torch.from_numpy(self.uniforms[self.rows.cpu().numpy(), step]).to(cumulative)
        target = drawn[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
        return chosen.clamp_(max=logits.shape[-1] - 1)

    def _shrink(self, chosen: Tensor) -> Tensor:
        """Compact the grid once every agent has rows to spare."""
        groups, each = self.grid.jobs.shape
        running = self.running.view(groups, each)
        needed = int(running.sum(1).max())
        if needed > _SHRINK_AT * each:
            return chosen
        order = torch.argsort(~running, dim=1, stable=True)[:, :needed]
        rows = (order + torch.arange(groups, device=self.device)[:, None] * each).ravel()
        self.grid.jobs = self.grid.jobs.ravel()[rows.cpu().numpy()].reshape(groups, needed)
        self.slots.keep(rows)
        self.rows, self.running, self.lengths, self.limits = (
            kept[rows] for kept in (self.rows, self.running, self.lengths, self.limits)
        )
        return chosen[rows]

    def _collect(self, replies: list[Reply | None]) -> None:
        tokens, features = self.tokens.cpu(), self.features.cpu()
        for row, job in enumerate(self.row_jobs):
            if job < 0:
                continue
            ids = tuple(tokens[row][tokens[row] >= 0].tolist())
            finished = bool(self.finished[row])
            seen = len(ids) if finished else max(len(ids) - 1, 1)
            replies[job] = Reply(ids, finished, features[row] / max(seen, 1))
