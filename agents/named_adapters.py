"""NamedAdapters: N adapters on one frozen base, each with a name and a folder of its own.

Agents are named ``agent_0`` to ``agent_{N-1}``; the name ``base`` is the bare base model. Each is
saved as a plain PEFT adapter folder, and anyone's LoRA adapter of the same base can be an agent;
`agents.peft_io` says which.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from agents.engine.adapters import StackedLora
from agents.engine.jobs import BASE
from agents.engine.targets import check_names, matching, why_no_place
from agents.loading.models import DTYPES, BaseModel, load_base
from agents.peft_config import shown
from agents.peft_io import AdapterError, PeftAdapter, layers_of, read_adapter

__all__ = ["BASE", "HeldAdapters", "NamedAdapters"]


class NamedAdapters:
    """N LoRA adapters by name, which come from and go to PEFT folders.

    Only `agents.population.LoraPopulation` is made of it; its arguments are explained there.

    Attributes:
        lora: The adapters' stacked tensors.
        agents: Their names, in order of the stack.
    """

    def __init__(
        self,
        base: BaseModel,
        size: int,
        rank: int | Sequence[int],
        *,
        alpha: float | Sequence[float] | None,
        targets: str | Sequence[str],
        dropout: float | Sequence[float],
        adapter_dtype: str | None,
    ) -> None:
        if adapter_dtype is not None and adapter_dtype not in DTYPES:
            raise ValueError(
                f"adapter_dtype: got {adapter_dtype!r}, expected one of {', '.join(DTYPES)}"
            )
        dtype = DTYPES[adapter_dtype] if adapter_dtype else None
        self.base = base
        self.lora = StackedLora(
            base.model,
            size,
            rank,
            alpha=alpha,
            targets=targets,
            dropout=dropout,
            dtype=dtype,
        )
        self.agents = tuple(f"agent_{i}" for i in range(size))

    @classmethod
    def from_adapters(
        cls, base: BaseModel | str, folders: Sequence[str | Path], **settings: Any
    ) -> Self:
        """Put anyone's adapters of one base side by side, each as it is.

        They may differ in rank, alpha and target layers: the population is as wide as the largest
        rank, has all layers that some of them adapt, and where an adapter has none it adds nothing.

        Args:
            base: The frozen base, or what `load_base` loads.
            folders: PEFT adapter folders, at least one; agent ``i`` is the ``i``-th.
            settings: What else the class takes: temperature, dropout, adapter_dtype and the like.

        Raises:
            AdapterError: If a folder cannot be read or does not fit the base; the base is left as
                it was.
            ModelError: If the base cannot be loaded.
            ValueError: If there is no folder, or a setting is out of range.
        """
        if isinstance(folders, str | Path) or not folders:
            raise ValueError(
                f"folders: got {folders!r}, expected a list of at least one PEFT adapter folder"
            )
        adapters = [read_adapter(folder) for folder in folders]
        base = load_base(base) if isinstance(base, str) else base
        layers = layers_of(adapters)
        if not (fitting := tuple(matching(base.model, layers))):
            raise _has_no_place(base, adapters[0], folders[0], layers[0])
        population = cls(
            base,
            size=len(adapters),
            rank=[adapter.rank for adapter in adapters],
            alpha=[adapter.alpha for adapter in adapters],
            targets=fitting,
            **settings,
        )
        try:
            fitted = [population._fitted(*pair) for pair in zip(adapters, folders, strict=True)]
        except BaseException:
            population.lora.detach()
            raise
        for i, adapter in enumerate(fitted):
            population._write(i, adapter)
        return population

    @property
    def size(self) -> int:
        """Number of agents."""
        return self.lora.size

    def index(self, agent: str) -> int | None:
        """Row of an agent in the stacked tensors; None for ``base``.

        Raises:
            ValueError: If there is no such agent.
        """
        if agent == BASE:
            return None
        if agent not in self.agents:
            raise ValueError(
                f"agent: got {agent!r}, expected {BASE!r} or one of {self.agents[0]} to "
                f"{self.agents[-1]}"
            )
        return int(agent.removeprefix("agent_"))

    def check_saving(self) -> None:
        """Check that plain PEFT can read what this population saves.

        Raises:
            AdapterError: If it would misread the adapters of these layers; see
                `agents.engine.targets`.
        """
        try:
            check_names(self.base.model, (layer.name for layer in self.lora.layers()))
        except ValueError as error:
            raise AdapterError(str(error)) from None

    def save_adapters(self, folder: str | Path) -> list[Path]:
        """Write each agent as a PEFT adapter folder ``folder/agent_i``, at its own rank.

        Returns:
            The folders, in order of the agents.

        Raises:
            AdapterError: If an agent's factors are not finite, or PEFT would misread them; nothing
                is written.
            OSError: If the folder cannot be written.
        """
        for agent, finite in zip(self.agents, self.lora.finite().tolist(), strict=True):
            if not finite:
                raise AdapterError(f"{agent}: its factors are not finite; nothing was saved")
        return [self.save_adapter(agent, Path(folder) / agent) for agent in self.agents]

    def save_adapter(self, agent: str, folder: str | Path) -> Path:
        """Write one agent as a PEFT adapter folder; see `save_adapters`."""
        i = self.index(agent)
        if i is None:
            raise AdapterError("agent: 'base' has no adapter to save")
        self.check_saving()
        return self.adapter(agent).write(folder, dropout=self.lora.dropout[i])

    def adapter(self, agent: str) -> PeftAdapter:
        """One agent's adapter at its own rank; its factors are views of the stacked tensors.

        Raises:
            AdapterError: If the agent is ``base``, which has none.
        """
        i = self.index(agent)
        if i is None:
            raise AdapterError("agent: 'base' has no adapter")
        rank = int(self.lora.ranks[i])
        factors = {
            layer.name: (layer.A[i, :rank], layer.B[i, :, :rank]) for layer in self.lora.layers()
        }
        return PeftAdapter(
            rank=rank, alpha=float(self.lora.alpha[i]), base=self.base.path, factors=factors
        )

    def load_adapters(self, folder: str | Path) -> None:
        """Replace all agents by the adapter folders ``folder/agent_i``.

        Nothing is changed unless every folder can be read and fits.

        Raises:
            AdapterError: If a folder is missing, unreadable, or does not fit.
        """
        folder = Path(folder)
        read = [self._read(folder / agent) for agent in self.agents]
        for i, adapter in enumerate(read):
            self._write(i, adapter)

    def load_adapter(self, agent: str, folder: str | Path) -> None:
        """Replace one agent by a PEFT adapter folder, whoever wrote it.

        The agent takes its rank and scale; layers it does not adapt become zero. The base that the
        adapter names is not compared, since one model goes by many names; the shapes are.

        Raises:
            AdapterError: If the folder is missing, unreadable, or does not fit; nothing is changed.
        """
        i = self.index(agent)
        if i is None:
            raise AdapterError("agent: 'base' has no adapter to replace")
        self._write(i, self._read(Path(folder)))

    def _read(self, folder: Path) -> PeftAdapter:
        return self._fitted(read_adapter(folder), folder)

    def _fitted(self, adapter: PeftAdapter, folder: str | Path) -> PeftAdapter:
        """An adapter in this population's own type, if it has a place for every factor."""
        if adapter.rank > self.lora.rank:
            raise AdapterError(
                f"{folder}: rank {adapter.rank} is above the population's {self.lora.rank}; make "
                f"the population with rank={adapter.rank}"
            )
        left = dict(adapter.factors)
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in self.lora.layers():
            if (pair := left.pop(layer.name, None)) is None:
                continue
            got, here = (pair[0].shape[1], pair[1].shape[0]), (layer.A.shape[2], layer.B.shape[1])
            if got != here:
                raise AdapterError(
                    f"{folder}: {layer.name}: got factors for {got[0]} inputs and {got[1]} "
                    f"outputs, expected {here[0]} and {here[1]}; the adapter is for another base"
                    f"{_bases(self.base, adapter)}"
                )
            A, B = pair[0].to(layer.A), pair[1].to(layer.B)
            if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
                raise AdapterError(f"{folder}: {layer.name}: its factors overflow {A.dtype}")
            factors[layer.name] = A, B
        if left:
            raise _has_no_place(self.base, adapter, folder, next(iter(left)))
        return replace(adapter, factors=factors)

    def _write(self, i: int, adapter: PeftAdapter) -> None:
        self.lora.put(i, adapter.rank, adapter.alpha, adapter.factors)


class HeldAdapters(Mapping[str, PeftAdapter]):
    """Adapters of a population by content hash, each put together when it is looked up.

    Args:
        held: The population.
        agents: Its agents by hash.
    """

    def __init__(self, held: NamedAdapters, agents: Mapping[str, str]) -> None:
        self._held, self._agents = held, agents

    def __getitem__(self, content_hash: str) -> PeftAdapter:
        return self._held.adapter(self._agents[content_hash])

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    def __len__(self) -> int:
        return len(self._agents)


def _has_no_place(
    base: BaseModel, adapter: PeftAdapter, folder: str | Path, layer: str
) -> AdapterError:
    """What to raise of a layer that an adapter adapts and nobody here can."""
    return AdapterError(
        f"{folder}: {layer} has no place in this population: "
        f"{why_no_place(base.model, layer)}{_bases(base, adapter)}"
    )


def _bases(base: BaseModel, adapter: PeftAdapter) -> str:
    """Which base an adapter names and which this is, where that tells something."""
    if adapter.base in ("", base.name, base.path):
        return ""
    return f" (the adapter names {shown(adapter.base)}, this is {base.name!r})"
