"""The problems of a run: whether they fit the model, which are drawn, what plays them.

Whether they fit is checked before a run and not when one is drawn. Procedural problems are made
while the run goes on and are not looked at before.
"""

import warnings
from collections.abc import Collection, Iterable

from agents.loading.digest import base_digest, skeleton_digest
from agents.loading.models import BaseModel
from evolution.config import EvolutionConfig, RunConfig
from evolution.errors import ConfigError
from evolution.results import EpisodePlan
from evolution.runs.fingerprints import problems_digest
from populora_env.arena import ReasoningArena
from populora_env.grading import Grader
from populora_env.judges import Judge
from populora_env.keys import generator
from populora_env.problems import ProblemSource, SequenceSource, load_problems
from populora_env.problems.files.columns import prompt_key
from populora_env.problems.sources.adaptive import AdaptiveSource
from populora_env.problems.sources.spec import SELF_PLAY
from populora_env.prompts import solve_prompt
from populora_env.proposals.source import SelfPlaySource
from populora_env.ratings import Ratings
from populora_env.reading.forms import FORMS
from populora_env.records import Phase, Problem


def check_fit(
    base: BaseModel, problems: Iterable[Problem], solve_tokens: int, limit: int | None = None
) -> None:
    """Check that attempts at all problems fit the model's context.

    Args:
        base: The model.
        problems: A source that is not a list of problems is not looked at.
        solve_tokens: Length limit of an attempt.
        limit: The context in tokens; None for the base's own.

    Raises:
        ConfigError: If one does not; the message names the first and says how many there are.
    """
    limit = limit or base.context
    unread = isinstance(problems, ProblemSource) and not isinstance(problems, SequenceSource)
    if limit is None or unread:
        return
    first, found = "", 0
    around = len(base.chat_ids(""))  # what the chat template adds
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            continue
        seen.add(problem.id)
        prompt = solve_prompt(problem)
        # A token stands for at least one byte, so most need not be encoded.
        if len(prompt.encode("utf-8", "replace")) + around + solve_tokens <= limit:
            continue
        length = len(base.chat_ids(prompt))
        if length + solve_tokens > limit:
            found += 1
            first = first or (
                f"{problem.id} ({problem.prompt[:40]!r}...) is {length} tokens long, and with "
                f"{solve_tokens} of an attempt exceeds the model's context of {limit}"
            )
    if found:
        others = f"; so do {found - 1} more of {len(seen)}" if found > 1 else ""
        raise ConfigError(
            f"problems: {first}{others}; leave out what is too long, or lower solve_tokens"
        )


def held_out_problems(config: RunConfig) -> list[Problem]:
    """The problems that a run never trains on and is measured with; none if it wants none."""
    if not config.held_out:
        return []
    spec = config.held_out_from or config.problems
    if spec.strip().startswith(SELF_PLAY):
        raise ConfigError(
            f"held_out_from: got {config.held_out_from!r}, expected a spec of ordinary problems, "
            "such as procedural:chain_sum: nobody proposes held-out ones; or set held_out = 0"
        )
    test = load_problems(spec, split="test", seed=config.seed)
    there = len({problem.id for problem in test}) if isinstance(test, SequenceSource) else None
    if there is not None and there < config.held_out:
        raise ConfigError(
            f"held_out: got {config.held_out}, expected at most {there}, which is the half of "
            f"{spec:.60} that is never trained on; set held_out = {there}, or held_out_from to "
            "other problems"
        )
    return test.distinct(config.held_out)


def check_roles(source: ProblemSource, proposers: int | str) -> None:
    """Check that there are proposers if, and only if, agents write the problems.

    Raises:
        ConfigError: If not.
    """
    if isinstance(source, SelfPlaySource) and not proposers:
        raise ConfigError(
            f"proposers: got 0 with problems {source.spec:.60}, expected agents that write them; "
            "set proposers to half the size, or all"
        )
    if proposers and not isinstance(source, SelfPlaySource):
        raise ConfigError(
            f"problems: got {source.spec:.60} with proposers = {proposers}, expected a spec such "
            "as self-play:expressions"
        )


def check_left(source: ProblemSource, held_out: Collection[Problem]) -> None:
    """Check that something is left to train on, and warn of what is not.

    Questions that are held out are never drawn, whatever their answer and kind.

    Raises:
        ConfigError: If nothing is left of a list of problems.
    """
    keys = {prompt_key(problem.prompt) for problem in held_out}
    given = list(source.given()) if keys else []
    left = sum(prompt_key(problem.prompt) not in keys for problem in given)
    if given and not left and isinstance(source, SequenceSource):
        raise ConfigError(
            f"problems: all {len(given)} of {source.spec:.60} are held out, expected others to "
            "train on; set another held_out_from, or a smaller held_out"
        )
    if left < len(given):
        warnings.warn(
            f"problems: {len(given) - left} of the {len(given)} given for training are held out, "
            "so they are never drawn",
            stacklevel=2,
        )


