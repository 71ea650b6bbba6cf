"""Settings of evolution: what an `EvolutionManager` does.

What each may be stands at it and is checked from there, whoever sets it. Not covered here: what
they may be beside each other (`evolution.config.checks`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

import numpy as np

from agents.engine.jobs import check_temperature
from agents.learning.advantages import ADVANTAGES
from agents.learning.rejection import RejectionSource
from evolution.config.checks import GUARDS, check_together
from evolution.errors import ConfigError
from evolution.exchange.step import EXCHANGES
from evolution.operators.crossover import CROSSOVERS, Crossover
from evolution.operators.mutation_weights import MUTATIONS, Mutation
from evolution.operators.selection import SELECTIONS, Selection
from evolution.registry import Use
from populora_env.episodes.matchmaking import Matchmaking
from populora_env.episodes.roles import read_roles
from populora_env.settings import OneOf, Range, check_fields


class Learner(StrEnum):
    """How agents learn between evolution steps."""

    NONE = "none"
    POLICY_GRADIENT = "policy-gradient"
    REJECTION = "rejection"


class Rows(StrEnum):
    """Whose the rows A of adapters are."""

    OWN = "own"
    SHARED = "shared"


class ChildOptimizer(StrEnum):
    """What becomes of the optimiser's state in a slot that a child takes."""

    RESET = "reset"
    INHERIT = "inherit"


