"""StackedLora: N low-rank adapters in every linear layer of one frozen base model.

The factors of all agents are one tensor per layer, so a batch whose rows are laid out as a grid
(agents x rows of each agent) needs two grouped matrix products per layer whatever N is. Layers that
read the same input (query, key, value; gate, up) share the first product. The same tensors are what
`evolution` recombines and `agents.learning.learners` trains.

Ranks may differ: the tensors are as wide as the largest rank, and what is beyond an agent's own
rank is zero. Both factors are zero there, so no gradient reaches it; whoever writes factors in
another way calls `StackedLora.enforce_ranks` afterwards.

Not covered here: adapters on embeddings or on the output layer, DoRA.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import torch
import xxhash
from torch import Tensor, nn

from agents.engine.layers import SharedInput, StackedLinear, home
from agents.engine.routing import (
    AdapterDispatch,
    Dropout,
    Layout,
    Routing,
    RowLayout,
    recompute_with,
    restore_checkpointing,
    set_checkpointing,
)
from agents.engine.targets import group_by_input, replace_module, target_linears
from populora_env.keys import Key


@dataclass(frozen=True, slots=True)
class LayerFactors:
    """The factors of one target layer, as views into the stacked tensors.

    Attributes:
        name: Module path in the base model, ``model.layers.0.self_attn.q_proj``.
        A: ``[N, r, in]``, r the largest rank.
        B: ``[N, out, r]``.
    """

    name: str
    A: Tensor
    B: Tensor


class StackedLora(nn.Module):
    """N LoRA adapters (Hu et al., 2021) stacked in every target layer of one frozen model.

    Agent ``i`` computes ``y = W x + (alpha_i / r_i) B_i A_i x``. All factors start at zero; see
    `evolution.operators.mutation_weights` for the initial spread. Attaching replaces the target
    modules inside the model; `detach` puts the originals back, `attach` the adapters. The base's
    weights are never written.

    Args:
        model: A causal language model of Transformers; one without weights (on the meta device)
            where another process generates, the adapters being on the CPU then.
        size: Number of agents, N.
        rank: Rank of every adapter, or of each, ``[N]``.
        alpha: Numerator of the scale of every adapter, or of each, ``[N]``; the default of twice
            the agent's rank makes the scale 2.
        targets: ``"all-linear"`` (every linear layer but the output layer), or the last parts of
            module names, such as ``("q_proj", "v_proj")``.
        dropout: Share of a layer's input that every adapter, or each, ``[N]``, does not see while
            gradients are taken. Layers that read one input share what is dropped.
        dtype: Type of the factors; None for the base's own, float32 where the base is 4-bit.

    Attributes:
        size: N.
        rank: The largest rank, r; the tensors have it.
        ranks: Rank of each agent, ``[N]``, on the factors' device.
        alpha: ``[N]``, float32.
        scale: ``alpha / ranks``, ``[N]``, float32.
        dropout: Rate of each agent, ``[N]``.
        checkpointed: Whether learning computes activations again; see `gradient_checkpointing`.

    Raises:
        ValueError: If an argument is out of range, no layer matches targets, or the model already
            carries adapters.
    """

    def __init__(
        self,
        model: nn.Module,
        size: int,
        rank: int | Sequence[int] = 8,
        *,
        alpha: float | Sequence[float] | None = None,
        targets: str | Sequence[str] = "all-linear",
        dropout: float | Sequence[float] = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size: got {size}, expected at least 1")
        ranks = [_rank(value) for value in _per_agent("rank", rank, size)]
        alphas = [2 * r for r in ranks] if alpha is None else _per_agent("alpha", alpha, size)
        self.size, self.rank = size, max(ranks)
        self.targets = targets if isinstance(targets, str) else tuple(targets)
        self.dropout = tuple(_rate(value) for value in _per_agent("dropout", dropout, size))
        self._model = (model,)  # in a tuple: the base is not a submodule of its adapters
        linears = target_linears(model, self.targets)
        _check_rank(self.rank, linears)
        device = home(next(iter(linears.values())))
        self.ranks = torch.tensor(ranks, device=device)
        self.alpha = torch.tensor(
            [_alpha(value) for value in alphas], device=device, dtype=torch.float32
        )
        self.scale = self.alpha / self.ranks
        self._routing = Routing()
        self._names = group_by_input(list(linears))
        self.groups = nn.ModuleList(
            SharedInput([linears[name] for name in names], i, size, self.rank, dtype, self._routing)
            for i, names in enumerate(self._names)
        )
        self.checkpointed = False
        self._hashes: dict[int, str] = {}  # of agents, at these versions
        self._versions: list[tuple[int, int]] = []
        self.attach()

    @property
    def mask(self) -> Tensor:
        """Which rows of A and columns of B are an agent's own, ``[N, r]``, bool."""
        return torch.arange(self.rank, device=self.ranks.device) < self.ranks[:, None]

    def layers(self) -> Iterator[LayerFactors]:
        """All target layers in order, their factors as views that may be written in place.

        PyTorch counts what it writes, and `hashes` goes by that. Whoever writes past it, by a
        pointer or a NumPy view, says so: ``torch.autograd.graph.increment_version(factor)``.
        """
        for names, module in zip(self._names, self.groups, strict=True):
            group = cast(SharedInput, module)
            for which, name in enumerate(names):
                rows = slice(which * self.rank, (which + 1) * self.rank)
                yield LayerFactors(name, group.A.detach()[:, rows], group.B[which].detach())

    def finite(self) -> Tensor:
        """Which agents hold finite factors only, ``[N]``, bool."""
        factors = [parameter.data for parameter in self.parameters()]
        # A sum shows it at once. Only if one is not finite, which it may be from overflow, is each
        # number looked at.
        sums = sum(factor.sum((1, 2), dtype=torch.float32) for factor in factors)
        if torch.isfinite(cast(Tensor, sums)).all():
            return torch.ones(self.size, dtype=torch.bool, device=self.ranks.device)
        return torch.stack([torch.isfinite(factor).all(2).all(1) for factor in factors]).all(0)

    def blank(self) -> Tensor:
        """Which agents' factors are all zero, as newborn ones are, ``[N]``, bool."""
        blank = torch.ones(self.size, dtype=torch.bool, device=self.ranks.device)
        for parameter in self.parameters():
            blank &= ~parameter.data.any(2).any(1)
            if not blank.any():
                break
        return blank

    def hashes(self, agents: Iterable[int]) -> dict[int, str]:
        """Content hashes of these agents' adapters, each at its own rank; see `factors_hash`.

        Adapters of one hash write the same replies. A hash is computed once after a change.
        """
        tensors = (self.alpha, self.ranks, *self.parameters())
        versions = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if versions != self._versions:
            self._hashes, self._versions = {}, versions
        for agent in set(agents) - self._hashes.keys():
            rank = int(self.ranks[agent])
            factors = ((f.A[agent, :rank], f.B[agent, :, :rank]) for f in self.layers())
            self._hashes[agent] = factors_hash(float(self.alpha[agent]), factors)
        return {agent: self._hashes[agent] for agent in agents}

    @property
    def rows_frozen(self) -> bool:
        """Whether no gradient is taken of the rows ``A``."""
        return not any(cast(SharedInput, group).A.requires_grad for group in self.groups)

    def freeze_rows(self, frozen: bool = True) -> None:
        """Have learning leave the rows ``A`` of all agents as they are, or learn them again.

        No gradient of frozen rows is computed, and what it would need is not kept.
        """
        for group in self.groups:
            cast(SharedInput, group).A.requires_grad_(not frozen)

    def set_alpha(self, agent: int, alpha: float) -> None:
        """Set the scale of one agent to ``alpha / its rank``."""
        self.alpha[agent] = _alpha(alpha)
        self.scale[agent] = self.alpha[agent] / self.ranks[agent]

    def set_rank(self, agent: int, rank: int) -> None:
        """Give one agent another rank, at the same alpha; what is beyond it becomes zero.

        Raises:
            ValueError: If the rank is not in 1..r.
        """
        if _rank(rank) > self.rank:
            raise ValueError(f"rank: got {rank}, expected at most {self.rank}, the largest here")
        self.ranks[agent] = rank
        self.set_alpha(agent, float(self.alpha[agent]))
        self.enforce_ranks()

    def put(
        self,
        agent: int,
        rank: int,
        alpha: float,
        factors: Mapping[str, tuple[Tensor, Tensor]],
    ) -> None:
        """Replace one agent's adapter by another of at most the largest rank.

        Args:
            agent: Whose.
            rank: Its rank from now on.
            alpha: Numerator of its scale.
            factors: ``A [r, in]`` and ``B [out, r]`` by layer, r at most the rank, of this stack's
                shapes; layers that are missing become zero.
        """
        self.set_rank(agent, rank)
        self.set_alpha(agent, alpha)
        for layer in self.layers():
            layer.A[agent].zero_()
            layer.B[agent].zero_()
            if layer.name in factors:
                A, B = factors[layer.name]
                layer.A[agent, : A.shape[0]] = A.to(layer.A.device)
                layer.B[agent, :, : B.shape[1]] = B.to(layer.B.device)

    def set_dropout(self, agent: int, rate: float) -> None:
        """Set the dropout of one agent."""
        rates = list(self.dropout)
        rates[agent] = _rate(rate)
        self.dropout = tuple(rates)

    def enforce_ranks(self) -> None:
        """Zero what is beyond each agent's rank.

        Gradient steps keep it zero by themselves; call this after anything else that writes
        factors. After an SVD that orders components by size, it is the best cut to that rank.
        """
        mask = self.mask
        if bool(mask.all()):
            return
        beyond = ~mask
        for layer in self.layers():
            layer.A.masked_fill_(beyond[:, :, None], 0)
            layer.B.masked_fill_(beyond[:, None, :], 0)

    @contextmanager
    def active(
        self, layout: Layout | RowLayout | None, key: Sequence[Key] | None = None
    ) -> Generator[None, None, None]:
        """Serve batches with this layout inside the block; ``None`` is the bare base.

        Without gradients, factors that change inside the block may be seen or not.

        Args:
            layout: Whose rows they are.
            key: Key of the dropout masks, another one for each pass. Needed where gradients are
                taken in training mode and an agent of the layout has dropout; not used elsewhere.

        Raises:
            ValueError: If the layout names an agent that does not exist, or a key is needed.
        """
        service = None
        if layout is not None:
            service = AdapterDispatch(layout, self.scale, self._dropout(layout, key))
        with (
            self._routing.serving(service),
            recompute_with(self._routing, self._model[0], self.checkpointed)
            if torch.is_grad_enabled()
            else nullcontext(),
        ):
            yield

    def gradient_checkpointing(self, enabled: bool = True) -> None:
        """Have the base recompute its layers in the backward pass, which saves their activations.

        It is in force inside `active` where gradients are taken; decoding is not touched. What is
        recomputed gets the layout and the dropout of the first time, also after `active` is left.
        A checkpointed pass can use no key-value cache. Transformers' own switch
        (``gradient_checkpointing_enable`` on a model in training mode) gives the same gradients.

        Args:
            enabled: False to keep activations again.
        """
        set_checkpointing(self._model[0], enabled)
        self.checkpointed = enabled

    def attach(self) -> None:
        """Put the adapters into the base's target layers, as the constructor does.

        Raises:
            ValueError: If the model already carries adapters, these or others.
        """
        model = self._model[0]
        target_linears(model, self.targets)
        for names, module in zip(self._names, self.groups, strict=True):
            group = cast(SharedInput, module)
            group.linears = tuple(cast(nn.Linear, model.get_submodule(name)) for name in names)
            for which, (name, base) in enumerate(zip(names, group.linears, strict=True)):
                replace_module(model, name, StackedLinear(base, group, which))

    def detach(self) -> None:
        """Put the base's own layers back; this object's factors stay readable."""
        model = self._model[0]
        if self.checkpointed:
            self.gradient_checkpointing(False)
        restore_checkpointing(model)
        for group, names in zip(self.groups, self._names, strict=True):
            for name in names:
                module = model.get_submodule(name)
                if isinstance(module, StackedLinear) and module.group[0] is group:
                    replace_module(model, name, module.base)

    def _dropout(self, layout: Layout | RowLayout, key: Sequence[Key] | None) -> Dropout | None:
        if not (self.training and torch.is_grad_enabled()):
            return None
        agents = layout.agents if isinstance(layout, Layout) else sorted(set(layout.rows))
        rates = [self.dropout[agent] for agent in agents if 0 <= agent < self.size]
        if not any(rates):
            return None
        if key is None:
            raise ValueError(
                "key: got None, but an agent of the layout has dropout; pass active(layout, key) "
                "the key of this pass, or call eval() on the adapters"
            )
        return Dropout(rates, key, self.alpha.device)


