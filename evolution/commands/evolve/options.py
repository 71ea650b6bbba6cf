"""What ``populora evolve`` is asked to do: a new run, one to go on with, or a branch."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tomli_w

from agents.loading.linear import resolve
from evolution.commands.usage import installed, parse
from evolution.config import RunConfig
from evolution.errors import CheckpointError, UsageError
from evolution.learning import threads_of
from evolution.runs.branching import split_branch
from evolution.runs.changes import find_changes, plain_settings
from evolution.runs.integrity import check_resumable
from evolution.runs.saved_run import SavedRun
from evolution.runs.settings_files import presets, read_preset, read_toml
from populora_env.settings import Range

_PACKAGES = ("populora-env", "torch", "transformers", "numpy", "reasoning-gym")
_PATHS = ("out", "resume", "branch")
_SOURCES = ("preset", "config", "resume", "branch")


@dataclass(frozen=True, kw_only=True)
class EvolveOptions(RunConfig):
    """Evolve a population of LoRA adapters on one frozen base model.

    Flags override the TOML file, which overrides the preset.
    """

    preset: str = ""
    """Settings that ship with the package, by name."""
    config: str = ""
    """TOML file with settings."""
    resume: str = ""
    """Run folder to continue; flags change its settings from here on, which is recorded."""
    branch: str = ""
    """RUN@GENERATION: start a new run (--out) from a saved generation of another one."""
    note: str = ""
    """What to record with settings that a continued run changes."""
    dry_run: bool = False
    """Whether to say what the run is going to take, after some seconds, and to begin nothing."""
    workers: Annotated[int, Range(0)] = 0
    """Processes that decode and learn, on Ray; 0 does all in this one."""
    worker_gpus: Annotated[float, Range(0)] = 0.0
    """GPUs of each worker."""
    worker_deadline: Annotated[float, Range(0, above=True)] = 600.0
    """Seconds that a worker may take over one shard before another one gets it."""
    ray_address: str = ""
    """Ray cluster to join, auto for one on this machine; default: Ray is started for the run."""


def read_options(arguments: Sequence[str]) -> EvolveOptions:
    """Defaults, then preset, then file or saved run, then flags.

    Raises:
        UsageError: If the words do not fit, or exclude each other.
        CheckpointError: If a saved run cannot be read, or a setting cannot change in it.
        ConfigError: If a value is out of range.
    """
    named = {name: os.path.expanduser(_value_of(arguments, f"--{name}")) for name in _SOURCES}
    given = [name for name in _SOURCES if named[name]]
    if len(given) > 1 and given != ["preset", "config"]:
        raise UsageError(
            f"--{given[0]} and --{given[-1]}: expected one of them; options change one by one"
        )
    settings, saved = RunConfig(), None
    if named["resume"]:
        check_resumable(Path(named["resume"]))  # before a model is loaded
        settings = saved = SavedRun(named["resume"], "resume").settings()
    elif named["branch"]:
        origin, generation = split_branch(named["branch"])
        settings = saved = SavedRun(origin, "branch").settings(generation)
    else:
        if named["preset"]:
            settings = read_preset(named["preset"])
        if named["config"]:
            settings = read_toml(named["config"], settings)
    default = EvolveOptions(**asdict(settings))
    options = parse(EvolveOptions, arguments, default=default, prog="populora evolve")
    # So that the run says what auto is here, and keeps to it elsewhere.
    products = resolve(options.products, dtype=options.dtype, device=options.device)
    paths = {name: os.path.expanduser(getattr(options, name)) for name in _PATHS}
    options = replace(options, products=products, **paths)
    own = os.path.expanduser(settings.out)
    if options.workers and options.engine != "local":
        raise UsageError(
            f"--workers: got {options.workers} with --engine {options.engine}, expected 0: the "
            "server generates, and learning is done here"
        )
    if saved is None and options.workers > 1 and not _value_of(arguments, "--shards"):
        options = replace(options, shards=max(options.shards, options.workers))
    if saved is None and options.shards > 1:  # so that the run keeps to it elsewhere
        options = replace(options, worker_cpus=threads_of(options))
    if saved is not None:
        find_changes(plain_settings(saved), options, 0)  # refuses before a model is loaded
    if options.resume and options.out != own:
        raise CheckpointError(
            f"out: got {options.out!r}, but a run goes on in its own folder; for a new one say "
            f"--branch {options.resume}@GENERATION"
        )
    if options.note and saved is None:
        raise UsageError("--note: only with --resume or --branch; a new run changes no settings")
    if options.branch and options.out == own and not _value_of(arguments, "--out"):
        return replace(options, out=new_folder())
    return options


def run_toml(options: RunConfig) -> str:
    """The ``run.toml`` of a new run: settings and versions."""
    versions = {package: installed(package) for package in _PACKAGES}
    config = {k: v for k, v in plain_settings(options).items() if v is not None}
    return tomli_w.dumps({"config": config, "versions": versions, "presets": presets()})


def new_folder() -> str:
    """A run folder named by date and time."""
    return f"runs/{datetime.now():%Y%m%d-%H%M%S}"


def _value_of(arguments: Sequence[str], flag: str) -> str:
    """Value of a flag that decides on the others' defaults."""
    for i, word in enumerate(arguments):
        if word == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return ""
