"""``populora bench``: the accuracy of the base, of adapters or of a whole run, as tables and files.

Every reply is written as soon as it is there, so the same command goes on where it was cut off.
How figures are defined is in `agents.measuring.statistics`, prompts are in
`populora_env.problems.fewshot`.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console

from agents.loading.linear import DTYPE_NAMES, MatmulPrecision, resolve
from agents.loading.models import load_base
from agents.measuring.benchmark import BenchmarkResult, Participant, Sampling, benchmark
from agents.measuring.reply_log import ReplyLog
from agents.plain_files import write_whole
from agents.population import LoraPopulation
from evolution.commands.bench.tables import (
    changes_table,
    comparison,
    forgetting_table,
    heading,
    result_table,
    totals_lines,
)
from evolution.commands.bench.tasks import Task, load_tasks, read_tasks
from evolution.commands.participants import (
    adapter_folder,
    adapter_hash,
    load_participants,
    unique_names,
)
from evolution.commands.progress import Bars
from evolution.commands.usage import installed, parse
from evolution.config import RunConfig
from evolution.errors import UsageError
from evolution.runs.saved_run import SavedRun, read_run, trained_on
from evolution.terminal import PlainConsole
from populora_env.grading import Grader
from populora_env.records import Problem
from populora_env.settings import OneOf, Range


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure accuracy; the first word may be the tasks: populora bench gsm8k --adapters DIR."""

    tasks: str = ""
    """Problem specs, separated by commas; SPEC@PROMPT uses another prompt for one of them. By
    default the run's own problems, or those of populora evolve."""
    run: str = ""
    """Run folder: measure all agents of its last generation."""
    adapters: tuple[str, ...] = ()
    """PEFT adapter folders, or run folders, whose best adapter is taken."""
    base: bool = True
    """Whether the bare base model is measured as well."""
    forgetting: bool = False
    """With a run: also tasks outside its training distribution, and what changed there."""
    prompt: str = "arena-v1"
    """Prompt: arena-v1, chat-v1, gsm8k-8shot-v1, gsm8k-5shot-v1 or math-4shot-v1."""
    limit: Annotated[int, Range(0)] = 0
    """Problems of each task; 0 for all there are, or 128 of a generator."""
    split: Literal["auto", "test", "train", "all"] = "auto"
    """Part of the problems; auto is the test part, or all of a file nobody was trained on."""
    temperature: Annotated[float, Range(0, 100)] = 0.0
    """Sampling temperature; 0 is greedy."""
    samples: Annotated[int, Range(1)] = 1
    """Replies of each agent to each problem; more than one needs a temperature."""
    max_new_tokens: Annotated[int, Range(0)] = 0
    """Length limit of a reply in tokens; 0 for the prompt's usual one, or what the run trained
    with."""
    seed: Annotated[int, Range(0)] = 0
    """Seed of sampled replies and of generated problems; by default the run's."""
    model: str = "embedded"
    """Base model: embedded, a hub id, a folder, or a .gguf file; by default the run's."""
    dtype: Annotated[str, OneOf(DTYPE_NAMES)] = "float32"
    """float32, bfloat16 or float16; by default the run's."""
    products: MatmulPrecision = MatmulPrecision.FLOAT32
    """Precision of a float32 base's products on a CPU; auto is the fastest that this
    machine has."""
    load_in_4bit: bool = False
    """Whether the base's linear layers are kept in 4 bits; by default as in the run."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    max_rows: Annotated[int, Range(1)] = 32
    """Rows decoded at once; long prompts need memory for each."""
    out: str = ""
    """Folder for results.json, replies.jsonl and problems.jsonl; by default within the run, or
    runs/bench-<hash of the settings>. Replies found there are not generated again."""

    def check(self) -> None:
        """Check what nobody else checks, or only too late.

        Raises:
            UsageError: On the first value that cannot be used.
        """
        if self.forgetting and not self.run:
            raise UsageError("forgetting: needs a run; say which with --run FOLDER")
        if not (self.tasks or self.run or self.adapters):
            raise UsageError(
                "tasks: got none; say what to measure, as in populora bench gsm8k --limit 100, or "
                "whose training problems: populora bench --run FOLDER"
            )
        if not self.base and not (self.run or self.adapters):
            raise UsageError("base: without it nobody is left; give --adapters or --run")
        self.sampling()

    def sampling(self) -> Sampling:
        """Return how replies are drawn.

        Raises:
            UsageError: If that cannot be.
        """
        try:
            return Sampling(
                temperature=self.temperature,
                samples=self.samples,
                max_new_tokens=self.max_new_tokens or None,
                seed=self.seed,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options, run = _read_options(arguments)
    console = PlainConsole()
    others = unique_names([adapter_folder(name) for name in options.adapters])
    trained = None if run is None else run.config.problems
    asked = trained if run is None else run.config.held_out_from or trained
    tasks = read_tasks(
        options.tasks or asked or RunConfig.problems,
        options.prompt,
        trained=trained,
        forgetting=options.forgetting,
        known=[spec for name in options.adapters if (spec := trained_on(adapter_folder(name)))],
    )
    console.print(f"loading {', '.join(task.spec for task in tasks)}")  # the hub may be slow
    problems = load_tasks(
        tasks,
        split=None if options.split == "all" else options.split,
        seed=options.seed,
        limit=options.limit,
        left_out=console.print,
    )
    tasks = [task for task in tasks if task.spec in problems]
    own = {} if run is None else run.solvers
    # An adapter from elsewhere may have an agent's name, too.
    folders = {**own, **{str(f) if name in own else name: f for name, f in others.items()}}
    default = f"runs/bench-{_settings_hash(options, folders)}"
    if run is not None:
        default = str(run.path / "bench" / f"generation_{run.generation:04d}")
    out = Path(options.out or default).expanduser()
    settings = ("model", "dtype", "products", "temperature", "seed")
    same = {name: getattr(options, name) for name in settings}
    if options.load_in_4bit:
        same["load_in_4bit"] = True
    try:
        log = ReplyLog(out / "replies.jsonl", same)
    except ValueError as error:
        raise UsageError(str(error)) from error
    base = load_base(
        options.model,
        dtype=options.dtype,
        device=options.device,
        products=options.products,
        load_in_4bit=options.load_in_4bit,
    )
    console.print(
        f"base model {options.model}, products in {base.precision}, {len(folders)} adapters, "
        f"{len(log)} replies known",
    )
    population, participants = load_participants(
        base,
        folders,
        with_base=options.base,
        ratings=None if run is None else run.ratings,
        max_rows=options.max_rows,
        adapter_dtype=None if run is None else run.config.adapter_dtype,
    )
    try:
        results = [
            _measure(
                task, problems[task.spec], population, participants, options, run, log, console
            )
            for task in tasks
        ]
    except KeyboardInterrupt:
        command = shlex.join(["populora", "bench", *_without_out(arguments), "--out", str(out)])
        console.print(f"\nInterrupted; {len(log)} replies are kept. Go on with: {command}")
        return 130
    finally:
        population.lora.detach()
    outside = {task.spec for task in tasks if task.outside}
    _write(out, options, base.precision, results, outside)
    if options.forgetting:
        console.print(forgetting_table(results, outside))
    console.print(f"Results: {out / 'results.json'}")
    return 0


def _read_options(arguments: Sequence[str]) -> tuple[BenchOptions, SavedRun | None]:
    """Defaults, then what the run was made with, then flags."""
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words.insert(0, "--tasks")
    prog = "populora bench"
    options = parse(BenchOptions, words, prog=prog)
    run = read_run(options.run) if options.run else None
    if run is not None:
        names = ("model", "dtype", "products", "load_in_4bit", "device", "seed")
        same = {name: getattr(run.config, name) for name in names}
        options = parse(BenchOptions, words, default=BenchOptions(**same), prog=prog)
    options.check()
    products = resolve(options.products, dtype=options.dtype, device=options.device)
    return replace(options, products=products), run


def _without_out(arguments: Sequence[str]) -> list[str]:
    """The command's words but ``--out`` and its value."""
    words = iter(arguments)
    kept: list[str] = []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return kept


