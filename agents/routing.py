"""Which adapters a forward pass uses: the layout of its rows, its dropout, its recomputation.

A checkpointed layer (Chen et al., 2016) runs twice, the second time in the backward pass, when
another layout may be in force or none. `recompute_with` has it run with what was in force the first
time, so it reads the same adapters and drops the same entries.

Not covered here: what adapters compute (`agents.adapters`).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from populora_env.keys import Key, derive_seed


@dataclass(frozen=True, slots=True)
class Layout:
    """Which agents the rows of a batch belong to.

    A batch has ``len(agents) * rows_each`` rows, agent by agent: the first ``rows_each`` rows are
    of ``agents[0]``, and so on.
    """

    agents: tuple[int, ...]
    rows_each: int


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


class Routing:
    """The layout in force and the down-projection in use, shared by all layers of a population.

    One down-projection is kept at a time: the layers that share it are called one after the other.
    """

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.index: Tensor | None = None  # None: all agents in order, no gather needed
        self.dropout: Dropout | None = None
        self.served = False  # whether anyone has said what the layout is
        self.release()

    def release(self) -> None:
        """Forget the down-projection and the activation it was made from."""
        self.owner: nn.Module | None = None
        self.input: Tensor | None = None
        self.down: tuple[Tensor, ...] = ()  # per layer [agents, rows*T, r]

    @contextmanager
    def serving(
        self, layout: Layout | None, index: Tensor | None, dropout: Dropout | None
    ) -> Generator[None, None, None]:
        """Have a layout in force inside the block; nothing is kept past it, error or not."""
        before = self.layout, self.index, self.dropout, self.served
        self.release()
        self.layout, self.index, self.dropout, self.served = layout, index, dropout, True
        try:
            yield
        finally:
            self.layout, self.index, self.dropout, self.served = before
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
        return nullcontext(), self.serving(self.layout, self.index, self.dropout)


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
