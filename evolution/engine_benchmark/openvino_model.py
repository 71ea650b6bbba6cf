"""A Transformers model as an OpenVINO model that OpenVINO GenAI decodes in continuous batches.

The graph is traced from PyTorch with keys and values as inputs and outputs, which then become the
model's state, laid out as GenAI's paged attention expects it: a gather by beam behind each state,
and an empty state of the batch's size to begin with. No other converter is needed.

Weights in 8 bits are unsigned with a scale and a zero point for each row, as OpenVINO's own tool
for compressing weights makes them by default.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.engine.kv_cache import key_heads
from evolution.engine_benchmark.peers import imported

INPUTS = ("input_ids", "attention_mask", "position_ids")


def save_openvino(model: Any, tokenizer: Any, folder: Path, *, int8: bool) -> None:
    """Write a model, its tokenizer and its settings to a folder that GenAI loads.

    Args:
        model: As Transformers loads it, on the CPU, in float32.
        tokenizer: Its tokenizer.
        folder: An empty folder.
        int8: Whether weights of matrix products and the embeddings are kept in 8 bits.
    """
    openvino, tokenizers = imported("openvino"), imported("openvino_tokenizers")
    made = _stateful(model)
    if int8:
        _compress(made)
    openvino.save_model(made, folder / "openvino_model.xml", compress_to_fp16=False)
    parts = tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    for part, name in zip(parts, ("tokenizer", "detokenizer"), strict=True):
        openvino.save_model(part, folder / f"openvino_{name}.xml")
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


class _Growing:
    """Keys and values that grow by concatenation, in the form that Transformers' layers ask for."""

    is_compileable = False

    def __init__(self, states: tuple[Tensor, ...]) -> None:
        self.keys, self.values = list(states[::2]), list(states[1::2])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.keys[layer_idx].shape[2]

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        self.keys[layer_idx] = torch.cat([self.keys[layer_idx], key], 2)
        self.values[layer_idx] = torch.cat([self.values[layer_idx], value], 2)
        return self.keys[layer_idx], self.values[layer_idx]


class _Step(nn.Module):
    """The model with its keys and values as plain inputs and outputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *states: Tensor
    ) -> tuple[Tensor, ...]:
        places = torch.arange(input_ids.shape[1])[:, None] + states[0].shape[2]
        earlier = torch.arange(attention_mask.shape[1])[None] <= places
        cache: Any = _Growing(states)
        logits: Tensor = self.model(
            input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True,
            attention_mask=earlier[None, None] & attention_mask[:, None, None].bool(),
        ).logits  # fmt: skip
        pairs = zip(cache.keys, cache.values, strict=True)
        return (logits, *(state for pair in pairs for state in pair))


def _stateful(model: Any) -> Any:
    """The traced model with keys and values as its state."""
    openvino, ops = imported("openvino"), imported("openvino.opset13")
    make_stateful = imported("openvino._offline_transformations").apply_make_stateful_transformation
    config = model.config.get_text_config()
    heads, width = key_heads(config)
    rows, seen, new = 2, 5, 3  # sizes of the example that is traced
    states = [torch.zeros(rows, heads, seen, width) for _ in range(2 * config.num_hidden_layers)]
    example = (
        torch.ones(rows, new, dtype=torch.long), torch.ones(rows, seen + new, dtype=torch.long),
        torch.arange(seen, seen + new).repeat(rows, 1), *states,
    )  # fmt: skip
    with torch.no_grad(), warnings.catch_warnings():
        # What the tracer warns of, Python's choices by shape, are those that the example settles.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        made: Any = openvino.convert_model(_Step(model), example_input=example)
    names = [f"{layer}.{kind}" for layer in range(len(states) // 2) for kind in ("key", "value")]
    entries = [*INPUTS, *(f"past_key_values.{name}" for name in names)]
    inputs = list(made.inputs)
    for entry, name in zip(inputs, entries, strict=True):
        shape = [-1, -1] if name in INPUTS else [-1, heads, -1, width]
        entry.get_tensor().set_names({name})
        entry.get_node().set_friendly_name(name)
        entry.get_node().set_partial_shape(openvino.PartialShape(shape))
    results = ["logits", *(f"present.{name}" for name in names)]
    for entry, name in zip(made.outputs, results, strict=True):
        entry.get_tensor().set_names({name})
    beams = ops.parameter([-1], np.int32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    for entry in inputs[len(INPUTS) :]:
        users = list(entry.get_target_inputs())
        kept = ops.gather(entry, beams, ops.constant(0))
        for user in users:
            user.replace_source_output(kept.output(0))
    made.add_parameters([beams])
    made.validate_nodes_and_infer_types()
    make_stateful(made, dict(zip(entries[len(INPUTS) :], results[1:], strict=True)))
    first, axis = np.array([0], dtype=np.int64), np.int64(0)
    size = ops.gather(
        ops.shape_of(made.input("input_ids"), output_type="i64"), ops.constant(first),
        ops.constant(axis),
    )  # fmt: skip
    shape = ops.concat([size, ops.constant(np.array([heads, 0, width], dtype=np.int64))], 0)
    empty = ops.broadcast(ops.constant(np.float32(0)), shape)
    for node in made.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    made.validate_nodes_and_infer_types()
    return made


def _compress(made: Any) -> None:
    """Keep the float32 matrices of products and embeddings in 8 bits, a scale for each row."""
    openvino, ops = imported("openvino"), imported("openvino.opset13")
    for node in list(made.get_ops()):
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        users = list(node.output(0).get_target_inputs())
        kinds = {user.get_node().get_type_name() for user in users}
        if len(node.get_output_shape(0)) != 2 or not kinds <= {"MatMul", "Gather"}:
            continue
        whole, scale, zero = quantised(node.data)
        floats, zeros = (ops.convert(ops.constant(part), "f32") for part in (whole, zero))
        again = ops.multiply(ops.subtract(floats, zeros), ops.constant(scale))
        for user in users:
            user.replace_source_output(again.output(0))
    made.validate_nodes_and_infer_types()


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix in 8 bits with a scale and a zero point for each row.

    Args:
        weight: ``[out, in]``, float32.

    Returns:
        ``whole [out, in]`` uint8, ``scale [out, 1]`` float32 and ``zero [out, 1]`` uint8, so that
        ``(whole - zero) * scale`` is the matrix to half a scale.
    """
    low = np.minimum(weight.min(1, keepdims=True), 0)
    high = np.maximum(weight.max(1, keepdims=True), 0)
    scale = (high - low) / 255
    scale[scale == 0] = 1
    zero = np.clip(np.rint(-low / scale), 0, 255)
    whole = np.clip(np.rint(weight / scale) + zero, 0, 255)
    return whole.astype(np.uint8), scale.astype(np.float32), zero.astype(np.uint8)
