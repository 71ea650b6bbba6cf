"""What a population's updates are made of: how large, how many directions, and which they share.

An update ``dW = scale * B @ A`` reads an input along the rows of ``A`` and writes along the columns
of ``B``. Its singular value decomposition says in which directions, and how strongly: QR of both
factors and a decomposition of the small core between them, so nothing of the size of a weight
matrix is formed. Everything here depends on ``dW`` alone: factors turned against each other by an
invertible matrix measure the same.

Not covered here: where the adapters come from (`evolution.reporting.anatomy.reading`), and what
became of an individual since its birth (`evolution.lowrank.sketches`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from agents.peft_io import AdapterError, PeftAdapter
from evolution.lowrank import algebra

_NUMBER = re.compile(r"\.(\d+)(?=\.)")
# As an input passes through a layer of Llama, Mistral and Qwen; others follow by name.
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The updates of N agents in L layers; norms are Frobenius norms.

    Where an update is zero, what has no value without one (ranks, overlaps, cosines) is NaN.

    Attributes:
        agents: Names, ``[N]``.
        layers: Module paths, block by block, ``[L]``.
        spectrum: Singular values of each update from large to small, ``[L, N, r]``; zeros beyond
            an agent's own rank.
        inner: Frobenius inner product of each pair of updates, ``[L, N, N]``.
        reads: How far two updates read from the same directions of a layer's input, ``[L, N, N]``,
            from 0 (orthogonal) to 1 (the same ones, used alike): squared cosines between their
            singular vectors, weighted by their singular values. For updates that use k directions
            each alike, it is the share of the k that they have in common (the subspace similarity
            of Hu et al., LoRA, 2021, section 7.2, without its cut at a rank).
        writes: The same of the directions of a layer's output.
        widths: Numbers of inputs and of outputs of each layer, ``[L, 2]``.
        base_norms: Norm of the base's weights, ``[L]``; NaN where they are not at hand.
    """

    agents: tuple[str, ...]
    layers: tuple[str, ...]
    spectrum: np.ndarray
    inner: np.ndarray
    reads: np.ndarray
    writes: np.ndarray
    widths: np.ndarray
    base_norms: np.ndarray

    @property
    def blocks(self) -> np.ndarray:
        """Number of the block that each layer lies in, ``[L]``; -1 of one that lies in none."""
        return np.array([block_of(name) for name in self.layers], np.int64)

    @property
    def modules(self) -> tuple[str, ...]:
        """What each layer is called in its block, ``[L]``, such as ``q_proj``."""
        return tuple(name.rpartition(".")[2] for name in self.layers)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The different modules, in the order in which an input passes through them."""
        return tuple(sorted(set(self.modules), key=_module_place))

    @property
    def weights(self) -> np.ndarray:
        """How many weights the base has in each layer, ``[L]``."""
        return self.widths.prod(1).astype(np.float64)

    @property
    def norms(self) -> np.ndarray:
        """Norm of each update, ``[L, N]``."""
        return np.sqrt((self.spectrum**2).sum(2))

    @property
    def relative_norms(self) -> np.ndarray:
        """Norm of each update over that of the base's weights, ``[L, N]``; NaN if not at hand."""
        return self.norms / self.base_norms[:, None]

    @property
    def total_norms(self) -> np.ndarray:
        """Norm of each agent's whole update, all layers together, ``[N]``."""
        return np.sqrt((self.norms**2).sum(0))

    @property
    def effective_ranks(self) -> np.ndarray:
        """Directions that each update uses in effect, ``[L, N]``, from 1 to its rank.

        Exponential of the entropy of its singular values' shares of their sum (Roy & Vetterli,
        2007): 1 for a single direction, k for k alike.
        """
        sums = self.spectrum.sum(2, keepdims=True)
        shares = _ratio(self.spectrum, sums)
        logs = np.log(np.where(shares > 0, shares, 1.0))
        return np.where(sums[..., 0] > 0, np.exp(-(shares * logs).sum(2)), np.nan)

    @property
    def stable_ranks(self) -> np.ndarray:
        """Squared norm of each update over its largest singular value squared, ``[L, N]``."""
        return _ratio(self.norms**2, self.spectrum[:, :, 0] ** 2)

    @property
    def cosines(self) -> np.ndarray:
        """Cosine between the whole updates of each pair of agents, ``[N, N]``."""
        return _ratio(self.inner.sum(0), np.outer(self.total_norms, self.total_norms))

    @property
    def read_overlaps(self) -> np.ndarray:
        """Mean of ``reads`` over layers, weighted by both norms in each, ``[N, N]``."""
        return self._over_layers(self.reads)

    @property
    def write_overlaps(self) -> np.ndarray:
        """Mean of ``writes`` over layers, weighted by both norms in each, ``[N, N]``."""
        return self._over_layers(self.writes)

    @property
    def chance(self) -> tuple[float, float]:
        """What `read_overlaps` and `write_overlaps` would be of unrelated directions, on average.

        NaN of a single agent.
        """
        sums = self.spectrum.sum(2)
        own = sums[:, :, None] * sums[:, None]
        apart = ~np.eye(len(self.agents), dtype=bool)
        weight = (self.norms[:, :, None] * self.norms[:, None]).sum(0)[apart].sum()
        found = [(own / width[:, None, None]).sum(0)[apart].sum() for width in self.widths.T]
        return (float(found[0] / weight), float(found[1] / weight)) if weight else (np.nan, np.nan)

    @property
    def own(self) -> np.ndarray:
        """Squared distance of each update from the mean of all agents' in its layer, ``[L, N]``.

        Its sum over agents and layers is what is not common to them.
        """
        each = self.inner.diagonal(axis1=1, axis2=2)
        mean = self.inner.mean(2)
        return np.maximum(each - 2 * mean + mean.mean(1)[:, None], 0.0)

    @property
    def common(self) -> float:
        """Share of the agents' squared updates that their mean has, from 0 to 1.

        1 if all are equal, 1/N of N updates that are orthogonal and of one size; NaN without any.
        """
        whole = float((self.norms**2).sum())
        return max(1 - float(self.own.sum()) / whole, 0.0) if whole else np.nan

    def by_place(self, values: np.ndarray) -> np.ndarray:
        """Sum a quantity of layers by module and block.

        Args:
            values: ``[L]``.

        Returns:
            ``[K, D]`` for the modules in `kinds` and the blocks from 0 to the last; NaN where there
            is no layer. Layers in no block are left out.
        """
        found = np.full((len(self.kinds), int(self.blocks.max(initial=-1)) + 1), np.nan)
        for module, block, value in zip(self.modules, self.blocks, values, strict=True):
            if block >= 0:
                row = self.kinds.index(module)
                before = found[row, block]
                found[row, block] = value if np.isnan(before) else before + value
        return found

    def _over_layers(self, overlaps: np.ndarray) -> np.ndarray:
        weights = self.norms[:, :, None] * self.norms[:, None]
        return _ratio(np.where(weights > 0, overlaps * weights, 0.0).sum(0), weights.sum(0))


