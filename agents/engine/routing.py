"""Which adapters a forward pass uses: the layout of its rows, its dropout, its recomputation.

A checkpointed layer (Chen et al., 2016) runs twice, the second time in the backward pass, when
another layout may be in force or none. `recompute_with` has it run with what was in force the first
time, so it reads the same adapters and drops the same entries.

Not covered here: what adapters compute (`agents.engine.adapters`).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from agents.compiled import native
from populora_env.keys import Key, derive_seed


@dataclass(frozen=True, slots=True)
class Layout:
    """Which agents the rows of a batch belong to.

    A batch has ``len(agents) * rows_each`` rows, agent by agent: the first ``rows_each`` rows are
    of ``agents[0]``, and so on. An agent may stand there several times.
    """

    agents: tuple[int, ...]
    rows_each: int


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The agent of each row of a batch, in any order; rows laid out as by `Layout` cost less."""

    rows: tuple[int, ...]


class Dropout:
    """Adapter dropout of one forward pass; the same key gives the same masks again.

    Args:
        rates: Share of the input that each agent of the layout does not see, in [0, 1).
        key: Key of this pass.
        device: Where the activations are.
    """

    def __init__(self, rates: Sequence[float], key: Sequence[Key], device: torch.device) -> None:
        self._rate = torch.tensor(rates, device=device)[:, None, None]
        self._key = tuple(key)

    def __call__(self, flat: Tensor, place: int) -> Tensor:
        """Drop entries of ``flat [agents, rows*T, in]``, the input of the ``place``-th group."""
        seed = derive_seed("dropout", *self._key, place)
        source = torch.Generator(flat.device).manual_seed(seed)
        drawn = torch.rand(flat.shape, generator=source, device=flat.device)
        return flat * ((drawn >= self._rate) / (1 - self._rate)).to(flat.dtype)


class AdapterDispatch:
    """How one layout is served: which factors are read, and which rows go where.

    Rows in an order of their own are gathered into a grid (agents x the most rows any has), whose
    spare places repeat a row, and their updates are scattered back.

    Args:
        layout: Whose rows they are.
        scales: Scale of every agent of the population, ``[N]``.
        dropout: Of this pass.

    Raises:
        ValueError: If the layout names an agent that does not exist.
    """

    def __init__(
        self, layout: Layout | RowLayout, scales: Tensor, dropout: Dropout | None = None
    ) -> None:
        size, device = len(scales), scales.device
        aligned = isinstance(layout, Layout)
        agents = layout.agents if aligned else tuple(sorted(set(layout.rows)))
        if bad := [agent for agent in agents if not 0 <= agent < size]:
            raise ValueError(f"layout: agent {bad[0]} is not in 0..{size - 1}")
        self.groups = len(agents)
        self.dropout = dropout
        self.index: Tensor | None = None  # None: all agents in order, nothing to pick
        if agents != tuple(range(size)):
            self.index = torch.tensor(agents, device=device)
        self.gather: Tensor | None = None  # row of each place of the grid; None: all in order
        self.scatter: Tensor | None = None  # place of each row in the grid
        if not isinstance(layout, Layout):
            self._lay_out(agents, layout.rows, device)
        scale = scales if self.index is None else scales[self.index]
        values = set(scale.tolist())
        # Equal scales are a factor of the product, which costs nothing.
        self.alpha = values.pop() if len(values) == 1 else 1.0
        self.scale = scale[:, None, None] if values else None
        self.ready: dict[int, tuple[Tensor, list[Tensor]]] = {}  # factors picked, by group
        rows = layout.rows if not aligned else np.repeat(agents, layout.rows_each).tolist()
        self.rows = len(rows)
        self.native = native.NativeDispatch.of(rows, scales)

    def _lay_out(self, agents: Sequence[int], rows: Sequence[int], device: torch.device) -> None:
        members: dict[int, list[int]] = {agent: [] for agent in agents}
        for row, agent in enumerate(rows):
            members[agent].append(row)
        most = max(map(len, members.values()))
        grid = [[*own, *own[:1] * (most - len(own))] for own in members.values()]
        if [row for own in grid for row in own] == list(range(len(rows))):
            return
        places = torch.empty(len(rows), dtype=torch.long)
        for group, own in enumerate(members.values()):
            places[own] = torch.arange(group * most, group * most + len(own))
        self.gather = torch.tensor(grid, device=device).ravel()
        self.scatter = places.to(device)


