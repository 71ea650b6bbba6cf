"""Decoding by compiled code (`agents.compiled.forward`), for the models it knows.

It knows Llama, Mistral, Qwen2 and Qwen3 of Transformers, on a CPU in float32, with every linear
layer packed for compiled products in one precision. All other models, and machines without a C
compiler, are decoded by `agents.engine.general_pass`.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from agents.compiled.forward import (
    AdaptedProduct,
    CompiledForward,
    ModelLayer,
    ModelParts,
    RowCache,
)
from agents.compiled.products import Library, Panels, library
from agents.engine.adapters import StackedLora
from agents.engine.kv_cache import key_heads
from agents.engine.layers import SharedInput, StackedLinear
from agents.engine.sampling import choose
from agents.loading.models import BaseModel, backbone

_KINDS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROPES = ("default", "linear", "llama3", "yarn")  # whose angles depend on the position alone
_WIDEST_HEAD = 256


class CompiledPass:
    """Passes over the rows of one call of `generate`, of the bare base or of agents.

    Args:
        forward: The model.
        room: Rows there is room for.
        longest: Most tokens of a row.
    """

    def __init__(self, forward: CompiledForward, room: int, longest: int) -> None:
        self._forward, self._cache = forward, forward.cache(room, longest)
        self._before: tuple[RowCache, list[int | None], int] | None = None

    def close(self) -> None:
        """Nothing is held open."""

    def read_prefix(self, agents: Sequence[int | None], ids: Sequence[int]) -> None:
        """Compute what all prompts begin with, once for each agent."""
        cache = self._forward.cache(len(agents), len(ids))
        self._before = cache, list(agents), len(ids)
        self._pass(cache, [(agent, ids) for agent in agents], range(len(agents)), 0, [])

    def read(
        self,
        block: Sequence[tuple[int | None, Sequence[int]]],
        copies: Sequence[int],
        first: int,
    ) -> tuple[Tensor, Tensor]:
        """Read prompts into so many rows each, from ``first`` on.

        Args:
            block: Agent and token ids of each prompt.
            copies: Rows that each is for.
            first: The first of them.

        Returns:
            Last state ``[rows, width]`` and logits ``[rows, vocabulary]`` of each row.
        """
        rows = (first + np.cumsum([0, *copies])[:-1]).tolist()
        shared = 0
        if self._before is not None:
            prefix, agents, shared = self._before
            self._cache.take(prefix, [agents.index(agent) for agent, _ in block], rows, shared)
        lengths = [len(ids) - shared for _, ids in block]
        wanted = (np.cumsum(lengths) - 1).tolist()
        states, logits = self._pass(self._cache, block, rows, shared, wanted)
        origins = np.repeat(np.arange(len(block)), copies)
        if len(origins) == len(block):
            return states, logits
        others = [i for i in range(len(origins)) if i and origins[i] == origins[i - 1]]
        longest = max(len(ids) for _, ids in block)
        self._cache.take(
            self._cache, [rows[origins[i]] for i in others], [first + i for i in others], longest
        )
        index = torch.from_numpy(origins)
        return states[index], logits[index]

    def _pass(
        self,
        cache: RowCache,
        block: Sequence[tuple[int | None, Sequence[int]]],
        rows: Sequence[int],
        shared: int,
        wanted: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        ids = [token for _, each in block for token in each[shared:]]
        counts = [len(each) - shared for _, each in block]
        places = [place for _, each in block for place in range(shared, len(each))]
        states, logits = self._forward(
            cache, ids, np.repeat(rows, counts), places,
            np.repeat([agent or 0 for agent, _ in block], counts), wanted, logits=True,
        )  # fmt: skip
        return states, cast(Tensor, logits)

    def step(
        self, tokens: Tensor, lengths: Sequence[int], agents: Sequence[int | None]
    ) -> tuple[Tensor, Tensor]:
        """Append a token to each row; return last states and logits, as `read` does.

        Args:
            tokens: One for each row ``[rows]``.
            lengths: Tokens of each row before it.
            agents: Of each row.
        """
        owners = np.array([agent or 0 for agent in agents])
        order = np.argsort(owners, kind="stable")
        ids, places = tokens.numpy()[order], np.asarray(lengths)[order]
        back = np.argsort(order)
        together = len(order) <= self._forward.chunk  # then they come back in any order
        states, logits = self._forward(
            self._cache, ids, order, places, owners[order],
            back if together else np.arange(len(order)), logits=True,
        )  # fmt: skip
        made = states, cast(Tensor, logits)
        return made if together else (made[0][back], made[1][back])

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` tokens of rows onto other rows."""
        self._cache.take(self._cache, sources, targets, length)

    def choose(
        self, logits: Tensor, uniforms: np.ndarray, temperature: float | np.ndarray, top_p: float
    ) -> Tensor:
        """One token for each row; see `agents.engine.sampling.choose`."""
        if top_p < 1 and np.any(temperature):
            return choose(logits, uniforms, temperature, top_p)
        return self._forward.choose(logits, uniforms, temperature)


