"""Contenders from other libraries for ``populora bench-engine``.

Each gets the model as Transformers loads it, the same prompts, and adapters with the same factors
as ours. A peer that is not installed is None.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from agents.engine.adapters import StackedLora
from agents.learning.learners import LearnerConfig, Sample
from evolution.engine_benchmark.workbench import (
    Attachment,
    decode_seconds,
    kept_random_state,
    pad_left,
    seconds,
)

NOT_INSTALLED = "not installed"


def imported(name: str) -> Any:
    """A package, or None where it is not installed, or lacks what it needs itself."""
    if not importlib.util.find_spec(name):
        return None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        warnings.warn(f"{name} is left out: it cannot be imported ({error})", stacklevel=2)
        return None


class TransformersGenerate:
    """``generate`` of the bare model, as most people call it: one left-padded batch.

    Args:
        model: As Transformers loads it.
        stop_ids: Tokens that end a reply; none for replies of a fixed length.
    """

    def __init__(self, model: Any, stop_ids: Sequence[int] = ()) -> None:
        self.model = model
        self._stop = list(stop_ids)

    def __call__(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, **options: Any
    ) -> list[list[int]]:
        """Reply to all prompts, with the token that ended a reply, without what follows it."""
        fill = self._stop[0] if self._stop else 0
        ids, mask = pad_left(prompts, fill)
        device = self.model.device
        before = self.model.generation_config.eos_token_id
        self.model.generation_config.eos_token_id = self._stop or None
        generate = options.pop("generate", self.model.generate)
        try:
            out: Tensor = generate(
                input_ids=ids.to(device), attention_mask=mask.to(device),
                max_new_tokens=new_tokens, pad_token_id=fill, **options,
            )  # fmt: skip
        finally:
            self.model.generation_config.eos_token_id = before
        return [self._useful(row) for row in out[:, ids.shape[1] :].tolist()]

    def _useful(self, row: list[int]) -> list[int]:
        end = next((i for i, token in enumerate(row) if token in self._stop), len(row))
        return row[: end + 1]


def sampled_rate(
    model: Any, stop_ids: Sequence[int], prompts: Sequence[Sequence[int]], limit: int, seed: int
) -> float:
    """Useful tokens per second of a rollout of the bare model, sampled at temperature 0.8."""
    answer, replies = TransformersGenerate(model, stop_ids), list[list[int]]()
    with kept_random_state(model.device, seed):
        taken = seconds(
            model.device,
            lambda: replies.extend(
                answer(prompts, limit, do_sample=True, temperature=0.8, top_k=0, top_p=1.0)
            ),
        )
    return sum(map(len, replies)) / taken


class PeftPeer:
    """Plain PEFT: several adapters on one model.

    Args:
        model: As Transformers loads it; bare again once this is made.
        like: Its adapters are copied.
    """

    def __init__(self, model: Any, like: StackedLora) -> None:
        peft = imported("peft")
        names = [layer.name for layer in like.layers()]
        self.adapters = [f"a{i}" for i in range(like.size)]
        self._model = model

        def build() -> Any:
            wrapped: Any = None
            for i, adapter in enumerate(self.adapters):
                config = peft.LoraConfig(
                    r=like.rank, lora_alpha=float(like.alpha[i]), target_modules=names,
                    task_type="CAUSAL_LM",
                )  # fmt: skip
                if wrapped is None:
                    options = {"adapter_name": adapter, "autocast_adapter_dtype": False}
                    wrapped = peft.get_peft_model(model, config, **options)
                else:
                    wrapped.add_adapter(adapter, config, autocast_adapter_dtype=False)
            del model.peft_config  # PEFT's mark on the model, which would meet the next one
            return wrapped.eval()

        with kept_random_state(model.device, 0), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and Transformers
            self._attachment = Attachment(model, build)
        with self._attachment.on(), torch.no_grad():
            for layer in like.layers():
                module = model.get_submodule(layer.name)
                for i, adapter in enumerate(self.adapters):
                    module.lora_A[adapter].weight.copy_(layer.A[i])
                    module.lora_B[adapter].weight.copy_(layer.B[i])

    def mixed(self, prompts: Sequence[Sequence[int]], steps: int, size: int) -> list[list[int]]:
        """Decode all rows in one batch, ``adapter_names`` saying whose each is; greedy."""
        each = len(prompts) // size
        names = [self.adapters[i // each] for i in range(len(prompts))]
        with self._attachment.on() as wrapped:
            return TransformersGenerate(self._model)(
                prompts, steps + 1, generate=wrapped.generate, adapter_names=names, do_sample=False
            )

    def mixed_seconds(self, prompts: Sequence[Sequence[int]], steps: int, size: int) -> float:
        """Seconds of the decoding steps of `mixed`."""
        return decode_seconds(self._model, steps, lambda: self.mixed(prompts, steps, size))

    def one_by_one_seconds(self, prompts: Sequence[Sequence[int]], steps: int, size: int) -> float:
        """Seconds of the decoding steps of one adapter after the other, each with its rows."""
        each, total = len(prompts) // size, 0.0
        answer = TransformersGenerate(self._model)
        with self._attachment.on() as wrapped:
            for i in range(size):
                wrapped.set_adapter(self.adapters[i])
                mine = prompts[i * each : (i + 1) * each]

                def run(own: Sequence[Sequence[int]] = mine) -> None:
                    answer(own, steps + 1, generate=wrapped.generate, do_sample=False)

                total += decode_seconds(self._model, steps, run)
        return total

    def factors(self, layer: str) -> tuple[Tensor, Tensor]:
        """``A [N, r, in]`` and ``B [N, out, r]`` of a layer, as they are now."""
        with self._attachment.on():
            module = self._model.get_submodule(layer)
        pair = (module.lora_A, module.lora_B)
        A, B = (torch.stack([m[a].weight.detach() for a in self.adapters]) for m in pair)
        return A, B

    def learner(self, config: LearnerConfig) -> Callable[[Sequence[Sample]], float]:
        """A learner that steps the adapters one after the other.

        Each step is what a trainer does for one adapter: its samples as one right-padded batch,
        one forward pass of the whole model with logits at every place, the loss over the reply
        tokens, one backward pass, clipping, ``torch.optim.AdamW``. Changing adapters is not timed.

        Returns:
            Takes samples of all adapters and returns the seconds that their steps took together.
        """
        rate = config.learning_rate
        if not isinstance(rate, float):
            raise ValueError(f"learning_rate: got {rate}, expected one for all adapters")
        optimizers: list[torch.optim.Optimizer] = []
        with self._attachment.on() as wrapped:
            for adapter in self.adapters:
                wrapped.set_adapter(adapter)
                own = [p for p in wrapped.parameters() if p.requires_grad]
                optimizers.append(
                    torch.optim.AdamW(
                        own, lr=rate, betas=(config.beta1, config.beta2),
                        weight_decay=config.weight_decay,
                    )
                )  # fmt: skip

        def learn(samples: Sequence[Sample]) -> float:
            total = 0.0
            with self._attachment.on() as wrapped:
                for i, (adapter, optimizer) in enumerate(
                    zip(self.adapters, optimizers, strict=True)
                ):
                    wrapped.set_adapter(adapter)
                    mine = [sample for sample in samples if sample.agent == i]
                    total += seconds(
                        self._model.device,
                        lambda o=optimizer, m=mine: _step(wrapped, o, m, config.max_grad_norm),
                    )
            return total

        return learn


def _step(
    model: Any, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], max_norm: float
) -> None:
    longest = max(len(s.prompt_ids) + len(s.reply_ids) for s in samples)
    count = sum(len(s.reply_ids) for s in samples)
    ids = np.zeros((len(samples), longest), dtype=np.int64)
    mask, weights = np.zeros_like(ids), np.zeros(ids.shape, dtype=np.float32)
    for row, sample in enumerate(samples):
        start, whole = len(sample.prompt_ids), [*sample.prompt_ids, *sample.reply_ids]
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        weights[row, start : len(whole)] = sample.advantage / count
    device = model.device
    tokens, weight = (torch.from_numpy(array).to(device) for array in (ids, weights))
    logits = model(input_ids=tokens, attention_mask=torch.from_numpy(mask).to(device)).logits
    losses = functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    (losses * weight[:, 1:].flatten()).sum().backward()
    torch.nn.utils.clip_grad_norm_(
        [p for group in optimizer.param_groups for p in group["params"]], max_norm
    )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class PopuloraPackage:
    """The package ``populora`` (tested with 0.4.5): its ``Population`` and ``evolve_``.

    It has a ``generate`` of its own; the plain loop here is the faster way to decode with it.

    Args:
        model: As Transformers loads it; bare again once this is made.
        like: Its adapters are copied.
    """

    def __init__(self, model: Any, like: StackedLora) -> None:
        package = imported("populora")
        names = [layer.name for layer in like.layers()]
        self._model, self._seed = model, 0
        with kept_random_state(model.device, 0):
            self.population: Any = package.Population(
                model, pop_size=like.size, low_rank=like.rank, lora_targets=names,
                device=model.device, dtype=model.dtype,
            )  # fmt: skip
        self.population.remove_hooks()
        for layer in like.layers():
            key = layer.name.replace(".", "_")
            scale = (like.alpha / like.rank)[:, None, None].to(layer.B)
            self.population.weight_down[key].data.copy_(layer.A.transpose(1, 2))
            self.population.weight_up[key].data.copy_(layer.B * scale)

    @torch.inference_mode()
    def decode(self, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
        """Decode all rows in one batch, each individual an equal share of them; greedy."""
        ids, mask = (entry.to(self._model.device) for entry in pad_left(prompts, 0))
        cache, replies = DynamicCache(), list[Tensor]()
        self.population.register_hooks()
        try:
            for _ in range(steps + 1):
                positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                logits = self.population(
                    ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                    use_cache=True, logits_to_keep=1, all_individuals=True, eval_and_no_grad=True,
                ).logits  # fmt: skip
                ids = logits[:, -1].argmax(-1, keepdim=True)
                mask = torch.cat([mask, torch.ones_like(ids)], 1)
                replies.append(ids)
        finally:
            self.population.remove_hooks()
        return torch.cat(replies, 1).tolist()

    def decode_seconds(self, prompts: Sequence[Sequence[int]], steps: int) -> float:
        """Seconds of the decoding steps of `decode`."""
        return decode_seconds(self._model, steps, lambda: self.decode(prompts, steps))

    def evolve_seconds(self, fitness: np.ndarray) -> float:
        """Seconds of one evolution step with the package's own settings."""
        values = torch.from_numpy(fitness).float().to(self._model.device)
        self._seed += 1
        with kept_random_state(self._model.device, self._seed):
            return seconds(self._model.device, lambda: self.population.evolve_(values))
