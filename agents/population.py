"""LoraPopulation: N adapters on one frozen base, as one policy.

Agents are named ``agent_0`` to ``agent_{N-1}`` as in the arena; the name ``base`` is the bare base
model, so a population can play against what it started from. Each agent is saved as a plain PEFT
adapter folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.adapters import StackedLora
from agents.generation import Job, generate
from agents.models import BaseModel, load_base
from agents.policy import Request

BASE = "base"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."


class AdapterError(ValueError):
    """An adapter folder that cannot become a member of this population."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A reply with what the model knows about it.

    Attributes:
        text: The decoded reply.
        prompt_ids: Token ids of the prompt.
        reply_ids: Token ids of the reply, with the token that ended it, if one did.
        feature: Mean last hidden state over the reply, ``[width]``.
    """

    text: str
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    feature: Tensor


class LoraPopulation:
    """N LoRA adapters answering as agents of an arena; a `Policy`.

    Args:
        base: The frozen base.
        size: Number of agents, N.
        rank: Rank of every adapter.
        alpha: Numerator of the adapters' scale; None for twice the rank.
        targets: See `StackedLora`.
        temperature: Sampling temperature; 0 is greedy.
        max_rows: Rows decoded at once.
    """

    def __init__(
        self,
        base: BaseModel,
        size: int = 8,
        rank: int = 8,
        alpha: float | None = None,
        targets: str | Sequence[str] = "all-linear",
        *,
        temperature: float = 1.0,
        max_rows: int = 64,
    ) -> None:
        self.base = base
        self.lora = StackedLora(base.model, size, rank, alpha, targets)
        self.agents = tuple(f"agent_{i}" for i in range(size))
        self.temperature, self.max_rows = temperature, max_rows
        self._recent: dict[tuple[str, str, str], Generated] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str = "embedded",
        size: int = 8,
        rank: int = 8,
        targets: str | Sequence[str] = "all-linear",
        *,
        alpha: float | None = None,
        dtype: str = "float32",
        device: str = "auto",
        products: str = "float32",
        temperature: float = 1.0,
        max_rows: int = 64,
    ) -> "LoraPopulation":
        """Load a base model and put N newborn adapters, equal to the base, on it.

        What the arguments mean is said at `load_base` and at the class.

        Raises:
            ModelError: If the model cannot be loaded.
            ValueError: If size or rank is below 1, or targets match nothing.
        """
        base = load_base(model, dtype=dtype, device=device, products=products)
        return cls(base, size, rank, alpha, targets, temperature=temperature, max_rows=max_rows)

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

    def act(
        self, requests: Sequence[Request], *, temperature: float | None = None, raw: bool = False
    ) -> list[str]:
        """Answer all requests in mixed batches; see `Policy` and `generate`."""
        return [reply.text for reply in self.generate(requests, temperature=temperature, raw=raw)]

    def generate(
        self, requests: Sequence[Request], *, temperature: float | None = None, raw: bool = False
    ) -> list[Generated]:
        """Answer all requests and keep tokens and features, for `recall` and for learning.

        Args:
            requests: What to answer.
            temperature: Overrides the population's own.
            raw: Whether prompts are texts to be completed, without a chat template.

        Raises:
            ValueError: If an agent is unknown or a prompt does not fit the model's context.
        """
        encoded: dict[str, list[int]] = {}
        for request in requests:
            if request.prompt not in encoded:
                encode = self.base.text_ids if raw else self.base.chat_ids
                encoded[request.prompt] = encode(request.prompt)
        jobs = [
            Job(self.index(r.agent), encoded[r.prompt], r.max_new_tokens, r.seed) for r in requests
        ]
        used = self.temperature if temperature is None else temperature
        replies = generate(self.base, self.lora, jobs, temperature=used, max_rows=self.max_rows)
        texts = self.base.tokenizer.batch_decode(
            [list(reply.ids) for reply in replies], skip_special_tokens=True
        )
        end = self.base.tokenizer.eos_token_id
        results: list[Generated] = []
        for request, job, reply, text in zip(requests, jobs, replies, texts, strict=True):
            ids = (*reply.ids, end) if reply.finished else reply.ids
            results.append(Generated(text, tuple(job.prompt_ids), ids, reply.feature))
            self._recent[request.agent, request.prompt, text] = results[-1]
        return results

    def greedy(self) -> "GreedyPolicy":
        """This population as a policy that always takes the likeliest token."""
        return GreedyPolicy(self)

    def decoding(self, *, temperature: float, raw: bool = False) -> "DecodingPolicy":
        """This population as a policy that decodes in a fixed way; see `generate`."""
        return DecodingPolicy(self, temperature, raw)

    def recall(self, agent: str, prompt: str, reply: str) -> Generated | None:
        """Tokens and feature of a reply given since the last `forget`, if it is known."""
        return self._recent.get((agent, prompt, reply))

    def forget(self) -> None:
        """Drop what `recall` keeps."""
        self._recent.clear()

    def save_adapters(self, folder: str | Path) -> list[Path]:
        """Write each agent as a PEFT adapter folder ``folder/agent_i``.

        Returns:
            The folders, in order of the agents.

        Raises:
            AdapterError: If an agent's factors are not finite.
            OSError: If the folder cannot be written.
        """
        return [self.save_adapter(agent, Path(folder) / agent) for agent in self.agents]

    def save_adapter(self, agent: str, folder: str | Path) -> Path:
        """Write one agent as a PEFT adapter folder; see `save_adapters`."""
        i = self.index(agent)
        if i is None:
            raise AdapterError("agent: 'base' has no adapter to save")
        tensors: dict[str, Tensor] = {}
        names: set[str] = set()
        for layer in self.lora.layers():
            if not (torch.isfinite(layer.A[i]).all() and torch.isfinite(layer.B[i]).all()):
                raise AdapterError(f"{agent}: factors of {layer.name} are not finite; not saved")
            tensors[f"{_PREFIX}{layer.name}.lora_A.weight"] = layer.A[i].contiguous()
            tensors[f"{_PREFIX}{layer.name}.lora_B.weight"] = layer.B[i].contiguous()
            names.add(layer.name.rpartition(".")[2])
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base.path,
            "r": self.lora.rank,
            "lora_alpha": float(self.lora.alpha[i]),
            "lora_dropout": 0.0,
            "target_modules": sorted(names),
            "bias": "none",
            "inference_mode": True,
            "use_rslora": False,
            "use_dora": False,
        }
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        return folder

    def load_adapters(self, folder: str | Path) -> None:
        """Replace all agents by the adapter folders ``folder/agent_i``.

        Nothing is changed unless every folder can be read.

        Raises:
            AdapterError: If a folder is missing, unreadable, or does not fit.
        """
        folder = Path(folder)
        read = [self._read(folder / agent) for agent in self.agents]
        for i, (alpha, factors) in enumerate(read):
            self._write(i, alpha, factors)

    def load_adapter(self, agent: str, folder: str | Path) -> None:
        """Replace one agent by a PEFT adapter folder of the same rank or a smaller one.

        Raises:
            AdapterError: If the folder is missing, unreadable, or does not fit.
        """
        i = self.index(agent)
        if i is None:
            raise AdapterError("agent: 'base' has no adapter to replace")
        self._write(i, *self._read(Path(folder)))

    def _read(self, folder: Path) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
        """Alpha at this population's rank, and the factors by layer, zero-padded to its rank."""
        try:
            config = json.loads((folder / CONFIG_FILE).read_text())
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError, SafetensorError) as error:
            raise AdapterError(
                f"{folder}: not a readable PEFT adapter folder ({error}); expected {CONFIG_FILE} "
                f"and {WEIGHTS_FILE}"
            ) from error
        for option in ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern"):
            if config.get(option):
                raise AdapterError(f"{folder}: {option} is set, which cannot be stacked")
        try:
            rank, alpha = int(config["r"]), float(config["lora_alpha"])
        except (KeyError, TypeError, ValueError) as error:
            raise AdapterError(
                f"{folder}: {CONFIG_FILE} has no usable r and lora_alpha "
                f"({type(error).__name__}: {error})"
            ) from error
        if rank > self.lora.rank:
            raise AdapterError(
                f"{folder}: rank {rank} is above the population's {self.lora.rank}; make the "
                f"population with rank={rank}"
            )
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in self.lora.layers():
            pair: list[Tensor] = []
            for letter, whole in (("A", layer.A), ("B", layer.B)):
                name = f"{_PREFIX}{layer.name}.lora_{letter}.weight"
                shape = list(whole.shape[1:])
                shape[0 if letter == "A" else 1] = rank
                tensor = tensors.pop(name, None)
                if tensor is None or list(tensor.shape) != shape:
                    found = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
                    raise AdapterError(
                        f"{folder}: {name}: got {found}, expected shape {tuple(shape)}; is it an "
                        "adapter of another base or with other target modules?"
                    )
                if not torch.isfinite(tensor).all():
                    raise AdapterError(f"{folder}: {name} holds values that are not finite")
                pair.append(tensor)
            factors[layer.name] = (pair[0], pair[1])
        if tensors:
            raise AdapterError(
                f"{folder}: {next(iter(tensors))} has no place in this population; make it with "
                "targets that include it"
            )
        return alpha * self.lora.rank / rank, factors

    def _write(self, i: int, alpha: float, factors: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.lora.set_alpha(i, alpha)
        for layer in self.lora.layers():
            A, B = factors[layer.name]
            layer.A[i].zero_()[: A.shape[0]] = A.to(layer.A)
            layer.B[i].zero_()[:, : B.shape[1]] = B.to(layer.B)


class GreedyPolicy:
    """A population at temperature 0; a `Policy`."""

    def __init__(self, population: LoraPopulation) -> None:
        self._population = population

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer with the likeliest tokens."""
        return self._population.act(requests, temperature=0.0)


class DecodingPolicy:
    """A population that decodes in a fixed way and keeps no tokens for learning; a `Policy`."""

    def __init__(self, population: LoraPopulation, temperature: float, raw: bool) -> None:
        self._population, self._temperature, self._raw = population, temperature, raw

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer all requests."""
        try:
            return self._population.act(requests, temperature=self._temperature, raw=self._raw)
        finally:
            self._population.forget()