def measure(
    adapters: Mapping[str, PeftAdapter], base_norms: Mapping[str, float] | None = None
) -> Anatomy:
    """Measure agents' updates, in float64.

    Args:
        adapters: Agent to its adapter, at least one. They may differ in rank, scale and layers.
        base_norms: Layer to the norm of the base's weights, where known; see `weight_norms`.

    Raises:
        ValueError: If there is no adapter.
        AdapterError: If shapes of a layer differ between agents, or an adapter is not finite.
    """
    if not adapters:
        raise ValueError("adapters: got none, expected at least one")
    names = in_order({name for adapter in adapters.values() for name in adapter.factors})
    rank, size = max(adapter.rank for adapter in adapters.values()), len(adapters)
    spectrum = np.zeros((len(names), size, rank))
    inner, reads, writes = (np.zeros((len(names), size, size)) for _ in range(3))
    widths = np.zeros((len(names), 2), np.int64)
    for place, name in enumerate(names):
        A, B = stacked(adapters, name)
        widths[place] = A.shape[2], B.shape[1]
        found = _layer(A, B)
        kept = found[0].shape[1]
        spectrum[place, :, :kept] = found[0]
        inner[place], reads[place], writes[place] = found[1:]
    known = np.array([(base_norms or {}).get(name, np.nan) for name in names])
    return Anatomy(tuple(adapters), names, spectrum, inner, reads, writes, widths, known)


