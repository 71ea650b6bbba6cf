"""What goes to a worker and what comes back: NumPy arrays and plain values, nothing of torch.

Arrays travel without a copy where both ends are on one machine. An adapter is one flat array of
bytes in the order of the layers, at its own rank; its content hash says whether it arrived whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import StackedLora, factors_hash
from agents.engine.jobs import DecodeStats, Job
from agents.learning.steps import LearnerConfig, LearnerStats, Sample

Bytes = np.ndarray  # uint8


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker loads and puts on it.

    Attributes:
        base: Arguments of `agents.loading.models.load_base`.
        size: Number of agents, N.
        rank: The largest rank.
        targets: Layers with adapters.
        dtype: Name of the factors' type.
        checkpointing: Whether learning computes activations again.
        threads: CPU threads of the worker; 0 to leave them as they are.
    """

    base: Mapping[str, Any]
    size: int
    rank: int
    targets: str | tuple[str, ...]
    dtype: str
    checkpointing: bool
    threads: int = 0


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """An adapter on its way.

    Attributes:
        rank: Its own.
        alpha: Numerator of its scale.
        factors: A and B of all layers, one after another.
    """

    rank: int
    alpha: float
    factors: Bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """What a worker says of itself once the base is loaded.

    Attributes:
        process: Number of its process, and where that runs.
        node: Id of the machine, as Ray has it; empty without Ray.
        digest: Of the base; see `agents.loading.digest`.
        precision: What the base's products are in.
    """

    process: str
    node: str
    digest: str
    precision: str


@dataclass(frozen=True, slots=True)
class DecodeCall:
    """A shard of replies to give.

    Attributes:
        adapters: Content hash by row of the stack, of all that the jobs name.
        jobs: What to generate.
        temperature: Softmax temperature of jobs that name none.
        top_p: Share of the probability to draw from.
        max_rows: Rows decoded at once.
    """

    adapters: Mapping[int, str]
    jobs: Sequence[Job]
    temperature: float
    top_p: float
    max_rows: int


@dataclass(frozen=True, slots=True)
class PackedReply:
    """A reply on its way; see `agents.engine.jobs.Reply`."""

    id: str
    adapter: str
    text: str
    ids: tuple[int, ...]
    features: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A shard of replies.

    Attributes:
        replies: One for each job.
        stats: Counts of this shard.
        memory: Bytes that the worker holds.
    """

    replies: Sequence[PackedReply]
    stats: DecodeStats
    memory: int


@dataclass(frozen=True, slots=True)
class LearnCall:
    """A shard of a step.

    Attributes:
        adapters: Content hash by row of those that learn.
        samples: What they learn from.
        learner: Name of the learner's class.
        config: Its settings.
        optimizer: What else those rows learn with; see `StackedLearner.rows`.
        dropout: Of each agent, ``[N]``.
        key: Of the dropout masks.
    """

    adapters: Mapping[int, str]
    samples: Sequence[Sample]
    learner: str
    config: LearnerConfig
    optimizer: Mapping[str, np.ndarray]
    dropout: tuple[float, ...]
    key: tuple[str | int, ...] | None


@dataclass(frozen=True, slots=True)
class Learned:
    """What a shard of a step came to.

    Attributes:
        before: Content hashes of the adapters that learned, by row, worked out by the worker.
        after: Those of what they became.
        adapters: What they became.
        optimizer: What else these rows have learned with.
        stats: What was done.
        memory: Bytes that the worker holds.
    """

    before: Mapping[int, str]
    after: Mapping[int, str]
    adapters: Mapping[int, PackedAdapter]
    optimizer: Mapping[str, np.ndarray]
    stats: LearnerStats
    memory: int = field(default=0, compare=False)


def pack(lora: StackedLora, row: int) -> PackedAdapter:
    """One adapter of a stack, copied."""
    rank = int(lora.ranks[row])
    parts = [
        factor.detach().cpu().contiguous().view(torch.uint8).reshape(-1)
        for layer in lora.layers()
        for factor in (layer.A[row, :rank], layer.B[row, :, :rank])
    ]
    return PackedAdapter(rank, float(lora.alpha[row]), torch.cat(parts).numpy())


def packed_bytes(lora: StackedLora, rank: int) -> int:
    """Length of a packed adapter of this rank."""
    wide = sum(layer.A.shape[2] + layer.B.shape[1] for layer in lora.layers())
    return wide * rank * next(lora.parameters()).element_size()


def read_factors(lora: StackedLora, adapter: PackedAdapter) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors of an adapter by layer; it must be as long as `packed_bytes` says."""
    dtype = next(lora.parameters()).dtype
    flat = torch.frombuffer(bytearray(adapter.factors), dtype=dtype)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    at = 0
    for layer in lora.layers():
        pair: list[Tensor] = []
        for shape in ((adapter.rank, layer.A.shape[2]), (layer.B.shape[1], adapter.rank)):
            count = shape[0] * shape[1]
            pair.append(flat[at : at + count].view(shape))
            at += count
        found[layer.name] = pair[0], pair[1]
    return found


def packed_hash(lora: StackedLora, adapter: Any) -> str:
    """Content hash of an adapter that came; empty if it cannot be one of this stack."""
    whole = isinstance(adapter, PackedAdapter) and 1 <= adapter.rank <= lora.rank
    if not whole or len(adapter.factors) != packed_bytes(lora, adapter.rank):
        return ""
    return factors_hash(adapter.alpha, read_factors(lora, adapter).values())


def unpack(lora: StackedLora, row: int, adapter: PackedAdapter) -> None:
    """Write an adapter into a row of a stack."""
    lora.put(row, adapter.rank, adapter.alpha, read_factors(lora, adapter))


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors of float32 as arrays."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors that may be written."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
