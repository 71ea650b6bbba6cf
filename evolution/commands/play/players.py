"""Who plays in ``populora play``: adapters, the bare base model, random agents, people.

A player's name is an entry of ``--agents``. All players that run on the model are one population
and are decoded together.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from agents.peft_config import CONFIG_FILE, folder_hint
from agents.policy import MixedPolicy, Policy, RandomPolicy
from evolution.errors import UsageError
from populora_env.episodes.rendering import indented, visible
from populora_env.records import Request

if TYPE_CHECKING:
    from agents.population import LoraPopulation
    from evolution.commands.play.command import PlayOptions

BASE, HUMAN, RANDOM = "base", "human", "random"
_ENTRY = re.compile(r"(.+?)(?:\*([1-9]\d{0,2}))?")


@dataclass(frozen=True, slots=True)
class Player:
    """Who plays one agent: ``base``, ``human``, ``random``, or an adapter with its folder."""

    name: str
    folder: Path | None = None

    @property
    def is_model(self) -> bool:
        """Whether the base model has to be loaded for it."""
        return self.folder is not None or self.name == BASE


def read_players(text: str) -> list[Player]:
    """Return who plays, from a text such as ``runs/x,base*2,human``.

    Raises:
        UsageError: If an entry is none of what can play, or an adapter or its run is damaged.
    """
    players: list[Player] = []
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        if match is None:
            raise UsageError(f"agents: got an empty entry in {text!r}, expected names and commas")
        name = match[1]
        folder = None if name in (BASE, HUMAN, RANDOM) else _adapter_folder(name)
        players += [Player(name, folder)] * int(match[2] or 1)
    if any(player.folder is not None for player in players):
        from evolution.runs.integrity import check_adapters, refusing

        with refusing("agents"):
            check_adapters(player.folder for player in players if player.folder is not None)
    return players


def _adapter_folder(name: str) -> Path:
    """Return the folder of the adapter that a name on the command line means."""
    path = Path(os.path.expanduser(name))
    for folder in (path, path / "best"):
        if os.path.isfile(folder / CONFIG_FILE):
            return folder
    if os.path.isdir(path):
        raise UsageError(
            f"agents: {name} is neither an adapter folder ({CONFIG_FILE} is missing) nor a run "
            f"with a best adapter; for an agent of an unfinished run say {name}:agent_0"
            f"{folder_hint(path)}"
        )
    run = Path(os.path.expanduser(name.rpartition(":")[0]))
    if ":" not in name or not os.path.isdir(run):
        raise UsageError(
            f"agents: got {name!r}, expected {BASE}, {HUMAN}, {RANDOM}, an adapter folder, a run "
            "folder or RUN:agent_0; *COUNT (1 to 999) repeats one"
        )
    from evolution.runs.files import folder_of
    from evolution.runs.saved_run import SavedRun

    adapters = folder_of(run, SavedRun(run, "agents").generation) / "adapters"
    agent = name.rpartition(":")[2]
    if not os.path.isfile(adapters / agent / CONFIG_FILE):
        held = sorted(entry.parent.name for entry in adapters.glob(f"*/{CONFIG_FILE}"))
        raise UsageError(
            f"agents: {run} has no {agent!r}, expected one of {', '.join(held) or 'none'}"
        )
    return adapters / agent


def policy_of(players: Mapping[str, Player], options: "PlayOptions", console: Console) -> Policy:
    """Return the policy that plays all agents: one population for all that run on the model."""
    others: dict[str, Policy] = {HUMAN: HumanPolicy(console, sys.stdin), RANDOM: RandomPolicy()}
    on_model = {agent: player for agent, player in players.items() if player.is_model}
    members = _load_members(on_model, options, console) if on_model else None
    return MixedPolicy(
        {
            agent: members if members and player.is_model else others[player.name]
            for agent, player in players.items()
        }
    )


def _load_members(
    players: Mapping[str, Player], options: "PlayOptions", console: Console
) -> "MembersPolicy":
    """Load the base model and put each adapter on it once, however many agents it plays."""
    # Not before a model plays: torch takes seconds to import.
    from agents.loading.models import load_base
    from agents.peft_io import AdapterError
    from evolution.commands.participants import population_of

    folders = list(dict.fromkeys(p.folder for p in players.values() if p.folder is not None))
    console.print(f"loading base model {options.model}")
    base = load_base(options.model, dtype=options.dtype, device=options.device)
    try:
        population = population_of(base, folders, max_rows=64, temperature=options.temperature)
    except AdapterError:
        raise
    except ValueError as error:
        raise UsageError(f"agents: no adapter fits model {options.model} ({error})") from error
    names = dict(zip(folders, population.agents, strict=False))
    return MembersPolicy(
        population,
        {agent: names[p.folder] if p.folder else BASE for agent, p in players.items()},
    )


class MembersPolicy:
    """A population that plays agents of an arena under names of its own; a `Policy`.

    Args:
        population: Answers all requests in one call.
        members: The arena's agent to the population's agent, or ``base``.
    """

    def __init__(self, population: "LoraPopulation", members: Mapping[str, str]) -> None:
        self._population, self._members = population, dict(members)

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer as the members.

        Raises:
            UsageError: If a prompt does not fit the model's context.
        """
        asked = [replace(request, agent=self._members[request.agent]) for request in requests]
        try:
            # At the table, a prompt that does not fit is said; `act` would reply with nothing.
            return [reply.text for reply in self._population.generate(asked)]
        except ValueError as error:
            raise UsageError(str(error)) from error
        finally:
            self._population.forget()


class HumanPolicy:
    """A person who reads prompts and types replies; a `Policy`.

    A reply ends with an empty line. Once the input has ended, every reply is empty.

    Args:
        console: Where prompts are shown.
        typed: Where replies come from; None for nowhere.
    """

    def __init__(self, console: Console, typed: TextIO | None) -> None:
        self._console, self._typed = console, typed

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Ask for one reply after the other."""
        return [self._ask(request) for request in requests]

    def _ask(self, request: Request) -> str:
        self._console.print(f"{request.agent}, it is your turn ({request.phase}):\n")
        self._console.print(indented(visible(request.prompt)))
        self._console.print("\nYour reply; an empty line ends it:")
        lines: list[str] = []
        while line := self._read_line():
            lines.append(line)
        return "\n".join(lines)

    def _read_line(self) -> str:
        """Return the next line that is not empty; an empty text ends the reply."""
        line = ""
        if self._typed is not None:
            with suppress(OSError, ValueError):  # closed, or no terminal to read from
                line = self._typed.readline()
            if not line:
                self._typed = None
                self._console.print("(the input has ended: replies are empty from here on)")
        return line.rstrip("\r\n") if line.strip() else ""
