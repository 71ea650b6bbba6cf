"""Re-evaluations: would-be elites and the champion on fresh problems, side by side.

The first of many that were measured on few problems is partly the luckiest. Before newcomers push a
proven elite out, and before the champion is replaced, those concerned answer the same new training
problems, greedily, and that decides. The champion is a snapshot of weights: whatever becomes of the
slot it was taken from, the best that was ever confirmed is not lost.

Problems without a known answer decide nothing; where there are none others, standing alone does.
So it does among agents that only propose.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.engine.adapters import StackedLora
from agents.measuring.evaluate import evaluate
from agents.peft_io import write_adapter
from agents.population import LoraPopulation
from evolution.config import EvolutionConfig
from evolution.individuals.lineage import Individual
from evolution.individuals.standing import Standing
from evolution.lowrank.genomes import Genome, content_hash, read_genome, write_genome
from evolution.operators.selection import ranking
from populora_env.grading import Grader
from populora_env.records import Problem


@dataclass(frozen=True, slots=True)
class Champion:
    """The best that was confirmed, as it was then.

    Attributes:
        individual: Its name in the lineage.
        agent: Agent whose slot it had.
        generation: Generations it had played in the run when the snapshot was taken.
        content_hash: Of its weights then.
        genome: These weights.
        accuracy: In its last trial; None before the first.
    """

    individual: str
    agent: str
    generation: int
    content_hash: str
    genome: Genome
    accuracy: float | None = None

    @classmethod
    def of(
        cls, population: LoraPopulation, slot: int, individual: Individual, generation: int
    ) -> "Champion":
        """Take a snapshot of a member."""
        lora = population.lora
        return cls(
            individual.name,
            population.agents[slot],
            generation,
            content_hash(lora, slot),
            read_genome(lora, slot),
        )

    def save(self, population: LoraPopulation, folder: str | Path) -> Path:
        """Write it as a PEFT adapter folder."""
        names = [layer.name for layer in population.lora.layers()]
        rank = self.genome.rank
        factors = {
            name: (A[:rank], B[:, :rank])
            for name, (A, B) in zip(names, self.genome.factors, strict=True)
        }
        return write_adapter(
            folder, factors, alpha=self.genome.alpha, dropout=0.0, base=population.base.path
        )

    def state(self) -> dict[str, Any]:
        """As JSON types, and its factors as tensors by name, for `restore`."""
        factors = {
            f"champion.{place}.{side}": factor
            for place, pair in enumerate(self.genome.factors)
            for side, factor in zip("AB", pair, strict=True)
        }
        return {
            "individual": self.individual,
            "agent": self.agent,
            "generation": self.generation,
            "content_hash": self.content_hash,
            "accuracy": self.accuracy,
            "alpha": self.genome.alpha,
            "scale": self.genome.scale,
            "rank": self.genome.rank,
            **factors,
        }

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> "Champion":
        """Read back what `state` gave.

        Raises:
            KeyError: If a factor is missing.
        """
        own = dict(saved)
        count = sum(name.startswith("champion.") for name in own) // 2
        factors = tuple(
            (own.pop(f"champion.{place}.A"), own.pop(f"champion.{place}.B"))
            for place in range(count)
        )
        numbers = {name: own.pop(name) for name in ("alpha", "scale", "rank")}
        genome = Genome(**numbers, factors=factors)
        return cls(**own, genome=genome)


@contextmanager
def hosting(lora: StackedLora, slot: int, genome: Genome) -> Generator[None, None, None]:
    """Give a slot to a copy inside the block, and back to its owner after it."""
    owner, rank = read_genome(lora, slot), int(lora.ranks[slot])
    lora.set_rank(slot, genome.rank)
    write_genome(lora, slot, genome)
    try:
        yield
    finally:
        lora.set_rank(slot, rank)
        write_genome(lora, slot, owner)


@dataclass(frozen=True, slots=True)
class Reevaluation:
    """What a trial measured.

    Attributes:
        problems: Of how many problems.
        accuracy: Slot to the share it answered rightly.
        champion: The same of the champion; None if it did not take part.
        replaced: Whether the champion was replaced.
    """

    problems: int
    accuracy: Mapping[int, float]
    champion: float | None
    replaced: bool


class Reevaluations:
    """Knows who is proven, and lets others prove themselves.

    Args:
        population: Whose members are tried.
        config: Settings of the run.
        grader: Used and left open.
        fresh: Draws so many problems for the trial of a generation.

    Attributes:
        champion: The best that was confirmed; None before the first generation has ended.
        elites: Names of the individuals that are proven.
    """

    def __init__(
        self,
        population: LoraPopulation,
        config: EvolutionConfig,
        grader: Grader,
        fresh: Callable[[int, int], Sequence[Problem]],
    ) -> None:
        self._population, self._config, self._grader = population, config, grader
        self._fresh = fresh
        self.champion: Champion | None = None
        self.elites: frozenset[str] = frozenset()

    def hold(
        self, standing: Standing, living: Mapping[int, Individual], generation: int
    ) -> Reevaluation | None:
        """Confirm who is among the elites, and the champion.

        Standing is corrected by what a trial shows. Agents whose weights or standing are not finite
        take no part.

        Args:
            standing: Of the members; changed in place.
            living: Who lives in which slot.
            generation: Generations played so far.

        Returns:
            What was measured; None if nothing was in question.
        """
        finite = self._population.lora.finite().cpu().numpy() & np.isfinite(standing.values)
        solves = self._solvers(len(finite))
        if not (finite & solves).any():
            return None
        count = self._config.confirm_problems
        problems = list(self._fresh(generation, count)) if count else []
        right: dict[int, np.ndarray] = {}

        def measure(slots: Sequence[int]) -> None:
            right.update(zip(slots, self._right(slots, problems), strict=True))

        proven = {slot for slot, i in living.items() if i.name in self.elites}
        wanted = self._wanted(standing, finite)
        contested = sorted(slot for slot in wanted ^ proven if finite[slot] and solves[slot])
        newcomer = any(slot in wanted - proven for slot in contested)
        if problems and proven and newcomer and len(contested) > 1:
            measure(contested)
            standing.correct(contested, np.stack([right[slot] for slot in contested]))
        self.elites = frozenset(living[slot].name for slot in self._wanted(standing, finite))
        order = ranking(standing.values).tolist()
        top = next(slot for slot in order if finite[slot] and solves[slot])
        holder = self.champion
        rival = Champion.of(self._population, top, living[top], generation)
        held, replaced = None, False
        if holder is not None and rival.content_hash == holder.content_hash:
            rival = replace(rival, accuracy=holder.accuracy)
        elif holder is not None and problems:
            if top not in right:
                measure([top])
            with hosting(self._population.lora, top, holder.genome):
                marks = self._right([top], problems)[0]
            replaced = outdoes(right[top], marks, self._config.confirm_confidence)
            held = float(marks.mean())
            winner = rival if replaced else holder
            rival = replace(winner, accuracy=float(right[top].mean()) if replaced else held)
        self.champion = rival
        if not right:
            return None
        return Reevaluation(
            len(problems),
            {slot: float(marks.mean()) for slot, marks in right.items()},
            held,
            replaced,
        )

    def _wanted(self, standing: Standing, finite: np.ndarray) -> set[int]:
        """Slots of those who are the elites of their islands by standing."""
        order = np.array([slot for slot in ranking(standing.values).tolist() if finite[slot]])
        homes = self._config.homes(len(finite))
        best = [order[np.isin(order, home)][: self._config.elites].tolist() for home in homes]
        return {slot for island in best for slot in island}

    def _solvers(self, size: int) -> np.ndarray:
        """Who solves, ``[N]``; agents that only propose are no champions and meet no trial."""
        solves = np.ones(size, dtype=bool)
        solves[: self._config.only_propose] = False
        return solves

    def _right(self, slots: Sequence[int], problems: Sequence[Problem]) -> np.ndarray:
        """Which problems members answer rightly, ``[slots, problems]``, 0 or 1."""
        names = [self._population.agents[slot] for slot in slots]
        measured = evaluate(
            self._population.greedy(),
            problems,
            agents=names,
            grader=self._grader,
            max_new_tokens=self._config.solve_tokens,
        )
        self._population.forget()
        rows = [[bool(grade.correct) for grade in measured.scores[n].grades] for n in names]
        return np.array(rows, dtype=float)


def outdoes(challenger: np.ndarray, holder: np.ndarray, confidence: float) -> bool:
    """Whether a challenger is better by more than so many standard errors of the difference.

    Args:
        challenger: What it earned on each problem ``[problems]``.
        holder: What the other earned on the same.
        confidence: Standard errors; 0 asks for any lead at all.
    """
    lead = challenger - holder
    error = lead.std(ddof=1) / len(lead) ** 0.5 if len(lead) > 1 else 0.0
    return bool(lead.mean() > confidence * error)