class RunProblems:
    """Draws the problems of a run, each generation's by a key of its own.

    Args:
        source: Where they come from.
        seed: The run's.
        excluded: Those that must never be trained on.
    """

    def __init__(self, source: ProblemSource, seed: int, excluded: Collection[Problem]) -> None:
        self._source, self._seed = source, seed
        if isinstance(source, AdaptiveSource):
            source.exclude(excluded)
        check_left(source, excluded)
        self._excluded = {problem.id: problem for problem in excluded}
        self._aside = frozenset(prompt_key(problem.prompt) for problem in excluded)
        self._digests: dict[str, str] | None = None

    def set_aside(self, problems: Collection[Problem]) -> None:
        """Never draw these, though the source has them; in self-play they are held out, too."""
        self._aside |= {prompt_key(problem.prompt) for problem in problems}
        if problems and isinstance(self._source, AdaptiveSource):
            self._source.exclude([*self._excluded.values(), *problems])

    def draw(self, what: str, generation: int, count: int) -> tuple[Problem, ...]:
        """Distinct problems for one purpose, none that is held out; fewer if there are no more."""
        if isinstance(self._source, SelfPlaySource):  # in turn, so that proposers take turns
            first = generation * count
            numbers = range(first, first + count)
            return tuple(self._source[number % len(self._source)] for number in numbers)
        rng = generator(what, self._seed, generation)
        drawn: dict[str, Problem] = {}
        for _ in range(100 * count):
            problem = self._source[int(rng.integers(len(self._source)))]
            if prompt_key(problem.prompt) in self._aside:
                continue
            drawn.setdefault(problem.id, problem)
            if len(drawn) == count:
                break
        return tuple(drawn.values())

    def with_answers(self, generation: int, count: int, what: str = "trial") -> list[Problem]:
        """Problems for the trial of a generation; those without a known answer are left out.

        For another purpose, ``what``, others are drawn.
        """
        if isinstance(self._source, SelfPlaySource):
            return self._source.fresh(generator(what, self._seed, generation), count)
        drawn = self.draw(what, generation, count)
        return [problem for problem in drawn if problem.answer is not None]

    def digests(self, base: BaseModel, held: str = "") -> dict[str, str]:
        """Digests of what the run rests on, which is read once.

        Args:
            base: With or without its weights.
            held: Digest of the weights, where others hold them; see `agents.loading.digest`.
        """
        if self._digests is None:
            excluded = sorted(self._excluded.values(), key=lambda problem: problem.id)
            self._digests = {
                "base": held or base_digest(base),
                "skeleton": skeleton_digest(base),
                "problems": problems_digest(self._source.given()),
                "excluded": problems_digest(excluded),
            }
        return self._digests


def make_arenas(
    plan: EpisodePlan,
    config: EvolutionConfig,
    agents: int,
    ratings: Ratings,
    judge: Judge | None,
    grader: Grader,
    source: ProblemSource,
) -> list[ReasoningArena]:
    """An arena for each of a plan's episodes.

    Args:
        plan: What is to be played.
        config: Settings of the run.
        agents: How many play.
        ratings: Of the agents, for who judges whom.
        judge: One from outside, if any.
        grader: Shared, and left open.
        source: Where the problems come from; unchanged by what is played.
    """
    pool = source.fork() if isinstance(source, SelfPlaySource) else None
    return [
        ReasoningArena(
            pool or [problem],
            num_agents=agents,
            evaluation=config.evaluation if judged else "none",
            judge=judge,
            judge_load=config.judge_load,
            matchmaking=config.matchmaking,
            ratings=ratings,
            revise=config.revise and judged,
            rewards=config.rewards,
            grader=grader,
            proposers=config.proposers,
            solvers=config.solvers,
            tries=config.tries,
        )
        for problem, judged in zip(plan.problems, plan.judged, strict=True)
    ]


def reply_limits(config: EvolutionConfig) -> dict[Phase, int]:
    """Length limits of replies in tokens, by phase."""
    return {
        Phase.PROPOSE: config.propose_tokens,
        Phase.SOLVE: config.solve_tokens,
        Phase.REVISE: config.solve_tokens,
        **{
            phase: config.critique_tokens if form.written else config.judge_tokens
            for phase, form in FORMS.items()
        },
    }
