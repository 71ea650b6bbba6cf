"""A pass of a whole model with all agents' adapters in one call of compiled code.

Decoding with a model of Transformers is some 500 operators a step, and what lies between them
(types that change, keys that are copied, masks, Python) takes as long as the products. Here a step
is one call: ``forward.c`` normalises, multiplies, turns, attends, adds the adapters' updates and
keeps keys and values in place. Tokens of any rows go together, so prompts need no padding.

Which models it can stand for is said by `agents.engine.compiled_pass`. Keys and values are float32
where products are, or where the processor multiplies no bfloat16; else bfloat16.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.compiled.products import Library, Panels, WeightView, row_bytes

Numbers = Sequence[int] | np.ndarray


class _Part(ctypes.Structure):
    _fields_ = (
        ("weight", WeightView),
        ("offset", ctypes.c_int64),
        ("B", ctypes.c_void_p),
        ("B_step", ctypes.c_int64),
        ("rank_offset", ctypes.c_int64),
    )


class _Product(ctypes.Structure):
    _fields_ = (
        ("part", _Part * 3),
        ("inputs", ctypes.c_int64),
        ("A", ctypes.c_void_p),
        ("A_step", ctypes.c_int64),
        ("parts", ctypes.c_int32),
        ("ranks", ctypes.c_int32),
        ("rank", ctypes.c_int32),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Product) for name in ("attention", "output", "expansion", "contraction")),
        *((name, ctypes.c_void_p) for name in ("norm", "second_norm", "query_norm", "key_norm")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_void_p),
        ("embedding", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("head", _Product),
        *(
            (name, ctypes.c_int64)
            for name in (
                "count", "width", "inner", "vocabulary", "heads", "key_heads", "head_width",
            )
        ),
        ("epsilon", ctypes.c_float),
        ("precision", ctypes.c_int32),
    )  # fmt: skip


class _Batch(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "ids", "slots", "positions", "agents", "scales", "cos", "sin", "keys", "values",
            )
        ),
        ("slots_held", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("hidden", "normal", "wide", "down")),
        ("normal_step", ctypes.c_int64),
        ("wide_step", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in ("rows", "row_scale", "row_shift", "scores", "wanted")
        ),
        ("wanted_count", ctypes.c_int64),
        ("states", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AdaptedProduct:
    """Layers that read one input, with the factors of those that carry adapters.

    Attributes:
        layers: Their weights.
        A: ``[N, G*r, in]`` of the G that carry adapters; None for none.
        B: Of each layer ``[N, out, r]``, stored as ``[N, r, out]``; None for one without adapters.
        places: Which of the G each layer is.
        rank: r.
    """

    layers: Sequence[Panels]
    A: Tensor | None = None
    B: Sequence[Tensor | None] = ()
    places: Sequence[int] = ()
    rank: int = 0

    def view(self) -> _Product:
        """As the compiled code reads it; valid while the tensors live."""
        made, offset = _Product(), 0
        for i, panels in enumerate(self.layers):
            made.part[i].weight, made.part[i].offset = panels.view(), offset
            B = self.B[i] if self.A is not None else None
            if B is not None:
                made.part[i].B, made.part[i].B_step = B.data_ptr(), B.stride(0)
                made.part[i].rank_offset = self.places[i] * self.rank
            offset += panels.outputs
        made.inputs, made.parts = self.layers[0].inputs, len(self.layers)
        if self.A is not None:
            made.A, made.A_step = self.A.data_ptr(), self.A.stride(0)
            made.ranks, made.rank = self.A.shape[1], self.rank
        return made

    @property
    def outputs(self) -> int:
        """Of all its layers."""
        return sum(panels.outputs for panels in self.layers)


@dataclass(frozen=True, slots=True)
class ModelLayer:
    """One layer of the model.

    Attributes:
        products: Of query, key and value; of attention's output; of gate and up; of down.
        norms: Before attention, before the products that follow; of queries and keys, or None.
    """

    products: tuple[AdaptedProduct, AdaptedProduct, AdaptedProduct, AdaptedProduct]
    norms: tuple[Tensor, Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True, slots=True)
class ModelParts:
    """All that a pass reads.

    Attributes:
        layers: Of the model.
        embedding: ``[vocabulary, width]`` float32.
        norm: Of the last states ``[width]``.
        head: The output layer.
        cos: Of every position ``[positions, head_width]``.
        sin: Likewise.
        heads: Of queries.
        key_heads: Of keys and values.
        epsilon: Of all norms.
        scales: Of every agent ``[N]``.
    """

    layers: Sequence[ModelLayer]
    embedding: Tensor
    norm: Tensor
    head: Panels
    cos: Tensor
    sin: Tensor
    heads: int
    key_heads: int
    epsilon: float
    scales: Tensor


class CompiledForward:
    """The model as the compiled code reads it, and room for what is between its products.

    Args:
        made: The compiled code.
        parts: What it reads: in place, so whoever writes factors later is seen.
    """

    def __init__(self, made: Library, parts: ModelParts) -> None:
        self._library, self.parts = made, parts
        self._layers = (_Layer * len(parts.layers))()
        for view, layer in zip(self._layers, parts.layers, strict=True):
            view.attention, view.output, view.expansion, view.contraction = (
                product.view() for product in layer.products
            )
            view.norm, view.second_norm, view.query_norm, view.key_norm = (
                None if norm is None else norm.data_ptr() for norm in layer.norms
            )
        head, products = parts.head, [p for layer in parts.layers for p in layer.products]
        self._model = _Model(
            ctypes.addressof(self._layers), parts.embedding.data_ptr(), parts.norm.data_ptr(),
            AdaptedProduct([head]).view(), len(parts.layers), head.inputs,
            parts.layers[0].products[3].layers[0].inputs, head.outputs, parts.heads,
            parts.key_heads, parts.cos.shape[1], parts.epsilon, head.view().precision,
        )  # fmt: skip
        self._threads = torch.get_num_threads()
        self._deep = max(product.layers[0].inputs for product in products)
        self._wide = max(product.outputs for product in products)
        self._room = {
            name: torch.empty(made.chunk, width)
            for name, width in (
                ("hidden", head.inputs), ("normal", self._deep), ("wide", self._wide),
                ("down", made.width), ("rows", row_bytes(self._deep) // 4), ("scale", 1),
                ("shift", 1),
            )
        }  # fmt: skip

    @property
    def chunk(self) -> int:
        """Tokens that go through the model at once."""
        return self._library.chunk

    @property
    def halved(self) -> bool:
        """Whether keys and values are bfloat16."""
        return self._library.halves(self.parts.head.precision)

    def cache(self, rows: int, tokens: int) -> "RowCache":
        """Room for the keys and values of so many rows of so many tokens."""
        return RowCache(
            len(self.parts.layers), rows, self.parts.key_heads, tokens, self.parts.cos.shape[1],
            torch.bfloat16 if self.halved else torch.float32, self._library.keys,
        )  # fmt: skip

    def __call__(
        self,
        cache: "RowCache",
        ids: Numbers,
        rows: Numbers,
        positions: Numbers,
        agents: Numbers,
        wanted: Numbers,
        *,
        logits: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Pass tokens through the model, keeping their keys and values.

        Args:
            cache: Of the rows.
            ids: Of the tokens ``[n]``; a row's own follow each other, and so do an agent's rows.
            rows: Row of each in the cache.
            positions: Of each in its row.
            agents: Of each; not looked at where there are no adapters.
            wanted: Tokens whose last states are asked for; in ascending order where there are more
                tokens than `chunk`.
            logits: Whether their logits are too.

        Returns:
            Last states ``[wanted, width]``, normalised, and logits ``[wanted, vocabulary]``.
        """
        asked = np.asarray(wanted, dtype=np.int32)
        states = torch.empty(len(asked), self._model.width)
        made = torch.empty(len(asked), self._model.vocabulary) if logits else None
        tokens = np.array([ids, rows, positions, agents], dtype=np.int32)
        scores = torch.empty(self._threads, self._library.heads * cache.capacity)
        room = {name: tensor.data_ptr() for name, tensor in self._room.items()}
        for start in range(0, tokens.shape[1], self.chunk):
            block = np.ascontiguousarray(tokens[:, start : start + self.chunk])
            first, past = np.searchsorted(asked, (start, start + block.shape[1]))
            some = np.ascontiguousarray(asked[first:past] - start)
            batch = _Batch(
                block.shape[1], *(line.ctypes.data for line in block),
                self.parts.scales.data_ptr(), self.parts.cos.data_ptr(), self.parts.sin.data_ptr(),
                cache.keys.data_ptr(), cache.values.data_ptr(), cache.rows, cache.capacity,
                room["hidden"], room["normal"], room["wide"], room["down"], self._deep, self._wide,
                room["rows"], room["scale"], room["shift"], scores.data_ptr(), some.ctypes.data,
                len(some), states[first:past].data_ptr(),
                None if made is None else made[first:past].data_ptr(), self._threads,
            )  # fmt: skip
            self._library.forward(ctypes.byref(self._model), ctypes.byref(batch))
        return states, made

    def choose(
        self, logits: Tensor, uniforms: np.ndarray, temperature: float | np.ndarray
    ) -> Tensor:
        """One token for each row, ``[rows]``; see `agents.engine.sampling.choose`.

        Args:
            logits: ``[rows, vocabulary]`` float32, contiguous.
            uniforms: ``[rows]`` float64.
            temperature: Of the softmax, for all rows or ``[rows]``; 0 takes the likeliest.
        """
        count, size = logits.shape
        chosen = torch.empty(count, dtype=torch.long)
        drawn = np.ascontiguousarray(uniforms, dtype=np.float64)
        heat = np.ascontiguousarray(np.broadcast_to(temperature, count), dtype=np.float32)
        self._library.choose(
            logits.data_ptr(), count, size, drawn.ctypes.data, heat.ctypes.data,
            chosen.data_ptr(), self._threads,
        )  # fmt: skip
        return chosen


class RowCache:
    """Keys and values as the compiled code reads them; see ``attention.h``.

    Args:
        layers: Of the model.
        rows: Slots.
        heads: Of keys.
        tokens: Most of a row.
        width: Of a head.
        dtype: float32 or bfloat16.
        block: Keys that attention takes together; a row has room for a multiple.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        tokens: int,
        width: int,
        dtype: torch.dtype,
        block: int,
    ) -> None:
        self.rows, self.capacity, self._block = rows, -(-tokens // block) * block, block
        shape = (layers, rows, heads, self.capacity // block, block * width)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)

    def take(
        self, other: "RowCache", origins: Sequence[int], targets: Sequence[int], length: int
    ) -> None:
        """Copy at least the first ``length`` tokens of another cache's rows to these rows."""
        blocks = -(-length // self._block)
        here, there = torch.tensor(targets), torch.tensor(origins)
        for kept, given in ((self.keys, other.keys), (self.values, other.values)):
            for mine, theirs in zip(kept, given, strict=True):  # layer by layer: small copies
                mine[here, :, :blocks] = theirs[there, :, :blocks]
