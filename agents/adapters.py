"""StackedLora: N low-rank adapters in every linear layer of one frozen base model.

The factors of all agents are one tensor per layer, so a batch whose rows are laid out as a grid
(agents x rows of each agent) needs two grouped matrix products per layer whatever N is. Layers that
read the same input (query, key, value; gate, up) share the first product. The same tensors are what
`evolution` recombines and `agents.learners` trains.

Not covered here: adapters on embeddings or on the output layer, DoRA, adapter dropout.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

# Sibling projections that read the same input and so share one down-projection.
_SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True)
class Layout:
    """Which agents the rows of a batch belong to.

    A batch has ``len(agents) * rows_each`` rows, agent by agent: the first ``rows_each`` rows are
    of ``agents[0]``, and so on.
    """

    agents: tuple[int, ...]
    rows_each: int


class _Routing:
    """The layout in force, shared by all layers of one `StackedLora`."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.index: Tensor | None = None  # None: all agents in order, no gather needed


class _SharedInput(nn.Module):
    """Factors of the layers that read one input.

    ``A`` is ``[N, G*r, in]``, and there is a ``B [N, out, r]`` for each of the G layers. The
    down-projection of the input is computed when the first layer of the group is called and kept
    for its siblings.
    """

    def __init__(
        self, linears: Sequence[nn.Linear], size: int, rank: int, scale: Tensor, routing: _Routing
    ) -> None:
        super().__init__()
        weight = linears[0].weight
        # A 4-bit weight is stored as integers; its adapters are float32.
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        width = linears[0].in_features
        self.A = nn.Parameter(weight.new_zeros(size, len(linears) * rank, width, dtype=dtype))
        self.B = nn.ParameterList(
            nn.Parameter(weight.new_zeros(size, linear.out_features, rank, dtype=dtype))
            for linear in linears
        )
        self.rank = rank
        self._scale = scale  # [N], owned by the StackedLora
        self._routing = routing
        self._input: Tensor | None = None
        self._down: tuple[Tensor, ...] = ()  # per layer [agents, rows*T, r]

    def add(self, which: int, x: Tensor, y: Tensor) -> Tensor:
        """Add this layer's low-rank update to ``y [rows, T, out]``, the base's output for ``x``."""
        layout = self._routing.layout
        if layout is None:
            return y
        groups = len(layout.agents)
        index = self._routing.index
        if self._input is not x or not self._down:
            A = self.A if index is None else self.A[index]
            scale = self._scale if index is None else self._scale[index]
            flat = x.reshape(groups, -1, x.shape[-1])
            down = torch.bmm(flat, A.transpose(1, 2)) * scale[:, None, None]
            self._down = down.split(self.rank, -1)
            self._input = x
        down = self._down[which]
        if which == len(self.B) - 1:  # keep no activation past its last reader
            self._input, self._down = None, ()
        B = self.B[which] if index is None else self.B[which][index]
        flat_y = y.reshape(groups, -1, y.shape[-1])
        if torch.is_grad_enabled():
            return torch.baddbmm(flat_y, down, B.transpose(1, 2)).view(y.shape)
        return flat_y.baddbmm_(down, B.transpose(1, 2)).view(y.shape)


class _StackedLinear(nn.Module):
    """A frozen linear layer plus the stacked adapters of all agents."""

    def __init__(self, base: nn.Linear, group: _SharedInput, which: int) -> None:
        super().__init__()
        self.base = base
        self._group = (group,)  # in a tuple: the group is registered once, in the StackedLora
        self._which = which

    def forward(self, x: Tensor) -> Tensor:
        """Base output plus the update of the agent each row belongs to."""
        return self._group[0].add(self._which, x, self.base(x))


@dataclass(frozen=True, slots=True)
class LayerFactors:
    """The factors of one target layer, as views into the stacked tensors.

    Attributes:
        name: Module path in the base model, ``model.layers.0.self_attn.q_proj``.
        A: ``[N, r, in]``.
        B: ``[N, out, r]``.
    """

    name: str
    A: Tensor
    B: Tensor


