"""EvolutionManager: evolution wrapped around the episode loop.

``ask`` says which problems the population is to play next; ``tell`` takes the transcripts, scores
the individuals, lets them learn and saves the generation; ``run`` does both with the built-in
rollout. Children are made at the start of a generation, from what the last one measured, so every
individual alive at the end of a run has been measured.

No random state is kept: every draw is keyed by the run's seed and what it is for, so a run that was
killed and resumed continues as if nothing had happened.
"""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from agents.population import LoraPopulation
from agents.progress import Progress
from agents.rollout import rollout
from agents.workers.launcher import Workers
from agents.workers.starting import hire
from evolution.config import EvolutionConfig
from evolution.fitness.evaluator import FitnessEvaluator
from evolution.fitness.proposals import proposal_scores
from evolution.fitness.task import known
from evolution.guard.acting import Means
from evolution.guard.anchors import choose_anchors
from evolution.guard.guard import Guard
from evolution.individuals.births import Births
from evolution.individuals.breeding import Breeder
from evolution.individuals.champion import Champion
from evolution.individuals.exchanging import Exchanging
from evolution.individuals.hyperparameters import Hyperparameters
from evolution.individuals.lineage import Individual, Lineage
from evolution.individuals.non_finite import broken_slots, set_aside
from evolution.individuals.progress import make_meter
from evolution.individuals.reevaluation import LastTrial, Reevaluation, Reevaluations
from evolution.individuals.standing import Standing
from evolution.learning import gather_samples, make_learner, threads_of
from evolution.loggers.base import Callback, Logger, as_logger, close_all, log_all
from evolution.operators import selection
from evolution.results import EpisodePlan, GenerationResult
from evolution.run_problems import RunProblems, check_fit, check_roles, make_arenas, reply_limits
from evolution.runs.checkpoint import RunFolder
from evolution.runs.keeping import Keeper
from evolution.runs.parts import Held, Part
from populora_env.episodes.roles import role_games
from populora_env.grading import Grader
from populora_env.judges import Judge, TimedJudge
from populora_env.problems import ProblemSource, as_source
from populora_env.problems.sources.adaptive import AdaptiveSource
from populora_env.ratings import Ratings, bradley_terry
from populora_env.records import Problem, Transcript

JUDGE_TIMEOUT = 60.0  # seconds that a judge from outside may take over one episode


