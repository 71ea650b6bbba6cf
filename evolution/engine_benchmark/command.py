"""``populora bench-engine``: how fast the population engine is, beside its peers, in one run.

Contenders take turns, so load on the machine meets all of them; figures are medians over rounds.
Compare ratios, not seconds: a ratio of two contenders of one run says the same on a busier machine.
What each row measures is said in `evolution.engine_benchmark.rows`.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from rich.table import Table

from agents.compiled.native import kernel
from agents.loading.linear import DTYPE_NAMES, MatmulPrecision
from agents.loading.models import BaseModel, load_base
from evolution.commands.progress import Bars
from evolution.commands.usage import parse
from evolution.config import RunConfig
from evolution.engine_benchmark.agreement import agreement_row
from evolution.engine_benchmark.cpu_engines import ENGINES
from evolution.engine_benchmark.large import large_row
from evolution.engine_benchmark.peers_row import PRECISIONS, peers_row
from evolution.engine_benchmark.rows import ROWS
from evolution.engine_benchmark.workbench import Figure, Sizes, Workbench
from evolution.errors import UsageError
from evolution.terminal import PlainConsole
from populora_env.problems import load_problems
from populora_env.settings import OneOf, Range, check_fields

ON_DEMAND: Mapping[str, Callable[[Workbench], None]] = MappingProxyType(
    {"agreement": agreement_row, "large": large_row, "peers": peers_row}
)
STEP_RANK = 16
PACKAGES = (
    "torch", "transformers", "peft", "populora", "bitsandbytes", "openvino", "openvino-genai",
    "ctranslate2",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach.

    Attributes:
        value: The number.
        least: Whether more is better; else less is.
    """

    value: float
    least: bool = True

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.value:g}"

    def verdict(self, measured: float) -> str:
        """Whether it is reached, or by what share of the target it is missed."""
        if measured >= self.value if self.least else measured <= self.value:
            return "reached"
        return f"{abs(measured - self.value) / self.value:.0%} {'below' if self.least else 'above'}"


# For SmolLM2-135M, 64 rows and rank 8 (16 for the evolution step) on two cores.
TARGETS = {
    "population_decode_ratio_8": Target(0.93),
    "population_decode_ratio_16": Target(0.88),
    "rollout_vs_generate_8": Target(5),
    "slot_efficiency": Target(0.85),
    "agreement_greedy": Target(0.99),
    "agreement_sampled": Target(0.99),
    "evolution_step_seconds_8": Target(0.2, least=False),
    "evolution_step_seconds_16": Target(0.35, least=False),
    "joint_learning_speedup_8": Target(1.5),
    "learning_six_agents_vs_one": Target(3, least=False),
    "peak_memory_gib_7b_16": Target(24, least=False),
    "base_decode_vs_openvino_float32": Target(1.05),
    "base_decode_vs_openvino_int8": Target(1.0),
    "mixed_8_end_to_end_vs_openvino_int8": Target(1.2),
    **{f"population_decode_ratio_8_{own}": Target(0.93) for own in PRECISIONS},
    **{f"population_decode_ratio_16_{own}": Target(0.9) for own in PRECISIONS},
}


