"""An arena that shows its episodes as they happen, for ``populora play``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from evolution.commands.play.players import HUMAN, Player
from populora_env.arena import Observation, ReasoningArena
from populora_env.episodes.rendering import (
    indented,
    opinion_lines,
    proposal_line,
    shown,
    visible,
)
from populora_env.episodes.rewards import RewardPart, RewardWeights
from populora_env.proposals.source import SelfPlaySource
from populora_env.reading.answers import read_answer
from populora_env.reading.forms import FORMS
from populora_env.records import AnswerKind, Phase, Problem, ReplyStatus, Transcript
from populora_env.storage import storable

if TYPE_CHECKING:
    from evolution.commands.play.command import PlayOptions


class WatchedArena(ReasoningArena):
    """An arena that shows each round as it ends, and at the end who earned what.

    Where a person plays, only that person's own replies are shown before the end.

    Args:
        source: Where proposals are verified, in self-play; else None.
        problems: One for each episode; in self-play, requests.
        players: Agent to who plays it.
        options: The arena's settings.
        console: Where to show it.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        source: SelfPlaySource | None,
        problems: Sequence[Problem],
        players: Mapping[str, Player],
        options: "PlayOptions",
        console: Console,
    ) -> None:
        super().__init__(
            source or problems,
            num_agents=len(players),
            evaluation=options.evaluation,
            seed=options.seed,
            judge_load=options.judge_load,
            revise=options.revise,
            rewards=options.rewards,
            proposers=options.proposers,
            solvers=options.solvers,
            tries=options.tries,
        )
        self._pool = source
        self._players, self._console = players, console
        self._weights = RewardWeights.preset(options.rewards)
        self._people = {agent for agent, player in players.items() if player.name == HUMAN}
        self._problem = problems[0]
        self._round = (0, Phase.SOLVE)
        self._asked: set[str] = set()
        self._held: list[str] = []
        self._earned: dict[str, dict[str, float]] = {}
        self._played, self._planned = 0, len(problems)

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Begin an episode and show its problem."""
        result = super().reset(seed, options)
        self._problem = (options or {}).get("problem", self._problem)
        self._held, self._earned = [], {agent: {} for agent in self.agents}
        self._played += 1
        self._console.rule(f"episode {self._played} of {self._planned}", align="left")
        self._console.print(
            ", ".join(f"{agent} {visible(p.name)}" for agent, p in self._players.items())
        )
        if not self._people:  # people read it in their prompts
            asked = next(o["prompt"] for o in result[0].values() if o["has_task"])
            text = asked if self._pool is not None else self._problem.prompt
            self._console.print(f"\n{indented(shown(text))}")
        self._announce(result[0])
        return result

    def step(
        self, actions: Mapping[str, str | None]
    ) -> tuple[
        dict[str, Observation],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Take one reply from every agent and show what may be shown."""
        asked, phase = self._asked, self._round[1]
        result = super().step(actions)
        observations, infos = result[0], result[4]
        if self._episode is not None:
            self._problem = self._episode.problem
        others = [f"round {self._round[0]}: {self._round[1]}"]
        for agent, info in infos.items():
            for name, value in info["parts"].items():
                if value is not None and (weight := getattr(self._weights, name)):
                    so_far = self._earned[agent].get(name, 0.0)
                    self._earned[agent][name] = so_far + weight * value
            if agent not in asked:
                continue
            said = self._said(agent, actions[agent] or "", info)
            if agent in self._people or not self._people:
                self._console.print(said)
            else:
                others.append(said)
        if self._people and others[1:]:
            self._held += others
        if phase is Phase.PROPOSE and self.agents and not self._people:
            self._console.print(f"\n{indented(shown(self._problem.prompt))}")
        if self.agents:
            self._announce(observations)
        else:
            self._conclude(self.transcript)
        return result

    def _announce(self, observations: Mapping[str, Observation]) -> None:
        first = observations[self.agents[0]]
        self._round = (first["round"], Phase(first["phase"]))
        self._asked = {agent for agent, entry in observations.items() if entry["has_task"]}
        self._console.print(f"\nround {self._round[0]}: {self._round[1]}")

    def _said(self, agent: str, reply: str, info: Mapping[str, Any]) -> str:
        """Return a reply and how it was read."""
        status = info["status"]
        read = f"not read: {status}"
        if self._round[1] is Phase.PROPOSE:
            why = f": {shown(info['reason'])}" if info["reason"] else ""
            read = f"proposal {info['proposal']}{why}"
        elif status in (ReplyStatus.OK, ReplyStatus.LENIENT):
            value = _value(self._round[1], storable(reply), self._problem.answer_kind)
            read = f"read as {shown(value)} ({status})"
        text = f"\n{indented(shown(reply.strip()))}" if reply.strip() else ""
        return f"{agent} ({visible(self._players[agent].name)}), {read}{text}"

    def _conclude(self, transcript: Transcript) -> None:
        """Show what was held back, who thought what of whom, and the rewards."""
        if self._held:
            self._console.print("\nwhat the others wrote\n" + "\n".join(self._held))
        judged = "\n".join(opinion_lines(transcript.assessments, transcript.evaluations))
        if self._pool is not None:
            self._pool.observe([transcript])
        answer, proposal = transcript.problem.answer, transcript.proposal
        known = "no known answer" if answer is None else f"known answer: {shown(answer)}"
        if proposal is not None:
            known = proposal_line(proposal) + (f"\n{known}" if proposal.valid else "")
        self._console.print("\n" + (f"{judged}\n\n" if judged else "") + known)
        self._console.print("what each part of the reward added to the return (empty: unknown):\n")
        self._console.print(self._table(transcript))

    def _table(self, transcript: Transcript) -> Table:
        parts = [
            part.value
            for part in RewardPart
            if any(part.value in earned for earned in self._earned.values())
        ]
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("agent", "answer", "grade"):
            table.add_column(column, overflow="fold", min_width=7)
        for part in (*parts, "return"):
            table.add_column(part, justify="right", overflow="fold", min_width=6)
        for agent in transcript.rewards:
            own, earned = _own_part(transcript, agent), self._earned[agent]
            table.add_row(
                f"{agent} {visible(Path(self._players[agent].name).name)}",
                "\n".join(answer for answer, _ in own),
                "\n".join(grade for _, grade in own),
                *(f"{earned[part]:.3f}" if part in earned else "" for part in parts),
                f"{transcript.rewards[agent]:.3f}",
            )
        return table


def _own_part(transcript: Transcript, agent: str) -> list[tuple[str, str]]:
    """Return an agent's answers and their grades; of its proposal, what became of that."""
    proposal, found = transcript.proposal, list[tuple[str, str]]()
    if proposal is not None and proposal.agent == agent:
        found.append((f"proposed {shown(proposal.text)}", str(proposal.status)))
    for attempt in transcript.final_attempts:
        if attempt.agent == agent:
            answer = "" if attempt.answer is None else shown(attempt.answer)
            found.append((answer, "" if attempt.grade is None else str(attempt.grade.status)))
    return found


def _value(phase: Phase, reply: str, kind: AnswerKind) -> str:
    """Return what a reply was read as."""
    form = FORMS.get(phase)
    if form is not None:
        return form.show(form.read(reply).value)
    return str(read_answer(reply, kind).answer)