class Routing:
    """The service in force and what a group's layers share, for all layers of a population.

    One group's is kept at a time: its layers are called one after the other.
    """

    def __init__(self) -> None:
        self.service: AdapterDispatch | None = None
        self.served = False  # whether anyone has said what the layout is
        self.release()

    def release(self) -> None:
        """Forget what is kept and the activation it was made from."""
        self.owner: nn.Module | None = None
        self.input: Tensor | None = None
        self._kept: list[Tensor | None] = []  # one for each layer, until it has read it

    def keep(self, owner: nn.Module, x: Tensor, each: Sequence[Tensor], which: int) -> Tensor:
        """Return what a group computed from an input for one layer; keep it for the others."""
        self.owner, self.input, self._kept = owner, x, list(each)
        return cast(Tensor, self.read(owner, x, which))

    def read(self, owner: nn.Module, x: Tensor, which: int) -> Tensor | None:
        """What was kept for a layer, once; None if there is nothing from this input."""
        if self.input is not x or self.owner is not owner:
            return None
        value, self._kept[which] = self._kept[which], None
        if all(kept is None for kept in self._kept):  # keep no activation past its last reader
            self.release()
        return value

    @contextmanager
    def serving(self, service: AdapterDispatch | None) -> Generator[None, None, None]:
        """Serve like this inside the block; nothing is kept past it, error or not."""
        before = self.service, self.served
        self.release()
        self.service, self.served = service, True
        try:
            yield
        finally:
            self.service, self.served = before
            self.release()

    def refuse_recomputation(self) -> None:
        """Raise if a backward pass runs a layer and nobody has said for which agents.

        Raises:
            RuntimeError: In that case.
        """
        if self.served:
            return
        # The one way to ask whether a backward pass is running; PyTorch's checkpointing asks so.
        running: int = torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage]
        if running != -1:
            raise RuntimeError(
                "a layer is recomputed outside StackedLora.active, so its adapters are not known; "
                "turn checkpointing on with StackedLora.gradient_checkpointing()"
            )

    def contexts(self) -> tuple[Any, Any]:
        """Context managers for a checkpointed layer's first pass and for its recomputation."""
        return nullcontext(), self.serving(self.service)


class _Checkpoint:
    """Transformers' checkpointing function of a layer, told the contexts of a `Routing`."""

    def __init__(self, function: Callable[..., Any], routing: Routing) -> None:
        self.function, self._routing = function, routing

    def __call__(self, *args: Any) -> Any:
        return self.function(*args, context_fn=self._routing.contexts)


@contextmanager
def recompute_with(routing: Routing, model: nn.Module, train: bool) -> Generator[None, None, None]:
    """Inside the block, layers that are checkpointed recompute with what was in force.

    Args:
        routing: What is in force.
        model: Of Transformers.
        train: Whether to put these layers, and nothing inside them, into training mode, without
            which Transformers checkpoints nothing.
    """
    layers = _checkpointed(model)
    for layer in layers:
        if not isinstance(layer._gradient_checkpointing_func, _Checkpoint):
            layer._gradient_checkpointing_func = _Checkpoint(
                layer._gradient_checkpointing_func, routing
            )
    before = [layer.training for layer in layers]
    for layer in layers if train else ():
        layer.training = True
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training


def set_checkpointing(model: Any, enabled: bool) -> None:
    """Switch gradient checkpointing of a model of Transformers, under its new or old name."""
    names = ("activation_checkpointing", "gradient_checkpointing")
    name = next(name for name in names if hasattr(model, f"{name}_enable"))
    if enabled:
        getattr(model, f"{name}_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_disable")()


def restore_checkpointing(model: nn.Module) -> None:
    """Undo what `recompute_with` left in the model."""
    for layer in _checkpointed(model):
        if isinstance(function := layer._gradient_checkpointing_func, _Checkpoint):
            layer._gradient_checkpointing_func = function.function


def _checkpointed(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