@dataclass(frozen=True, kw_only=True)
class BenchEngineOptions:
    """Measure the population engine's speed beside its peers', in interleaved rounds."""

    model: str = "embedded"
    """Base model: embedded, a hub id, a folder, or a .gguf file."""
    rounds: Annotated[int, Range(1)] = 5
    """Rounds that count, after one to warm up; figures are their medians."""
    peer_rounds: Annotated[int, Range(0)] = 2
    """Rounds in which PEFT, the package populora and generate take part, which take most of the
    time; 0 leaves them out. The row peers takes all rounds."""
    rows: Annotated[int, Range(1)] = 64
    """Rows decoded together, and requests in a rollout; a multiple of every population size."""
    agents: tuple[int, ...] = (8, 16)
    """Population sizes; rollouts and learning are measured with the first."""
    rank: Annotated[int, Range(1)] = 8
    """Rank of the adapters; the evolution step has rank 16."""
    new_tokens: Annotated[int, Range(1)] = 32
    """Decoding steps after the prompt, where replies have a fixed length."""
    reply_tokens: Annotated[int, Range(1)] = 96
    """Length limit of replies in a rollout."""
    problems: str = RunConfig.problems
    """Problem spec, where prompts come from; see load_problems."""
    only: tuple[str, ...] = ()
    """Some of the rows: decoding, rollout, slots, evolution, learning, agreement, large,
    peers (OpenVINO GenAI and CTranslate2, where installed)."""
    large: Literal["auto", "on", "off"] = "auto"
    """A base of 7 billion random weights as well; auto where there is a GPU."""
    quick: bool = False
    """Two rounds of eight decoding steps: to see that it works, not to report."""
    dtype: Annotated[str, OneOf(DTYPE_NAMES)] = "float32"
    """float32, bfloat16 or float16."""
    products: MatmulPrecision = MatmulPrecision.FLOAT32
    """Precision of a float32 base's products on a CPU; peers multiply in float32."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    seed: Annotated[int, Range(0)] = 0
    """Seed of adapters, prompts and sampling."""
    json: str = ""
    """File to write figures, rounds and environment to."""

    def check(self) -> None:
        """Check what nobody else checks.

        Raises:
            UsageError: On the first value that cannot be used.
        """
        check_fields(self, UsageError)
        sizes = self.agents
        if not sizes or min(sizes) < 2 or len(set(sizes)) < len(sizes):
            raise UsageError(f"agents: got {_listed(sizes)}, expected different integers >= 2")
        if bad := [size for size in sizes if self.rows % size]:
            raise UsageError(f"rows: got {self.rows}, expected a multiple of agents = {bad[0]}")
        if bad := [name for name in self.only if name not in {**ROWS, **ON_DEMAND}]:
            raise UsageError(
                f"only: got {bad[0]!r}, expected some of {_listed((*ROWS, *ON_DEMAND))}"
            )
        file = Path(self.json).expanduser()
        if self.json and (file.is_dir() or not file.parent.is_dir()):
            raise UsageError(f"json: got {self.json}, expected a file in an existing folder")

    def sizes(self) -> Sizes:
        """How much is measured."""
        return Sizes(
            rounds=2 if self.quick else self.rounds,
            peer_rounds=self.peer_rounds,
            rows=self.rows,
            agents=self.agents,
            rank=self.rank,
            step_rank=STEP_RANK,
            new_tokens=8 if self.quick else self.new_tokens,
            reply_tokens=self.reply_tokens,
            seed=self.seed,
        )

    def chosen(self) -> list[str]:
        """Names of the rows to measure."""
        rows = list(self.only) or list(ROWS)
        if self.large == "on" or (
            self.large == "auto" and not self.only and torch.cuda.is_available()
        ):
            rows += ["large"] * ("large" not in rows)
        return [name for name in rows if not (name == "large" and self.large == "off")]


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options: BenchEngineOptions = parse(
        BenchEngineOptions, arguments, default=BenchEngineOptions(), prog="populora bench-engine"
    )
    options.check()
    console = PlainConsole()
    source = load_problems(options.problems, split="train", seed=options.seed)
    base = load_base(
        options.model, dtype=options.dtype, device=options.device, products=options.products
    )
    environment = describe(base, options)
    console.print(
        f"{environment['model']} on {environment['device']}, {environment['threads']} threads, "
        f"products in {base.precision}, {options.sizes().rounds} rounds, adapters by "
        + (f"a kernel of {environment['kernel']}" if environment["kernel"] else "PyTorch"),
        soft_wrap=True,
    )
    with Bars(console) as bars:
        bench = Workbench(base, source, options.sizes(), bars.tell)
        for name in options.chosen():
            if not console.is_terminal:  # where no bars are shown
                console.print(f"{name} …")
            {**ROWS, **ON_DEMAND}[name](bench)
    console.print(table(bench.findings.figures))
    if options.json:
        _write(options.json, result(bench, environment))
        console.print(f"Figures: {options.json}", soft_wrap=True)
    return 0


def describe(base: BaseModel, options: BenchEngineOptions) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cuda = base.device.type == "cuda"
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "model": options.model,
        "device": torch.cuda.get_device_name(base.device) if cuda else "CPU",
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "options": {**asdict(options), "products": str(options.products)},
        "engines": {name: dict(engine.settings) for name, engine in ENGINES.items()},
        **asdict(options.sizes()),
        "dtype": options.dtype,
        "precision": base.precision,
        "kernel": None if (made := kernel()) is None or cuda else made.compiler,
    }


def result(bench: Workbench, environment: dict[str, Any]) -> dict[str, Any]:
    """Everything that goes into the JSON file.

    Medians under the figures' names at the top, None where there is none and ``reasons`` says why;
    then ``quartiles``, ``targets``, ``rounds`` and ``environment``.
    """
    figures = bench.findings.figures
    medians = {figure.key: figure.spread and figure.spread.median for figure in figures}
    left_out = {
        key: "not measured in this run"
        for key in TARGETS
        if key not in medians and not key.startswith(("agreement", "peak_memory"))
    }
    return {
        **medians,
        **dict.fromkeys(left_out),
        "quartiles": {f.key: [f.spread.low, f.spread.high] for f in figures if f.spread},
        "reasons": {f.key: f.reason for f in figures if not f.spread} | left_out,
        "targets": {key: str(TARGETS[key]) for key in medians if key in TARGETS},
        "rounds": bench.findings.rounds,
        "environment": environment,
    }


def table(figures: Sequence[Figure]) -> Table:
    """A line for each figure: median, quartiles, target, and how far that is."""
    made = Table(caption="median over the rounds ± half the interquartile range")
    made.add_column("what", overflow="fold", min_width=30)
    made.add_column("measured", justify="right", no_wrap=True)
    made.add_column("target", no_wrap=True)
    made.add_column("verdict", overflow="fold", max_width=14)
    for figure in figures:
        spread, target = figure.spread, TARGETS.get(figure.key)
        said = str(target) if target else ""
        if spread is None:
            made.add_row(figure.what, "", said, figure.reason)
            continue
        half = (spread.high - spread.low) / 2
        made.add_row(
            figure.what,
            _number(spread.median) + (f" ±{_number(half)}" if half > 0 else ""),
            said,
            target.verdict(spread.median) if target else "",
        )
    return made


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _write(path: str, data: dict[str, Any]) -> None:
    try:
        Path(path).expanduser().write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"json: cannot write to {path} ({error.strerror}); choose another file"
        ) from error
