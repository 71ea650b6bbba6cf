"""The table that is shown while a run goes on: a row for each agent."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from agents.measuring.statistics import Estimate
from agents.progress import Answered
from evolution.commands.usage import one_line
from evolution.results import GenerationResult
from populora_env.records import Phase

_SHOWN = 200  # characters of a reply that are kept; the terminal cuts them to its width
_ANSWERS = (Phase.SOLVE, Phase.REVISE, Phase.PROPOSE)


class AgentsTable:
    """What each agent is worth, as of the last generation, and what it does right now.

    A renderable of rich: drawn anew, it shows what it was told last.

    Args:
        agents: Names, in order.
    """

    def __init__(self, agents: Sequence[str]) -> None:
        self._agents = tuple(agents)
        self._figures = {agent: ("", "", "") for agent in agents}
        self._tokens = dict.fromkeys(agents, 0)
        self._said = dict.fromkeys(agents, "")
        self._before = self._batch = 0.0  # seconds of a generation's earlier batches, of this one

    def answered(self, reply: Answered) -> None:
        """Take note of a reply; those of others than the agents are left out."""
        agent = reply.request.agent
        if agent not in self._tokens:
            return
        if reply.seconds < self._batch:  # another one
            self._before += self._batch
        self._batch = reply.seconds
        self._tokens[agent] += reply.tokens
        if reply.request.phase in _ANSWERS:
            self._said[agent] = one_line(reply.text)[:_SHOWN]

    def played(self, result: GenerationResult) -> None:
        """Take note of a generation that is over; speed is counted anew."""
        self._tokens = dict.fromkeys(self._agents, 0)
        self._before = self._batch = 0.0
        scores = result.scores
        for i, agent in enumerate(result.agents):
            standing = Estimate(float(result.standing[i]), float(result.standing_errors[i])).text()
            self._figures[agent] = (
                standing, _number(scores.accuracy[i]), _number(scores.returns[i])
            )  # fmt: skip

    def __rich__(self) -> Table:
        """The table as it is now."""
        table = Table(expand=True, show_edge=False, pad_edge=False)
        table.add_column("agent", no_wrap=True)
        for name in ("standing", "accuracy", "return", "tokens/s"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("just answered", no_wrap=True, overflow="ellipsis", ratio=1)
        seconds = self._before + self._batch
        for agent in self._agents:
            tokens = self._tokens[agent]
            rate = f"{tokens / seconds:.0f}" if tokens and seconds else ""
            table.add_row(agent, *self._figures[agent], rate, self._said[agent])
        return table


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "?"
