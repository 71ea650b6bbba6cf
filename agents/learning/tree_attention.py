"""How the places of packed rows attend in a model of Transformers.

By compiled code (`agents.compiled.trees`) in Llama, Mistral, Qwen2 and Qwen3 in float32 on a CPU,
where no sliding window hides anything: then a place costs what its ancestors cost, however wide its
row is. In all other models under a mask, which costs as much as all places with all others.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agents.compiled.trees.attention import TreeRows, library
from agents.engine.compiled_pass import is_known
from agents.engine.kv_cache import key_heads
from agents.learning.packing import Batch, Packed
from agents.loading.models import BaseModel

_NAME = "populora_tree"  # among Transformers' attention functions


def attends_by_tree(base: BaseModel, longest: int) -> bool:
    """Whether packed rows of this base attend by compiled code.

    Args:
        base: The base.
        longest: Tokens of the longest sequence.
    """
    made, model = library(), base.model
    config = model.config
    return (
        made is not None
        and is_known(model)
        and base.device.type == "cpu"
        and model.dtype == torch.float32
        and key_heads(config)[1] % made.lanes == 0
        and longest <= (getattr(config, "sliding_window", None) or longest)
        and not (model.training and config.attention_dropout)
    )


@contextmanager
def attending(base: BaseModel, batch: Batch, packed: Packed) -> Generator[dict[str, Any]]:
    """Have a base attend in packed rows inside the block, backward passes included.

    Args:
        base: The base.
        batch: Whose rows they are.
        packed: The same, written out.

    Yields:
        What the model's body is to be called with besides tokens and positions.
    """
    if not attends_by_tree(base, int(packed.positions.max(initial=0)) + 1):
        mask = None if packed.causal else _mask(base, packed.visible())
        yield {"attention_mask": mask}
        return
    config = base.model.config
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield {_NAME: TreeRows(packed.parents, [row.width for row in batch.rows])}
    finally:
        config._attn_implementation = before


def _mask(base: BaseModel, visible: np.ndarray) -> Tensor:
    """What every kind of attention takes: 0 where a place looks, else the lowest number."""
    dtype = base.model.get_input_embeddings().weight.dtype
    hidden = torch.from_numpy(~visible).to(base.device)[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
        hidden, torch.finfo(dtype).min
    )


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As Transformers calls it: heads come second; in the result, third."""
    del module, mask
    return options[_NAME](query, key, value, options["scaling"]), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