@dataclass(frozen=True, kw_only=True)
class EvolutionConfig:
    """What an `EvolutionManager` does in each generation."""

    seed: Annotated[int, Range(0)] = 0
    """Seed of every random draw of the run."""
    spread: Annotated[float, Range(0, 10)] = 0.04
    """Strength of the mutation that turns newborn adapters into the first population."""
    problems_per_generation: Annotated[int, Range(1)] = 8
    """Problems each agent solves in a generation; the same for all agents."""
    proposers: int | str = 0
    """Agents, from the first on, that write the problems for the others in self-play; or all."""
    solvers: Annotated[int | None, Range(1)] = None
    """Agents that solve a proposal, matched with its author by ratings; default all there are."""
    tries: Annotated[int, Range(1)] = 1
    """How often each agent answers a problem; of a proposal, each of its solvers. The last try is
    what is judged."""
    judged_problems: Annotated[int, Range(0)] = 2
    """How many of these problems the agents also judge each other's attempts of."""
    evaluation: str = "compare"
    """How they judge: score, compare, critique, or several joined by +."""
    judge_load: Annotated[int, Range(1)] = 1
    """Attempts (for compare: pairs) that each agent judges in each form, per judged problem."""
    matchmaking: Matchmaking = Matchmaking.BALANCED
    """Who judges whom: balanced, rating (near-equal pairs), or round_robin (all)."""
    revise: bool = False
    """Whether agents answer again after reading critiques."""
    rewards: str = "default"
    """What agents are paid for: a preset of reward weights, such as ground_truth or peers_only."""
    solve_tokens: Annotated[int, Range(1)] = 24
    """Length limit of an attempt, in tokens."""
    propose_tokens: Annotated[int, Range(1)] = 24
    """Length limit of a proposal, in tokens."""
    judge_tokens: Annotated[int, Range(1)] = 8
    """Length limit of a score or a comparison, in tokens."""
    critique_tokens: Annotated[int, Range(1)] = 48
    """Length limit of a critique, in tokens."""
    fitness: str = "bonus"
    """What diversity does to fitness: bonus (mean distance to the others' attempts is added),
    sharing(radius=0.1,alpha=1), novelty(k=5,archive=200,add=1,behaviour=hidden_states) or
    map_elites(descriptors='length+strategy',floor=0); descriptors are length, numbers, repetition
    and strategy."""
    fitness_scale: str = "none"
    """Scale of returns in fitness: none, z_score, rank (-1/2 to 1/2), or min_max (0 to 1)."""
    diversity: str = "hidden_states"
    """Measures joined by +, weights in front as in hidden_states+0.5*answers: hidden_states,
    token_distributions, answers, strategies(classifier=surface), embeddings(model=...); or none."""
    diversity_bar: str = "right"
    """Attempts among which diversity counts: right, above_median (of the problem's returns),
    rewarded(least=0.5), or none (all)."""
    diversity_weight: Annotated[float, Range(-1e6, 1e6)] = 0.5
    """What a unit of diversity (a distance from 0 to 1) adds to fitness, in units of return."""
    diversity_schedule: str = "constant"
    """The weight over generations: constant, linear(end=0,generations=20),
    cosine(end=0,generations=20), or target(vendi=2,rate=0.5,least=0.01,most=10), which adapts."""
    fitness_memory: Annotated[float, Range(0, 1)] = 0.8
    """Weight of an individual's earlier generations in its standing, per generation; below 1."""
    confirm_problems: Annotated[int | None, Range(0)] = None
    """Fresh problems for trials while a run goes on, which would-be elites and a new champion must
    pass; 0: none, the best by standing is the champion; default 0 with a learner, 16 without."""
    confirm_confidence: Annotated[float, Range(-10, 10)] = 0.0
    """Standard errors by which a new champion must lead the old one in its trial; below 0 it may be
    as far behind."""
    last_trial: Annotated[int, Range(0)] = 64
    """Fresh problems that, at the end of a run, the champion, all who solve and their average
    answer: who gets most of them right is the champion; 0: none, as beside a gate."""
    exchange: str = "crossover"
    """What members take over from each other: crossover (children of the fittest), none,
    average(rate=1,momentum=0), towards_start(share=0.3), cma_es(problems=24,rounds=4,sigma=0.3,
    modules=false), exploit_explore(share=0.25,factor=1.5,adapt='learning_rate'), or without a
    learner evolution_strategy(sigma=0.02,rate=1,shape='ranks',rank_one=true)."""
    gate: str = "none"
    """Test on fresh problems without which nobody replaces a proven individual: none, or
    paired(margin=0.1,error=0.1,most=128,step=16)."""
    confirm_every: Annotated[int | None, Range(1)] = None
    """Generations from one trial of a new champion to the next, besides that at the end; default
    evolve_every, and no less than 5 where an exchange needs no elites."""
    evolve_every: Annotated[int | None, Range(1)] = None
    """Generations from one evolution step to the next; default 5 with a learner, 4 without, and 1
    for evolution strategies."""
    offspring: Annotated[int | None, Range(0)] = None
    """Least fit of an island, replaced in an evolution step; default 1 in 4, or all but elites."""
    elites: Annotated[int, Range(0)] = 2
    """Fittest individuals of each island, which selection never replaces or changes."""
    parents: Annotated[int, Range(1)] = 2
    """Parents of a child."""
    selection: str = "tournament"
    """How parents are drawn: tournament(size=3), truncation(share=0.5), roulette(floor=0.1),
    rank(pressure=1.8), or lower_bound(c=3,share=0.5), which ranks by ratings, at mu - c*sigma."""
    crossover: str = "weighted_average"
    """What children take from parents' updates: weighted_average, average, clone,
    fitness_weighted(temperature=1), extrapolation(least=1,most=1.5), layer_wise(run=1,share=0.5),
    subspace_interpolation(share=0.5), subspace_split(share=0.5), dare(drop=0.7,exact=false),
    ties(density=0.2,exact=false), or nothing: from_scratch(strength=0.04), random search."""
    mutations: str = "gaussian"
    """What children undergo, joined by +, chances in front as in gaussian+0.3*dropout(rate=0.2):
    gaussian(strength), relative_gaussian(strength=0.15,floor=0.01), svd(strength=0.1),
    layer_gaussian(strength=0.1,fraction=0.33,floor=0.01), dropout(rate=0.1), masking(rho=0.3),
    hyperparameters(factor=1.25,resample=0.1), self_adaptation(tau=0.3); or none."""
    mutation: Annotated[float | None, Range(0, 10)] = None
    """Strength of gaussian where mutations give none; default 0.01 with a learner, 0.05 without."""
    islands: Annotated[int, Range(1)] = 1
    """Parts of the population, of equal size, that breed among themselves."""
    migrate_every: Annotated[int, Range(1)] = 4
    """Evolution steps from one migration between islands to the next."""
    migrants: Annotated[int, Range(1)] = 1
    """Copies of its fittest that an island sends to the next one, in the place of the least fit."""
    rows: Rows = Rows.OWN
    """Rows A of the adapters: own, which change as an agent learns; or shared by all and frozen, so
    that agents learn B alone and sums of their updates are exact."""
    learner: Learner = Learner.POLICY_GRADIENT
    """How agents learn: policy-gradient, rejection (from right attempts), or none."""
    learn_judging: bool = True
    """Whether policy gradients also use what judgements earned, not only attempts."""
    learning_rate: Annotated[float, Range(0, 1)] = 3e-4
    """AdamW step size of the learner."""
    learning_rates: str = ""
    """Range such as 3e-5..3e-3 over which the first individuals' learning rates are spread,
    log-evenly, in place of one for all."""
    advantage: Annotated[str, OneOf(ADVANTAGES)] = "rloo"
    """Rewards to advantages: rloo, grpo, dr_grpo, reinforce++, reinforce++-baseline."""
    epochs: Annotated[int, Range(1)] = 1
    """How often the learner goes through a generation's replies."""
    minibatches: Annotated[int, Range(1)] = 1
    """Parts of each agent's replies, with an update of its own for each."""
    clip_low: Annotated[float, Range(0, 1)] = 0.2
    """With several updates, how far below 1 a reply token's probability ratio counts."""
    clip_high: Annotated[float, Range(0, 1e6)] = 0.2
    """With several updates, how far above 1 it counts."""
    kl: Annotated[float, Range(0, 1e6)] = 0.0
    """Weight of the learner's divergence from the base model; 0 computes none."""
    learn_from: RejectionSource = RejectionSource.OWN
    """Whose replies an agent learns from by policy gradient: own, or its own and what others of its
    island or role said better than their rivals (population)."""
    rejection_source: RejectionSource = RejectionSource.OWN
    """Whose right attempts an agent learns from by rejection: own, or population."""
    rejection_replies: Annotated[int, Range(1)] = 4
    """Most distinct right attempts at one problem that an agent learns from by rejection."""
    child_optimizer: ChildOptimizer = ChildOptimizer.RESET
    """Whether a child forgets AdamW's state, or inherits it where it has a parent's rows A: with
    shared rows, or as a copy that does not mutate."""
    negative_weight: Annotated[float, Range(0, 1)] = 0.0
    """Factor on negative advantages; 0 learns from better-than-expected replies alone."""
    shards: Annotated[int, Range(1)] = 1
    """Parts in which a generation is decoded and learned from, which workers can share out; what
    the run comes to depends on how many there are, and not on the number of workers."""
    worker_cpus: Annotated[int, Range(0, 10_000)] = 0
    """CPU threads for a shard, of each worker or of this process, on which the last digit of sums
    depends; 0 for an equal share of this machine's for each shard."""
    sample_fraction: Annotated[float, Range(0, 1)] = 1.0
    """Share of the replies that the learner uses: those of largest absolute advantage."""
    tokens_per_batch: Annotated[int, Range(1)] = 2048
    """Padded tokens in one forward and backward pass of the learner; bounds its memory."""
    temperature: Annotated[float | None, Range(0, 10)] = None
    """Sampling temperature of training replies; default 0.8 with a learner, 0 (greedy) without."""
    guard: Annotated[str, OneOf(GUARDS)] = "off"
    """Whether agents that unlearn while their rewards rise are noticed: off, note (measured and
    said), or act (then pulled to the base, rolled back, replaced; in the end the run stops)."""
    guard_every: Annotated[int, Range(1)] = 5
    """Generations from one measurement of all who solve to the next; flags ask for more."""
    guard_anchors: Annotated[int, Range(1)] = 48
    """Problems with known answers that the guard measures with; never trained on."""
    guard_from: str = ""
    """Spec of these problems; default: problems, without those of the table at the end."""
    keep_generations: Annotated[int, Range(1)] = 2
    """How many of the latest generations stay on disk; one at least, to resume from."""
    keep_every: Annotated[int, Range(0)] = 0
    """Besides, every so-manieth generation stays on disk for good; 0 for none."""

    def __post_init__(self) -> None:
        self.check()

    def resolved(self, size: int) -> "Settings":
        """What the settings left open come to for a population of this size.

        Raises:
            ConfigError: If an island has fewer individuals than parents, or than elites, offspring
                and migrants.
        """
        learns = self.learner is not Learner.NONE
        homes = self.homes(size)
        home = min(map(len, homes))
        moving = self.migrants if self.islands > 1 else 0
        most = max(home - self.elites - moving, 0)
        usual = min(max(home // 4, 1), most) if learns else most
        central = EXCHANGES.is_central(self.exchange)
        every = _or(self.evolve_every, 5 if learns else 1 if central else 4)
        settings = Settings(
            evolve_every=every,
            offspring=_or(self.offspring, usual),
            mutation=_or(self.mutation, 0.01 if learns else 0.05),
            temperature=_or(self.temperature, 0.8 if learns else 0.0),
            confirm_every=_or(self.confirm_every, max(every, 5) if central else every),
            confirm_problems=_or(self.confirm_problems, 0 if learns else 16),
        )
        room = f"size = {size}" if self.islands == 1 else f"size / islands = {home}"
        room = room if self.islands == len(homes) else f"{home}, the fewest in one role"
        if self.elites + settings.offspring + moving > home:
            named = "elites + offspring" + " + migrants" * bool(moving)
            found = f"{self.elites} + {settings.offspring}" + f" + {moving}" * bool(moving)
            less = [f"elites = {max(home - settings.offspring - moving, 0)}"]
            less += [f"parents = {home}"] if self.parents > home else []
            raise ConfigError(
                f"{named}: got {found}, expected at most {room}; set {' and '.join(less)}, or a "
                "larger size"
            )
        if self.parents > home:
            raise ConfigError(
                f"parents: got {self.parents}, expected at most {room}; set parents = {home}, or a "
                "larger size"
            )
        if learns and settings.temperature == 0:
            raise ConfigError("temperature: got 0, expected more: a learner needs sampled replies")
        try:
            check_temperature("temperature", settings.temperature)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return settings

    @property
    def only_propose(self) -> int:
        """How many agents, from the first on, write problems and solve none."""
        return self.proposers if isinstance(self.proposers, int) else 0

    def homes(self, size: int) -> list[np.ndarray]:
        """Slots of those who breed and compete among themselves, ``[agents]`` each.

        These are the islands, or the roles where some propose and others solve: proposers first.

        Raises:
            ConfigError: If there are not enough agents for the roles.
        """
        slots = np.arange(size)
        if self.islands > size:
            raise ConfigError(f"islands: got {self.islands}, expected at most size = {size}")
        try:
            roles = read_roles([str(slot) for slot in slots], self.proposers, self.solvers,
                               self.tries)  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"size = {size}: {error}") from error
        if roles is None or self.proposers == "all":
            return np.array_split(slots, self.islands)
        return [slots[: len(roles.proposers)], slots[len(roles.proposers) :]]

    def readers(self, size: int) -> dict[int, list[int]]:
        """Who learns from what each agent says, by slot: itself alone, or its whole home."""
        if self.learn_from is RejectionSource.OWN:
            return {slot: [slot] for slot in range(size)}
        return {slot: home.tolist() for home in self.homes(size) for slot in home.tolist()}

    def operators(self, settings: "Settings | None" = None) -> "BreedingOperators":
        """Selection, crossover and mutations by name; see `evolution.registry`.

        Args:
            settings: What says how strong mutations are that do not say it themselves.

        Raises:
            OperatorError: If a name or a parameter does not exist or is out of range.
        """
        mutations = MUTATIONS.read_several(self.mutations)
        if settings is not None:
            strength = {"strength": settings.mutation}
            mutations = [
                replace(use, parameters={**strength, **use.parameters})
                if use.name == "gaussian"
                else use
                for use in mutations
            ]
        return BreedingOperators(
            SELECTIONS.read(self.selection), CROSSOVERS.read(self.crossover), tuple(mutations)
        )

    def check(self) -> None:
        """Check every field.

        Raises:
            ConfigError: On the first value out of range.
        """
        check_fields(self, ConfigError)
        check_together(self)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that depend on the learner and the population's size; see `EvolutionConfig`."""

    evolve_every: int
    offspring: int
    mutation: float
    temperature: float
    confirm_every: int
    confirm_problems: int


@dataclass(frozen=True, slots=True)
class BreedingOperators:
    """How children are made."""

    selection: Use[Selection]
    crossover: Use[Crossover]
    mutations: tuple[Use[Mutation], ...]


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
