"""A base of 7 billion weights in ``populora bench-engine``, with random weights.

Speed and memory do not depend on what the weights are, so nothing needs to be downloaded: the model
is made on the device, in bfloat16, and once more with its linear layers in 4 bits (NF4) where
bitsandbytes is installed.
"""

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from agents.engine.jobs import Job
from agents.learning.learners import LearnerConfig, PolicyGradient
from agents.loading.models import freeze
from evolution.engine_benchmark.peers import NOT_INSTALLED, imported
from evolution.engine_benchmark.rows import decode_greedily, learning_samples
from evolution.engine_benchmark.workbench import (
    EndlessBase,
    Workbench,
    decode_seconds,
    kept_random_state,
    seconds,
    stacked,
)
from populora_env.keys import generator

AGENTS, RANK = 16, 16
PROMPT_TOKENS = 45
LEARNING_TOKENS = 512  # padded tokens in one pass; more does not fit beside the base in 24 GB
_GIB = 1024**3

Peak = Callable[[], float]  # GiB held at most since it was last asked


def llama_7b() -> LlamaConfig:
    """Shapes of Llama-2-7B (Touvron et al., 2023)."""
    return LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096,
    )  # fmt: skip


def cuda_peak() -> Peak:
    """Measures GiB held on the GPU at most since last asked, beyond what is held already."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()

    def peak() -> float:
        held = torch.cuda.max_memory_allocated() - before
        torch.cuda.reset_peak_memory_stats()
        return held / _GIB

    return peak


def large_row(
    bench: Workbench,
    *,
    config: PreTrainedConfig | None = None,
    dtype: torch.dtype = torch.bfloat16,
    peak: Peak | None = None,
    four_bits: Sequence[bool] = (False, True),
) -> None:
    """Decoding and learning of 16 adapters of rank 16 on a large base.

    Args:
        bench: Where figures go; its own base only says which device.
        config: Of the large model.
        dtype: Of its weights, or of everything but the 4-bit ones.
        peak: Measures memory; None where there is no GPU.
        four_bits: Which of the two forms are measured.
    """
    if peak is None and torch.cuda.is_available():
        peak = cuda_peak()
    for packed in four_bits:
        suffix = f"7b_{AGENTS}" + ("_4bit" if packed else "")
        if packed and imported("bitsandbytes") is None:
            what = f"7B in 4 bits, {AGENTS} agents, memory, GiB"
            bench.findings.missing(
                f"peak_memory_gib_{suffix}", what, f"bitsandbytes {NOT_INSTALLED}"
            )
            continue
        try:
            _measure(bench, config or llama_7b(), dtype, packed, suffix, peak)
        except torch.OutOfMemoryError:
            what = f"7B{' in 4 bits' if packed else ''}, {AGENTS} agents, memory, GiB"
            bench.findings.missing(f"peak_memory_gib_{suffix}", what, "out of memory")
        gc.collect()  # the model is part of cycles, and another of its size is to come
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def random_base(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, packed: bool
) -> EndlessBase:
    """A frozen model with random weights that never ends a reply; it has no tokenizer."""
    with kept_random_state(device, 0), device:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if packed:
        _pack(model)
    return EndlessBase.of(freeze(model, None, name="random"))


def _pack(model: Any) -> None:
    """Put the linear layers of a model, but its output layer, into 4 bits, one by one."""
    bnb: Any = imported("bitsandbytes")
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear or module is head:
            continue
        weight, bias = module.weight.data, cast(Any, module).bias
        packed = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=bias is not None,
            compute_dtype=weight.dtype, quant_type="nf4", device="meta",
        )  # fmt: skip
        packed.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4")
        if bias is not None:
            packed.bias = bias
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, packed.to(weight.device))


def _measure(
    bench: Workbench,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    packed: bool,
    suffix: str,
    peak: Peak | None,
) -> None:
    form = "7B in 4 bits" if packed else "7B"
    bench.tell(f"making a random {form} base")
    base = random_base(config, dtype, bench.base.device, packed)
    small, found = bench.sizes, bench.findings
    rows = max(small.rows // AGENTS, 1) * AGENTS
    rng = generator("bench-engine prompts", small.seed)
    vocabulary = base.model.get_input_embeddings().weight.shape[0]
    prompts = rng.integers(vocabulary, size=(rows, PROMPT_TOKENS)).tolist()
    attachment = stacked(base.model, AGENTS, RANK, small.seed)
    steps = small.new_tokens

    def rate(size: int, _: int) -> float:
        if not size:
            run = partial(decode_greedily, base, None, prompts, steps, 0)
            return rows * steps / decode_seconds(base.model, steps, run)
        with attachment.on() as lora:
            run = partial(decode_greedily, base, lora, prompts, steps, size)
            return rows * steps / decode_seconds(base.model, steps, run)

    names = {f"base_decode_{suffix}": 0, f"population_decode_{suffix}": AGENTS}
    _forget(peak)
    bench.race({name: partial(rate, size) for name, size in names.items()})
    first, second = names
    what = f"{form}, {AGENTS} agents"
    found.ratio(f"population_decode_ratio_{suffix}", f"{what}, decoding / base", second, first)
    found.add(f"{second}_tokens_per_second", f"{what}, tokens/s", found.rounds[second])
    memory = {"decode": _held(peak)}
    with attachment.on() as lora:
        jobs = [
            Job(i // (rows // AGENTS), ids, small.reply_tokens, i) for i, ids in enumerate(prompts)
        ]
        samples = learning_samples(base, lora, jobs, small.seed)
        _forget(peak)
        learner = PolicyGradient(base, lora, LearnerConfig(tokens_per_batch=LEARNING_TOKENS))
        name = f"joint_learning_seconds_{suffix}"
        bench.race({name: lambda _: seconds(base.device, lambda: learner.step(samples))})
    memory["learning"] = _held(peak)
    found.add(name, f"{what}, learning step, s", found.rounds[name])
    key, label = f"peak_memory_gib_{suffix}", f"{what}, memory, GiB"
    if peak is None:
        found.missing(key, label, "no GPU whose memory could be measured")
        return
    found.add(key, label, [max(memory.values())])
    for part, held in memory.items():
        found.add(f"{key}_{part}", f"{label}, {part}", [held])


def _held(peak: Peak | None) -> float:
    return float("nan") if peak is None else peak()


def _forget(peak: Peak | None) -> None:
    if peak is not None:
        peak()
