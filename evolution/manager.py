"""EvolutionManager: evolution wrapped around the episode loop.

``ask`` says which problems the population is to play next; ``tell`` takes the transcripts, scores
the individuals, lets them learn and saves the generation; ``run`` does both with the built-in
rollout. Children are made at the start of a generation, from what the last one measured, so every
individual alive at the end of a run has been measured.

No random state is kept: every draw is keyed by the run's seed and what it is for, so a run that was
killed and resumed continues as if nothing had happened.
"""

import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.learning.learners import LearnerStats
from agents.population import LoraPopulation
from agents.progress import Progress
from agents.rollout import rollout
from evolution.config import EvolutionConfig
from evolution.errors import CheckpointError
from evolution.fitness.evaluator import Appraiser
from evolution.fitness.task import known
from evolution.individuals.breeding import Breeder
from evolution.individuals.inheritance import (
    Estate,
    change_learning_rate,
    inherit_ratings,
    set_learning_rate,
)
from evolution.individuals.lineage import Individual, Lineage
from evolution.individuals.non_finite import broken_slots, quarantine
from evolution.individuals.reevaluation import Champion, Trial, Trials
from evolution.individuals.standing import Standing
from evolution.learning import gather_samples, make_learner
from evolution.loggers.base import Callback, Logger, as_logger, close_all, log_all
from evolution.operators import selection
from evolution.operators.selection import Candidates
from evolution.results import EpisodePlan, GenerationResult, history_rows
from evolution.run_problems import RunProblems, check_fit
from evolution.runs.changes import find_changes, plain_settings, record
from evolution.runs.checkpoint import RunFolder
from evolution.runs.fingerprints import check_same
from populora_env.arena import ReasoningArena
from populora_env.grading import Grader
from populora_env.judges import Judge, TimedJudge
from populora_env.problems import ProblemSource, as_source
from populora_env.ratings import Ratings, bradley_terry
from populora_env.records import Phase, Problem, Transcript

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

    Raises:
        ConfigError: If the settings do not fit the population.
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
    ) -> None:
        self.config = config or EvolutionConfig()
        self.settings = self.config.resolved(population.size)
        if folder is not None:
            population.check_saving()
        self.population = population
        self.problems = as_source(problems, seed=self.config.seed)
        self.loggers = [as_logger(given) for given in loggers]
        self.generation = 0
        self.ratings = Ratings()
        # One for all arenas, so that a judge that hangs holds a generation up only once.
        self._judge = None if judge is None else TimedJudge(judge, JUDGE_TIMEOUT)
        self.folder = None if folder is None else RunFolder(folder)
        self._grader, self._owns_grader = grader or Grader(), grader is None
        self._drawn = RunProblems(self.problems, self.config.seed, exclude)
        self._standing = Standing(population.size, self.config.fitness_memory)
        self._trials = Trials(population, self.config, self._grader, self._fresh)
        self._confirmed = 0  # generations that had been played when trials were last held
        self._kept: tuple[str, Path] | None = None  # content hash and folder of the saved champion
        self._plan: EpisodePlan | None = None
        self._started = 0.0
        self._lineage = Lineage()
        self._breeder = Breeder(population.lora, self.config, self.settings, self._lineage)
        population.temperature = self.settings.temperature
        self._learner = make_learner(population, self.config, self.settings)
        self._appraiser = Appraiser(self.config)

    @property
    def lineage(self) -> Sequence[Individual]:
        """Every individual of the run, in order of birth."""
        return tuple(self._lineage.individuals)

    @property
    def standing(self) -> np.ndarray:
        """How far each individual is above the mean of its generations, ``[N]``; 0 is average.

        See `evolution.individuals.standing`.
        """
        return self._standing.values

    @property
    def standing_errors(self) -> np.ndarray:
        """Standard errors of `standing` from the choice of problems, ``[N]``."""
        return self._standing.errors

    @property
    def champion(self) -> Champion | None:
        """A snapshot of the best individual that was ever confirmed; see `confirm`."""
        return self._trials.champion

    def confirm(self) -> Trial | None:
        """Let would-be elites and a new champion prove themselves on fresh training problems.

        Done before every evolution step; call it at the end of a run. Calling it again before the
        next generation has been played changes nothing.
        """
        if self._confirmed == self.generation or self.generation == 0:
            return None
        self._confirmed = self.generation
        return self._trials.hold(self._standing, self._lineage.living, self.generation)

    @property
    def best(self) -> str:
        """Agent of highest standing, measured on training problems alone."""
        return self.population.agents[int(selection.ranking(self.standing)[0])]

    def ask(self) -> EpisodePlan:
        """Make the children that are due and say what to play; asking again changes nothing.

        Raises:
            ConfigError: If a given problem does not fit the model's context; before the first
                generation.
            ValueError: If a problem that must not be trained on is drawn.
        """
        if self._plan is not None:
            return self._plan
        self._started = time.monotonic()
        config, generation = self.config, self.generation
        trial = None
        if generation == 0:
            # Only here: a run that was begun goes on, and such a problem counts as unanswered.
            check_fit(self.population.base, self.problems, config.solve_tokens)
            if self.folder is not None:
                self.folder.begin()
            born = self._breeder.found()
        elif generation % self.settings.evolve_every == 0:
            trial = self.confirm()
            born = self._breed()
        else:
            born = ()
        self._quarantine()
        problems = self._drawn.draw("problems", generation, config.problems_per_generation)
        judged = tuple(i < config.judged_problems for i in range(len(problems)))
        self._plan = EpisodePlan(generation, problems, judged, born, trial)
        return self._plan

    def play(self, plan: EpisodePlan, progress: Progress | None = None) -> list[Transcript]:
        """Play a plan's episodes with the population."""
        config = self.config
        arenas = [
            ReasoningArena(
                [problem],
                num_agents=self.population.size,
                evaluation=config.evaluation if judged else "none",
                judge=self._judge,
                judge_load=config.judge_load,
                matchmaking=config.matchmaking,
                ratings=self.ratings,
                revise=config.revise and judged,
                rewards=config.rewards,
                grader=self._grader,
            )
            for problem, judged in zip(plan.problems, plan.judged, strict=True)
        ]
        with self._appraiser.watching(self.population):
            return rollout(
                self.population,
                arenas,
                plan.problems,
                key=("rollout", config.seed, plan.generation),
                limits={
                    Phase.SOLVE: config.solve_tokens,
                    Phase.SCORE: config.judge_tokens,
                    Phase.COMPARE: config.judge_tokens,
                    Phase.CRITIQUE: config.critique_tokens,
                    Phase.REVISE: config.solve_tokens,
                },
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
        scores = self._appraiser.appraise(
            transcripts, self.population, self._births(), plan.generation
        )
        scores.fitness[broken_slots(self._lineage)] = np.nan
        self._standing.update(scores.fitness, scores.errors, scores.unit)
        evaluations = [entry for transcript in transcripts for entry in transcript.evaluations]
        peers = bradley_terry(self.population.agents, evaluations)
        self.ratings.update(evaluations)
        self._lineage.measure({i: known(v) for i, v in enumerate(self.standing)})
        learning = self._learn(transcripts, progress)
        self._quarantine()
        self.population.forget()
        self._plan = None
        self.generation += 1
        result = GenerationResult(
            plan.generation,
            self.population.agents,
            self._individuals(),  # as measured, and broken if learning broke one
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
        )
        self._save(result, transcripts)
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
        """
        results: list[GenerationResult] = []
        for _ in range(generations):
            if until():
                break
            results.append(self.tell(self.play(self.ask(), progress), progress))
            if on_generation is not None:
                on_generation(results[-1])
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
        self.folder = RunFolder(folder)
        saved = self.folder.load(self.population)
        generation = saved.generation + 1
        names = {"base": self.population.base.name, "problems": self.problems.spec}
        names["excluded"] = names["problems"]
        check_same(
            saved.state.get("rests_on", {}), self._drawn.digests(self.population.base), names
        )
        changes = find_changes(saved.state.get("config", {}), self.config, generation, note)
        try:
            self._standing.load(saved.state["standing"])
            if saved.state["champion"] is not None:
                self._trials.champion = Champion.restore(saved.state["champion"], saved.tensors)
            self._trials.elites = frozenset(saved.state["elites"])
            self._appraiser.load(saved.state["appraisal"], saved.tensors)
            if self._learner is not None:
                others = ("champion.", "fitness.")
                own = {k: v for k, v in saved.tensors.items() if not k.startswith(others)}
                self._learner.load_state(own)
            self.ratings = Ratings.from_dict(saved.state["ratings"])
            self._lineage = self._breeder.lineage = Lineage.from_list(saved.state["lineage"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"resume: the run's state does not fit: {error}") from error
        for change in changes:
            if change.option == "learning_rate":
                change_learning_rate(self._learner, self._lineage, change.before, change.after)
        record(self.folder, changes, generation)
        # It may be a generation ahead, and deleting what need not be kept may be due.
        self.folder.write("lineage.json", _json_rows(saved.state["lineage"]))
        self.folder.prune(self.config.keep_generations, self.config.keep_every)
        self.generation = generation
        self._plan = None

    def keep_best(self) -> Path | None:
        """Write the champion's adapter to ``best`` in the run's folder, where it is not yet.

        `tell` does so. Returns the folder; None without a champion or a run folder.

        Raises:
            CheckpointError: If it cannot be written.
        """
        champion, folder = self.champion, self.folder
        if champion is None or folder is None:
            return None
        kept = champion.content_hash, folder.path / "best"
        if kept != self._kept:
            folder.replace("best", lambda path: champion.save(self.population, path))
            self._kept = kept
        return kept[1]

    def close(self) -> None:
        """Close the loggers and the manager's own grader, and let others play the run."""
        close_all(self.loggers)
        if self.folder is not None:
            self.folder.close()
        if self._owns_grader:
            self._grader.close()

    def _births(self) -> np.ndarray:
        """Generation and slot of birth of those who live in the slots, ``[N, 2]``."""
        born = [(i.generation, i.slot) for i in self._individuals()]
        return np.array(born, dtype=np.int64)

    def _individuals(self) -> tuple[Individual, ...]:
        """Who lives in which slot."""
        living = self._lineage.living
        return tuple(living[slot] for slot in range(self.population.size))

    def _quarantine(self) -> None:
        """Take individuals out of evolution whose weights are not finite."""
        lora = self.population.lora
        quarantine(lora, self._learner, self._lineage, self._standing, self.generation)

    def _breed(self) -> tuple[Individual, ...]:
        """Replace the least fit by children, who inherit ratings, and copies their standing.

        Children may inherit optimiser state as well.
        """
        estate = Estate(self._learner, self.population.lora, self.config.child_optimizer)
        agents = self.population.agents
        ratings = [self.ratings.rating(agent) for agent in agents]
        mu = np.array([r.mu for r in ratings])
        mu[broken_slots(self._lineage)] = np.nan  # never to breed, whatever selection goes by
        known = Candidates(self.standing, mu, np.array([r.sigma for r in ratings]))
        born = self._breeder.breed(self.generation, known)
        estate.hand_down(born)
        self._standing.inherit(
            {c.individual.slot: c.parent_slots[0] if c.is_copy else None for c in born}
        )
        if self._learner is not None:
            for child in born:
                set_learning_rate(self._learner, child.individual)
        self.ratings = inherit_ratings(self.ratings, agents, born)
        return tuple(child.individual for child in born)

    def _fresh(self, generation: int) -> list[Problem]:
        """Problems with known answers for the trial of a generation."""
        drawn = self._drawn.draw("trial", generation, self.config.confirm_problems)
        return [problem for problem in drawn if problem.answer is not None]

    def _learn(
        self, transcripts: Sequence[Transcript], progress: Progress | None
    ) -> LearnerStats | None:
        """One step of the learner on what the episodes hold for it."""
        if self._learner is None:
            return None
        samples = gather_samples(transcripts, self.population, self.config)
        key = ("learn", self.config.seed, self.generation)
        return self._learner.step(samples, progress, key=key)

    def _save(self, result: GenerationResult, transcripts: Sequence[Transcript]) -> None:
        if self.folder is None:
            return
        folder, config, champion = self.folder, self.config, self.champion
        folder.append("history.jsonl", history_rows(result))
        folder.append(
            "transcripts.jsonl",
            ({"generation": result.generation, **t.to_dict()} for t in transcripts),
        )
        lineage = self._lineage.to_list()
        folder.write("lineage.json", _json_rows(lineage))
        self.keep_best()
        state = {
            "config": plain_settings(config),
            "standing": self._standing.to_dict(),
            "ratings": self.ratings.to_dict(),
            "lineage": lineage,
            "elites": sorted(self._trials.elites),
            "champion": None if champion is None else champion.to_dict(),
            "appraisal": self._appraiser.to_dict(),
            "rests_on": self._drawn.digests(self.population.base),
        }
        tensors = {} if self._learner is None else self._learner.state()
        tensors = {**tensors, **self._appraiser.tensors()}
        if champion is not None:
            tensors = {**tensors, **champion.tensors()}
        keep, every = config.keep_generations, config.keep_every
        folder.save(result.generation, self.population, tensors, state, keep, every)


def _json_rows(rows: Sequence[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
