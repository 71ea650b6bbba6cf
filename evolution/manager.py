"""EvolutionManager: evolution wrapped around the episode loop.

``ask`` says which problems the population is to play next; ``tell`` takes the transcripts, scores
the individuals, lets them learn and saves the generation; ``run`` does both with the built-in
rollout. Children are made at the start of a generation, from what the last one measured, so every
individual alive at the end of a run has been measured.

No random state is kept: every draw is keyed by the run's seed and what it is for, so a run that was
killed and resumed continues as if nothing had happened.
"""

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.learners import LearnerStats
from agents.population import LoraPopulation
from agents.rollout import rollout
from evolution import selection
from evolution.breeding import Breeder
from evolution.checkpoint import CheckpointError, RunFolder
from evolution.config import EvolutionConfig
from evolution.diversity import cosine_distance
from evolution.fitness import Scores, score, solve_replies
from evolution.learning import Estate, gather_samples, make_learner
from evolution.lineage import Individual, Lineage
from evolution.loggers import Logger
from populora_env.arena import ReasoningArena
from populora_env.grading import Grader
from populora_env.judges import Judge, TimedJudge
from populora_env.keys import generator
from populora_env.problems import ProblemSource, as_source
from populora_env.ratings import BradleyTerry, Ratings, bradley_terry
from populora_env.records import Phase, Problem, Transcript

Progress = Callable[[str, float], None]

