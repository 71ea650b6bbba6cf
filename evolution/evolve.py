"""``populora evolve``: run an evolution, show its progress, and measure what came of it."""

import importlib.metadata
import json
import math
import shlex
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from agents.evaluate import AgentScore, EvaluationResult, evaluate
from agents.generation import DecodeStats
from agents.models import load_base
from agents.population import BASE, LoraPopulation
from evolution.checkpoint import CheckpointError, RunFolder
from evolution.config import RunConfig, from_mapping, presets, read_preset, read_toml
from evolution.fitness import diversity_words
from evolution.held_out import HeldOutLogger
from evolution.judging import judging_figures, judging_summary, judging_table, majority_line
from evolution.lineage import content_hash
from evolution.loggers import TensorBoardLogger
from evolution.manager import EvolutionManager
from evolution.results import GenerationResult
from evolution.trials import Champion, hosting
from evolution.usage import Interrupts, parse
from populora_env.grading import Grader
from populora_env.problems import load_problems
from populora_env.records import Problem

_PACKAGES = ("populora-env", "torch", "transformers", "numpy", "reasoning-gym")
_RESUMABLE = ("generations", "max_minutes")


@dataclass(frozen=True)
class EvolveOptions(RunConfig):
    """Evolve a population of LoRA adapters on one frozen base model.

    Flags override the TOML file, which overrides the preset.
    """

    preset: str = ""
    """Settings that ship with the package, by name."""
    config: str = ""
    """TOML file with settings."""
    resume: str = ""
    """Run folder to continue; only generations and max_minutes may change."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = _read_options(arguments)
    console = Console(highlight=False)
    started = time.monotonic()
    train = load_problems(options.problems, split="train", seed=options.seed)
    held_out: list[Problem] = []
    if options.held_out:
        test = load_problems(options.problems, split="test", seed=options.seed)
        held_out = test.distinct(options.held_out)
    folder = RunFolder(options.resume or options.out or _new_folder())
    if not options.resume and folder.generations():
        raise CheckpointError(
            f"out: {folder.path} already holds a run; continue it with --resume {folder.path} or "
            "choose another folder"
        )
    base = load_base(
        options.model, dtype=options.dtype, device=options.device, products=options.products
    )
    console.print(f"base model {options.model}, problems {options.problems}", soft_wrap=True)
    population = LoraPopulation(base, options.size, options.rank, max_rows=options.max_rows)
    command = f"populora evolve --resume {shlex.quote(str(folder.path))}"
    with Grader() as grader:
        manager = EvolutionManager(
            population, train, options, folder=folder.path, grader=grader, exclude=held_out
        )
        if options.resume:
            manager.resume(folder.path)
        else:
            folder.write("run.toml", _run_toml(options))
        manager.loggers.append(
            TensorBoardLogger(folder.path / "tensorboard", first=manager.generation)
        )
        if held_out and (every := options.held_out_every):
            tokens = options.solve_tokens
            manager.loggers.append(
                HeldOutLogger(folder, population, held_out, every, tokens, grader)
            )
        try:
            with Interrupts() as interrupts:
                results = _evolve(manager, options, console, started, interrupts)
            manager.confirm()
            summary: dict[str, Any] = {"generations": manager.generation}
            if folder.generations():
                summary["arena"] = _show_judging(folder, console)
            if held_out and manager.generation:
                summary["held_out"] = _measure(manager, options, held_out, grader, console, folder)
            summary["seconds"] = round(time.monotonic() - started, 1)
            folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
        except KeyboardInterrupt:
            done = folder.generations()
            console.print(
                f"\nInterrupted; {len(done) and done[-1] + 1} generations are complete. "
                + (f"Continue with: {command}" if done else "Nothing was saved yet."),
                soft_wrap=True,
            )
            return 130
        finally:
            manager.close()
    console.print(f"Run folder: {folder.path}", soft_wrap=True)
    if results or options.resume:
        more = manager.generation + max(options.generations, 1)
        console.print(f"Continue with: {command} --generations {more}", soft_wrap=True)
    return 0


def _read_options(arguments: Sequence[str]) -> EvolveOptions:
    """Defaults, then preset, then file or saved run, then flags."""
    named = {name: _value_of(arguments, f"--{name}") for name in ("preset", "config", "resume")}
    settings = RunConfig()
    if named["resume"]:
        settings = _saved_config(Path(named["resume"]))
    elif named["config"]:
        settings = read_toml(named["config"])
    elif named["preset"]:
        settings = read_preset(named["preset"])
    default = EvolveOptions(**asdict(settings))
    options: EvolveOptions = parse(
        EvolveOptions, arguments, default=default, prog="populora evolve"
    )
    if options.resume:
        fixed = {name: getattr(options, name) for name in _RESUMABLE}
        same = replace(settings, **fixed)
        changed = [name for name, value in asdict(same).items() if getattr(options, name) != value]
        if changed:
            raise CheckpointError(
                f"resume: --{changed[0].replace('_', '-')} cannot change in a saved run; only "
                f"{' and '.join(_RESUMABLE)} can"
            )
    return options


def _value_of(arguments: Sequence[str], flag: str) -> str:
    """Value of a flag that decides on the others' defaults."""
    for i, word in enumerate(arguments):
        if word == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return ""


