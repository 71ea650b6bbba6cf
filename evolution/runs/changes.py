"""Settings that change while a run goes on.

Each generation is saved with the settings it was played with. A resumed run whose settings differ
records the difference in `changes.jsonl`, a row per option: from which generation on, from what, to
what, and a note. What the past rests on cannot change.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolution.errors import CheckpointError
from populora_env.storage import read_record

if TYPE_CHECKING:  # changes are read without torch
    from evolution.config import EvolutionConfig
    from evolution.runs.checkpoint import RunFolder

CHANGES_FILE = "changes.jsonl"
_COLUMNS = ("generation", "option", "from", "to", "note")

FIXED: Mapping[str, str] = {
    "seed": "every draw of the run is keyed by it",
    "spread": "the first population was made with it",
    "rows": "the adapters and the optimiser's state are of what it leaves to learn",
    "learning_rates": "the first population was made with it",
    "learner": "the optimiser's state belongs to it",
    "model": "the adapters belong to it",
    "dtype": "the adapters were trained on weights of that type",
    "products": "the adapters were trained with that arithmetic",
    "load_in_4bit": "the adapters were trained on weights of that type",
    "targets": "the adapters and the optimiser's state are of these layers",
    "alpha": "the adapters were trained at that scale",
    "adapter_dtype": "the adapters and the optimiser's state have it",
    "size": "ratings, standing and lineage are of that many agents",
    "rank": "the adapters and the optimiser's state have it",
    "problems": "standing compares what was earned on them",
    "fitness": "standing, and the archive if it has one, rest on it",
    "held_out": "the curve compares generations on them",
}
"""Settings that cannot change in a run, and why."""

UNRECORDED = frozenset({"log", "max_minutes", "out"})
"""Settings of one call, which say nothing of how generations are played."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that changed.

    Attributes:
        generation: First generation played with the new value.
        option: Name of the setting.
        before: Its value until then, as JSON type.
        after: Its value from then on, as JSON type.
        note: What was said of it.
    """

    generation: int
    option: str
    before: Any
    after: Any
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a row of `CHANGES_FILE`."""
        return {
            "generation": self.generation,
            "option": self.option,
            "from": self.before,
            "to": self.after,
            "note": self.note,
        }


def plain_settings(config: "EvolutionConfig") -> dict[str, Any]:
    """The settings of a run, or those of a manager alone, as JSON types."""
    from evolution.config import EvolutionConfig, RunConfig

    kind = RunConfig if isinstance(config, RunConfig) else EvolutionConfig
    values = {field.name: getattr(config, field.name) for field in fields(kind)}
    return {k: str(v) if isinstance(v, str) else v for k, v in values.items()}


def find_changes(
    before: Mapping[str, Any], config: "EvolutionConfig", generation: int, note: str = ""
) -> list[Change]:
    """What differs from the settings that a generation was saved with.

    Args:
        before: These, as `plain_settings` gave them; those that one side lacks are not compared.
        config: The settings now.
        generation: The first to be played with them.
        note: For all changes.

    Raises:
        CheckpointError: If a setting differs that cannot change; the message says why.
    """
    found: list[Change] = []
    for option, after in plain_settings(config).items():
        if option in UNRECORDED or option not in before or before[option] == after:
            continue
        if option == "products" and before[option] == "auto":
            continue  # of a run that did not record what auto was
        if option in FIXED:
            raise CheckpointError(
                f"resume: --{option.replace('_', '-')} cannot change in a saved run "
                f"({before[option]!r} to {after!r}): {FIXED[option]}; start a new run"
            )
        if option == "exchange" and "evolution_strategy" in str(after).partition("(")[0]:
            raise CheckpointError(
                f"resume: --exchange cannot change to {after!r} in a saved run: its members begin "
                "with rows A that they share; start a new run"
            )
        found.append(Change(generation, option, before[option], after, note))
    return found


def read_changes(path: str | Path) -> list[Change]:
    """The changes that a run folder records, in order; none if there is no record.

    Raises:
        CheckpointError: If the record is damaged.
    """
    file = Path(path) / CHANGES_FILE
    if not file.exists():
        return []
    found: list[Change] = []
    try:
        # A note may hold U+2028, at which splitlines() would cut the row.
        for line in filter(None, file.read_text(encoding="utf-8").split("\n")):
            row: Any = json.loads(line)
            names = {"from": "before", "to": "after"}
            found.append(
                read_record(Change, {names.get(name, name): row[name] for name in _COLUMNS})
            )
    except (OSError, ValueError, KeyError, RecursionError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise CheckpointError(f"run: {file} is damaged ({reason})") from error
    return found


def record(folder: "RunFolder", changes: Sequence[Change], generation: int) -> None:
    """Record what changes from a generation on.

    Rows for generations that were never saved are replaced: nothing was played with them, or it was
    lost. Where a change is found again, its note stays.

    Args:
        folder: The run's.
        changes: All that differs from the settings the last generation was saved with.
        generation: The next to be played.

    Raises:
        CheckpointError: If the record is damaged or cannot be written.
    """
    recorded = read_changes(folder.path)
    past = [change for change in recorded if change.generation < generation]
    notes = {_key(c): c.note for c in recorded[len(past) :]}
    now = [replace(c, note=c.note or notes.get(_key(c), "")) for c in changes]
    if past + now != recorded:
        rows = (json.dumps(change.to_dict(), ensure_ascii=False) for change in past + now)
        folder.write(CHANGES_FILE, "".join(row + "\n" for row in rows))


def _key(change: Change) -> tuple[str, str]:
    return change.option, json.dumps(change.after)
