"""The guard of a run: signals raise flags, anchors give verdicts, a ladder says what is done.

`Guard.watch` looks at a generation before agents learn from it, `Guard.check` measures whoever is
flagged, on a rung, or due, and acts. The first snapshots are of agents as they were when they were
first watched, so there is something to go back to if all goes wrong from the first step. Those that
only write problems are watched and never measured.

Individuals broken by learning (`evolution.individuals.non_finite`) are left to evolution.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.population import BASE, LoraPopulation
from evolution.config import EvolutionConfig
from evolution.fitness.task import known
from evolution.guard.acting import Acting, Means
from evolution.guard.anchors import Anchors
from evolution.guard.flags import Baseline, Flag
from evolution.guard.forgetting import Forgetting
from evolution.guard.ladder import Ladder, Rung
from evolution.guard.records import GuardReport, Step, Watched, share
from evolution.guard.signals import Signals, read_signals
from evolution.guard.snapshots import Snapshot, read_snapshots, snapshots_state
from evolution.guard.verdicts import Verdict, judge
from evolution.individuals.champion import Champion, hosting
from evolution.individuals.lineage import Individual
from evolution.lowrank.genomes import Genome, content_hash, read_genome
from populora_env.grading import Grader
from populora_env.records import Problem, Transcript

if TYPE_CHECKING:
    from evolution.results import GenerationResult

_WRITTEN = (Rung.ROLL_BACK, Rung.REPLACE)  # steps that have just given a slot good weights
_PAUSE = 2  # generations in which a flag asks for no second measurement, after a good one


class Guard:
    """Watches the agents of a run.

    Args:
        config: Settings of the run.
        problems: The anchors; none where the settings want no guard, which then does nothing.
        grader: Used and left open.
        means: What may be changed.

    Attributes:
        problems: The anchors.
    """

    def __init__(
        self, config: EvolutionConfig, problems: Sequence[Problem], grader: Grader, means: Means
    ) -> None:
        self._config, self._means = config, means
        self._population: LoraPopulation = means.population
        self.problems = tuple(problems)
        self._anchors = Anchors(self._population, problems, grader, config.solve_tokens)
        self._forgetting = Forgetting(self._population)
        self._baseline = Baseline()
        highest = Rung.STOP if config.guard == "act" else Rung.NOTE
        self._ladder = Ladder(self._population.size, highest)
        self._acting = Acting(means)
        self._base: tuple[bool, ...] = ()
        self._snapshots: dict[int, Snapshot] = {}
        self._owners: dict[int, str] = {}  # who lived where at the last check
        self._measured: dict[int, int] = {}  # slot to the generation of its last verdict
        self._places = 0
        self._founders: dict[int, Genome] = {}  # of those who solve, as they were first watched
        self._seen: tuple[Signals, list[list[Flag]]] | None = None

    def watch(self, transcripts: Sequence[Transcript], generation: int) -> None:
        """Read the signals of a generation, before agents learn from it."""
        if self._config.guard == "off":
            return
        self._acting.hold_kl()  # of those who were born since, and now learn
        signals, asked = read_signals(
            transcripts, self._population, (self._config.seed, generation)
        )
        self._places += asked
        if not self._base:
            lora = self._population.lora
            self._founders = {slot: read_genome(lora, slot) for slot in self._solving()}
        self._seen = signals, self._baseline.flags(signals)

    def check(self, result: "GenerationResult", champion: Champion | None) -> "GenerationResult":
        """Measure whoever is in question, and act; after `watch`, and after learning.

        Args:
            result: What the generation came to.
            champion: Of the run, to replace an individual by where no snapshot is good.

        Returns:
            The result with the guard's report.
        """
        if self._seen is None:
            return result
        signals, flags = self._seen
        self._seen = None
        return replace(result, guard=self._check(result.generation, signals, flags, champion))

    def _check(
        self,
        generation: int,
        signals: Signals,
        flags: Sequence[Sequence[Flag]],
        champion: Champion | None,
    ) -> GuardReport:
        started = time.monotonic()
        before = self._anchors.replies, self._forgetting.asked
        living = self._means.lineage.living
        self._follow_births(living)
        self._acting.hold_kl()
        self._begin(generation)
        slots = self._in_question(generation, flags)
        marks, losses = self._measure(slots)
        verdicts = {slot: self._judge(slot, marks[slot], losses.get(slot)) for slot in slots}
        steps = {
            slot: self._take(slot, generation, marks[slot], verdicts[slot], champion)
            for slot in slots
        }
        stops = [slot for slot, step in steps.items() if step and step.rung is Rung.STOP]
        reasons = [f"{self._population.agents[s]}: {verdicts[s]}" for s in stops]
        if stops:
            self._leave_well(marks, losses, verdicts, steps)
        places = self._places + self._forgetting.asked - before[1]
        self._places = 0
        return GuardReport(
            tuple(
                Watched(
                    agent,
                    living[slot].name,
                    {signal.value: known(values[slot]) for signal, values in signals.items()},
                    tuple(flags[slot]),
                    share(marks[slot]) if slot in marks else None,
                    float(np.median(losses[slot])) if slot in losses else None,
                    verdicts.get(slot),
                    self._ladder.rung(slot),
                    steps.get(slot),
                )
                for slot, agent in enumerate(self._population.agents)
            ),
            share(self._base) if self._base else None,
            self._anchors.replies - before[0],
            places,
            "; ".join(reasons),
            time.monotonic() - started,
        )

    def _solving(self) -> set[int]:
        """Slots of those who solve and whose weights are sound."""
        living, size = self._means.lineage.living, self._population.size
        return {s for s in range(self._config.only_propose, size) if living[s].broken is None}

    def _begin(self, generation: int) -> None:
        """Measure the base, and agents as they were when they were first watched."""
        if self._base:
            return
        self._base = self._anchors.marks([BASE])[BASE]
        lora, agents = self._population.lora, self._population.agents
        with ExitStack() as hosted:
            for slot, genome in self._founders.items():
                hosted.enter_context(hosting(lora, slot, genome))
            marks = self._anchors.marks([agents[slot] for slot in self._founders])
            for slot in self._founders:
                own = marks[agents[slot]]
                if not judge(own, {"base": self._base}).bad:
                    self._remember(slot, generation - 1, own)
        self._founders = {}

    def _in_question(self, generation: int, flags: Sequence[Sequence[Flag]]) -> list[int]:
        """Slots to be measured; of those on a rung, whoever has had the time that it gives."""
        solving, due = self._solving(), self._ladder.due(generation)
        clear = {slot for slot in solving if self._ladder.rung(slot) is Rung.CLEAR}
        if (generation + 1) % self._config.guard_every:
            clear = {
                slot
                for slot in clear
                if flags[slot] and generation - self._measured.get(slot, -_PAUSE) >= _PAUSE
            }
        return sorted(clear | (solving & due))

    def _leave_well(
        self,
        marks: dict[int, tuple[bool, ...]],
        losses: dict[int, np.ndarray],
        verdicts: dict[int, Verdict],
        steps: dict[int, Step | None],
    ) -> None:
        """Before the run stops, measure the others, too, and roll back whoever is bad."""
        rest = sorted(self._solving() - marks.keys())
        more, lost = self._measure(rest)
        marks |= more
        losses |= lost
        verdicts |= {slot: self._judge(slot, more[slot], lost.get(slot)) for slot in rest}
        for slot, verdict in verdicts.items():
            held, step = self._snapshots.get(slot), steps.get(slot)
            if not verdict.bad or held is None or (step and step.rung in _WRITTEN):
                continue
            done = f"as the run stops, {self._acting.roll_back(slot, held)}"
            steps[slot] = (
                Step(self._ladder.rung(slot), False, done)
                if step is None
                else replace(step, what=f"{step.what}; {done}")
            )

    def _measure(
        self, slots: Sequence[int]
    ) -> tuple[dict[int, tuple[bool, ...]], dict[int, np.ndarray]]:
        """Marks on the anchors and what was forgotten, by slot."""
        agents = [self._population.agents[slot] for slot in slots]
        marks, losses = self._anchors.marks(agents), self._forgetting.losses(agents)
        own = {slot: losses[a] for slot, a in zip(slots, agents, strict=True) if a in losses}
        return {slot: marks[agent] for slot, agent in zip(slots, agents, strict=True)}, own

    def _judge(self, slot: int, own: Sequence[bool], losses: np.ndarray | None) -> Verdict:
        others: dict[str, Sequence[bool]] = {"base": self._base}
        if slot in self._snapshots:
            others = {"snapshot": self._snapshots[slot].marks, **others}
        return judge(own, others, losses)

    def _take(
        self,
        slot: int,
        generation: int,
        marks: tuple[bool, ...],
        verdict: Verdict,
        champion: Champion | None,
    ) -> Step | None:
        """Take a verdict: remember a good state, or do what the ladder says."""
        self._measured[slot] = generation
        held = self._snapshots.get(slot)
        if not verdict.bad and (held is None or sum(marks) >= held.right):
            self._remember(slot, generation, marks)
        before = self._ladder.rung(slot)
        unable = [] if self._acting.can_raise_kl else [Rung.RAISE_KL]
        unable += [] if held is not None else [Rung.ROLL_BACK]
        rung = self._ladder.take(slot, verdict.bad, generation, unable)
        if rung is None:
            return None
        if rung < before:
            done = self._acting.lower_kl(slot) if rung < Rung.RAISE_KL else ""
            word = rung.word.replace("_", " ")
            return Step(rung, False, f"good again, down to {word}{done and f', {done}'}")
        if rung is Rung.NOTE:
            return Step(rung, True, "noted as worse")
        if rung is Rung.RAISE_KL:
            return Step(rung, True, self._acting.raise_kl(slot))
        if rung is Rung.ROLL_BACK and held is not None:
            return Step(rung, True, self._acting.roll_back(slot, held))
        if rung is Rung.REPLACE:
            return Step(rung, True, self._replace(slot, generation, verdict, champion))
        return Step(rung, True, "stays bad after all of that: the run stops")

    def _replace(
        self, slot: int, generation: int, verdict: Verdict, champion: Champion | None
    ) -> str:
        # Of equals the one that was proven last.
        best = max(self._snapshots.values(), key=lambda s: (s.right, s.generation), default=None)
        what = self._acting.replace(slot, generation + 1, best, champion, verdict.to_dict())
        self._owners[slot] = self._means.lineage.living[slot].name
        if best is None:
            self._snapshots.pop(slot, None)
        else:
            self._snapshots[slot] = best
        return what

    def _remember(self, slot: int, generation: int, marks: tuple[bool, ...]) -> None:
        lora, individual = self._population.lora, self._means.lineage.living[slot]
        self._snapshots[slot] = Snapshot(
            individual.name,
            generation,
            content_hash(lora, slot),
            read_genome(lora, slot),
            marks,
            dict(individual.hyperparameters),
            individual.mutation_strength,
        )

    def _follow_births(self, living: Mapping[int, Individual]) -> None:
        """Have newborns inherit the last good snapshot of their first parent, if it has one."""
        held = dict(self._snapshots)
        slots = {name: slot for slot, name in self._owners.items()}
        for slot, individual in living.items():
            if self._owners.get(slot, individual.name) != individual.name:
                parent = slots.get(individual.parents[0]) if individual.parents else None
                self._snapshots.pop(slot, None)
                if parent in held:
                    self._snapshots[slot] = held[parent]
        self._owners = {slot: individual.name for slot, individual in living.items()}

    @property
    def _digest(self) -> str:
        """Of the anchors, and of how long a reply to one may be."""
        ids = " ".join([*(problem.id for problem in self.problems), str(self._config.solve_tokens)])
        return hashlib.sha256(ids.encode()).hexdigest()[:16]

    def state(self) -> dict[str, Any]:
        """As JSON types, and the snapshots' factors as tensors by name."""
        return {
            "anchors": self._digest,
            "replies": self._anchors.replies,
            "forgetting": self._forgetting.state(),
            "baseline": self._baseline.state(),
            "ladder": self._ladder.state(),
            "raised": self._acting.state(),
            "base": list(self._base),
            "owners": {str(slot): name for slot, name in self._owners.items()},
            "measured": {str(slot): last for slot, last in self._measured.items()},
            **snapshots_state(self._snapshots),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave; what was measured on other anchors is forgotten.

        Raises:
            KeyError, ValueError, TypeError: If it is something else.
        """
        self._baseline.load(saved["baseline"])
        self._ladder.load(saved["ladder"])
        self._acting.load(saved["raised"])
        self._forgetting.load(saved["forgetting"])
        self._owners = {int(slot): str(name) for slot, name in saved["owners"].items()}
        self._anchors.replies = int(saved["replies"])
        if saved["anchors"] == self._digest:
            self._base = tuple(map(bool, saved["base"]))
            self._measured = {int(slot): int(last) for slot, last in saved["measured"].items()}
            self._snapshots = read_snapshots(saved)