def _measure(
    task: Task,
    problems: Sequence[Problem],
    population: LoraPopulation,
    participants: Sequence[Participant],
    options: BenchOptions,
    run: SavedRun | None,
    log: ReplyLog,
    console: Console,
) -> BenchmarkResult:
    """Measure one task with a progress bar, and print its table."""
    sampling = options.sampling()
    if run is not None and not options.max_new_tokens and task.preset.name == "arena-v1":
        sampling = replace(sampling, max_new_tokens=run.config.solve_tokens)
    with Bars(console, population.stats) as bars, Grader() as grader:
        try:
            result = benchmark(
                population,
                problems,
                participants,
                preset=task.preset,
                sampling=sampling,
                task=task.spec,
                log=log,
                grader=grader,
                batch=2 * options.max_rows,
                progress=bars.tell,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    console.print("\n" + heading(result, population.base.precision))
    console.print(result_table(result))
    changes = changes_table(result)
    if changes is not None:
        console.print(changes)
    for line in totals_lines(result):
        console.print(line)
    return result


def _settings_hash(options: BenchOptions, folders: Mapping[str, Path]) -> str:
    """Return what names a measurement: the same command with the same adapters has the same."""
    settings = asdict(options)
    for name in ("out", "device", "max_rows"):  # which change no reply
        del settings[name]
    model = Path(options.model).expanduser()
    settings["model"] = str(model.resolve()) if model.exists() else options.model
    settings["adapters"] = {name: adapter_hash(folder) for name, folder in folders.items()}
    text = json.dumps([installed("populora-env"), settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _write(
    out: Path,
    options: BenchOptions,
    precision: str,
    results: Sequence[BenchmarkResult],
    outside: set[str],
) -> None:
    """Write the figures and the problems; the replies are there already.

    Tasks that were measured there before, and not now, stay.
    """
    compared = [comparison(result) for result in results]
    data: dict[str, Any] = {
        "version": installed("populora-env"),
        "options": {**asdict(options), "products": str(options.products)},
        "precision": precision,
        "results": [
            {**result.to_dict(), "outside": result.task in outside, "change": change}
            for result, change in zip(results, compared, strict=True)
        ],
    }
    rows = [
        {"task": result.task, "problem": p.id, "text": p.prompt, "answer": p.answer}
        for result in results
        for p in result.problems
    ]
    former, former_rows = _former(out, data)
    now = {result.task for result in results}
    data["results"] += [entry for entry in former if entry["task"] not in now]
    rows += [row for row in former_rows if row["task"] not in now]
    write_whole(out / "results.json", json.dumps(data, indent=1) + "\n")
    write_whole(out / "problems.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _former(out: Path, data: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Results and problems that are there, if this version wrote them in the same precision."""
    try:
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))
        lines = (out / "problems.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        alike = all(found[name] == data[name] for name in ("version", "precision"))
        known = [entry for entry in found["results"] if isinstance(entry["task"], str)]
        return (known, [row for row in rows if isinstance(row["task"], str)]) if alike else ([], [])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # none, or damaged
        return [], []
