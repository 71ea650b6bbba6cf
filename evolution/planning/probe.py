"""A few seconds of a run, to tell from how long all of it takes.

Real requests of the first generation's problems are played, first a problem with replies of a few
tokens, then as many as the time allows; then a few of these replies are learned from.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from agents.learning.steps import Sample
from agents.policy import Request
from agents.population import LoraPopulation
from agents.rollout import rollout
from evolution.config import RunConfig
from evolution.fitness.evaluator import FitnessEvaluator
from evolution.learning import AnyLearner, gather_samples
from evolution.manager import EvolutionManager
from evolution.results import EpisodePlan
from evolution.run_problems import make_arenas, reply_limits
from populora_env.grading import Grader
from populora_env.ratings import Ratings
from populora_env.reading.forms import FORMS
from populora_env.reading.reply_ids import reply_id
from populora_env.records import Phase, Transcript

_FEW = 4  # tokens of a first reply
_SAMPLES = 8  # that are learned from, at least
_LEARNED = 0.25  # share of the time that learning may take


@dataclass(slots=True)
class Asked:
    """What was asked of the population in one phase.

    Attributes:
        replies: How many.
        prompt: Tokens of their prompts.
        longest: Tokens of the longest prompt.
        written: Tokens of the replies.
        seconds: That they took.
    """

    replies: int = 0
    prompt: int = 0
    longest: int = 0
    written: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe saw.

    Attributes:
        problems: Episodes that were played.
        cut: How many times as long as in the probe a reply may be; above 1 where it was too slow.
        slower: How many times as long replies of that length would take, prompts included.
        phases: What was asked, by phase.
        rest: Seconds that episodes took besides: grading, matching, diversity.
        valid: Share of the proposals that were, in self-play; else 1.
        seconds_per_sample: Of learning from one reply; 0 without a learner.
        useful: Share of the replies that carry a gradient.
        transcript: Bytes of the transcripts of the episodes played.
        shared: Tokens that the prompts of all attempts begin with.
        overlong: Share of the prompts that did not fit the context.
    """

    problems: int
    cut: float
    slower: float
    phases: Mapping[Phase, Asked] = field(hash=False)
    rest: float
    valid: float
    seconds_per_sample: float
    useful: float
    transcript: int
    shared: int
    overlong: float

    @property
    def replies(self) -> dict[Phase, int]:
        """By phase."""
        return {phase: asked.replies for phase, asked in self.phases.items()}


class _Watched:
    """A population that is asked, and how long it takes; a `Policy`."""

    def __init__(self, population: LoraPopulation, features: frozenset[str]) -> None:
        self._policy, self._population = population.keeping(features), population
        self.phases: dict[Phase, Asked] = {}
        self.prompts: set[tuple[int, ...]] = set()
        self.spent, self.overlong = 0.0, 0

    def act(self, requests: Sequence[Request]) -> list[str]:
        """Answer all requests."""
        before = self._population.stats.overlong
        begin = time.perf_counter()
        replies = self._policy.act(requests)
        spent = time.perf_counter() - begin
        self.spent += spent
        self.overlong += self._population.stats.overlong - before
        tokens: Counter[Phase] = Counter()
        for request, reply in zip(requests, replies, strict=True):
            made = self._population.recall(reply_id(reply))
            asked = self.phases.setdefault(request.phase, Asked())
            asked.replies += 1
            if made is None:
                continue
            if request.phase is Phase.SOLVE:
                self.prompts.add(made.prompt_ids)
            asked.prompt += len(made.prompt_ids)
            asked.longest = max(asked.longest, len(made.prompt_ids))
            asked.written += len(made.reply_ids)
            tokens[request.phase] += len(made.reply_ids)
        for phase, count in tokens.items():
            self.phases[phase].seconds += spent * count / max(tokens.total(), 1)
        return replies


