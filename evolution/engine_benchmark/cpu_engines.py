"""Other CPU engines as contenders for ``populora bench-engine --only peers``.

OpenVINO GenAI and CTranslate2 decode the bare base; neither can mix adapters in a batch. Each gets
the same prompts, as many threads as PyTorch has, and decodes as many tokens for every prompt,
greedily, whatever ends a reply. What is set otherwise is in `ENGINES` and goes into the JSON file.

What is measured of them is in `evolution.engine_benchmark.peers_row`.
"""

import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch

from agents.engine.kv_cache import elements_per_token
from agents.machine.processor import has_bfloat16
from evolution.engine_benchmark.converted import content_key, converted, folder_name
from evolution.engine_benchmark.openvino_model import save_openvino
from evolution.engine_benchmark.peers import NOT_INSTALLED, imported
from evolution.engine_benchmark.workbench import Workbench

INSTALL = "pip install 'populora-env[peers]'"
_TOKENS = 8192  # of prompts that OpenVINO may read at once, as many as ours


class EngineError(RuntimeError):
    """Why an engine takes no part, in one line."""


class Decode(Protocol):
    """An engine with a model in it."""

    def __call__(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Greedy replies of exactly so many tokens, in the order of the prompts."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine at one precision.

    Attributes:
        name: The engine's, as keys of figures have it.
        precision: The precision's, as keys of figures have it.
        what: Both as the table has them.
        packages: That it needs.
        build: Makes it ready for a workbench's model and requests.
        settings: What is not its default.
        runs_here: Whether this processor has what the precision needs.
    """

    name: str
    precision: str
    what: str
    packages: tuple[str, ...]
    build: Callable[[Workbench], Decode]
    settings: Mapping[str, str]
    runs_here: Callable[[], bool] = lambda: True

    @property
    def key(self) -> str:
        """What its contenders are called."""
        return f"{self.name}_{self.precision}"

    def ready(self, bench: Workbench) -> Decode:
        """Have it load the model, converted if it is not yet.

        Raises:
            EngineError: If it is not installed, or cannot.
        """
        if any(imported(package) is None for package in self.packages):
            raise EngineError(f"{NOT_INSTALLED}; {INSTALL}")
        if not self.runs_here():
            raise EngineError(f"this processor has no {self.precision}")
        try:
            return self.build(bench)
        # Converters and engines of others raise whatever they like; the others' figures stand.
        except Exception as error:
            raise EngineError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in said)[:200]


def _folder(bench: Workbench, tool: str, precision: str, convert: Callable[[Path], None]) -> Path:
    """The model converted by a tool's package, from the cache or made now."""
    bench.tell(f"{tool} {precision}: the model converted")
    version = importlib.metadata.version(tool)
    key = content_key(bench.plain, bench.base.tokenizer)
    return converted(folder_name(bench.base.name, key, tool, version, precision), convert)


def _openvino(bench: Workbench, *, weights: str, properties: Mapping[str, str]) -> Decode:
    """OpenVINO GenAI, which decodes in continuous batches with paged attention."""
    genai, openvino = imported("openvino_genai"), imported("openvino")
    folder = _folder(
        bench, "openvino", weights,
        lambda work: save_openvino(
            bench.plain, bench.base.tokenizer, work, int8=weights == "int8"
        ),
    )  # fmt: skip
    sizes = bench.sizes
    longest = max(map(len, bench.prompts(sizes.rows))) + sizes.new_tokens + 1
    scheduler = genai.SchedulerConfig()
    need = 4 * sizes.rows * longest * elements_per_token(bench.base.model.config)
    scheduler.cache_size = max(1, math.ceil(2 * need / 2**30))  # GiB
    scheduler.max_num_seqs, scheduler.max_num_batched_tokens = sizes.rows, _TOKENS
    # Otherwise a prompt is free from the second round on, which no rollout's are.
    scheduler.enable_prefix_caching = False
    pipeline = genai.ContinuousBatchingPipeline(
        str(folder), scheduler, "CPU",
        {"INFERENCE_NUM_THREADS": torch.get_num_threads(), **properties},
    )  # fmt: skip

    def decode(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        how = genai.GenerationConfig()
        how.max_new_tokens, how.ignore_eos, how.do_sample = new_tokens, True, False
        rows = [openvino.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts]
        return [
            list(made.m_generation_ids[0]) for made in pipeline.generate(rows, [how] * len(rows))
        ]

    return decode


def _ctranslate2(bench: Workbench, *, precision: str) -> Decode:
    """CTranslate2, which reads prompts up to the shortest at once, and the rest token by token."""
    package = imported("ctranslate2")

    def convert(work: Path) -> None:
        made = imported("ctranslate2.converters").TransformersConverter(bench.base.path)
        made.convert(str(work), quantization=precision, force=True)

    folder = _folder(bench, "ctranslate2", precision, convert)
    generator = package.Generator(
        str(folder), device="cpu", compute_type=precision, inter_threads=1,
        intra_threads=torch.get_num_threads(),
    )  # fmt: skip

    def decode(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        made = generator.generate_batch(
            [bench.base.tokenizer.convert_ids_to_tokens(list(ids)) for ids in prompts],
            max_length=new_tokens, min_length=new_tokens, sampling_topk=1,
            include_prompt_in_result=False,
        )  # fmt: skip
        return [list(reply.sequences_ids[0]) for reply in made]

    return decode


def _engine_openvino(
    precision: str, what: str, properties: Mapping[str, str], **more: Any
) -> Engine:
    weights = "int8" if precision == "int8" else "float32"
    return Engine(
        "openvino", precision, f"OpenVINO {what}", ("openvino", "openvino_genai"),
        partial(_openvino, weights=weights, properties=properties),
        {**properties, "prefix caching": "off", "converted weights": weights}, **more,
    )  # fmt: skip


def _engine_ctranslate2(precision: str) -> Engine:
    return Engine(
        "ctranslate2", precision, f"CTranslate2 {precision}", ("ctranslate2",),
        partial(_ctranslate2, precision=precision), {"compute type": precision},
    )  # fmt: skip


# Left to itself, OpenVINO multiplies a float32 model in bfloat16 where the processor can: float32
# has to be asked for. With 8-bit weights the rest is its own choice.
ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        engine.key: engine
        for engine in (
            _engine_openvino("float32", "float32", {"INFERENCE_PRECISION_HINT": "f32"}),
            _engine_openvino(
                "bfloat16", "bfloat16", {"INFERENCE_PRECISION_HINT": "bf16"},
                runs_here=has_bfloat16,
            ),
            _engine_openvino("int8", "int8 weights", {}),
            _engine_ctranslate2("float32"),
            _engine_ctranslate2("int8"),
        )
    }
)  # fmt: skip
