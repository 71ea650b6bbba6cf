"""What a pool gives to workers: shards of replies and of learning steps, with checks of answers.

An answer counts if it is whole and names, by content hash, the adapters that were to do it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.engine.adapters import StackedLora
from agents.engine.jobs import DecodeStats, EngineError, Job, Reply, matched
from agents.workers.messages import (
    DecodeCall,
    Decoded,
    LearnCall,
    Learned,
    PackedAdapter,
    pack,
    packed_hash,
    to_tensors,
)
from agents.workers.pool import Nonsense

_LEARNING = 2.0  # a learning step may take so many times the deadline of replies


class PackedAdapters:
    """Adapters of a stack, each packed when it is first sent, and once."""

    def __init__(self, lora: StackedLora) -> None:
        self.lora = lora
        self._known: dict[int, PackedAdapter] = {}

    def lacking(
        self, wanted: Mapping[int, str], held: Mapping[int, str]
    ) -> dict[int, PackedAdapter]:
        """Those that a worker must be given."""
        rows = [row for row, content in wanted.items() if held.get(row) != content]
        for row in rows:
            if row not in self._known:
                self._known[row] = pack(self.lora, row)
        return {row: self._known[row] for row in rows}


class DecodeShard:
    """A shard of replies."""

    method, deadline = "decode", 1.0

    def __init__(
        self, what: str, jobs: Sequence[Job], call: DecodeCall, packed: PackedAdapters
    ) -> None:
        self.what, self._jobs, self._call, self._packed = what, jobs, call, packed
        self.size = sum(job.max_new_tokens for job in jobs)

    def arguments(self, held: Mapping[int, str]) -> tuple[Any, ...]:
        """What to call the worker's method with."""
        return self._call, self._packed.lacking(self._call.adapters, held)

    def check(self, answer: Any) -> tuple[tuple[list[Reply], DecodeStats], Mapping[int, str]]:
        """The replies in the order of their jobs, and counts."""
        if not isinstance(answer, Decoded):
            raise Nonsense(f"got {type(answer).__name__}, expected replies")
        try:
            replies = [
                Reply(r.id, r.adapter, r.text, r.ids, to_tensors(r.features))
                for r in answer.replies
            ]
            return (matched(self, self._jobs, replies), answer.stats), self._call.adapters
        except EngineError as error:
            raise Nonsense(str(error)) from None
        except (AttributeError, TypeError) as error:
            raise Nonsense(f"its replies cannot be read ({error})") from None


class LearnShard:
    """A shard of a learning step."""

    method, deadline = "learn", _LEARNING

    def __init__(
        self, what: str, agents: Sequence[int], call: LearnCall, packed: PackedAdapters
    ) -> None:
        self.what, self.agents, self._call, self._packed = what, agents, call, packed
        self.size = sum(len(s.prompt_ids) + len(s.reply_ids) for s in call.samples)

    def arguments(self, held: Mapping[int, str]) -> tuple[Any, ...]:
        """What to call the worker's method with."""
        return self._call, self._packed.lacking(self._call.adapters, held)

    def check(self, answer: Any) -> tuple[Learned, Mapping[int, str]]:
        """The answer, if what came back is what was asked for."""
        if not isinstance(answer, Learned):
            raise Nonsense(f"got {type(answer).__name__}, expected adapters that learned")
        call, lora = self._call, self._packed.lora
        if dict(answer.before) != dict(call.adapters):
            raise Nonsense("other adapters learned than were given")
        if set(answer.after) != set(call.adapters) or set(answer.adapters) != set(call.adapters):
            raise Nonsense("not all adapters came back")
        for row, adapter in answer.adapters.items():
            if packed_hash(lora, adapter) != answer.after[row]:
                raise Nonsense(f"the adapter of agent {row} is not the one its hash names")
        shapes = {name: array.shape for name, array in call.optimizer.items()}
        if {name: array.shape for name, array in answer.optimizer.items()} != shapes:
            raise Nonsense("the optimiser's state has other shapes than were given")
        if len(answer.stats.grad_norms) != lora.size:
            raise Nonsense("it tells of another number of agents")
        for name in ("learning_rates", "kl_weights", "temperatures"):
            if (answer.optimizer[name] != call.optimizer[name]).any():
                raise Nonsense(f"{name.replace('_', ' ')} changed")
        return answer, answer.after