class StackedLora(nn.Module):
    """N LoRA adapters (Hu et al., 2021) stacked in every target layer of one frozen model.

    Agent ``i`` computes ``y = W x + (alpha_i / r) B_i A_i x``. All factors start at zero; see
    `evolution.mutation` for the initial spread. Attaching replaces the target modules inside the
    model; `detach` puts the originals back. The base's weights are never written.

    Args:
        model: A causal language model of Transformers.
        size: Number of agents, N.
        rank: Rank r of every adapter.
        alpha: Numerator of the scale; the default of twice the rank makes the scale 2.
        targets: ``"all-linear"`` (every linear layer but the output layer), or the last parts of
            module names, such as ``("q_proj", "v_proj")``.

    Raises:
        ValueError: If size or rank is below 1, or no layer matches targets.
    """

    def __init__(
        self,
        model: nn.Module,
        size: int,
        rank: int = 8,
        alpha: float | None = None,
        targets: str | Sequence[str] = "all-linear",
    ) -> None:
        super().__init__()
        if size < 1 or rank < 1:
            raise ValueError(f"size and rank: got {size} and {rank}, expected at least 1 each")
        self.size, self.rank = size, rank
        self.targets = targets if isinstance(targets, str) else tuple(targets)
        self._model = (model,)  # in a tuple: the base is not a submodule of its adapters
        linears = _target_linears(model, self.targets)
        first = next(iter(linears.values()))
        value = float(2 * rank if alpha is None else alpha)
        self.alpha = torch.full((size,), value, device=first.weight.device)
        self._scale = self.alpha / rank
        self._routing = _Routing()
        self._names: list[list[str]] = []
        self.groups = nn.ModuleList()
        for names in _group_by_input(list(linears)):
            members = [linears[name] for name in names]
            group = _SharedInput(members, size, rank, self._scale, self._routing)
            self.groups.append(group)
            self._names.append(names)
            for which, name in enumerate(names):
                _replace(model, name, _StackedLinear(linears[name], group, which))

    def layers(self) -> Iterator[LayerFactors]:
        """All target layers in order, their factors as views that may be written in place."""
        for names, module in zip(self._names, self.groups, strict=True):
            group = cast(_SharedInput, module)
            for which, name in enumerate(names):
                rows = slice(which * self.rank, (which + 1) * self.rank)
                yield LayerFactors(name, group.A.data[:, rows], group.B[which].data)

    def set_alpha(self, agent: int, alpha: float) -> None:
        """Set the scale of one agent to ``alpha / rank``."""
        self.alpha[agent] = alpha
        self._scale[agent] = alpha / self.rank

    @contextmanager
    def active(self, layout: Layout | None) -> Generator[None, None, None]:
        """Serve a batch with this layout inside the block; ``None`` is the bare base.

        Raises:
            ValueError: If the layout names an agent that does not exist.
        """
        before = self._routing.layout, self._routing.index
        index = None
        if layout is not None and layout.agents != tuple(range(self.size)):
            if bad := [agent for agent in layout.agents if not 0 <= agent < self.size]:
                raise ValueError(f"layout: agent {bad[0]} is not in 0..{self.size - 1}")
            index = torch.tensor(layout.agents, device=self.alpha.device)
        self._routing.layout, self._routing.index = layout, index
        try:
            yield
        finally:
            self._routing.layout, self._routing.index = before

    def detach(self) -> None:
        """Put the base's own layers back; this object's factors stay readable."""
        model = self._model[0]
        for name in [name for names in self._names for name in names]:
            module = model.get_submodule(name)
            if isinstance(module, _StackedLinear):
                _replace(model, name, module.base)


def _target_linears(model: nn.Module, targets: str | tuple[str, ...]) -> dict[str, nn.Linear]:
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    linears: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, _StackedLinear):
            raise ValueError("model: it already carries stacked adapters; detach them first")
        wanted = targets == "all-linear" or name.rpartition(".")[2] in targets
        if isinstance(module, nn.Linear) and module is not head and wanted:
            linears[name] = module
    if not linears:
        raise ValueError(f"targets: {targets!r} matches no linear layer of the model")
    return linears


def _group_by_input(names: Sequence[str]) -> list[list[str]]:
    """Put sibling projections that read the same input together, in forward order."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        family = next((f for f in _SHARED_INPUT if last in f), (last,))
        groups.setdefault((parent, family), []).append(name)
    return list(groups.values())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, last, module)
