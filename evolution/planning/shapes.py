"""The shapes of a base model, of which its memory follows; no weights are needed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from agents.engine.compiled_pass import is_known
from agents.engine.kv_cache import elements_per_token, key_heads
from agents.engine.targets import group_by_input, target_linears


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """What a base and its adapters' places are made of; all in elements.

    Attributes:
        weights: Of all parameters, those that are used twice counted once.
        linears: Outputs and inputs of each linear layer, the output layer last.
        groups: Of the layers with adapters that read one input: its width, and their outputs.
        layers: Blocks of the model.
        width: Of its hidden states.
        inner: Between the two products of a block's MLP.
        queries: Of all heads together.
        keys: Keys and values of one token in one layer.
        key_heads: Heads of keys.
        cached: Keys and values of one token in all layers.
        vocabulary: Rows of the output layer.
        known: Whether the model is of a kind that compiled code knows.
    """

    weights: int
    linears: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    key_heads: int
    cached: int
    vocabulary: int
    known: bool

    @classmethod
    def of(cls, config: Any, targets: str | tuple[str, ...] = "all-linear") -> "BaseShapes":
        """Shapes of the model that a configuration of Transformers describes.

        Args:
            config: Of a causal language model.
            targets: Layers with adapters; see `agents.engine.targets.target_linears`.

        Raises:
            ValueError: If targets match nothing.
        """
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        linears = target_linears(model, targets)
        groups = [[linears[name] for name in names] for names in group_by_input(list(linears))]
        head = model.get_output_embeddings()
        plain = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
        text = config.get_text_config()
        heads, (shared, wide) = text.num_attention_heads, key_heads(text)
        widest = max((m.out_features for m in plain), default=0)
        return cls(
            sum(parameter.numel() for parameter in model.parameters()),
            tuple((m.out_features, m.in_features) for m in (*plain, head)),
            tuple((own[0].in_features, tuple(m.out_features for m in own)) for own in groups),
            text.num_hidden_layers,
            text.hidden_size,
            getattr(text, "intermediate_size", None) or widest,
            heads * wide,
            2 * shared * wide,
            shared,
            elements_per_token(config),
            head.out_features,
            is_known(model),
        )

    def adapter(self, rank: int) -> int:
        """Weights of one adapter of a rank."""
        inward = sum(rank * len(outputs) * inputs for inputs, outputs in self.groups)
        return inward + self.columns(rank)

    def columns(self, rank: int) -> int:
        """Those of them that are its columns B."""
        return sum(rank * sum(outputs) for _, outputs in self.groups)
