"""Decoding by the model of Transformers itself, whatever its family, type or device."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import RowLayout, StackedLora
from agents.engine.kv_cache import KVCache
from agents.engine.sampling import choose
from agents.loading.models import BaseModel, backbone


class GeneralPass:
    """Passes over the rows of one call of `generate`; see `agents.engine.compiled_pass`.

    Args:
        base: The frozen base.
        lora: Its adapters; None for the bare base.
        room: Rows there is room for.
        longest: Most tokens of a row.
    """

    def __init__(self, base: BaseModel, lora: StackedLora | None, room: int, longest: int) -> None:
        self._lora, self._device = lora, base.device
        self._body, self._head = backbone(base.model), base.model.get_output_embeddings()
        self._slots = KVCache(room, longest)
        self._serving = ExitStack()
        self._layout: RowLayout | None = None
        # What all prompts begin with: its keys and values, its agents and its size.
        self._before: tuple[KVCache, list[int | None], int] | None = None

    def close(self) -> None:
        """Let go of the adapters."""
        self._serving.close()

    def read_prefix(self, agents: Sequence[int | None], ids: Sequence[int]) -> None:
        """Compute what all prompts begin with, once for each agent."""
        slots = KVCache(len(agents), len(ids))
        slots.visible = len(ids)
        tokens = torch.tensor([list(ids)], device=self._device).expand(len(agents), -1)
        positions = torch.arange(len(ids), device=self._device)[None]
        self._forward(slots, tokens, positions, None, agents)
        self._before = slots, list(agents), len(ids)

    def read(
        self,
        block: Sequence[tuple[int | None, Sequence[int]]],
        copies: Sequence[int],
        first: int,
    ) -> tuple[Tensor, Tensor]:
        """Read prompts into so many rows each; return last states and logits of each row."""
        lengths = torch.tensor([len(ids) for _, ids in block], device=self._device)
        longest = int(lengths.max())
        slots = KVCache(len(block), longest)
        shared = 0
        if self._before is not None:
            prefix, agents, shared = self._before
            slots.take(prefix, [agents.index(agent) for agent, _ in block], 0, shared)
        slots.offset, slots.visible = shared, longest
        rest = pad_right([ids[shared:] for _, ids in block]).to(self._device)
        positions = torch.arange(shared, longest, device=self._device)
        seen = torch.arange(longest, device=self._device)[None] <= positions[:, None]
        mask = seen[None, None] if shared else None
        hidden = self._forward(slots, rest, positions[None], mask, [agent for agent, _ in block])
        origins = [i for i, count in enumerate(copies) for _ in range(count)]
        self._slots.take(slots, origins, first, longest)
        last = hidden[torch.arange(len(block), device=self._device), lengths - 1 - shared]
        last = last[torch.tensor(origins, device=self._device)]
        return last, self._head(last).float()

    def step(
        self, tokens: Tensor, lengths: Sequence[int], agents: Sequence[int | None]
    ) -> tuple[Tensor, Tensor]:
        """Append a token to each row; return last states and logits."""
        slots, count = self._slots, len(lengths)
        positions = torch.tensor(lengths, device=self._device)
        slots.places = torch.arange(count, device=self._device) * slots.capacity + positions
        slots.rows = count
        slots.visible = max(lengths) + 1
        seen = torch.arange(slots.visible, device=self._device)[None] <= positions[:, None]
        hidden = self._forward(
            slots, tokens[:, None], positions[:, None], seen[:, None, None], agents
        )[:, 0]
        return hidden, self._head(hidden).float()

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` tokens of rows onto other rows."""
        self._slots.move(sources, targets, length)

    def choose(
        self, logits: Tensor, uniforms: np.ndarray, temperature: float | np.ndarray, top_p: float
    ) -> Tensor:
        """One token for each row; see `agents.engine.sampling.choose`."""
        return choose(logits, uniforms, temperature, top_p)

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
        if self._lora is not None and layout != self._layout:
            self._serving.close()  # kept open from step to step: making it ready takes time
            self._serving.enter_context(self._lora.active(layout))
            self._layout = layout
        return self._body(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=slots,
            use_cache=True,
        ).last_hidden_state


def pad_right(rows: Sequence[Sequence[int]], value: int = 0) -> Tensor:
    """Stack rows of token ids into ``[rows, longest]``, filled up with ``value``."""
    table = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)