class EvolutionManager:
    """Evolves a population of adapters on problems.

    Args:
        population: Evolved in place. Newborn adapters (all zero) are spread first.
        problems: A spec for `load_problems`, a source, or problems.
        config: Settings.
        folder: Where the run is kept; None keeps nothing.
        loggers: Told of every generation, and closed by `close`; functions of the result and the
            transcripts are loggers too. One that raises is dropped; see `evolution.loggers.base`.
        judge: Decides correctness where no answer is known, or wherever the rewards ask for it.
        grader: Used and left open; None for one of the manager's own.
        exclude: Problems that must never be trained on; meeting one is an error.
        workers: Processes that decode and learn, on Ray, or how many; started here, ended by
            `close`. A population whose engine has workers already keeps them.

    Raises:
        ConfigError: If the settings do not fit the population.
        WorkerError: If there cannot be such workers.
        CheckpointError: If the folder cannot be written, or already holds a run.
        AdapterError: If PEFT would misread the adapters that are to be saved.
    """

    def __init__(
        self,
        population: LoraPopulation,
        problems: str | ProblemSource | Sequence[Problem],
        config: EvolutionConfig | None = None,
        *,
        folder: str | Path | None = None,
        loggers: Sequence[Logger | Callback] = (),
        judge: Judge | None = None,
        grader: Grader | None = None,
        exclude: Collection[Problem] = (),
        workers: Workers | int = 0,
    ) -> None:
        if not isinstance(population, LoraPopulation):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"population: got {type(population).__name__}, expected a LoraPopulation, such as "
                'LoraPopulation.from_pretrained("embedded", 4)'
            )
        if not isinstance(config, EvolutionConfig | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"config: got {type(config).__name__}, expected an EvolutionConfig or RunConfig"
            )
        self.config = config or EvolutionConfig()
        self.settings = self.config.resolved(population.size)
        self.population = population
        self.problems = as_source(problems, seed=self.config.seed)
        self._owns_source = self.problems is not problems
        check_roles(self.problems, self.config.proposers)
        if not isinstance(loggers, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
            loggers = [loggers]  # one by itself, which is meant all the same
        self.loggers = [as_logger(given) for given in loggers]
        self.generation = 0
        self.ratings = Ratings()
        # One for all arenas, so that a judge that hangs holds a generation up only once.
        self._judge = None if judge is None else TimedJudge(judge, JUDGE_TIMEOUT)
        self._drawn = RunProblems(self.problems, self.config.seed, exclude)
        anchors = choose_anchors(self.problems, self.config, exclude)
        self._drawn.set_aside(anchors)
        self._keeper: Keeper | None = None
        if folder is not None:
            population.check_saving()
            self._keeper = self._keeping(folder)
        self._grader, self._owns_grader = grader or Grader(), grader is None
        homes = self.config.homes(population.size)
        roles = homes if self.config.proposers else None
        self._standing = Standing(population.size, self.config.fitness_memory, roles)
        self._reevaluations = Reevaluations(
            population, self.config, self.settings, self._grader, self._drawn.with_answers
        )
        self._confirmed = 0  # generations that had been played when trials were last held
        self._chosen: tuple[Champion, LastTrial] | None = None  # in a last trial, if one was held
        self._plan: EpisodePlan | None = None
        self._started = 0.0
        self._lineage = Lineage()
        self._breeder = Breeder(population.lora, self.config, self.settings, self._lineage)
        self._births = Births(population.lora, self.config.seed)
        self._meter = make_meter(population, self.problems, self.config, self._grader)
        self._evaluator = FitnessEvaluator(self.config)
        self._hired = hire(population, workers, self.config.shards, threads_of(self.config))
        self._evaluator.check_engine(population.engine)
        self._learner = make_learner(population, self.config, self.settings)
        self._exchanging = Exchanging(
            population, self.config, self._breeder, self._reevaluations, self._standing,
            self._lineage, self._learner, np.full(population.size, np.nan),
        )  # fmt: skip
        self.hyperparameters = Hyperparameters(
            population, self._learner, self.config, self.settings
        )
        means = Means(
            population, self._learner, self._lineage, self._standing, self.hyperparameters
        )
        self._guard = Guard(self.config, anchors, self._grader, means)

    @property
    def folder(self) -> RunFolder | None:
        """Where the run is kept, if it is."""
        return None if self._keeper is None else self._keeper.folder

    @property
    def lineage(self) -> Sequence[Individual]:
        """Every individual of the run, in order of birth."""
        return tuple(self._lineage.individuals)

    @property
    def standing(self) -> np.ndarray:
        """Lead over the population ``[N]``, 0 is average; see `evolution.individuals.standing`."""
        return self._standing.values

    @property
    def standing_errors(self) -> np.ndarray:
        """Standard errors of `standing` from the choice of problems, ``[N]``."""
        return self._standing.errors

    @property
    def champion(self) -> Champion | None:
        """A snapshot of the best individual that was ever confirmed; see `confirm`, `conclude`."""
        return self._reevaluations.champion if self._chosen is None else self._chosen[0]

    def confirm(self) -> Reevaluation | None:
        """Let would-be elites and a new champion prove themselves on fresh training problems.

        Done before every evolution step; call it at the end of a run. What a trial shows counts in
        a run that goes on after it. Calling it again before the next generation has been played
        changes nothing.
        """
        if self._confirmed == self.generation or self.generation == 0:
            return None
        self._confirmed = self.generation
        return self._reevaluations.hold(self._standing, self._lineage.living, self.generation)

    def conclude(self) -> LastTrial | None:
        """Choose the champion of a run that ends here: `confirm`, then the last trial.

        It may go on all the same, with the champion of before. Calling it again before that asks
        nothing anew.
        """
        self.confirm()
        if self._chosen is None:
            self._chosen = self._reevaluations.choose(
                self._standing, self._lineage.living, self.generation
            )
        return None if self._chosen is None else self._chosen[1]

    @property
    def best(self) -> str:
        """Solver of highest standing, measured on training problems alone."""
        order = selection.ranking(self.standing[self.config.only_propose :])
        return self.solvers[int(order[0])]

    @property
    def solvers(self) -> tuple[str, ...]:
        """Agents that solve problems; in self-play others may only write them."""
        return self.population.agents[self.config.only_propose :]

    def ask(self) -> EpisodePlan:
        """Make the children that are due and say what to play; asking again changes nothing.

        Raises:
            ConfigError: If a given problem does not fit the model's context; before the first
                generation.
        """
        if self._plan is not None:
            return self._plan
        self._chosen = None
        self._started = time.monotonic()
        config, generation = self.config, self.generation
        trial, born, exchange = None, (), None
        if generation == 0:
            # Only here: a run that was begun goes on, and such a problem counts as unanswered.
            check_fit(self.population.base, self.problems, config.solve_tokens)
            if self.folder is not None:
                self.folder.begin()
            born = self._breeder.found(self._exchanging.arrange)
            self.hyperparameters.write(born)
            self._births.begin(born)
        elif generation % self.settings.confirm_every == 0:
            trial = self.confirm()
        if generation and generation % self.settings.evolve_every == 0:
            children, self.ratings = self._exchanging.hold(generation, self.ratings)
            born, exchange = tuple(child.individual for child in children), self._exchanging.last
            self.hyperparameters.write(born)
        self._quarantine()
        self._births.meet(self._lineage.members)
        problems = self._drawn.draw("problems", generation, config.problems_per_generation)
        judged = tuple(i < config.judged_problems for i in range(len(problems)))
        self._plan = EpisodePlan(generation, problems, judged, born, trial, exchange)
        return self._plan

    def play(self, plan: EpisodePlan, progress: Progress | None = None) -> list[Transcript]:
        """Play a plan's episodes with the population."""
        arenas = make_arenas(plan, self.config, self.population.size, self.ratings, self._judge,
                             self._grader, self.problems)  # fmt: skip
        return rollout(
            self.population.keeping(self._evaluator.needs),
            arenas,
            plan.problems,
            key=("rollout", self.config.seed, plan.generation),
            limits=reply_limits(self.config),
            progress=progress,
        )

    def tell(
        self, transcripts: Sequence[Transcript], progress: Progress | None = None
    ) -> GenerationResult:
        """Score, learn from and save a generation.

        Args:
            transcripts: One per problem of the plan, in its order, with the population's agents.
            progress: Called with a stage and the fraction of it that is done.

        Raises:
            RuntimeError: If nothing was asked.
            ValueError: If the transcripts are not those of the plan.
            CheckpointError: If the generation cannot be saved.
        """
        plan = self._plan
        if plan is None:
            raise RuntimeError("tell was called before ask: ask first, then play, then tell")
        plan.check(transcripts, self.population.agents)
        self._quarantine()
        scores = self._evaluator.evaluate(
            transcripts, self.population, self._lineage.births, plan.generation
        )
        played = np.isfinite(scores.fitness)
        scores.fitness[broken_slots(self._lineage)] = np.nan
        self._exchanging.fitness = scores.fitness
        self._standing.update(scores.fitness, scores.errors, scores.unit, played)
        evaluations = [entry for transcript in transcripts for entry in transcript.evaluations]
        peers = bradley_terry(self.population.agents, evaluations)
        self.ratings.update(evaluations)
        self.ratings.update(role_games(transcripts))
        if isinstance(self.problems, AdaptiveSource):
            self.problems.observe(transcripts)
        self._lineage.measure({i: known(v) for i, v in enumerate(self.standing)})
        self._guard.watch(transcripts, plan.generation)
        learning = None
        if self._learner is not None:
            broken = broken_slots(self._lineage)
            samples = gather_samples(transcripts, self.population, self.config, broken)
            key = ("learn", self.config.seed, plan.generation)
            self.hyperparameters.follow()
            learning = self._learner.step(samples, progress, key=key)
        self._quarantine()
        self.population.forget()
        if self._meter is not None:
            self._meter.measure()
        self._plan = None
        self.generation += 1
        result = GenerationResult(
            plan.generation,
            self.population.agents,
            self._lineage.members,  # as measured, and broken if learning broke one
            scores,
            peers,
            np.array([self.ratings.rating(agent).mu for agent in self.population.agents]),
            self.standing,
            self._standing.errors,
            self.best,
            "" if self.champion is None else self.champion.individual,
            plan.trial,
            learning,
            time.monotonic() - self._started,
            proposal_scores(transcripts, self.population.agents),
            self._births.moved(self._lineage.members),
            plan.exchange,
        )
        result = self._guard.check(result, self.champion)
        if self._keeper is not None:
            self._keeper.save(result, transcripts, self._parts(), self.champion)
        log_all(self.loggers, result, transcripts)
        return result

    def run(
        self,
        generations: int,
        *,
        until: Callable[[], bool] = lambda: False,
        on_generation: Callable[[GenerationResult], None] | None = None,
        progress: Progress | None = None,
    ) -> list[GenerationResult]:
        """Play this many more generations.

        Args:
            generations: How many.
            until: Asked before each generation; true ends the run there.
            on_generation: Called after each generation.
            progress: Called with a stage and the fraction of it that is done.

        Returns:
            What each came to; fewer where ``until`` or the guard ended the run.
        """
        results: list[GenerationResult] = []
        for _ in range(generations):
            if until():
                break
            results.append(self.tell(self.play(self.ask(), progress), progress))
            if on_generation is not None:
                on_generation(results[-1])
            if results[-1].stop:
                break
        return results

    def resume(self, folder: str | Path, *, note: str = "") -> None:
        """Continue a saved run from its latest generation, in the same folder.

        Where the settings of this manager differ from those that generation was played with, the
        changes are recorded in the run; see `evolution.runs.changes`.

        Args:
            folder: The run's.
            note: What to say of changes in their record.

        Raises:
            CheckpointError: If there is nothing to resume, it is damaged, does not fit this
                manager, a setting changed that cannot, or the base's weights or the problems are
                not those that the run was played with.
        """
        keeper = self._keeper = self._keeping(folder)
        self._births.forget()
        spec = self.problems.spec
        names = {"base": self.population.base.name, "problems": spec, "excluded": spec}
        self.generation, changes = keeper.resume(self._parts(), names, note)
        self.hyperparameters.restore(self._lineage, changes)
        self._plan = self._chosen = None

    def keep_best(self) -> Path | None:
        """Write the champion's adapter to ``best`` in the run's folder, where it is not yet.

        `tell` does so. Returns the folder; None without a champion or a run folder.

        Raises:
            CheckpointError: If it cannot be written.
        """
        return None if self._keeper is None else self._keeper.keep_best(self.champion)

    def close(self) -> None:
        """Close the loggers, the manager's own grader and source, and let others play the run."""
        close_all(self.loggers)
        if self.folder is not None:
            self.folder.close()
        if self._owns_grader:
            self._grader.close()
        if self._owns_source:
            self.problems.close()
        self._hired.end()

    def _keeping(self, folder: str | Path) -> Keeper:
        def digests() -> dict[str, str]:
            return self._drawn.digests(self.population.base, self._hired.digest)

        return Keeper(folder, self.population, self.config, digests)

    def _quarantine(self) -> None:
        """Take individuals out of evolution whose weights are not finite."""
        lora = self.population.lora
        set_aside(lora, self._learner, self._lineage, self._standing, self.generation)

    def _parts(self) -> dict[str, Part]:
        """What a generation saves besides adapters, by name; one thing more is one line.

        What runs of the last version lack is named in `evolution.runs.parts.LATER`, too.
        """
        parts: dict[str, Part] = {
            "standing": self._standing,
            "ratings": Held(self, "ratings", Ratings.to_dict, Ratings.from_dict),
            "lineage": self._lineage,
            "elites": Held(self._reevaluations, "elites", sorted, frozenset),
            "champion": Held(self._reevaluations, "champion", Champion.state, Champion.restore),
            "appraisal": self._evaluator,
        }
        if isinstance(self.problems, AdaptiveSource):
            parts["source"] = self.problems
        if self._exchanging.has_state:
            parts["exchange"] = self._exchanging
        if self._meter is not None:
            parts["progress"] = self._meter
        if self._births.kept or not self.generation:  # not in a run that began without
            parts["births"] = self._births
        if self.config.guard != "off":
            parts["guard"] = self._guard
        return parts if self._learner is None else {**parts, "learner": self._learner}
