"""An arena that shows its episodes as they happen, for ``populora play``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from evolution.commands.play.players import HUMAN, Player
from populora_env.arena import Observation, ReasoningArena
from populora_env.episodes.rendering import indented, opinion_lines, shown, visible
from populora_env.episodes.rewards import RewardPart, RewardWeights
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
        problems: One for each episode.
        players: Agent to who plays it.
        options: The arena's settings.
        console: Where to show it.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        players: Mapping[str, Player],
        options: "PlayOptions",
        console: Console,
    ) -> None:
        super().__init__(
            problems,
            num_agents=len(players),
            evaluation=options.evaluation,
            seed=options.seed,
            judge_load=options.judge_load,
            revise=options.revise,
            rewards=options.rewards,
        )
        self._players, self._console = players, console
        self._weights = RewardWeights.preset(options.rewards)
        self._people = {agent for agent, player in players.items() if player.name == HUMAN}
        self._problem = problems[0]
        self._round = (0, Phase.SOLVE)
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
            self._console.print(f"\n{indented(shown(self._problem.prompt))}")
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
        result = super().step(actions)
        observations, infos = result[0], result[4]
        others = [f"round {self._round[0]}: {self._round[1]}"]
        for agent, info in infos.items():
            for name, value in info["parts"].items():
                if value is not None and (weight := getattr(self._weights, name)):
                    so_far = self._earned[agent].get(name, 0.0)
                    self._earned[agent][name] = so_far + weight * value
            said = self._said(agent, actions[agent] or "", info["status"])
            if agent in self._people or not self._people:
                self._console.print(said)
            else:
                others.append(said)
        if self._people and others[1:]:
            self._held += others
        if self.agents:
            self._announce(observations)
        else:
            self._conclude(self.transcript)
        return result

    def _announce(self, observations: Mapping[str, Observation]) -> None:
        first = observations[self.agents[0]]
        self._round = (first["round"], Phase(first["phase"]))
        self._console.print(f"\nround {self._round[0]}: {self._round[1]}")

    def _said(self, agent: str, reply: str, status: str) -> str:
        """Return a reply and how it was read."""
        read = f"not read: {status}"
        if status in (ReplyStatus.OK, ReplyStatus.LENIENT):
            value = _value(self._round[1], storable(reply), self._problem.answer_kind)
            read = f"read as {shown(value)} ({status})"
        text = f"\n{indented(shown(reply.strip()))}" if reply.strip() else ""
        return f"{agent} ({visible(self._players[agent].name)}), {read}{text}"

    def _conclude(self, transcript: Transcript) -> None:
        """Show what was held back, who thought what of whom, and the rewards."""
        if self._held:
            self._console.print("\nwhat the others wrote\n" + "\n".join(self._held))
        judged = "\n".join(opinion_lines(transcript.assessments, transcript.evaluations))
        answer = transcript.problem.answer
        known = "no known answer" if answer is None else f"known answer: {shown(answer)}"
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
        for attempt in transcript.final_attempts:
            agent, earned = attempt.agent, self._earned[attempt.agent]
            table.add_row(
                f"{agent} {visible(Path(self._players[agent].name).name)}",
                "" if attempt.answer is None else shown(attempt.answer),
                "" if attempt.grade is None else str(attempt.grade.status),
                *(f"{earned[part]:.3f}" if part in earned else "" for part in parts),
                f"{transcript.rewards[agent]:.3f}",
            )
        return table


def _value(phase: Phase, reply: str, kind: AnswerKind) -> str:
    """Return what a reply was read as."""
    form = FORMS.get(phase)
    if form is not None:
        return form.show(form.read(reply).value)
    return str(read_answer(reply, kind).answer)
