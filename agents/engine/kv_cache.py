"""Preallocated keys and values, a slot for each row of a batch.

A cache that grows by a token a step spends as much time copying as decoding; here every token is
written to its place once. Rows are of different length, leave, and make room for others: a row that
leaves is overwritten by the last one, so the rows in use are always the first ones and attention
reads them without a copy.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from agents.machine.resources import memory


class KVCache(Cache):
    """Keys and values, ``[capacity_rows, capacity, kv_heads * head_dim]`` per layer.

    While prompts are read, a block of tokens goes to the same places ``offset ...`` of every row;
    while replies are decoded (``places`` is set), one token goes to each row's own place.

    Args:
        rows: Rows there is room for; allocated when the first tokens come.
        capacity: Tokens there is room for in each.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.room, self.capacity = rows, capacity
        self.rows = rows  # how many are in use
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
            for kept, new in ((self.keys, key_states), (self.values, value_states)):
                kept.append(new.new_zeros(self.room, self.capacity, new.shape[1] * new.shape[3]))
        return (
            self._store(self.keys[layer_idx], key_states),
            self._store(self.values[layer_idx], value_states),
        )

    def _store(self, kept: Tensor, new: Tensor) -> Tensor:
        rows, heads, length, width = new.shape
        flat = new.transpose(1, 2).reshape(rows, length, heads * width)
        if self.places is None:
            kept[:rows, self.offset : self.offset + length] = flat
        else:
            kept.view(-1, heads * width).index_copy_(0, self.places, flat[:, 0])
        return kept[:rows, : self.visible].view(rows, -1, heads, width).transpose(1, 2)

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

    def take(self, other: "KVCache", origins: Sequence[int], start: int, length: int) -> None:
        """Copy rows of other slots, in the order of origins, to the rows from ``start`` on.

        Only the first ``length`` tokens are copied.
        """
        index = torch.tensor(origins, device=other.keys[0].device)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            if not mine:
                mine += [k.new_zeros(self.room, self.capacity, k.shape[2]) for k in theirs]
            for kept, given in zip(mine, theirs, strict=True):
                kept[start : start + len(origins), :length] = given[index, :length]

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` tokens of rows onto other rows."""
        device = self.keys[0].device
        here, there = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for kept in (*self.keys, *self.values):
            kept[there, :length] = kept[here, :length]


def elements_per_token(config: Any) -> int:
    """Elements of keys and values that one token needs in all layers; 0 if it cannot be told."""
    config = config.get_text_config()
    if getattr(config, "is_heterogeneous", False):  # sizes of heads differ from layer to layer
        return sum(_elements(layer) for layer in config.per_layer_config)
    return getattr(config, "num_hidden_layers", 0) * _elements(config)


def _elements(config: Any) -> int:
    """Elements of keys and values of one token in one layer."""
    shared, width = key_heads(config)
    return 2 * shared * width


def key_heads(config: Any) -> tuple[int, int]:
    """How many heads of keys and values a layer has, and how wide each is; 0 where not told."""
    heads = getattr(config, "num_attention_heads", 0)
    shared = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or (
        getattr(config, "hidden_size", 0) // heads if heads else 0
    )
    return shared, width


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could take on a device; None if it cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(held)
    if device.type != "cpu":
        return None
    return memory().free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "not enough memory" in said or "can't allocate memory" in said
    )
