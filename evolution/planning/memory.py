"""The most memory that a run is going to hold, worked out from what the code allocates.

Each term says in which file it is allocated. Nothing is fitted; what Python and the libraries hold
is measured where the plan is made (`agents.machine.resources.resident`). A worker holds what a
process of its own does, with its share of the replies.

Not covered: blocks that were freed and that the allocator keeps (with glibc, while a model of small
tensors learns on a CPU, up to half of the activations), CUDA's own context, sentence models.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.compiled.products import library, multiplies, row_bytes
from agents.compiled.trees import attention
from agents.engine.generation import PREFILL_TOKENS
from agents.learning.likelihood import MOST_LOGITS
from agents.loading.models import DTYPES
from evolution.planning.demand import Demand
from evolution.planning.shapes import BaseShapes

_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight: its half, a scale of 64, one of 256 such
_TURNING = 3  # copies of a weight that `agents.loading.int8.turn` holds at once
_STEP = 5  # float32 copies of one tensor in `agents.learning.optimizer.StackedAdamW.step`
_LOSS = 4  # arrays of logits: they, their log-softmax, and the gradients of both


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory by part and phase, in bytes.

    Attributes:
        always: What is held throughout, by name.
        phases: What each phase holds besides, by name.
    """

    always: Mapping[str, int]
    phases: Mapping[str, Mapping[str, int]] = field(hash=False)

    def total(self, phase: str) -> int:
        """Bytes held at once in a phase; while the base is loaded, only it is there yet."""
        own = sum(self.phases[phase].values())
        if phase == "loading":
            return own + self.always["process"] + self.always["base"]
        return own + sum(self.always.values())

    @property
    def fullest(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> int:
        """Most bytes that are held at once."""
        return self.total(self.fullest)

    def rows(self) -> list[tuple[str, str, int]]:
        """Phase (empty for what is always held), part and bytes, zeros left out."""
        found = [("", name, size) for name, size in self.always.items()]
        found += [(p, name, size) for p, own in self.phases.items() for name, size in own.items()]
        return [row for row in found if row[2]]


def plan_memory(shapes: BaseShapes, demand: Demand, process: int = 0) -> MemoryPlan:
    """Predict the memory of a run.

    Args:
        shapes: Of the base.
        demand: What is asked of it.
        process: Bytes that the process holds before the base is loaded; see there. Of no
            account on a GPU.

    Raises:
        ValueError: If a type of weights is unknown.
    """
    for name in (demand.dtype, demand.adapter_dtype or demand.dtype):
        if name not in DTYPES:
            raise ValueError(f"dtype: got {name!r}, expected one of {', '.join(DTYPES)}")
    count = _Count(shapes, demand)
    always = {
        "process": 0 if demand.on_gpu else process,
        "base": count.base,
        "adapters": demand.size * count.adapter * count.held,
        "optimiser": 8 * demand.size * count.learned * demand.learns,
        "champion": count.adapter * count.held * demand.champion,
        "the guard's snapshots": demand.size * count.adapter * count.held * demand.guarded,
        "replies' features": demand.kept * count.feature,
    }
    phases: dict[str, dict[str, int]] = {
        "loading": {"packing": count.packing},
        "decoding": {
            "keys and values": count.cache,
            "workspace": count.workspace,
            "logits": count.logits,
        },
    }
    if demand.learns:
        phases["learning"] = count.learning()
    if demand.saves:
        phases["saving"] = count.saving()
    return MemoryPlan(always, phases)


def learns_by_tree(shapes: BaseShapes, dtype: str, *, on_gpu: bool) -> bool:
    """Whether packed rows attend by compiled code (agents.learning.tree_attention).

    An agent's replies then share a row as soon as they begin alike.
    """
    there = attention.library() is not None
    return shapes.known and dtype == "float32" and not on_gpu and there


class _Count:
    """Bytes of one thing after the other."""

    def __init__(self, shapes: BaseShapes, demand: Demand) -> None:
        self.shapes, self.demand = shapes, demand
        self.adapter = shapes.adapter(demand.rank)
        self.learned = self.adapter if demand.learns_rows else shapes.columns(demand.rank)
        self.unit = DTYPES[demand.dtype].itemsize  # of weights and activations
        plain = "float32" if demand.four_bits else demand.dtype
        self.held = DTYPES[demand.adapter_dtype or plain].itemsize  # of factors
        self.packs = demand.dtype == "float32" and not (demand.on_gpu or demand.four_bits)
        made = library()
        self.compiled = (  # agents.engine.compiled_pass._parts
            self.packs
            and made is not None
            and shapes.known
            and multiplies(demand.products)
            and self.held == 4
        )
        self.longest = demand.prompt + demand.reply
        self.room = min(demand.rows, demand.replies)

    @property
    def base(self) -> int:
        """Weights, and the linear layers' laid out once more (agents.loading.linear)."""
        shapes, demand = self.shapes, self.demand
        if demand.four_bits:
            inner = sum(out * into for out, into in shapes.linears[:-1])
            return int(inner * _NF4) + (shapes.weights - inner) * self.unit
        packed = sum(map(self._packed, shapes.linears)) if self.packs else 0
        return shapes.weights * self.unit + packed

    def _packed(self, linear: tuple[int, int]) -> int:
        """Of one layer: panels filled up to whole ones (agents.compiled.products.Panels)."""
        made, products = library(), self.demand.products
        (out, into), columns = linear, 1 if made is None else made.columns
        rows = math.ceil(out / columns) * columns
        if products == "int8":
            together = 1 if made is None else made.together["int8"]
            panels = rows * math.ceil(into / together) * together
            there = made is not None and multiplies("int8")
            beside = 0 if there and made is not None and made.differentiates else out * into
            return (panels if there else 0) + beside
        if products == "bfloat16":  # and the weight itself in this type
            return 2 * rows * math.ceil(into / 2) * 2 + 2 * out * into
        return 4 * rows * into

    @property
    def packing(self) -> int:
        """The largest layer's weight while it is rounded to integers; others make no copies."""
        largest = max(out * into for out, into in self.shapes.linears)
        return 4 * _TURNING * largest if self.packs and self.demand.products == "int8" else 0

    @property
    def feature(self) -> int:
        """Of one reply: its mean state, its mean distribution."""
        return 4 * (self.shapes.width + self.demand.distributions * self.shapes.vocabulary)

    @property
    def cache(self) -> int:
        """Keys and values of all rows, and of what all prompts begin with, for each agent."""
        demand, made = self.demand, library()
        before = demand.size * demand.shared
        if self.compiled and made is not None:  # agents.compiled.forward.RowCache
            each = 2 if made.halves(demand.products) else 4
            tokens = self.room * math.ceil(self.longest / made.keys) * made.keys
            before = demand.size * math.ceil(demand.shared / made.keys) * made.keys
            return each * self.shapes.cached * (tokens + before)
        # agents.engine.kv_cache.KVCache; prompts are read into one of their own first
        reading = self._block * demand.prompt
        return self.unit * self.shapes.cached * (self.room * self.longest + reading + before)

    @property
    def _block(self) -> int:
        """Prompts that are read at once (agents.engine.generation)."""
        new = max(self.demand.prompt - self.demand.shared, 1)
        asked = min(self.room, self.demand.size * self.demand.prompts)
        return max(1, min(asked, PREFILL_TOKENS // new))

    @property
    def workspace(self) -> int:
        """What is between two products, where most tokens go at once: prompts."""
        shapes, made = self.shapes, library()
        if self.compiled and made is not None:
            deep = max(into for _, into in shapes.linears[:-1])
            wide = max(2 * shapes.inner, shapes.queries + shapes.keys)
            width = shapes.width + deep + wide + made.width
            return made.chunk * (4 * width + row_bytes(deep))
        new = max(self.demand.prompt - self.demand.shared, 1)
        # States, their norm, and gate, up and what is made of both (agents.engine.general_pass).
        tokens = self.unit * self._block * new * (2 * shapes.width + 3 * shapes.inner)
        # Factors of the agents that still answer, once not all do (agents.engine.layers).
        picked = 0 if self._native else (self.demand.size - 1) * self.adapter * self.held
        return tokens + picked

    @property
    def _native(self) -> bool:
        from agents.compiled import native

        return not self.demand.on_gpu and self.held == 4 and native.kernel() is not None

    @property
    def logits(self) -> int:
        """Of all rows, and what a token is drawn from (agents.engine.sampling)."""
        each = 4 * self.room * self.shapes.vocabulary
        copies = 1 if self.compiled else 1 + self.demand.sampled * 3
        copies += 3 * self.demand.distributions  # sums so far, a softmax, and what counts of it
        half = 0 if self.compiled or self.unit == 4 else each // 2
        return copies * each + half + 4 * self.room * self.shapes.width

    def learning(self) -> dict[str, int]:
        """Of one forward and backward pass (agents.learning.likelihood), and of the step."""
        demand, shapes, cells = self.demand, self.shapes, self.demand.batch
        gradients = demand.size * self.learned * self.held * (demand.batches > 1)
        copies = 0 if demand.even else demand.learned_rows * self.adapter * self.held
        whole = cells * self._saved + copies
        if not self._by_tree:  # the mask of every row, and what is seen of it
            whole += cells * cells // max(demand.learned_rows, 1) * (self.unit + 1)
        # The gradients of gate, up and the states; what is computed again is let go of late.
        wide = 4 if demand.checkpointing else 2
        back = cells * self.unit * (wide * shapes.inner + 2 * shapes.width)
        layers = max(shapes.layers, 1)
        states = cells * (self.unit + 4) * shapes.width  # the last ones, with their norm
        if demand.checkpointing:
            kept = cells * layers * self.unit * shapes.width + states
            again = whole // layers + back
        else:
            kept, again = whole + states, back
        predicting = math.ceil(cells * demand.predicted)
        piece = max(1, min(predicting, MOST_LOGITS // shapes.vocabulary))
        leaves = 2 * predicting * self.unit * shapes.width
        loss = _LOSS * 4 * piece * shapes.vocabulary + leaves
        largest = max(
            demand.size * demand.rank * max(len(outputs) * inputs * demand.learns_rows, *outputs)
            for inputs, outputs in shapes.groups
        )
        passing = kept + max(again, loss)
        made = demand.size * self.learned * self.held
        if passing + gradients >= made + 4 * _STEP * largest:
            found = {"gradients": gradients, "activations": kept}
            return found | ({"logits": loss} if loss >= again else {"a layer, backward": again})
        return {"gradients": made, "AdamW's step": 4 * _STEP * largest}

    @property
    def _by_tree(self) -> bool:
        return learns_by_tree(self.shapes, self.demand.dtype, on_gpu=self.demand.on_gpu)

    @property
    def _saved(self) -> int:
        """What autograd keeps of one place in all layers, without the adapters' copies.

        Norms keep their input in float32; queries, keys and values are kept for attention; gate, up
        and the activated gate for the MLP; adapters keep what they read, if A is learned, and its
        product with A.
        """
        shapes, unit, demand = self.shapes, self.unit, self.demand
        own = self.held * sum(
            into * demand.learns_rows + demand.rank * len(outs) for into, outs in shapes.groups
        )
        if self._by_tree:
            attended = unit * (shapes.queries + shapes.keys)
        else:  # under a mask keys and values are repeated for every head of queries
            attended = unit * 3 * shapes.queries
            attended += unit * shapes.queries * (self.held != unit)  # what comes out, too
        return own + shapes.layers * (8 * shapes.width + attended + 3 * unit * shapes.inner)

    def saving(self) -> dict[str, int]:
        """Copies of what is written (evolution.runs.checkpoint).

        The optimiser's moments of B lie transposed and are copied; on a GPU all are. Adapters are
        written one after the other.
        """
        demand = self.demand
        moments = 8 * demand.size * self.shapes.columns(demand.rank) * demand.learns
        return {"copies": moments + 2 * self.adapter * self.held}