def probe(
    manager: EvolutionManager,
    config: RunConfig,
    learner: AnyLearner | None,
    grader: Grader,
    seconds: float = 5.0,
) -> Probe:
    """Play and learn for about so many seconds; the population is changed.

    Args:
        manager: Of the run, without a folder.
        config: Settings of the run.
        learner: Of the run.
        grader: Used and left open.
        seconds: Longer where one problem with replies of a few tokens takes longer.
    """
    plan, population = manager.ask(), manager.population
    limits = reply_limits(config)
    needs = FitnessEvaluator(config).needs

    def play(problems: int, most: int) -> tuple[_Watched, list[Transcript], float]:
        own = replace(plan, problems=plan.problems[:problems], judged=plan.judged[:problems])
        population.forget()
        watched = _Watched(population, needs)
        begin = time.perf_counter()
        played = _play(watched, own, manager, config, grader,
                       {phase: min(limit, most) for phase, limit in limits.items()})  # fmt: skip
        return watched, played, time.perf_counter() - begin

    longest, share = max(limits.values()), 1 - _LEARNED * (learner is not None)
    play(1, 1)  # what is made once is made here
    one, few = play(1, 1)[2], play(1, _FEW)[2]
    slope = max((few - one) / (_FEW - 1), 1e-9)  # seconds of a token more
    allowed = seconds * share
    fitting = (allowed - one) / slope + 1
    most = int(min(max(_FEW, fitting), longest)) if fitting < longest else longest
    watched, played, took = play(1, most)
    slower = (one + slope * (longest - 1)) / (one + slope * (most - 1))
    judging = sum(a.seconds for p, a in watched.phases.items() if p in FORMS or p is Phase.REVISE)
    each = took - judging if sum(plan.judged) < 2 else took  # of one problem more
    problems = min(len(plan.problems), max(1, int((allowed - took - judging) / each)))
    if problems > 1 and most == longest:
        watched, played, took = play(problems, most)
    begin = time.perf_counter()
    births = np.zeros((population.size, 2), dtype=np.int64)
    FitnessEvaluator(config).evaluate(played, population, births, 0)
    rest = took - watched.spent + time.perf_counter() - begin
    per_sample, useful = 0.0, 0.0
    if learner is not None:
        samples = gather_samples(played, population, config)
        per_sample, useful = _learn(learner, samples, seconds * _LEARNED)
    texts = (json.dumps(entry.to_dict(), ensure_ascii=False) for entry in played)
    prompts = [*watched.prompts]
    proposals = [entry.proposal for entry in played if entry.proposal is not None]
    asked = sum(phase.replies for phase in watched.phases.values())
    population.forget()
    return Probe(
        len(played),
        longest / most,
        slower,
        watched.phases,
        max(rest, 0.0),
        sum(p.valid for p in proposals) / len(proposals) if proposals else 1.0,
        per_sample,
        useful,
        sum(len(text.encode()) + 20 for text in texts),
        _common(prompts),
        watched.overlong / max(asked, 1),
    )


def _play(
    watched: _Watched,
    plan: EpisodePlan,
    manager: EvolutionManager,
    config: RunConfig,
    grader: Grader,
    limits: Mapping[Phase, int],
) -> list[Transcript]:
    arenas = make_arenas(plan, config, manager.population.size, Ratings(), None, grader,
                         manager.problems)  # fmt: skip
    key = ("rollout", config.seed, plan.generation)
    return rollout(watched, arenas, plan.problems, key=key, limits=limits)


def _learn(learner: AnyLearner, samples: Sequence[Sample], seconds: float) -> tuple[float, float]:
    """Seconds of learning from one reply, and the share of the replies that are learned from."""
    known = [s for s in samples if len(s.reply_ids) and not np.isnan(s.advantage)]
    if not known:
        return 0.0, 0.0
    scale = learner.config.negative_weight
    useful = [s for s in known if s.advantage > 0 or (s.advantage < 0 and scale)]
    if learner.kl_weights.any():
        useful = known
    few = [replace(s, advantage=1.0) for s in known[:2]]
    begin = time.perf_counter()
    learner.step(few, key=("dry-run", 0))
    took = time.perf_counter() - begin
    count = min(len(known), max(_SAMPLES, int(2 * seconds / took)))
    again = [replace(s, advantage=1.0) for s in known[:count]]
    begin = time.perf_counter()
    learner.step(again, key=("dry-run", 1))
    share = min(len(useful) / len(known), learner.config.sample_fraction)
    return (time.perf_counter() - begin) / count, share


def _common(prompts: Sequence[tuple[int, ...]]) -> int:
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)
    limit = min(len(low), len(high))
    return next((i for i in range(limit) if low[i] != high[i]), limit)
