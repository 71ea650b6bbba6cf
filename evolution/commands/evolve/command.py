"""``populora evolve``: run an evolution, show its progress, and measure what came of it."""

import json
import shlex
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.engine.jobs import EngineError
from evolution.commands.evolve.answers import show_first_answers
from evolution.commands.evolve.dry_run import dry_run
from evolution.commands.evolve.engine import connected, introduce, load
from evolution.commands.evolve.final_table import measure, show_last_trial, show_proposals
from evolution.commands.evolve.guard_lines import show_guard
from evolution.commands.evolve.judging_table import show_judging
from evolution.commands.evolve.memory import memory_words, peak_memory
from evolution.commands.evolve.options import EvolveOptions, new_folder, read_options, run_toml
from evolution.commands.evolve.workers import show_workers, with_workers
from evolution.commands.extras import lacks
from evolution.commands.live_table import AgentsTable
from evolution.commands.progress import Bars
from evolution.commands.usage import Interrupts
from evolution.config import RunConfig
from evolution.guard.anchors import choose_anchors
from evolution.loggers.base import ConsoleLogger
from evolution.loggers.held_out import HeldOutLogger
from evolution.loggers.named import LoggedRun, check_packages, make_loggers
from evolution.manager import EvolutionManager
from evolution.planning.disk import REPORT_READS
from evolution.results import GenerationResult
from evolution.run_population import newborn
from evolution.run_problems import check_fit, check_left, check_roles, held_out_problems
from evolution.runs.branching import branch, split_branch
from evolution.runs.changes import plain_settings, read_changes
from evolution.runs.checkpoint import RunFolder
from evolution.runs.files import SUMMARY_FILE, TRANSCRIPTS_FILE
from evolution.terminal import PlainConsole
from populora_env.errors import PopuloraError
from populora_env.grading import Grader
from populora_env.problems import load_problems


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = read_options(arguments)
    if options.dry_run:
        return dry_run(options, newborn)
    check_packages(options.log)
    console = PlainConsole()
    started = time.monotonic()
    train = load_problems(options.problems, split="train", seed=options.seed)
    held_out = held_out_problems(options)
    check_roles(train, options.proposers)
    with warnings.catch_warnings(action="ignore"):  # the manager says it
        check_left(train, held_out)
    choose_anchors(train, options, held_out)  # before anything is written or loaded
    folder = _open_folder(options)
    goes_on = bool(done := folder.generations())
    console.print(_what(options))
    if done:
        console.print(f"Going on after generation {done[-1] + 1}, which {folder.path} holds")
    with console.status(f"loading the base model {options.model}"):
        base = load(options)
    command = f"populora evolve --resume {shlex.quote(str(folder.path))}"
    with ExitStack() as stack:
        grader = stack.enter_context(Grader())
        engine = stack.enter_context(connected(options, base, folder.path))
        population = newborn(base, options, engine)
        stack.enter_context(with_workers(population, options, console))
        introduce(population, options, console)
        manager = EvolutionManager(
            population, train, options, folder=folder.path, grader=grader, exclude=held_out
        )
        if goes_on:
            _go_on(manager, options, folder, console)
        else:
            for problems in (train, held_out):
                check_fit(base, problems, options.solve_tokens, population.context)
            folder.write("run.toml", run_toml(options))
            show_first_answers(population, train, options.solve_tokens, grader, console)
        manager.loggers += [
            ConsoleLogger(console, generations=options.generations),
            *make_loggers(
                options.log, LoggedRun(folder.path, manager.generation, plain_settings(options))
            ),
        ]
        if held_out and (every := options.held_out_every):
            tokens = options.solve_tokens
            curve = HeldOutLogger(
                folder, population, held_out, every, tokens, grader, manager.solvers
            )
            curve.catch_up(manager.generation - 1)
            manager.loggers.append(curve)
        try:
            with Interrupts() as interrupts:
                results = _evolve(manager, options, console, started, interrupts)
            if (
                options.max_minutes
                and manager.generation < options.generations
                and not (results and results[-1].stop)
            ):
                console.print(
                    f"The {options.max_minutes:g} minutes are up: {manager.generation} of "
                    f"{options.generations} generations were played"
                )
            with console.status("the last trial"):
                last = manager.conclude()
            manager.keep_best()
            summary: dict[str, Any] = {"generations": manager.generation}
            if last is not None:
                summary["last_trial"] = show_last_trial(last, console)
            if folder.generations():
                summary["arena"] = show_judging(folder, console)
            if held_out and manager.champion is not None:
                summary["held_out"] = measure(manager, options, held_out, grader, console, folder)
            if (proposals := show_proposals(folder, console)) is not None:
                summary["proposals"] = proposals
            if overlong := population.stats.overlong:
                summary["overlong_prompts"] = overlong
                console.print(
                    f"{overlong} prompts did not fit the model's context and got empty replies"
                )
            stop = results[-1].stop if results else ""
            if (guarded := show_guard(folder, console, stop)) is not None:
                summary["guard"] = guarded
            if done := show_workers(population, console):
                summary["workers"] = done
            peaks = peak_memory(base.device)
            summary["peak_memory_mib"] = peaks
            if said := memory_words(peaks):
                console.print(said)
            summary["seconds"] = round(time.monotonic() - started, 1)
            folder.write(SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
        except KeyboardInterrupt:
            console.print(f"\nInterrupted; {_done(folder, command)}")
            return 130
        except EngineError:
            console.print(f"\nThe engine failed; {_done(folder, command)}")
            raise
        finally:
            manager.close()
            folder.close()
    console.print(f"Run folder: {folder.path}")
    _report(folder.path, console)
    if results or goes_on:
        if manager.champion is not None:
            path = shlex.quote(str(folder.path))
            base_of_it = "".join(
                f" --{name} {shlex.quote(getattr(options, name))}"
                for name in ("model", "dtype")
                if getattr(options, name) != getattr(RunConfig, name)
            )
            console.print(f"Watch the champion: populora play --agents {path},base*2{base_of_it}")
        more = manager.generation + max(options.generations, 1)
        console.print(f"Continue with: {command} --generations {more}")
    return 0


def _what(options: EvolveOptions) -> str:
    """What the run is going to do, in a line."""
    most = f", at most {options.max_minutes:g} minutes" if options.max_minutes else ""
    return (
        f"Evolving {options.size} adapters: {options.generations} generations of "
        f"{options.problems_per_generation} problems{most}"
    )


def _report(run: Path, console: Console) -> None:
    """Write the run's report, if that can be done in seconds; else say how."""
    command = f"populora report {shlex.quote(str(run))}"
    episodes = run / TRANSCRIPTS_FILE
    if lacks("report") or (episodes.exists() and episodes.stat().st_size > REPORT_READS):
        console.print(f"Report: {command}")
        return
    from evolution.commands.report import write_report

    try:
        with console.status("writing the report"):
            file, _ = write_report(run)
    except PopuloraError as error:
        console.print(f"No report was written ({error}); {command}")
    else:
        console.print(f"Report: {file}")


def _done(folder: RunFolder, command: str) -> str:
    done = folder.generations()
    return f"{len(done) and done[-1] + 1} generations are complete. " + (
        f"Continue with: {command}" if done else "Nothing was saved yet."
    )


def _open_folder(options: EvolveOptions) -> RunFolder:
    """The folder of the run to go on with, or one that is ready for a new run.

    A run that was killed before its first generation was saved begins anew.
    """
    if options.branch:
        return RunFolder(branch(*split_branch(options.branch), options.out, options, options.note))
    folder = RunFolder(options.resume or options.out or new_folder())
    if not options.resume or not folder.generations():
        folder.begin()
    return folder


def _go_on(
    manager: EvolutionManager, options: EvolveOptions, folder: RunFolder, console: Console
) -> None:
    """Resume a run and say which settings change with that."""
    manager.resume(folder.path, note=options.note)
    for change in read_changes(folder.path):
        if change.generation == manager.generation:
            console.print(
                f"{change.option}: {change.before} until now, {change.after} from generation "
                f"{change.generation + 1} on"
            )


def _evolve(
    manager: EvolutionManager,
    options: RunConfig,
    console: Console,
    started: float,
    interrupts: Interrupts,
) -> list[GenerationResult]:
    limit = options.max_minutes * 60

    def is_over() -> bool:
        interrupts.check()
        return bool(limit) and time.monotonic() - started > limit

    population = manager.population
    table = AgentsTable(population.agents)
    with Bars(console, population.stats, above=table) as bars, ExitStack() as watched:
        if console.is_terminal:
            watched.callback(setattr, population, "watcher", None)
            population.watcher = table.answered

        def count(done: int) -> None:
            bars.count("generations", done, options.generations)

        def played(result: GenerationResult) -> None:
            table.played(result)
            count(result.generation + 1)

        count(manager.generation)
        return manager.run(
            max(options.generations - manager.generation, 0),
            until=is_over,
            on_generation=played,
            progress=bars.tell,
        )