def factors_hash(alpha: float, factors: Iterable[tuple[Tensor, Tensor]]) -> str:
    """Content hash (XXH3) of an adapter.

    Args:
        alpha: Numerator of its scale.
        factors: ``A [r, in]`` and ``B [out, r]`` of all layers, in order.

    Returns:
        16 hexadecimal characters, the same whatever the type of the factors and the device.
    """
    digest = xxhash.xxh3_128(repr(alpha).encode())
    for A, B in factors:
        for tensor in (A, B.T):  # as they lie in memory
            digest.update(tensor.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _per_agent(name: str, value: Any, size: int) -> list[Any]:
    """One value for each of N agents, from a single value or a sequence of N.

    Raises:
        ValueError: If a sequence has another length.
    """
    if not hasattr(value, "__len__"):
        return [value] * size
    if len(value) != size:
        raise ValueError(
            f"{name}: got {len(value)} values for {size} agents; give one value, or one per agent"
        )
    return list(value)


def _rank(value: Any) -> int:
    if not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"rank: got {value!r}, expected a whole number of at least 1")
    return int(value)


def _check_rank(rank: int, linears: Mapping[str, nn.Linear]) -> None:
    """Refuse a rank that no layer needs, which `agents.peft_io` would not read back."""
    sides = {name: max(layer.in_features, layer.out_features) for name, layer in linears.items()}
    name, most = min(sides.items(), key=lambda item: item[1])
    if rank > most:
        raise ValueError(
            f"rank: got {rank}, expected at most {most}, the larger side of {name}; no layer needs "
            "more"
        )


def _alpha(value: Any) -> float:
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"alpha: got {value!r}, expected a finite number above 0")
    return float(value)


def _rate(value: Any) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"dropout: got {value!r}, expected at least 0 and below 1")
    return float(value)
