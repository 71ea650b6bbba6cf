"""What stands in the base's place where there are adapters: its layer, and all agents' updates.

Layers that read one input share the factors' first product. On a CPU the compiled kernel of
`agents.compiled.native` adds a group's updates to all its layers' outputs at once; where gradients
are taken, or there is no kernel, two grouped products of PyTorch do it layer by layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agents.engine.routing import AdapterDispatch, Routing


class SharedInput(nn.Module):
    """Factors of the layers that read one input.

    ``A`` is ``[N, G*r, in]``, and there is a ``B [N, out, r]`` for each of the G layers. What the
    first layer of a group to be called computes for its siblings is kept until they have read it.

    Args:
        linears: The base's layers, of one input width.
        place: Of this group among all.
        size: Number of agents, N.
        rank: The largest rank, r.
        dtype: Of the factors; None for the base's own.
        routing: Says whose the rows are.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        place: int,
        size: int,
        rank: int,
        dtype: torch.dtype | None,
        routing: Routing,
    ) -> None:
        super().__init__()
        weight = linears[0].weight
        if dtype is None:  # a 4-bit weight is stored as integers; its adapters are float32
            dtype = weight.dtype if weight.is_floating_point() else torch.float32

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=dtype, device=home(linears[0])))

        self.A = zeros(size, len(linears) * rank, linears[0].in_features)
        # Laid out as [N, r, out], which is what decoding reads, row after row.
        self.B = nn.ParameterList(
            nn.Parameter(zeros(size, rank, linear.out_features).data.transpose(1, 2))
            for linear in linears
        )
        self.rank = rank
        self.linears = tuple(linears)  # in a tuple: the base is not a submodule of its adapters
        self.place = place
        self._routing = routing

    def output(self, which: int, x: Tensor) -> Tensor:
        """Output of one of the base's layers with the updates of the agents in force.

        Args:
            which: Which of the layers.
            x: ``[rows, T, in]``.
        """
        routing = self._routing
        service, linears = routing.service, self.linears
        learning = torch.is_grad_enabled()
        if service is None:
            if learning:
                routing.refuse_recomputation()
            return linears[which](x)
        server = None if learning else service.native
        factors = server.factors(self, x) if server is not None else None
        if server is None or factors is None:
            y = linears[which](x)
            return self._add(service, which, x, self._by_row(y, service)).view(y.shape)
        output = routing.read(self, x, which)
        if output is None:
            outputs = [linear(x).float().contiguous() for linear in linears]
            server.update(factors, x, outputs)
            output = routing.keep(self, x, outputs, which)
        return output

    def _add(self, service: AdapterDispatch, which: int, x: Tensor, y: Tensor) -> Tensor:
        """Add one layer's updates to ``y [rows, T, out]``, the base's output for ``x``."""
        routing, index = self._routing, service.index
        learning = torch.is_grad_enabled()
        if learning:
            inward = (self.A if index is None else self.A[index]).transpose(1, 2)
            outward = (self.B[which] if index is None else self.B[which][index]).transpose(1, 2)
        else:
            inward, outwards = service.ready.get(self.place) or self._pick(service)
            outward = outwards[which]
        down = routing.read(self, x, which)
        if down is None:
            rows = self._by_row(x, service)
            rows = rows if service.gather is None else rows.index_select(0, service.gather)
            flat = rows.reshape(service.groups, -1, x.shape[-1]).to(inward.dtype)
            if service.dropout is not None and learning:
                flat = service.dropout(flat, self.place)
            wide = torch.bmm(flat, inward)
            if service.scale is not None:
                wide = wide * service.scale.to(wide.dtype)
            down = routing.keep(self, x, wide.split(self.rank, -1), which)
        if service.scatter is None and down.dtype == y.dtype:
            grid = y.view(service.groups, -1, y.shape[-1])
            if learning:
                return torch.baddbmm(grid, down, outward, alpha=service.alpha).view(y.shape)
            grid.baddbmm_(down, outward, alpha=service.alpha)
            return y
        up = torch.bmm(down, outward)
        if service.scatter is not None:
            up = up.view(-1, *y.shape[1:]).index_select(0, service.scatter)
        up = up.view(y.shape).to(y.dtype)
        return y.add(up, alpha=service.alpha) if learning else y.add_(up, alpha=service.alpha)

    @staticmethod
    def _by_row(x: Tensor, service: AdapterDispatch) -> Tensor:
        """Return what a layer saw as ``[rows, T, width]``; some layers see all tokens in a line.

        Raises:
            ValueError: If it saw other than all tokens of all rows, so that whose they are is lost.
        """
        if x.dim() > 2 and len(x) == service.rows:
            return x
        lined = x.dim() == 2 or len(x) == 1
        if not lined or x.numel() // x.shape[-1] % service.rows:
            raise ValueError(
                f"targets: a layer saw {x.numel() // x.shape[-1]} tokens of a batch of "
                f"{service.rows} rows, so whose they are is lost; expected layers that see every "
                "token, such as those of attention"
            )
        return x.reshape(service.rows, -1, x.shape[-1])

    def _pick(self, service: AdapterDispatch) -> tuple[Tensor, list[Tensor]]:
        """Transposed factors of the agents served, picked once for all steps of a service."""
        index = service.index
        factors = [f.data if index is None else f.data[index] for f in (self.A, *self.B)]
        picked = factors[0].transpose(1, 2), [factor.transpose(1, 2) for factor in factors[1:]]
        service.ready[self.place] = picked
        return picked


class StackedLinear(nn.Module):
    """A frozen linear layer plus the stacked adapters of all agents.

    Args:
        base: The frozen layer.
        group: The factors of the layers that read its input.
        which: Which of them it is.
    """

    carries_stacked_adapters = True

    def __init__(self, base: nn.Linear, group: SharedInput, which: int) -> None:
        super().__init__()
        self.base = base
        self.training = base.training
        self.group = (group,)  # in a tuple: the group is registered once, in the StackedLora
        self._which = which

    @property
    def weight(self) -> Tensor:
        """The frozen layer's; some models ask for its type or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """Width of what the layer reads."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Width of what the layer gives."""
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Base output plus the update of the agent each row belongs to."""
        return self.group[0].output(self._which, x)


def home(linear: nn.Linear) -> torch.device:
    """Where the adapters of a layer live: beside its weight, or on the CPU if it has none."""
    device = linear.weight.device
    return torch.device("cpu") if device.type == "meta" else device
