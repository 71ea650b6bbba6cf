"""In a process of its own: the most memory that a model of random weights takes, and its plan.

``python -m tests.evolution.planning.measured_peak '{}' '{"replies": 96}' false`` prints JSON, in
bytes: of the process, or, with true, of the tensors that a phase adds.
"""

import gc
import json
import sys
from collections.abc import Callable

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.compiled import native
from agents.compiled.products import library
from agents.compiled.trees import attention
from agents.engine.adapters import StackedLora
from agents.engine.generation import generate
from agents.engine.jobs import Job
from agents.learning.learners import LearnerConfig, PolicyGradient, Sample
from agents.loading.models import BaseModel, freeze
from agents.machine.resources import resident
from evolution.planning.demand import Demand
from evolution.planning.memory import plan_memory
from evolution.planning.shapes import BaseShapes
from tests.conftest import forget_memory_peak, make_tiny_tokenizer, memory_peak

PROMPT, REPLY = 96, 32


def tensors_of(work: Callable[[], object]) -> int:
    """The most bytes of tensors that a piece of work adds, by the profiler."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def main(shape: dict, asked: dict, tensors: bool) -> None:
    sizes = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408,
             "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
             "eos_token_id": 0, "bos_token_id": None, **shape}  # fmt: skip
    config = LlamaConfig(**sizes)
    for compiled in (library, attention.library, native.kernel):
        compiled()
    shapes = BaseShapes.of(config)
    demand = Demand(**{"prompt": PROMPT, "reply": REPLY, "predicted": REPLY / (PROMPT + REPLY),
                       "champion": False, "saves": False, **asked})  # fmt: skip
    source = np.random.default_rng(0)

    def drawn(count: int) -> list[int]:
        return source.integers(5, sizes["vocab_size"], count).tolist()

    torch.manual_seed(0)
    forget_memory_peak()
    before = resident()
    model = LlamaForCausalLM(config).to(getattr(torch, demand.dtype))
    base = freeze(model, make_tiny_tokenizer(), products=demand.products)
    BaseModel.stop_ids = lambda self: frozenset()  # so that every reply has its full length
    gc.collect()
    peaks = {"loading": memory_peak()}
    lora = StackedLora(base.model, demand.size, demand.rank)
    with torch.no_grad():
        for factor in lora.parameters():
            factor.normal_(0, 0.01)
    settings = LearnerConfig(tokens_per_batch=demand.batch, learns_rows=demand.learns_rows)
    learner = PolicyGradient(base, lora, settings) if demand.learns else None
    lora.gradient_checkpointing(demand.checkpointing)
    jobs = [Job(i % demand.size, drawn(PROMPT), REPLY, i) for i in range(demand.replies)]

    def most(work: Callable[[], object]) -> int:
        if tensors:
            return tensors_of(work)
        forget_memory_peak()
        work()
        return memory_peak()

    features = demand.distributions
    peaks["decoding"] = most(
        lambda: generate(base, lora, jobs, max_rows=demand.rows, distribution=features)
    )
    if learner is not None:
        count = 2 * demand.batch // (PROMPT + REPLY)
        samples = [Sample(i % demand.size, drawn(PROMPT), drawn(REPLY)) for i in range(count)]
        peaks["learning"] = most(lambda: learner.step(samples))
    plan = plan_memory(shapes, demand)
    if tensors:
        del peaks["loading"]
        added = {phase: sum(plan.phases[phase].values()) for phase in peaks}
        print(json.dumps({"measured": peaks, "planned": added}))
        return
    print(json.dumps({
        "measured": {phase: peak - before for phase, peak in peaks.items()},
        "planned": {phase: plan.total(phase) for phase in peaks},
    }))  # fmt: skip


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