def _new_folder() -> str:
    return f"runs/{datetime.now():%Y%m%d-%H%M%S}"


def _run_toml(options: RunConfig) -> str:
    config = {name: getattr(options, name) for name in asdict(RunConfig())}
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    plain = {
        name: str(value) if isinstance(value, str) else value
        for name, value in config.items()
        if value is not None
    }
    return tomli_w.dumps({"config": plain, "versions": versions, "presets": presets()})


def _saved_config(folder: Path) -> RunConfig:
    try:
        data: dict[str, Any] = tomllib.loads((folder / "run.toml").read_text())
    except OSError as error:
        raise CheckpointError(
            f"resume: {folder} is no run folder (run.toml: {error.strerror})"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"resume: {folder / 'run.toml'} is damaged ({error})") from error
    return from_mapping(data.get("config", {}), str(folder / "run.toml"))


class _Bars:
    """Progress of generations and of the stage within one."""

    def __init__(self, console: Console, stats: DecodeStats) -> None:
        self.progress = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            transient=True,
        )
        self._stats = stats
        self._stage: TaskID | None = None
        self._name = ""

    def stage(self, name: str, done: float) -> None:
        """Show how far a stage is, in percent."""
        if name != self._name:
            if self._stage is not None:
                self.progress.remove_task(self._stage)
            self._stage, self._name = self.progress.add_task(name, total=100, rate=""), name
        if self._stage is not None:
            rate = self._stats.tokens_per_second
            said = f"{rate:.0f} tokens/s" if rate else ""
            self.progress.update(self._stage, completed=100 * done, rate=said)


def _evolve(
    manager: EvolutionManager,
    options: RunConfig,
    console: Console,
    started: float,
    interrupts: Interrupts,
) -> list[GenerationResult]:
    bars = _Bars(console, manager.population.stats)
    limit = options.max_minutes * 60

    def is_over() -> bool:
        interrupts.check()
        return bool(limit) and time.monotonic() - started > limit

    with bars.progress:
        total = bars.progress.add_task("generations", total=options.generations, rate="")
        bars.progress.update(total, completed=manager.generation)

        def tell(result: GenerationResult) -> None:
            bars.progress.update(total, completed=result.generation + 1)
            scores = result.scores
            console.print(
                f"generation {result.generation + 1:3d}/{options.generations}  "
                f"return {scores.returns.mean():5.2f} (best {scores.returns.max():5.2f})  "
                f"accuracy {_or_unknown(scores.accuracy.mean())}  "
                f"{diversity_words(scores)}  {result.seconds:4.1f} s",
                soft_wrap=True,
            )

        return manager.run(
            max(options.generations - manager.generation, 0),
            until=is_over,
            on_generation=tell,
            progress=bars.stage,
        )


def _or_unknown(value: float) -> str:
    """An accuracy; no answer is known where it is NaN."""
    return "   ?" if math.isnan(value) else f"{value:4.2f}"


