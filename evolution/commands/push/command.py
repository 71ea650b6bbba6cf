"""``populora push``: a run's adapters with a model card, in a folder and on a hub.

The folder is whole before anything is sent, and stays if sending fails.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from agents.peft_config import CONFIG_FILE, read_config
from agents.peft_io import WEIGHTS_FILE
from agents.plain_files import whole_folder
from evolution.commands.export.card import (
    CARD_FILE,
    SETTINGS_FILE,
    Carded,
    base_name,
    card_of_champion,
    card_text,
    individual_of,
    settings_text,
)
from evolution.commands.usage import one_line, parse, writing_to
from evolution.errors import UsageError
from evolution.runs.files import BEST
from evolution.runs.saved_run import SavedRun, read_run
from evolution.terminal import PlainConsole

FOLDER = "hub"
"""Where in a run what was pushed lies, unless a folder is named."""


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Write a run's adapters with a model card, and upload them to the Hugging Face hub."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    to: str
    """Repository to upload to, as in NAME or OWNER/NAME; made if it is not there."""
    agents: bool = False
    """Whether all agents of the last generation go along, in agents/, not the champion alone."""
    private: bool = False
    """Whether a repository that is made is private."""
    license: str = ""
    """License of the adapters for the card, as hubs call it, such as apache-2.0; default none."""
    out: str = ""
    """Folder to write them to, replaced if it is a former one; default hub in the run's folder."""
    dry_run: bool = False
    """Whether to write the folder and upload nothing."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(PushOptions, arguments, prog="populora push")
    _check_name(options.to)
    console = PlainConsole()
    run = read_run(options.run)
    folder = Path(options.out).expanduser() if options.out else run.path / FOLDER
    write(run, folder, options)
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    console.print(f"Wrote {folder}: {', '.join(files)}", soft_wrap=True)
    if options.dry_run:
        console.print("Dry run: nothing was uploaded")
    else:
        console.print(f"Uploaded: {upload(folder, options)}", soft_wrap=True)
    return 0


def write(run: SavedRun, folder: Path, options: PushOptions) -> None:
    """Write adapters, card and settings, whole or not at all.

    Raises:
        UsageError: If the run has no champion, or the folder cannot be written.
    """
    sources = _sources(run, options.agents)
    if folder.exists() and not _is_former(folder):
        raise UsageError(f"out: {folder} is there already; choose another folder")
    with writing_to("out", str(folder), "a writable folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder, shared=True, replace=True) as work:
            for entry, source in sources:
                (work / entry.folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / WEIGHTS_FILE, work / entry.folder / WEIGHTS_FILE)
                (work / entry.folder / CONFIG_FILE).write_text(
                    _public_config(source, run.config.model), encoding="utf-8"
                )
            entries = [entry for entry, _ in sources]
            card = card_text(options.to, entries, run=run, license_id=options.license)
            (work / CARD_FILE).write_text(card, encoding="utf-8")
            (work / SETTINGS_FILE).write_text(settings_text(run), encoding="utf-8")


def upload(folder: Path, options: PushOptions) -> str:
    """Upload a folder; return the address of the commit.

    Raises:
        UsageError: If that fails, whatever the reason; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(options.to, private=options.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Adapters of a PopuLoRA run"
        )
    except Exception as error:  # of the library, its transport, or of who is not logged in
        reason = one_line(str(error)) or type(error).__name__
        raise UsageError(
            f"to: {options.to} could not be uploaded ({reason[:200]}); {folder} is whole: log in "
            f"with hf auth login, or try again with hf upload {options.to} {folder}"
        ) from error
    return str(done)


def _sources(run: SavedRun, agents: bool) -> list[tuple[Carded, Path]]:
    """What is pushed, and where it lies in the run."""
    best = run.path / BEST
    found: list[tuple[Carded, Path]] = []
    if (best / CONFIG_FILE).is_file():
        found.append((card_of_champion(run), best))
    if agents:
        for agent, place in run.adapters.items():
            whose = individual_of(run, agent)
            what = f"{agent}, {whose}" if whose else agent
            found.append((Carded(what, f"agents/{agent}", agent, (whose,)), place))
    if not found:
        raise UsageError(
            f"run: {run.path} has no champion yet; let it go on, or push its agents with "
            "--agents True"
        )
    return found


def _public_config(folder: Path, model: str) -> str:
    """An adapter's configuration, with its base as others can find it: no path of this machine."""
    config = {**read_config(folder), "base_model_name_or_path": base_name(model)}
    return json.dumps(config, indent=2) + "\n"


def _is_former(folder: Path) -> bool:
    """Whether a folder is empty, or holds what an earlier call wrote and nothing else."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    names = {entry.name for entry in folder.iterdir()}
    written = {CARD_FILE, SETTINGS_FILE, CONFIG_FILE, WEIGHTS_FILE, "agents"}
    return not names or ({CARD_FILE, SETTINGS_FILE} <= names <= written)


def _check_name(name: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"to: got {name!r}, expected NAME or OWNER/NAME ({error})") from error