def stacked(adapters: Mapping[str, PeftAdapter], layer: str) -> tuple[Tensor, Tensor]:
    """Agents' factors of a layer, the scale in ``B``.

    Returns:
        ``A [N, r, in]`` and ``B [N, out, r]`` in float64, r the largest rank there; zeros beyond
        an agent's own, and where it does not adapt the layer.

    Raises:
        AdapterError: If their shapes differ, or one is not finite.
    """
    pairs = {name: a.factors[layer] for name, a in adapters.items() if layer in a.factors}
    shapes = {(A.shape[1], B.shape[0]) for A, B in pairs.values()}
    if len(shapes) > 1:
        said = " and ".join(f"{n_in} x {n_out}" for n_in, n_out in sorted(shapes))
        raise AdapterError(f"{layer}: got updates of {said}, expected adapters of one base")
    rank = max(A.shape[0] for A, _ in pairs.values())
    device = next(iter(pairs.values()))[0].device
    ((width, height),) = shapes
    of_A = torch.zeros(len(adapters), rank, width, dtype=torch.float64, device=device)
    of_B = torch.zeros(len(adapters), height, rank, dtype=torch.float64, device=device)
    for i, (name, adapter) in enumerate(adapters.items()):
        if name in pairs:
            A, B = pairs[name]
            of_A[i, : A.shape[0]], of_B[i, :, : A.shape[0]] = A, B.double() * adapter.scale
            if not torch.isfinite(of_A[i].sum() + of_B[i].sum()):
                raise AdapterError(f"{name}: its factors of {layer} are not finite")
    return of_A, of_B


def inner_products(adapters: Mapping[str, PeftAdapter], layer: str) -> np.ndarray:
    """Frobenius inner products of agents' updates of one layer, ``[N, N]``; see `stacked`."""
    return algebra.inner_products(*stacked(adapters, layer)).cpu().numpy()


def _layer(A: Tensor, B: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Singular values ``[N, r]``, inner products and both overlaps ``[N, N]``, of one layer."""
    Q_in, R_in = torch.linalg.qr(A.transpose(1, 2))
    Q_out, R_out = torch.linalg.qr(B)
    left, values, right = torch.linalg.svd(R_out @ R_in.transpose(1, 2), full_matrices=False)
    root = values.sqrt()[:, :, None]
    # Directions as rows, each as long as the root of its singular value.
    read, write = (
        (root * (turned @ Q.transpose(1, 2))).flatten(0, 1)
        for turned, Q in ((right, Q_in), (left.transpose(1, 2), Q_out))
    )
    shape = (len(A), values.shape[1], len(A), values.shape[1])
    met = [(own @ own.T) for own in (read, write)]
    sums = [
        products.view(shape).sum((1, 3)).cpu().numpy()
        for products in (met[0] * met[1], met[0] ** 2, met[1] ** 2)
    ]
    norms = values.square().sum(1).sqrt().cpu().numpy()
    size = np.outer(norms, norms)
    return values.cpu().numpy(), sums[0], _ratio(sums[1], size), _ratio(sums[2], size)


def weight_norms(model: nn.Module, layers: Sequence[str]) -> dict[str, float]:
    """Norms of a base's own weights; of layers whose weights are there, and are no packed bits."""
    found: dict[str, float] = {}
    for name in layers:
        weight = model.get_submodule(name).weight
        if isinstance(weight, Tensor) and weight.is_floating_point() and not weight.is_meta:
            found[name] = float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32))
    return found


def block_of(layer: str) -> int:
    """Number of the block that a layer lies in, the first in its path; -1 without one."""
    found = _NUMBER.search(f".{layer}")
    return int(found[1]) if found else -1


def in_order(layers: set[str]) -> tuple[str, ...]:
    """Layers block by block, in each as an input passes through it."""

    def place(name: str) -> tuple[int, tuple[int, str], str]:
        return block_of(name), _module_place(name.rpartition(".")[2]), name

    return tuple(sorted(layers, key=place))


def _module_place(module: str) -> tuple[int, str]:
    return (_ORDER.index(module) if module in _ORDER else len(_ORDER)), module


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotients; NaN where the divisor is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