def _measure(
    manager: EvolutionManager,
    options: RunConfig,
    held_out: Sequence[Problem],
    grader: Grader,
    console: Console,
    folder: RunFolder,
) -> dict[str, Any]:
    """Held-out accuracy of the base and all agents: table, replies, best adapter."""
    population = manager.population
    bars = _Bars(console, manager.population.stats)
    with bars.progress:
        base, agents = (
            evaluate(
                population.greedy(),
                held_out,
                agents=names,
                grader=grader,
                max_new_tokens=options.solve_tokens,
                progress=lambda done: bars.stage("measuring", done),
            )
            for names in ((BASE,), population.agents)
        )
    champion = manager.champion
    assert champion is not None  # a generation has been played, so there is one
    best = _score_of(champion, agents, manager, options, held_out, grader)
    console.print(_table(base, agents, champion, best, manager))
    saved = champion.save(population, folder.path / "best")
    console.print(f"Champion ({champion.individual}): {saved}", soft_wrap=True)
    folder.write(
        "held_out.jsonl",
        "".join(
            json.dumps({"agent": agent, "problem": problem.prompt, "answer": problem.answer,
                        "reply": reply, "extracted": grade.extracted, "correct": grade.correct})
            + "\n"
            for agent, score in {**base.scores, **agents.scores, "champion": best}.items()
            for problem, reply, grade in zip(held_out, score.replies, score.grades, strict=True)
        ),
    )  # fmt: skip
    return {
        "problems": len(held_out),
        "base": base.scores[BASE].accuracy,
        "best": best.accuracy,
        "mean": agents.mean,
        "vote": agents.vote if agents.vote is not None else agents.mean,
        "standard_error": best.standard_error,
    }


def _score_of(
    champion: Champion,
    agents: EvaluationResult,
    manager: EvolutionManager,
    options: RunConfig,
    held_out: Sequence[Problem],
    grader: Grader,
) -> AgentScore:
    """Held-out score of the champion: that of the agent that still is what it was, or its own."""
    population = manager.population
    slot = population.agents.index(champion.agent)
    if content_hash(population.lora, slot) == champion.content_hash:
        return agents.scores[champion.agent]
    with hosting(population.lora, slot, champion.genome):
        measured = evaluate(
            population.greedy(),
            held_out,
            agents=(champion.agent,),
            grader=grader,
            max_new_tokens=options.solve_tokens,
        )
    return measured.scores[champion.agent]


def _show_judging(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Print how the agents judged and how good the majority was; return the figures."""
    statistics, majority = judging_figures(folder)
    table = judging_table(statistics)
    if table is not None:
        console.print(table)
    console.print(majority_line(majority), soft_wrap=True)
    return judging_summary(statistics, majority)


def _table(
    base: EvaluationResult,
    agents: EvaluationResult,
    champion: Champion,
    best: AgentScore,
    manager: EvolutionManager,
) -> Table:
    table = Table(
        title=f"Accuracy on {len(base.problems)} held-out problems, greedy "
        f"({manager.generation} generations)"
    )
    table.add_column("who")
    for name in ("accuracy", "± s.e.", "vs base", "standing"):
        table.add_column(name, justify="right")
    start = base.scores[BASE].accuracy

    def row(name: str, accuracy: float, error: float | None, fitness: float | None) -> None:
        table.add_row(
            name,
            f"{accuracy:.3f}",
            "" if error is None else f"{error:.3f}",
            "" if name == BASE else f"{accuracy - start:+.3f}",
            "" if fitness is None else f"{fitness:.3f}",
        )

    row(BASE, start, base.scores[BASE].standard_error, None)
    for agent, fitness in zip(manager.population.agents, manager.standing.tolist(), strict=True):
        score = agents.scores[agent]
        row(agent, score.accuracy, score.standard_error, fitness)
    table.add_section()
    taken = "" if champion.generation == manager.generation else f", gen. {champion.generation}"
    row(f"champion ({champion.agent}{taken})", best.accuracy, best.standard_error, None)
    row("population mean", agents.mean, None, None)
    if agents.vote is not None:
        row("majority vote", agents.vote, None, None)
    return table