JUDGE_TIMEOUT = 60.0  # seconds that a judge from outside may take over one episode


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """What the population is to play next.

    Attributes:
        generation: Number of the generation, from 0.
        problems: One episode each, the same for all agents.
        judged: Which of the episodes have an evaluation phase.
        born: Individuals made for this generation.
    """

    generation: int
    problems: tuple[Problem, ...]
    judged: tuple[bool, ...]
    born: tuple[Individual, ...]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a generation measured and did.

    Attributes:
        generation: Its number.
        scores: Of each agent, in the population's order, before learning.
        peers: How the attempts fared in comparison, by Bradley and Terry's model.
        standing: Lead over the population across an individual's life, ``[N]``; see the manager.
        best: Agent of highest standing.
        learning: What the learner did, if there is one.
        seconds: Wall-clock time from ``ask`` to the end of ``tell``.
    """

    generation: int
    scores: Scores
    peers: BradleyTerry
    standing: np.ndarray
    best: str
    learning: LearnerStats | None
    seconds: float


class EvolutionManager:
    """Evolves a population of adapters on problems.

    Args:
        population: Evolved in place. Newborn adapters (all zero) are spread first.
        problems: A spec for `load_problems`, a source, or problems.
        config: Settings.
        folder: Where the run is kept; None keeps nothing.
        loggers: Told of every generation; closed by `close`.
        judge: Decides correctness where no answer is known, or wherever the rewards ask for it.
        grader: Used and left open; None for one of the manager's own.
        exclude: Problems that must never be trained on; meeting one is an error.

    Raises:
        ConfigError: If the settings do not fit the population.
        CheckpointError: If the folder cannot be written, or already holds a run.
    """

    def __init__(
        self,
        population: LoraPopulation,
        problems: str | ProblemSource | Sequence[Problem],
        config: EvolutionConfig | None = None,
        *,
        folder: str | Path | None = None,
        loggers: Sequence[Logger] = (),
        judge: Judge | None = None,
        grader: Grader | None = None,
        exclude: Collection[Problem] = (),
    ) -> None:
        self.config = config or EvolutionConfig()
        self.settings = self.config.resolved(population.size)
        self.population = population
        self.problems = as_source(problems, seed=self.config.seed)
        self.loggers = list(loggers)
        self.generation = 0
        self.ratings = Ratings()
        # One for all arenas, so that a judge that hangs holds a generation up only once.
        self._judge = None if judge is None else TimedJudge(judge, JUDGE_TIMEOUT)
        self.folder = None if folder is None else RunFolder(folder)
        self._grader, self._owns_grader = grader or Grader(), grader is None
        self._excluded = {problem.id for problem in exclude}
        # Of each individual's life, older generations counting less: how far its fitness was
        # above the population's mean, and how many generations that rests on.
        self._lead = np.zeros(population.size)
        self._evidence = np.zeros(population.size)
        self._plan: EpisodePlan | None = None
        self._started = 0.0
        self._lineage = Lineage()
        self._breeder = Breeder(population.lora, self.config, self.settings, self._lineage)
        population.temperature = self.settings.temperature
        self._learner = make_learner(population, self.config, self.settings)

    @property
    def lineage(self) -> Sequence[Individual]:
        """Every individual of the run, in order of birth."""
        return tuple(self._lineage.individuals)

    @property
    def standing(self) -> np.ndarray:
        """How far each individual is above the mean of its generations, ``[N]``; 0 is average.

        Generations differ in how hard their problems are, so only fitness within a generation is
        compared. The mean over an individual's life is shrunk towards 0 as if it had also played
        one average generation: a newborn's one lucky generation does not beat a proven lead.
        """
        return self._lead / (self._evidence + 1)

    @property
    def best(self) -> str:
        """Agent of highest standing, measured on training problems alone."""
        return self.population.agents[int(selection.ranking(self.standing)[0])]

    def ask(self) -> EpisodePlan:
        """Make the children that are due and say what to play; asking again changes nothing.

        Raises:
            ValueError: If a problem that must not be trained on is drawn.
        """
        if self._plan is not None:
            return self._plan
        self._started = time.monotonic()
        config, generation = self.config, self.generation
        if generation == 0:
            if self.folder is not None and self.folder.generations():
                raise CheckpointError(
                    f"out: {self.folder.path} already holds a run; resume it or choose another"
                )
            born = self._breeder.found()
        elif generation % self.settings.evolve_every == 0:
            born = self._breed()
        else:
            born = ()
        rng = generator("problems", config.seed, generation)
        problems: dict[str, Problem] = {}
        for _ in range(100 * config.problems_per_generation):
            problem = self.problems[int(rng.integers(len(self.problems)))]
            problems.setdefault(problem.id, problem)
            if len(problems) == config.problems_per_generation:
                break
        if leaked := sorted(self._excluded & set(problems)):
            raise ValueError(
                f"problems: {leaked[0]} is among those that must not be trained on; use disjoint "
                "splits"
            )
        judged = tuple(i < config.judged_problems for i in range(len(problems)))
        self._plan = EpisodePlan(generation, tuple(problems.values()), judged, born)
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
            progress=None if progress is None else lambda done: progress("playing", done),
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
        asked, told = [p.id for p in plan.problems], [t.problem.id for t in transcripts]
        if asked != told:
            raise ValueError(
                f"transcripts: got {len(told)}, expected one for each of the plan's {len(asked)} "
                "problems, in order"
            )
        if any(t.agents != self.population.agents for t in transcripts):
            raise ValueError(
                f"transcripts: expected the agents {self.population.agents[0]} to "
                f"{self.population.agents[-1]}"
            )
        diversity = cosine_distance(self._features(transcripts))
        scores = score(transcripts, diversity, self.config.diversity_weight)
        memory = self.config.fitness_memory
        self._lead = memory * self._lead + scores.fitness - scores.fitness.mean()
        self._evidence = memory * self._evidence + 1
        evaluations = [entry for transcript in transcripts for entry in transcript.evaluations]
        peers = bradley_terry(self.population.agents, evaluations)
        self.ratings.update(evaluations)
        learning = self._learn(transcripts, progress)
        self.population.forget()
        self._plan = None
        self.generation += 1
        self._save(plan, scores, peers, transcripts, learning)
        result = GenerationResult(
            plan.generation,
            scores,
            peers,
            self.standing,
            self.best,
            learning,
            time.monotonic() - self._started,
        )
        for logger in self.loggers:
            logger.log(result, transcripts)
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

    def resume(self, folder: str | Path) -> None:
        """Continue a saved run from its latest whole generation, in the same folder.

        Raises:
            CheckpointError: If there is nothing to resume or it does not fit this manager.
        """
        self.folder = RunFolder(folder)
        saved = self.folder.load(self.population)
        lead, evidence = saved.state["lead"], saved.state["evidence"]
        if len(lead) != self.population.size:
            raise CheckpointError(
                f"resume: the run has {len(lead)} agents, the population {self.population.size}"
            )
        if self._learner is not None:
            try:
                self._learner.load_state(saved.optimizer)
            except ValueError as error:
                raise CheckpointError(
                    f"resume: the learner's state does not fit: {error}"
                ) from error
        self._lead, self._evidence = np.array(lead), np.array(evidence)
        self.ratings = Ratings.from_dict(saved.state["ratings"])
        self._lineage = self._breeder.lineage = Lineage.from_list(saved.state["lineage"])
        self.generation = saved.generation + 1
        self._plan = None

    def close(self) -> None:
        """Close the loggers and the manager's own grader."""
        for logger in self.loggers:
            logger.close()
        if self._owns_grader:
            self._grader.close()

    def _breed(self) -> tuple[Individual, ...]:
        """Replace the least fit by children, who inherit ratings and maybe optimiser state."""
        estate = Estate(self._learner, self.population.lora, self.config.child_optimizer)
        born = self._breeder.breed(self.generation, self.standing)
        estate.hand_down(born)
        agents, before = self.population.agents, self.ratings.to_dict()
        after = dict(before)
        for child in born:
            self._lead[child.individual.slot] = self._evidence[child.individual.slot] = 0.0
            # From the parents' ratings as these were before any child was born.
            heir, name = Ratings.from_dict(before), agents[child.individual.slot]
            heir.reset(name, [agents[parent] for parent in child.parent_slots])
            after[name] = heir.to_dict()[name]
        self.ratings = Ratings.from_dict(after)
        return tuple(child.individual for child in born)

    def _features(self, transcripts: Sequence[Transcript]) -> np.ndarray:
        """Features of all attempts, ``[problems, N, width]``; NaN where one is not known."""
        width = self.population.base.model.get_input_embeddings().weight.shape[1]
        features = np.full((len(transcripts), self.population.size, width), np.nan)
        for row, transcript in enumerate(transcripts):
            for agent, (prompt, reply) in solve_replies(transcript).items():
                known = self.population.recall(agent, prompt, reply)
                if known is not None and len(known.reply_ids) > 1:
                    features[row, self.population.agents.index(agent)] = known.feature.numpy()
        return features

    def _learn(
        self, transcripts: Sequence[Transcript], progress: Progress | None
    ) -> LearnerStats | None:
        """One step of the learner on what the episodes hold for it."""
        if self._learner is None:
            return None
        samples = gather_samples(transcripts, self.population, self.config)
        return self._learner.step(
            samples, None if progress is None else lambda done: progress("learning", done)
        )

    def _save(
        self,
        plan: EpisodePlan,
        scores: Scores,
        peers: BradleyTerry,
        transcripts: Sequence[Transcript],
        learning: LearnerStats | None,
    ) -> None:
        if self.folder is None:
            return
        rows: list[dict[str, Any]] = []
        for i, agent in enumerate(self.population.agents):
            individual = self._lineage.living[i]
            rows.append(
                {
                    "generation": plan.generation,
                    "agent": agent,
                    "individual": individual.name,
                    "operator": individual.operator,
                    "parents": list(individual.parents),
                    "return": _number(scores.returns[i]),
                    "accuracy": _number(scores.accuracy[i]),
                    "length": _number(scores.length[i]),
                    "diversity": _number(scores.diversity[i]),
                    "fitness": _number(scores.fitness[i]),
                    "standing": _number(self.standing[i]),
                    "peer_strength": _number(peers.strengths[i]),
                    "rating": _number(self.ratings.rating(agent).mu),
                    "best": agent == self.best,
                    "grad_norm": None if learning is None else _number(learning.grad_norms[i]),
                    "kl": None if learning is None or not learning.kl else _number(learning.kl[i]),
                }
            )
        try:
            self.folder.append("history.jsonl", rows)
            self.folder.append(
                "transcripts.jsonl",
                ({"generation": plan.generation, **t.to_dict()} for t in transcripts),
            )
            lineage = self._lineage.to_list()
            state = {
                "lead": self._lead.tolist(),
                "evidence": self._evidence.tolist(),
                "ratings": self.ratings.to_dict(),
                "lineage": lineage,
            }
            optimizer = {} if self._learner is None else self._learner.state()
            self.folder.save(
                plan.generation, self.population, optimizer, state, self.config.keep_generations
            )
            self.folder.write("lineage.json", _json_rows(lineage))
        except OSError as error:
            raise CheckpointError(
                f"generation {plan.generation} could not be saved to {self.folder.path} "
                f"({error.strerror}); earlier generations are intact"
            ) from error


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _json_rows(rows: Sequence[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