def is_known(model: nn.Module) -> bool:
    """Whether a model is of a kind that compiled code knows."""
    kind = type(model)
    return kind.__name__ in _KINDS and kind.__module__.startswith("transformers.models.")


def compiled_forward(
    base: BaseModel, lora: StackedLora | None, longest: int
) -> CompiledForward | None:
    """The model for compiled passes, read in place; None if it is not one that they know.

    Args:
        base: The frozen base.
        lora: The adapters; None for the bare base, which may carry adapters all the same.
        longest: Most tokens of a row.
    """
    made = library()
    if made is None or base.device.type != "cpu":
        return None
    parts = _parts(base, lora, made, longest)
    return None if parts is None else CompiledForward(made, parts)


def _parts(
    base: BaseModel, lora: StackedLora | None, made: Library, longest: int
) -> ModelParts | None:
    model = base.model
    if not is_known(model):
        return None
    body: Any = backbone(model)
    config, head = model.config, panels_of(model.get_output_embeddings())
    shared, width = key_heads(config)
    if (
        head is None
        or config.hidden_act != "silu"
        or getattr(body.rotary_emb, "rope_type", None) not in _ROPES
        or width % made.lanes
        or width > _WIDEST_HEAD
        or any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    ):
        return None
    groups = {id(n): group for group in _groups(lora) for n in group.linears}
    layers = [_layer(layer, groups, width) for layer in body.layers]
    embedding, norm = body.embed_tokens.weight, body.norm.weight
    known = [layer for layer in layers if layer is not None]
    plain = [embedding, norm, *(n for layer in known for n in layer.norms if n is not None)]
    panels = [p for layer in known for product in layer.products for p in product.layers]
    factors = [] if lora is None else list(lora.parameters())
    if (
        len(known) < len(layers)
        or any(p.precision != head.precision for p in panels)
        or any(t.dtype != torch.float32 or not t.is_contiguous() for t in plain)
        or any(f.dtype != torch.float32 or f.device.type != "cpu" for f in factors)
        or any(group.A.shape[1] > made.width for group in _groups(lora))
    ):
        return None
    cos, sin = _angles(body.rotary_emb, longest)
    scales = torch.ones(1) if lora is None else lora.scale
    return ModelParts(
        known, embedding, norm, head, cos, sin, config.num_attention_heads,
        shared, config.rms_norm_eps, scales,
    )  # fmt: skip


def _groups(lora: StackedLora | None) -> list[SharedInput]:
    return [] if lora is None else [cast(SharedInput, group) for group in lora.groups]


def _angles(rotary: Any, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position ``[count, width]``; computed once for a model."""
    kept = getattr(rotary, "_populora_angles", None)
    if kept is None or len(kept[0]) < count:
        with torch.inference_mode():
            cos, sin = rotary(torch.zeros(1, 1, 1), torch.arange(count)[None])
        kept = cos[0].clone(), sin[0].clone()
        rotary._populora_angles = kept
    return kept


def _layer(layer: Any, groups: dict[int, SharedInput], width: int) -> ModelLayer | None:
    attention, mlp = layer.self_attn, layer.mlp
    if attention.scaling != width**-0.5:
        return None
    products = [
        _product(linears, groups)
        for linears in (
            (attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,),
        )
    ]  # fmt: skip
    query, key = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    norms = layer.input_layernorm, layer.post_attention_layernorm, query, key
    if any(product is None for product in products):
        return None
    return ModelLayer(
        cast(Any, tuple(products)),
        cast(Any, tuple(None if norm is None else norm.weight for norm in norms)),
    )


def _product(linears: Sequence[nn.Module], groups: dict[int, SharedInput]) -> AdaptedProduct | None:
    """Layers of one input with their adapters; None if they are not what compiled code reads."""
    bases = [m.base if isinstance(m, StackedLinear) else m for m in linears]
    layers = [panels_of(base) for base in bases]
    if any(panels is None for panels in layers):
        return None
    found = {id(groups[id(base)]): groups[id(base)] for base in bases if id(base) in groups}
    if not found:
        return AdaptedProduct(cast(list[Panels], layers))
    if len(found) > 1:
        return None
    (group,) = found.values()
    which = {id(linear): i for i, linear in enumerate(group.linears)}
    places = [which.get(id(base), 0) for base in bases]
    B = [group.B[which[id(base)]].data if id(base) in which else None for base in bases]
    return AdaptedProduct(cast(list[Panels], layers), group.A.data, B, places, group.rank)


def panels_of(module: Any) -> Panels | None:
    """A packed layer's panels; None if it is not packed for compiled products."""
    packed = getattr(module, "packed", None)
    found = packed if isinstance(packed, Panels) else getattr(packed, "panels", None)
    return found if isinstance(found, Panels) else None
