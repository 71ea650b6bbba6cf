"""Re-evaluations: would-be elites and the champion on fresh problems, side by side.

The first of many that were measured on few problems is partly the luckiest. So where trials are
held while a run goes on, those concerned answer the same new training problems, greedily, before
newcomers push a proven elite out and before the champion is replaced, and that decides; elsewhere
the best by standing is the champion. When a run ends, a last trial among all decides anyway. The
champion is a snapshot of weights: whatever becomes of the slot it was taken from, it is not lost.

Problems without a known answer decide nothing; where there are none others, standing alone does.
So it does among agents that only propose.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from agents.measuring.evaluate import evaluate
from agents.population import LoraPopulation
from evolution.config import EvolutionConfig, Settings
from evolution.exchange.gate import GATES, Gate, GateOutcome, GateRecord
from evolution.exchange.step import EXCHANGES
from evolution.individuals.champion import Champion, hosting
from evolution.individuals.lineage import AVERAGE, CHAMPION, Individual
from evolution.individuals.standing import Standing
from evolution.lowrank.genomes import Genome, content_hash
from evolution.operators.selection import best_of_each, ranking
from populora_env.grading import Grader
from populora_env.records import Problem


@dataclass(frozen=True, slots=True)
class Reevaluation:
    """What a trial measured.

    Attributes:
        problems: Of how many problems.
        accuracy: Slot to the share it answered rightly; none of these is an average's.
        champion: The same of the champion before; None if it did not take part.
        replaced: Whether the champion was replaced.
    """

    problems: int
    accuracy: Mapping[int, float]
    champion: float | None
    replaced: bool


@dataclass(frozen=True, slots=True)
class LastTrial:
    """What the candidates for the champion came to at the end of a run.

    Attributes:
        problems: On how many problems.
        accuracy: Candidate to the share it answered rightly: an agent, `AVERAGE`, or `CHAMPION` as
            it was before.
        kept: The candidate that is the champion now.
    """

    problems: int
    accuracy: Mapping[str, float]
    kept: str


class Reevaluations:
    """Knows who is proven, and lets others prove themselves.

    Args:
        population: Whose members are tried.
        config: Settings of the run.
        settings: What they come to for this population.
        grader: Used and left open.
        fresh: Draws problems with known answers: for a generation, how many, and for which purpose.

    Attributes:
        gate: How newcomers are tested against proven ones; None for trials alone.
        champion: The best that was confirmed; None before the first generation has ended.
        elites: Names of the individuals that are proven.
    """

    def __init__(
        self,
        population: LoraPopulation,
        config: EvolutionConfig,
        settings: Settings,
        grader: Grader,
        fresh: Callable[..., Sequence[Problem]],
    ) -> None:
        self._population, self._config, self._settings = population, config, settings
        self._grader = grader
        self._fresh = fresh
        use = GATES.read_one(config.gate)
        self.gate: Gate | None = None if use is None else use()
        self._by_mean = EXCHANGES.is_central(config.exchange)
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
        finite = self._finite(standing)
        solves = self._solvers(len(finite))
        if not (finite & solves).any():
            return None
        count = self._settings.confirm_problems
        problems = list(self._fresh(generation, count)) if count else []
        right: dict[int, np.ndarray] = {}

        def measure(slots: Sequence[int]) -> None:
            right.update(zip(slots, self._right(slots, problems), strict=True))

        proven = {slot for slot, i in living.items() if i.name in self.elites}
        wanted = self._wanted(standing, finite)
        contested = sorted(slot for slot in wanted ^ proven if finite[slot] and solves[slot])
        newcomer = any(slot in wanted - proven for slot in contested) and not self._by_mean
        if problems and proven and newcomer and len(contested) > 1:
            measure(contested)
            standing.correct(contested, np.stack([right[slot] for slot in contested]))
        self.elites = frozenset(living[slot].name for slot in self._wanted(standing, finite))
        order = ranking(standing.values).tolist()
        top = next(slot for slot in order if finite[slot] and solves[slot])
        holder = self.champion
        if self._by_mean:
            sound = np.flatnonzero(finite & solves).tolist()
            rival = Champion.mean(self._population, sound, living[top], generation)
        else:
            rival = Champion.of(self._population, top, living[top], generation)
        held, replaced = None, False
        if holder is not None and rival.content_hash == holder.content_hash:
            rival = replace(rival, accuracy=holder.accuracy)
        elif holder is not None and self.gate is not None:
            with hosting(self._population.lora, top, rival.genome):
                test = self.contest(self.gate, top, holder.genome, holder.individual, generation)
            replaced = test.outcome is GateOutcome.NOT_WORSE
            if replaced:
                rival = replace(rival, accuracy=test.newcomer_right / test.problems)
            else:
                rival = holder
        elif holder is not None and problems:
            if self._by_mean:
                mine = self._marks(rival.genome, top, problems)
            else:
                if top not in right:
                    measure([top])
                mine = right[top]
            marks = self._marks(holder.genome, top, problems)
            replaced = outdoes(mine, marks, self._config.confirm_confidence)
            held = float(marks.mean())
            winner, own = (rival, mine) if replaced else (holder, marks)
            rival = replace(winner, accuracy=float(own.mean()))
        self.champion = rival
        if held is None and not right:
            return None
        return Reevaluation(
            len(problems),
            {slot: float(marks.mean()) for slot, marks in right.items()},
            held,
            replaced,
        )

    def choose(
        self, standing: Standing, living: Mapping[int, Individual], generation: int
    ) -> tuple[Champion, LastTrial] | None:
        """Choose the champion of a run that ends, after `hold`; `champion` stays as it is.

        Candidates are the champion, all who solve and are sound, and their average; where members
        exchange their mean, it and the champion alone. The same weights are measured once. Of
        equals the first is kept: the champion, then the average, then by standing.

        Args:
            standing: Of the members.
            living: Who lives in which slot.
            generation: Generations played.

        Returns:
            The one to keep, and what was measured; None where there is nothing to choose, or to
            choose by.
        """
        holder, count = self.champion, self._config.last_trial
        if holder is None or self.gate is not None or not count:
            return None
        sound = self._finite(standing) & self._solvers(len(standing.values))
        slots = [slot for slot in ranking(standing.values).tolist() if sound[slot]]
        guests = {CHAMPION: holder}
        if len(slots) > 1:
            mean = Champion.mean(self._population, slots, living[slots[0]], generation)
            if mean.content_hash != holder.content_hash:
                guests[AVERAGE] = mean
        known, members = {one.content_hash for one in guests.values()}, dict[str, int]()
        for slot in [] if self._by_mean else slots:
            if (own := content_hash(self._population.lora, slot)) not in known:
                known.add(own)
                members[self._population.agents[slot]] = slot
        problems = list(self._fresh(generation, count, "last trial")) if len(known) > 1 else []
        if not problems:
            return None
        right = {
            name: float(self._marks(one.genome, slots[0], problems).mean())
            for name, one in guests.items()
        }
        if members:
            marks = self._right(list(members.values()), problems)
            right |= zip(members, marks.mean(1).tolist(), strict=True)
        kept = max(right, key=lambda name: right[name])
        if (one := guests.get(kept)) is None:
            slot = members[kept]
            one = Champion.of(self._population, slot, living[slot], generation)
        return replace(one, accuracy=right[kept]), LastTrial(len(problems), right, kept)

    def for_exchange(self, generation: int) -> Callable[[Sequence[int], int], np.ndarray]:
        """A measure of members on fresh problems, the same ones as often as it is called.

        Args:
            generation: About to be played.

        Returns:
            ``measure`` of `evolution.exchange.step.ExchangeStep`.
        """

        @cache
        def fresh(count: int) -> Sequence[Problem]:
            return self._fresh(generation, count, "exchange")

        def measure(slots: Sequence[int], count: int) -> np.ndarray:
            problems = fresh(count)
            return self._right(slots, problems) if problems else np.zeros((len(slots), 0))

        return measure

    def contest(
        self,
        gate: Gate,
        slot: int,
        proven: Genome,
        name: str,
        generation: int,
        number: int | str = "champion",
    ) -> GateRecord:
        """Test a newcomer against a proven individual by the gate.

        Args:
            gate: How.
            slot: The newcomer's.
            proven: The other's weights, as they were.
            name: Its name.
            generation: About to be played.
            number: Of the test in this generation; each has problems of its own.
        """
        problems = list(self._fresh(generation, gate.most, f"gate {number}"))

        def marks(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
            some = problems[first : first + count]
            if not some:
                return np.zeros(0), np.zeros(0)
            mine = self._right([slot], some)[0]
            return mine, self._marks(proven, slot, some)

        known = content_hash(self._population.lora, slot)
        outcome, (met, mine, theirs) = gate.test(marks)
        return GateRecord(slot, known, name, outcome, met, mine, theirs)

    def _wanted(self, standing: Standing, finite: np.ndarray) -> set[int]:
        """Slots of those who are the elites of their islands by standing."""
        order = np.array([slot for slot in ranking(standing.values).tolist() if finite[slot]])
        return best_of_each(order, self._config.homes(len(finite)), self._config.elites)

    def _finite(self, standing: Standing) -> np.ndarray:
        """Whose weights and standing are finite, ``[N]``."""
        return self._population.lora.finite().cpu().numpy() & np.isfinite(standing.values)

    def _solvers(self, size: int) -> np.ndarray:
        """Who solves, ``[N]``; agents that only propose are no champions and meet no trial."""
        solves = np.ones(size, dtype=bool)
        solves[: self._config.only_propose] = False
        return solves

    def _marks(self, genome: Genome, slot: int, problems: Sequence[Problem]) -> np.ndarray:
        """What a genome answers rightly as a guest in a slot, ``[problems]``, 0 or 1."""
        with hosting(self._population.lora, slot, genome):
            return self._right([slot], problems)[0]

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
    """Whether a challenger may take the holder's place.

    Args:
        challenger: What it earned on each problem ``[problems]``.
        holder: What the other earned on the same.
        confidence: Standard errors of the difference by which it must lead; 0 asks for any lead at
            all, and below 0 it may be as far behind, so that ties are the challenger's.
    """
    lead = challenger - holder
    error = lead.std(ddof=1) / len(lead) ** 0.5 if len(lead) > 1 else 0.0
    needed = confidence * error
    return bool(lead.mean() >= needed if confidence < 0 else lead.mean() > needed)
