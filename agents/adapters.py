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


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The agent of each row of a batch, in any order; rows of ``Layout`` cost a little less."""

    rows: tuple[int, ...]


class _Routing:
    """How the present batch is served, shared by all layers of one `StackedLora`."""

    def __init__(self) -> None:
        self.groups = 0  # agents in the batch; 0 for the bare base
        self.index: Tensor | None = None  # [groups] the agents; None: all of them in order
        self.gather: Tensor | None = None  # [groups * most] row of each place of the padded grid
        self.scatter: Tensor | None = None  # [rows] place of each row in that grid
        self.scale: Tensor | None = None  # [groups, 1, 1]; None where all are `alpha`
        self.alpha = 1.0


class _SharedInput(nn.Module):
    """Factors of the layers that read one input.

    ``A`` is ``[N, G*r, in]``, and there is a ``B [N, out, r]`` for each of the G layers. The
    down-projection of the input is computed when the first layer of the group is called and kept
    for its siblings.
    """

    def __init__(
        self, linears: Sequence[nn.Linear], size: int, rank: int, routing: _Routing
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
        self._routing = routing
        self._input: Tensor | None = None
        self._down: tuple[Tensor, ...] = ()  # per layer [agents, rows*T, r]
        self._ready: tuple[Tensor, list[Tensor]] | None = None  # factors of the agents served

    def prepare(self) -> None:
        """Get the factors of the agents to be served ready: transposed, and picked once."""
        index = self._routing.index
        picked = [factor.data if index is None else factor.data[index] for factor in self._factors]
        self._ready = picked[0].transpose(1, 2), [B.transpose(1, 2) for B in picked[1:]]

    @property
    def _factors(self) -> list[Tensor]:
        return [self.A, *self.B]

    def release(self) -> None:
        """Keep nothing of the batch."""
        self._input, self._down, self._ready = None, (), None

    def add(self, which: int, x: Tensor, y: Tensor) -> Tensor:
        """Add this layer's low-rank update to ``y [rows, T, out]``, the base's output for ``x``."""
        routing = self._routing
        if not routing.groups:
            return y
        learning = torch.is_grad_enabled()
        if learning:
            index = routing.index
            inward = (self.A if index is None else self.A[index]).transpose(1, 2)
            outward = (self.B[which] if index is None else self.B[which][index]).transpose(1, 2)
        else:
            if self._ready is None:
                self.prepare()
            assert self._ready is not None
            inward, outward = self._ready[0], self._ready[1][which]
        if self._input is not x or not self._down:
            rows = x if routing.gather is None else x.index_select(0, routing.gather)
            flat = rows.reshape(routing.groups, -1, x.shape[-1])
            down = torch.bmm(flat.to(inward.dtype), inward)
            if routing.scale is not None:
                down = down * routing.scale.to(down.dtype)
            self._down = down.split(self.rank, -1)
            self._input = x
        down = self._down[which]
        if which == len(self.B) - 1:  # keep no activation past its last reader
            self._input, self._down = None, ()
        if routing.scatter is None and y.dtype == outward.dtype:
            grid = y.view(routing.groups, -1, y.shape[-1])
            if learning:
                return torch.baddbmm(grid, down, outward, alpha=routing.alpha).view(y.shape)
            grid.baddbmm_(down, outward, alpha=routing.alpha)
            return y
        up = torch.bmm(down, outward)
        if routing.scatter is not None:
            up = up.view(-1, *y.shape[1:]).index_select(0, routing.scatter)
        up = up.view(y.shape).to(y.dtype)
        return y.add(up, alpha=routing.alpha) if learning else y.add_(up, alpha=routing.alpha)


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
            group = _SharedInput(members, size, rank, self._routing)
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
    def active(self, layout: Layout | RowLayout | None) -> Generator[None, None, None]:
        """Serve batches with this layout inside the block; ``None`` is the bare base.

        Without gradients, factors that change inside the block may or may not be seen.

        Raises:
            ValueError: If the layout names an agent that does not exist.
        """
        before = dict(vars(self._routing))
        vars(self._routing).update(vars(self._route(layout)))
        self._release()
        try:
            yield
        finally:
            vars(self._routing).update(before)
            self._release()

    def _release(self) -> None:
        for group in self.groups:
            cast(_SharedInput, group).release()

    def _route(self, layout: Layout | RowLayout | None) -> _Routing:
        routing = _Routing()
        if layout is None:
            return routing
        device = self.alpha.device
        named = layout.agents if isinstance(layout, Layout) else sorted(set(layout.rows))
        agents = tuple(named)
        if bad := [agent for agent in agents if not 0 <= agent < self.size]:
            raise ValueError(f"layout: agent {bad[0]} is not in 0..{self.size - 1}")
        if isinstance(layout, RowLayout):
            members = [[i for i, a in enumerate(layout.rows) if a == agent] for agent in agents]
            most = max(len(rows) for rows in members)
            grid = [rows + rows[:1] * (most - len(rows)) for rows in members]
            if [row for rows in grid for row in rows] != list(range(len(layout.rows))):
                routing.gather = torch.tensor(grid, device=device).ravel()
                places = torch.empty(len(layout.rows), dtype=torch.long)
                for group, rows in enumerate(members):
                    places[rows] = torch.arange(group * most, group * most + len(rows))
                routing.scatter = places.to(device)
        routing.groups = len(agents)
        if agents != tuple(range(self.size)):
            routing.index = torch.tensor(agents, device=device)
        scale = self._scale if routing.index is None else self._scale[routing.index]
        values = set(scale.tolist())
        if len(values) == 1:
            routing.alpha = values.pop()
        else:
            routing.scale = scale[:, None, None].clone()
        return routing

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
