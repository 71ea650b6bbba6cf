"""Accuracy on held-out problems while a run goes on."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.measuring.evaluate import evaluate
from agents.population import BASE, LoraPopulation
from evolution.runs.checkpoint import RunFolder
from evolution.runs.files import CURVE_FILE
from evolution.runs.saved_run import SavedRun
from populora_env.grading import Grader
from populora_env.records import Problem, Transcript

if TYPE_CHECKING:
    from evolution.results import GenerationResult


class HeldOutLogger:
    """Measures all agents that solve, greedily, every few generations; a `Logger`.

    Writes a row per agent and measured generation to `CURVE_FILE`; the first time, also one for
    the bare base. Nothing that is measured has an influence on the run.

    Args:
        folder: The run's.
        population: Whom to measure.
        problems: What on, each with a known answer; never trained on.
        every: Generations from one measurement to the next, at least 1.
        max_new_tokens: Length limit of a reply.
        grader: Used and left open.
        agents: Who of the population is measured; None for all.
    """

    def __init__(
        self,
        folder: RunFolder,
        population: LoraPopulation,
        problems: Sequence[Problem],
        every: int,
        max_new_tokens: int,
        grader: Grader,
        agents: Sequence[str] | None = None,
    ) -> None:
        self._agents = population.agents if agents is None else tuple(agents)
        self._folder, self._population, self._problems = folder, population, tuple(problems)
        self._every, self._max_new_tokens, self._grader = every, max_new_tokens, grader

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Measure, if it is time to."""
        del transcripts
        if (result.generation + 1) % self._every == 0:
            self._measure(result.generation)

    def catch_up(self, generation: int) -> None:
        """Measure the last generation of a run that was killed after saving and before this.

        Args:
            generation: The one that the population is in; less than 0 if it has played none.
        """
        if generation < 0 or (generation + 1) % self._every:
            return
        rows = SavedRun(self._folder.path).rows(CURVE_FILE)
        if not any(row["generation"] == generation for _, row in rows):
            self._measure(generation)

    def _measure(self, generation: int) -> None:
        # A run that was killed and resumed measures its last generations again.
        saved = SavedRun(self._folder.path).rows(CURVE_FILE)
        rows = [row for _, row in saved if row["generation"] < generation]
        tokens = self._max_new_tokens
        first = not any(
            row["agent"] == BASE and row.get("max_new_tokens", tokens) == tokens for row in rows
        )
        measured = evaluate(
            self._population.greedy(),
            self._problems,
            agents=((BASE,) if first else ()) + self._agents,
            grader=self._grader,
            max_new_tokens=tokens,
        )
        self._population.forget()
        rows += [
            {
                "generation": generation,
                "agent": agent,
                "accuracy": score.accuracy,
                "standard_error": score.standard_error,
                "problems": len(self._problems),
                "max_new_tokens": tokens,
            }
            for agent, score in measured.scores.items()
        ]
        self._folder.write(CURVE_FILE, "".join(json.dumps(row) + "\n" for row in rows))

    def close(self) -> None:
        """Nothing is held open."""
