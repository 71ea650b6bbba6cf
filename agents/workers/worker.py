"""What runs in a worker: the base, a stack of all adapters, decoding and learning of shards.

A worker keeps no state that matters: every call names the adapters it is about by content hash,
and those that the worker lacks come along. Nothing here knows of Ray.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import replace

import torch

from agents.engine.adapters import StackedLora
from agents.engine.jobs import EngineError
from agents.engine.local import LocalEngine
from agents.learning.learners import PolicyGradient, RejectionTuning, StackedLearner
from agents.learning.steps import LearnerConfig
from agents.loading.digest import base_digest
from agents.loading.models import DTYPES, load_base
from agents.machine.resources import resident
from agents.workers.messages import (
    DecodeCall,
    Decoded,
    Hello,
    LearnCall,
    Learned,
    PackedAdapter,
    PackedReply,
    WorkerSpec,
    pack,
    to_arrays,
    to_tensors,
    unpack,
)

LEARNERS: Mapping[str, type[PolicyGradient | RejectionTuning]] = {
    learner.__name__: learner for learner in (PolicyGradient, RejectionTuning)
}


class Worker:
    """The base with its adapters in a process of its own.

    Args:
        spec: What to load.
        node: Id of the machine.

    Raises:
        ModelError: If the base cannot be loaded.
    """

    def __init__(self, spec: WorkerSpec, node: str = "") -> None:
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self._base = load_base(**spec.base)
        self._lora = StackedLora(
            self._base.model,
            spec.size,
            spec.rank,
            targets=spec.targets,
            dtype=DTYPES[spec.dtype],
        )
        if spec.checkpointing:
            self._lora.gradient_checkpointing()
        self._engine = LocalEngine(self._base, self._lora)
        self._learner: StackedLearner | None = None
        self._node = node

    def hello(self) -> Hello:
        """Say who this is; answered once the base is loaded."""
        return Hello(
            f"{os.getpid()} on {platform.node()}",
            self._node,
            base_digest(self._base),
            self._base.precision,
        )

    def decode(self, call: DecodeCall, given: Mapping[int, PackedAdapter]) -> Decoded:
        """Give the replies of a shard.

        Args:
            call: What to do.
            given: Adapters by row that this worker does not have there.
        """
        self._take(call.adapters, given)
        self._engine.max_rows = call.max_rows
        self._engine.stats = type(self._engine.stats)()
        replies = self._engine.generate(
            {}, call.jobs, temperature=call.temperature, top_p=call.top_p
        )
        packed = [
            PackedReply(r.id, r.adapter, r.text, r.ids, to_arrays(r.features)) for r in replies
        ]
        return Decoded(packed, self._engine.stats, resident())

    def learn(self, call: LearnCall, given: Mapping[int, PackedAdapter]) -> Learned:
        """Take a shard's part of a learning step.

        Args:
            call: What to do.
            given: Adapters by row that this worker does not have there.
        """
        self._take(call.adapters, given)
        rows = list(call.adapters)
        before = self._lora.hashes(rows)
        learner = self._ready(call.learner, call.config)
        for agent, rate in enumerate(call.dropout):
            self._lora.set_dropout(agent, rate)
        learner.load_rows(rows, to_tensors(call.optimizer))
        stats = learner.learn(call.samples, key=call.key)
        after = self._lora.hashes(rows)
        return Learned(
            before,
            after,
            {row: pack(self._lora, row) for row in rows},
            to_arrays(learner.rows(rows)),
            stats,
            resident(),
        )

    def _take(self, wanted: Mapping[int, str], given: Mapping[int, PackedAdapter]) -> None:
        """Put adapters into their rows.

        Raises:
            EngineError: If a row then holds another adapter than is wanted.
        """
        for row, adapter in given.items():
            unpack(self._lora, row, adapter)
        held = self._lora.hashes(wanted)
        if wrong := [row for row in wanted if held[row] != wanted[row]]:
            row = wrong[0]
            raise EngineError(
                f"worker: row {row} holds adapter {held[row]!r}, expected {wanted[row]!r}"
            )

    def _ready(self, name: str, config: LearnerConfig) -> StackedLearner:
        # What each agent has of its own comes with the state.
        config = replace(config, learning_rate=0.0, kl=0.0, temperature=1.0, shards=1)
        known = self._learner
        if known is None or type(known).__name__ != name or known.config != config:
            known = self._learner = LEARNERS[name](self._base, self._lora, config)
        return known
