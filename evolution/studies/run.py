"""Playing a study: one cell after the other, an arm with one seed each.

A cell is a run of its own on the seed's problems. Generations are played until the population has
given as many replies as the budget says, those of trials included, so it may give a generation and
a trial more. At each budget the champion is confirmed and a last trial held, whose replies come on
top, and all are measured on the seed's held-out problems, the same for all arms.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agents.engine.targets import target_linears
from agents.loading.digest import base_digest
from agents.loading.models import BaseModel, load_base
from agents.measuring.evaluate import evaluate
from agents.population import BASE as BARE
from agents.population import LoraPopulation
from agents.progress import Progress
from evolution.config import RunConfig
from evolution.errors import UsageError
from evolution.fitness.task import known, mean_of
from evolution.manager import EvolutionManager
from evolution.results import GenerationResult
from evolution.run_population import newborn
from evolution.run_problems import check_fit, check_roles, held_out_problems
from evolution.runs.fingerprints import problems_digest
from evolution.studies.design import Arm, Study
from evolution.studies.measured import BASE, Cell, Measured, text_of
from evolution.studies.measuring import measure
from evolution.studies.results import BASE_SETTINGS, changed, settings_of
from populora_env.grading import Grader
from populora_env.problems import load_problems
from populora_env.records import Problem


@dataclass(slots=True)
class Bases:
    """Base models, each loaded once, whose populations come and go."""

    _loaded: dict[tuple[Any, ...], tuple[BaseModel, str]] = field(default_factory=dict)

    def of(self, config: RunConfig) -> tuple[BaseModel, str]:
        """The base that settings ask for, and its digest."""
        key = tuple(getattr(config, name) for name in BASE_SETTINGS)
        if key not in self._loaded:
            model, dtype, device, products, in_4bit = key
            base = load_base(
                model, dtype=dtype, device=device, products=products, load_in_4bit=in_4bit
            )
            self._loaded[key] = base, base_digest(base)
        return self._loaded[key]


@dataclass
class _Clock:
    """Replies and seconds of training; what is measured between does not count."""

    population: LoraPopulation
    begin: float = field(default_factory=time.monotonic)
    measuring: float = 0.0
    measured_replies: int = 0

    @property
    def replies(self) -> int:
        return self.population.stats.replies - self.measured_replies

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin - self.measuring

    def measure(self, work: Callable[[], Any]) -> Any:
        """Do what does not count."""
        replies, begin = self.population.stats.replies, time.monotonic()
        found = work()
        self.measured_replies += self.population.stats.replies - replies
        self.measuring += time.monotonic() - begin
        return found


def play(
    study: Study,
    arm: Arm,
    seed: int,
    bases: Bases,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
    versions: Mapping[str, str] | None = None,
) -> Cell:
    """Play an arm with a seed, and measure what came of it.

    Args:
        study: Whose it is.
        arm: One of its arms.
        seed: One of its seeds.
        bases: Where the base comes from.
        progress: Told how far the cell is.
        check: Called between generations; may raise.
        versions: Of packages, to be kept.

    Raises:
        PopuloraError: If the settings do not fit the problems or the model.
    """
    config = arm.config(seed)
    problems = _held_out(config, study.held_out)
    base, digest = bases.of(config)
    check_fit(base, problems, config.solve_tokens)
    tell = progress or _nobody
    population = newborn(base, config)
    try:
        with Grader() as grader:
            clock = _Clock(population)
            if arm.name == BASE:
                found = _bare(config, population, problems, grader, clock, tell)
            else:
                found = _run(
                    arm, config, population, problems, grader, clock, study.seconds, tell, check
                )
    finally:
        population.lora.detach()
    return Cell(
        arm=arm.name,
        seed=seed,
        settings=changed(settings_of(config)),
        budgets=arm.replies,
        seconds_limit=study.seconds,
        problems=problems_digest(problems),
        measuring_seconds=round(clock.measuring, 2),
        tokens=population.stats.tokens,
        versions=versions or {},
        base=digest,
        **found,
    )


def check_cells(cells: Iterable[tuple[Arm, int]], bases: Bases | None = None) -> None:
    """Check what can be checked of arms with their seeds, before one is played.

    That is whether problems can be had and suit the roles, and, with bases, whether these can be
    loaded and have the layers that adapters are for.

    Raises:
        PopuloraError: If not.
    """
    checked: set[tuple[Any, ...]] = set()
    for arm, seed in cells:
        config = arm.config(seed)
        told = [getattr(config, name) for name in (*BASE_SETTINGS, "targets")]
        what = (config.problems, config.proposers, *told)
        if what in checked:
            continue
        checked.add(what)
        check_roles(load_problems(config.problems, split="train", seed=seed), config.proposers)
        if bases is not None:
            try:
                target_linears(bases.of(config)[0].model, config.targets)
            except ValueError as error:
                raise UsageError(f"arms.{arm.name}: {error}") from error


def _nobody(label: str, fraction: float) -> None:
    """Hear no progress."""


def _held_out(config: RunConfig, count: int) -> Sequence[Problem]:
    return held_out_problems(replace(config, held_out=count))


def _run(
    arm: Arm,
    config: RunConfig,
    population: LoraPopulation,
    problems: Sequence[Problem],
    grader: Grader,
    clock: _Clock,
    limit: float | None,
    tell: Progress,
    check: Callable[[], None],
) -> dict[str, Any]:
    """Play a run, measured at each budget; what a cell keeps of it."""
    train = load_problems(config.problems, split="train", seed=config.seed)
    manager = EvolutionManager(population, train, config, grader=grader, exclude=problems)
    curves: dict[str, list[float | None]] = {}
    measured: list[Measured] = []
    label = f"{arm.name}, seed {config.seed}"
    ends = cut_off = False
    notes: dict[str, Any] = {}
    try:
        check_fit(population.base, train, config.solve_tokens)
        for budget in arm.replies:
            while clock.replies < budget and not ends:
                check()
                (result,) = manager.run(1)
                _note(curves, clock.replies, result)
                _count(notes, result)
                tell(label, min(clock.replies / arm.replies[-1], 1.0))
                if result.stop:
                    notes["stopped"] = result.stop
                ends = bool(result.stop) or (limit is not None and clock.seconds >= limit)
            manager.confirm()
            cut_off = clock.replies < budget
            seconds, replies = round(clock.seconds, 2), clock.replies
            last = clock.measure(manager.conclude)  # the run goes on without
            if last is not None:
                replies += last.problems * len(last.accuracy)
            found = clock.measure(
                lambda: measure(manager, problems, grader, tell, members=arm.members)
            )
            measured.append(
                Measured(
                    budget=budget,
                    replies=replies,
                    generations=manager.generation,
                    seconds=seconds,
                    training=_lately(curves),
                    **asdict(found),
                )
            )
            if cut_off:
                break
    finally:
        manager.close()
    return {
        "cut_off": cut_off,
        "measured": tuple(measured),
        "seconds": measured[-1].seconds,
        "curves": {name: tuple(values) for name, values in curves.items()},
        "notes": notes | {"individuals": len(manager.lineage)},
    }


def _bare(
    config: RunConfig,
    population: LoraPopulation,
    problems: Sequence[Problem],
    grader: Grader,
    clock: _Clock,
    tell: Progress,
) -> dict[str, Any]:
    """Measure the base model, which plays nothing; it is its own champion, vote and average."""
    found = clock.measure(
        lambda: evaluate(
            population.greedy(),
            problems,
            agents=(BARE,),
            grader=grader,
            max_new_tokens=config.solve_tokens,
            progress=tell,
        )
    )
    right = text_of([bool(grade.correct) for grade in found.scores[BARE].grades])
    measured = Measured(
        budget=0, replies=0, generations=0, seconds=0.0, champion=right, members=(right,),
        vote=right, ties={}, average=right, vendi=1.0, vendi_answers=1.0,
    )  # fmt: skip
    return {"cut_off": False, "measured": (measured,), "seconds": 0.0, "curves": {}}


def _count(notes: dict[str, Any], result: GenerationResult) -> None:
    """Exchanges, and how a gate decided."""
    if result.exchange is not None:
        notes["exchanges"] = notes.get("exchanges", 0) + 1
        for gate in result.exchange.gates:
            notes[f"gate: {gate.outcome}"] = notes.get(f"gate: {gate.outcome}", 0) + 1


def _note(curves: dict[str, list[float | None]], replies: int, result: GenerationResult) -> None:
    """A generation's place on the curves."""
    scores, proposals = result.scores, result.proposals
    values = {
        "replies": float(replies),
        "return": mean_of(scores.returns),
        "accuracy": mean_of(scores.accuracy),
        "length": mean_of(scores.length),
    }
    if proposals is not None:
        values |= {
            "valid": proposals.valid / proposals.count,
            "learnable": proposals.learnable,
            "solve_rate": proposals.solve_rate,
            "novelty": proposals.novelty,
        }
    for name, value in values.items():
        number = known(value)
        curves.setdefault(name, []).append(None if number is None else round(number, 4))


def _lately(curves: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Means over the last fifth of the generations, two at least."""
    found: dict[str, float] = {}
    for name, values in curves.items():
        some = [value for value in values[-max(len(values) // 5, 2) :] if value is not None]
        if some and name != "replies":
            found[name] = round(sum(some) / len(some), 6)
    return found
